"""A run's own dispatcher over a simulated network: admission, queue, estimates and budget as they are.

Only the waiting differs from a real run. The dispatcher is a coroutine that waits in one place, `Admission._wait`, for a
moment or for a change; `Stepped` hands both to the event queue, which costs a third of a trio loop under a MockClock. That the
two send the same requests at the same times is a test.
"""

from __future__ import annotations

import random
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any

from batchrunner import budget
from batchrunner.account_store import AccountStore, MemoryStore
from batchrunner.admission import SHORTEST_SLEEP_NS, Admission
from batchrunner.clock import NS_PER_SECOND, VirtualClock
from batchrunner.estimate import Estimator
from batchrunner.fair import FairQueue
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.lanes import Lane
from batchrunner.status import Cause
from batchrunner.tickets import Candidate, Ticket
from benchmarks.limiter.network import Network, Reply
from benchmarks.limiter.timers import Timers

MAX_IN_FLIGHT = 10_000


class Client:
    """What a run does around its admission: load a job, send it, tell what became of it, learn from its usage."""

    def __init__(
        self,
        timers: Timers,
        network: Network,
        limits: budget.Limits,
        rng: random.Random,
        kind: type[Admission] = Admission,
        store: AccountStore | None = None,
        *,
        before: Client | None = None,
    ) -> None:
        """`before`: a client of another day, whose machine was started anew since."""
        self.lost = 0
        self._network = network
        self._estimator: Estimator = before._estimator if before else Estimator()
        # Its clock and the server's agree to a tenth of a second.
        wall_offset_ns = network.phase_ns + rng.randrange(-NS_PER_SECOND // 10, NS_PER_SECOND // 10)
        clock = VirtualClock(lambda: timers.now_ns / NS_PER_SECOND)
        jobs = len(network.jobs)
        self._store = store = store or MemoryStore(limits)
        if before:
            assert isinstance(store, MemoryStore)
            assert isinstance(before._store, MemoryStore)
            store.state = budget.after_reboot(before._store.state, clock.monotonic_ns())
        _at_once(store.step(clock.monotonic_ns(), budget.Open(past=(), jobs=jobs, wall_offset_ns=wall_offset_ns)))
        queue = FairQueue([Lane(iter(range(jobs)))], limits=limits)
        self.admission = kind(
            store,
            queue,
            clock,
            load=self._load,
            look=self._look,
            expect=self._estimator.predict,
            max_in_flight=MAX_IN_FLIGHT,
            tpm=limits.tpm,
            rng=rng,
        )

    async def dispatch(self) -> None:
        """Send until nothing is left to send."""
        while (ticket := await self.admission.admit()) is not None:
            self._network.send(ticket.job.number, partial(self._replied, ticket))

    def _look(self, number: int) -> RequestSize:
        work = self._network.jobs[number]
        return RequestSize("m", work.prompt, work.cap)

    def _load(self, number: int) -> Candidate:
        size = self._look(number)
        job = Job(number, number + 1, str(number), "/v1/chat/completions", b"{}", number)
        return Candidate(job, size, self._estimator.predict(size))

    def _replied(self, ticket: Ticket, reply: Reply) -> None:
        if reply.accepted:
            work = self._network.jobs[ticket.job.number]
            self._estimator.learn(ticket.candidate.size, Usage(work.prompt, work.output))
            _at_once(self.admission.succeeded(ticket, work.used, hints=reply.hints))
        elif not _at_once(self.admission.refused(ticket, reply.hint_ns, hints=reply.hints)):
            self.lost += 1


class Stepped(Admission):
    """An admission whose waits are a matter of the event queue: see `step_through`."""

    on_change: Callable[[], None] = staticmethod(lambda: None)

    async def _wait(self, changes: int, reason: Cause, until_ns: int | None) -> None:  # noqa: ARG002 - the parent's
        if not self._closed and changes == self._changes.count:
            soonest_ns = self._clock.monotonic_ns() + SHORTEST_SLEEP_NS
            await _pause(None if until_ns is None else max(until_ns, soonest_ns))

    def wake(self) -> None:
        super().wake()
        self.on_change()


def step_through(timers: Timers, client: Client) -> Callable[[], None]:
    """Drive a dispatcher, which awaits nothing but its admission's waits: each ends at its moment, or once something changes.

    What is returned ends it for good where it stands, as a kill does.
    """
    admission, dispatch = client.admission, client.dispatch()
    assert isinstance(admission, Stepped)
    waits = 0

    def go_on() -> None:
        nonlocal waits
        waits += 1
        try:
            until_ns = dispatch.send(None)
        except StopIteration:
            admission.on_change = lambda: None
            return
        wait = waits
        admission.on_change = lambda: timers.at(0, partial(wake, wait))
        if until_ns is not None:
            timers.at(until_ns, partial(wake, wait))

    def wake(wait: int) -> None:
        if wait == waits:
            go_on()

    def stop() -> None:
        nonlocal waits
        waits += 1
        dispatch.close()
        admission.on_change = lambda: None

    go_on()
    return stop


@types.coroutine
def _pause(until_ns: int | None) -> Generator[int | None, None, None]:
    yield until_ns


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for, as a budget in memory has not."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("a step of a budget in memory has waited")
