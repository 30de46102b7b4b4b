"""Admission in virtual time: what the budget decides, slept through by a real dispatcher."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import get_args

import pytest
import trio
from trio.testing import MockClock

from batchrunner import budget
from batchrunner.account_store import MemoryStore
from batchrunner.admission import Admission
from batchrunner.clock import NS_PER_SECOND, VirtualClock
from batchrunner.crew import Crew
from batchrunner.fair import FairQueue
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.lanes import Lane
from batchrunner.refused import UNSATISFIABLE_AFTER
from batchrunner.simulator.windows import CalendarMinute, SlidingLog, TokenBucket, Window
from batchrunner.status import Cause
from batchrunner.tickets import Backoff, Candidate, NotNow, Ticket

HOUR_SECONDS = 3_600


def candidate(number: int, tokens: int = 100) -> Candidate:
    job = Job(number, number + 1, f"job-{number}", "/v1/chat/completions", b"{}", number)
    return Candidate(job, RequestSize("m", tokens, None), Usage(tokens, 0))


async def admission_for(
    jobs: int,
    *,
    rpm: int = 50,
    tpm: int = 0,
    max_in_flight: int = 1_000,
    load: Callable[[int], Candidate | NotNow] = candidate,
    crew: Crew | None = None,
) -> Admission:
    clock = VirtualClock(trio.current_time)
    store = MemoryStore(budget.Limits(rpm, tpm))
    await store.step(clock.monotonic_ns(), budget.Open(past=(), jobs=jobs))
    queue = FairQueue([Lane(iter(range(jobs)))])
    return Admission(store, queue, clock, load=load, max_in_flight=max_in_flight, tpm=tpm, rng=random.Random(7), crew=crew)


async def admit(admission: Admission) -> Ticket:
    ticket = await admission.admit()
    assert ticket is not None
    return ticket


def window_of(kind: str) -> Window:
    if kind == "sliding":
        return SlidingLog(50)
    if kind == "calendar":
        return CalendarMinute(50)
    return TokenBucket(50, 50)


@pytest.mark.parametrize("hours", [pytest.param(10, marks=pytest.mark.campaign, id="ten"), pytest.param(2, id="two")])
@pytest.mark.parametrize("kind", ["sliding", "calendar", "bucket"])
async def test_hours_at_fifty_a_minute(kind: str, hours: int, autojump_clock: MockClock) -> None:
    """10 hours, requests that arrive 10 to 200 ms later: 99 % of the rate, under 1 rejection per 1,000."""
    rng = random.Random(f"ten hours {kind}")
    jobs = hours * 60 * 50
    admission = await admission_for(jobs)
    server = window_of(kind)
    phase_ns = rng.randrange(60 * NS_PER_SECOND)
    began = trio.current_time()
    accepted = rejected = 0

    async def attempt(ticket: Ticket) -> None:
        nonlocal accepted, rejected
        await trio.sleep(rng.uniform(0.010, 0.200))
        now_ns = phase_ns + round((trio.current_time() - began) * NS_PER_SECOND)
        if server.wait_ns(now_ns, 1):
            rejected += 1
            await trio.sleep(rng.uniform(0.010, 0.200))
            assert await admission.refused(ticket, None)
        else:
            server.take(now_ns, 1)
            accepted += 1
            await trio.sleep(rng.uniform(1, 30))
            await admission.settle(ticket, 100)

    async with trio.open_nursery() as nursery:
        while trio.current_time() - began < hours * HOUR_SECONDS and (ticket := await admission.admit()):
            nursery.start_soon(attempt, ticket)
        elapsed = trio.current_time() - began
        reached = accepted / elapsed * 60 / 50
        nursery.cancel_scope.cancel()
    assert accepted + rejected > 2_900 * hours
    assert reached >= 0.99, f"{reached:.2%} of the rate"
    assert rejected < accepted / 1_000, f"{rejected} rejected of {accepted + rejected}"


async def test_ends_when_nothing_is_left(autojump_clock: MockClock) -> None:
    """`admit` answers None once every job has ended, and not while one in flight may still come back."""
    admission = await admission_for(1)
    ticket = await admit(admission)
    async with trio.open_nursery() as nursery:

        async def come_back() -> None:
            await trio.sleep(5)
            await admission.settle(ticket, None, then=Backoff(3 * NS_PER_SECOND))

        nursery.start_soon(come_back)
        again = await admit(admission)
        assert again.job == ticket.job
        assert trio.current_time() >= 8
    await admission.lost(again)
    assert await admission.admit() is None


async def test_backoff_is_waited_out(autojump_clock: MockClock) -> None:
    """A job that is to be tried again goes no sooner than its backoff says, while others pass it."""
    admission = await admission_for(2, rpm=0)
    first = await admit(admission)
    await admission.settle(first, None, then=Backoff(10 * NS_PER_SECOND))
    second = await admit(admission)
    assert second.job.number == 1
    third = await admit(admission)
    assert third.job.number == 0
    assert third.sent_ns - first.sent_ns >= 10 * NS_PER_SECOND


async def test_a_refused_job_keeps_its_place(autojump_clock: MockClock) -> None:
    """After a 429 the refused jobs go first again, in file order, once the gate opens."""
    admission = await admission_for(4, rpm=0)
    tickets = [await admit(admission) for _ in range(3)]
    for ticket in reversed(tickets):
        assert await admission.refused(ticket, 5 * NS_PER_SECOND)
    order = [await admit(admission) for _ in range(4)]
    assert [ticket.job.number for ticket in order] == [0, 1, 2, 3]
    assert order[0].sent_ns >= tickets[0].sent_ns + 5 * NS_PER_SECOND
    assert order[0].wait_seconds >= 5


async def test_in_flight_cap(autojump_clock: MockClock) -> None:
    """No more than the cap are in flight; the next goes as soon as one has ended."""
    admission = await admission_for(3, rpm=0, max_in_flight=2)
    first = await admit(admission)
    await admit(admission)
    with trio.move_on_after(100) as waited:
        await admission.admit()
    assert waited.cancelled_caught
    assert admission.statistics().in_flight == 2
    await admission.settle(first, 1)
    assert (await admit(admission)).job.number == 2


async def test_closing_ends_a_wait_at_once(autojump_clock: MockClock) -> None:
    """A dispatcher that sleeps until its slot is woken by `close`, and admits nothing more."""
    admission = await admission_for(10, rpm=1)
    await admit(admission)
    async with trio.open_nursery() as nursery:

        async def close() -> None:
            await trio.sleep(1)
            assert admission.statistics().waits_for == "requests"
            admission.close()

        nursery.start_soon(close)
        assert await admission.admit() is None
    assert trio.current_time() < 2


async def test_a_job_that_load_withdraws_is_passed_over(autojump_clock: MockClock) -> None:
    """Where the job of a slot is not to be sent after all, the slot goes to the next one."""
    admission = await admission_for(3, load=lambda number: NotNow.WITHDRAWN if number == 0 else candidate(number))
    assert (await admit(admission)).job.number == 1


async def test_what_was_refused_is_forgotten_with_a_job_that_is_withdrawn(autojump_clock: MockClock) -> None:
    """A job that ends between two sends leaves nothing behind: memory must not grow with every job that was ever refused."""
    refused: set[int] = set()
    admission = await admission_for(2, load=lambda number: NotNow.WITHDRAWN if number in refused else candidate(number))
    ticket = await admit(admission)
    assert await admission.refused(ticket, None)
    refused.add(ticket.job.number)
    assert (await admit(admission)).job.number != ticket.job.number
    assert not len(admission._refused)


async def test_a_job_that_load_holds_back_waits_for_an_end(autojump_clock: MockClock) -> None:
    """Where a job may not be sent before something has ended, it is asked for again then, and not before."""
    asked: list[float] = []

    def load(number: int) -> Candidate | NotNow:
        asked.append(trio.current_time())
        return candidate(number) if number == 0 or trio.current_time() >= 5 else NotNow.WAIT

    admission = await admission_for(2, rpm=0, load=load)
    first = await admit(admission)
    async with trio.open_nursery() as nursery:

        async def settle() -> None:
            await trio.sleep(5)
            await admission.settle(first, 1)

        nursery.start_soon(settle)
        assert (await admit(admission)).job.number == 1
    assert set(asked) == {asked[0], asked[0] + 5}


class SlowStore(MemoryStore):
    """A store that takes its time, as one that other processes share does."""

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        await trio.sleep(0.5)
        decision = await super().step(now_ns, event)
        await trio.sleep(0.5)
        return decision


async def test_what_changes_while_the_store_is_asked_is_not_missed(autojump_clock: MockClock) -> None:
    """A settlement or a 429 that comes while the dispatcher asks the store wakes it all the same, and jobs stay themselves."""
    clock = VirtualClock(trio.current_time)
    store = SlowStore(budget.Limits(0, 1_000))
    queue = FairQueue([Lane(iter(range(40)))])
    admission = Admission(store, queue, clock, load=lambda n: candidate(n, 400), max_in_flight=9, tpm=1_000, rng=random.Random(3))
    rng = random.Random(5)
    done: list[int] = []

    async def attempt(ticket: Ticket) -> None:
        await trio.sleep(rng.uniform(0.1, 3))
        if rng.random() < 0.2:
            await admission.refused(ticket, None)
        else:
            done.append(ticket.job.number)
            await admission.settle(ticket, 0)

    with trio.fail_after(3_600):
        async with trio.open_nursery() as nursery:
            while ticket := await admission.admit():
                nursery.start_soon(attempt, ticket)
    assert sorted(done) == list(range(40))


async def test_tokens_are_waited_for(autojump_clock: MockClock) -> None:
    """Where the minute's tokens are taken, the dispatcher says that it waits for tokens, and is woken by a settlement."""
    admission = await admission_for(3, rpm=0, tpm=1_000, load=lambda number: candidate(number, 600))
    first = await admit(admission)
    async with trio.open_nursery() as nursery:

        async def settle() -> None:
            await trio.sleep(2)
            assert admission.statistics().waits_for == "tokens"
            await admission.settle(first, 0)

        nursery.start_soon(settle)
        second = await admit(admission)
    assert second.sent_ns - first.sent_ns == 2 * NS_PER_SECOND


async def test_waiting_for_the_gate_is_said(autojump_clock: MockClock) -> None:
    """While a 429 holds the account back, that is what the statistics name."""
    admission = await admission_for(3)
    ticket = await admit(admission)
    await admission.refused(ticket, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admission.admit)
        await trio.testing.wait_all_tasks_blocked()
        assert admission.statistics().waits_for == "rate_limited"
        nursery.cancel_scope.cancel()


async def test_a_job_that_never_fits_is_found(autojump_clock: MockClock) -> None:
    """A job that the server refuses five times with the window to itself, while it takes smaller ones, never fits."""
    admission = await admission_for(200, rpm=50, tpm=1_000, load=lambda number: candidate(number, 900 if number == 0 else 1))
    verdicts: list[bool] = []
    smaller = 0
    while not verdicts or verdicts[-1]:
        ticket = await admit(admission)
        if ticket.job.number == 0:
            verdicts.append(await admission.refused(ticket, None))
        else:
            smaller += 1
            await admission.settle(ticket, 1)
    assert sum(verdicts) >= UNSATISFIABLE_AFTER
    assert smaller > 0


async def test_an_account_that_refuses_everything_fails_no_job(autojump_clock: MockClock) -> None:
    """If nothing is accepted, it is the account that is refused: jobs wait, canaries go at most every 15 minutes."""
    admission = await admission_for(1, rpm=50, tpm=1_000, load=lambda number: candidate(number, 2_000))
    sends: list[int] = []
    for _ in range(40):
        ticket = await admit(admission)
        sends.append(ticket.sent_ns)
        assert await admission.refused(ticket, None)
    assert all(later - earlier <= 45 * 60 * NS_PER_SECOND for earlier, later in pairwise(sends))


async def test_waits_are_added_up_by_what_was_waited_for(autojump_clock: MockClock) -> None:
    """Each second in which nothing could be sent counts for one cause, the one under way included; all causes are named."""
    admission = await admission_for(2_000, rpm=60, max_in_flight=100)
    first = await admit(admission)
    began = trio.current_time()
    for _ in range(10):
        await admit(admission)
    paced = trio.current_time() - began
    waited = admission.statistics().waited_seconds
    assert waited["requests"] == pytest.approx(paced)
    assert sum(waited.values()) == pytest.approx(paced)
    assert set(waited) == set(get_args(Cause))
    await admission.refused(first, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(admission.admit)
        await trio.sleep(0.1)
        assert admission.statistics().waits_for == "rate_limited"
        assert admission.statistics().waited_seconds["rate_limited"] == pytest.approx(0.1)
        nursery.cancel_scope.cancel()


async def test_an_account_that_is_closed_does_not_keep_the_others_of_its_crew_waiting(autojump_clock: MockClock) -> None:
    """They have nothing to send themselves, and wait for what it might leave them."""
    crew = Crew()
    busy, done = await admission_for(2, crew=crew), await admission_for(0, crew=crew)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            assert not await done.ready()

        await trio.sleep(1)
        assert len(nursery.child_tasks) == 1
        busy.close()
