"""Admission over a store that takes its time, as one that processes share does."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from batchrunner import budget
from batchrunner.account_store import MemoryStore
from batchrunner.admission import Admission
from batchrunner.clock import VirtualClock
from batchrunner.fair import FairQueue
from batchrunner.lanes import Lane
from batchrunner.tickets import Ticket
from tests.sim.test_admission import candidate


class SlowStore(MemoryStore):
    """Each answer takes half a second, and is that of when it was asked for."""

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        decision = await super().step(now_ns, event)
        if isinstance(event, budget.Reserve | budget.Take):
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
        return decision


def slow_admission(jobs: int) -> tuple[Admission, SlowStore]:
    store = SlowStore(budget.Limits(60, 0))
    clock = VirtualClock(trio.current_time)
    queue = FairQueue([Lane(iter(range(jobs)))])
    return Admission(store, queue, clock, load=candidate, max_in_flight=10, tpm=0, rng=random.Random(7)), store


async def test_a_request_that_is_granted_after_the_close_is_not_sent(autojump_clock: MockClock) -> None:
    """Closed while the store is asked: the job stays in the queue, and what was charged for it is nobody's."""
    admission, store = slow_admission(1)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def close() -> None:
                await trio.sleep(0.7)
                admission.close()

            nursery.start_soon(close)
            assert await admission.admit() is None
    assert admission.statistics().in_flight == 0
    assert not store.state.in_flight
    assert store.state.window.requests == 1


@pytest.mark.parametrize("jobs", [1, 5])
async def test_all_jobs_go_while_answers_come_in_between(jobs: int, autojump_clock: MockClock) -> None:
    """Requests that end while the store is asked change nothing of that answer, and nothing is sent twice."""
    admission, _ = slow_admission(jobs)
    sent: list[int] = []

    async def answer(ticket: Ticket) -> None:
        await trio.sleep(1.3)
        await admission.succeeded(ticket, 10)

    with trio.fail_after(600):
        async with trio.open_nursery() as nursery:
            while (ticket := await admission.admit()) is not None:
                sent.append(ticket.job.number)
                nursery.start_soon(answer, ticket)
    assert sent == list(range(jobs))
