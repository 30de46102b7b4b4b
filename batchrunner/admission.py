"""Who may start now: the queue, the budget and its store behind one await.

The one dispatcher asks `admit()` for the next request. It gets a send time from the budget, sleeps until then, and only
then chooses the job and charges its tokens: what was learned meanwhile still counts. Nobody polls: whoever waits sleeps
until the time that the budget named, or until an answer changes something.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Mapping

import msgspec
import trio

from batchrunner import budget
from batchrunner.account_store import AccountStore
from batchrunner.clock import NS_PER_SECOND, Clock
from batchrunner.fair import FairQueue, RefusedJobs
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.waits import Cause, JobWaits, Waits

#: No sleep is shorter: a nanosecond lost in a float must not make a loop spin.
SHORTEST_SLEEP_NS = 1_000


class Candidate(msgspec.Struct, frozen=True):
    """A job read from its file and sized up."""

    job: Job
    size: RequestSize
    #: what it is expected to use
    predicted: Usage

    @property
    def tokens(self) -> int:
        return self.predicted.total_tokens

    @property
    def offer(self) -> budget.Offer:
        cap = self.size.output_cap_tokens
        output = self.predicted.output_tokens if cap is None else cap
        return budget.Offer(self.tokens, self.predicted.input_tokens + output)


class NotNow(enum.Enum):
    """Why the job of a slot is not sent."""

    WITHDRAWN = "withdrawn"  # never: whoever loads jobs has dealt with it
    WAIT = "wait"  # not before something that is in flight has ended


class Held(msgspec.Struct, frozen=True):
    """The job of a slot is kept aside with all others under `name`, until `due_ns`, or until it is said when (None)."""

    #: None: with those that wait for the server itself
    name: str | None
    due_ns: int | None


class Backoff(msgspec.Struct, frozen=True):
    """The job is to have another attempt after a wait; as a `repeat` of what failed, when the retry budget allows it."""

    after_ns: int
    repeat: bool = False


#: What becomes of a job whose request has ended; None: it has ended too.
Then = Backoff | Held | None


class Due(msgspec.Struct, frozen=True):
    """When the next request may go, whichever it is: now, later, or (None) not before something in flight has ended."""

    at_ns: int | None
    #: what stands in its way
    reason: Cause


class Ticket(msgspec.Struct, frozen=True):
    """Leave to send one request now. It must be handed back by exactly one of the methods of Admission."""

    candidate: Candidate
    entry: int
    sent_ns: int
    wait_seconds: float
    #: no other tokens are in the window
    alone: bool
    #: what the job has waited for since it last ended, or since the beginning: milliseconds by cause
    waits: Mapping[str, int] = {}

    @property
    def job(self) -> Job:
        return self.candidate.job


class Statistics(msgspec.Struct, frozen=True):
    """Admission as it stands."""

    in_flight: int
    backing_off: int
    #: jobs kept aside while their model, or the server, is away
    held: int
    #: what the dispatcher waits for; None while it waits for nothing
    waits_for: Cause | None
    #: how long it has waited for what, the present wait included
    waited_seconds: Mapping[str, float]
    admitted: int


class Admission:
    """Grants one request at a time, in the order of the queue, within the budget and the cap on requests in flight.

    `load` reads and sizes the job of a number just before it is sent, or says why it is not sent. `due` says when anything
    may be sent at all, for all that the budget does not know; `hopeless` whether jobs held under a name need not wait any
    longer, nothing else being left to do.
    """

    def __init__(
        self,
        store: AccountStore,
        queue: FairQueue,
        clock: Clock,
        *,
        load: Callable[[int], Candidate | Held | NotNow],
        due: Callable[[int], Due] | None = None,
        hopeless: Callable[[str | None, int], bool] = lambda _name, _now_ns: False,
        max_in_flight: int,
        tpm: int,
        rng: random.Random,
    ) -> None:
        self._store = store
        self._queue = queue
        self._clock = clock
        self._load = load
        self._due = due or _now
        self._hopeless = hopeless
        self._max_in_flight = max_in_flight
        self._tpm = tpm
        self._rng = rng
        self._refused = RefusedJobs()
        self._in_flight = 0
        self._admitted = 0
        self._closed = False
        self._changed = trio.Event()
        self._waits = Waits()
        self._job_waits = JobWaits()

    async def ready(self) -> bool:
        """Wait until a job could be sent now, but for the budget. False once there will be none, or after `close`."""
        while not self._closed:
            now_ns = self._clock.monotonic_ns()
            due = self._due(now_ns)
            if self._in_flight == 0 and self._queue.empty():
                return False
            if self._in_flight >= self._max_in_flight:
                await self._wait(self._changed, "in_flight", None)
            elif due.at_ns is None or due.at_ns > now_ns:
                await self._wait(self._changed, due.reason, due.at_ns)
            elif self._queue.peek(now_ns) is not None:
                return True
            elif not self._release_the_hopeless(now_ns):
                await self._wait(self._changed, self._idle_reason(), self._queue.next_due_ns(now_ns))
        return False

    async def admit(self) -> Ticket | None:
        """Wait for leave to send the next job. None once there is nothing left to send, or after `close`."""
        asked_ns = self._clock.monotonic_ns()
        slot: budget.Slot | None = None
        while await self.ready():
            # What changes from here on, while the store is asked too, ends the next wait.
            changed = self._changed
            now_ns = self._clock.monotonic_ns()
            if slot is None:
                decision = await self._store.step(now_ns, budget.Reserve())
                assert isinstance(decision, budget.Slot)
                slot = decision
            if slot.at_ns > now_ns:
                await self._wait(changed, "requests", slot.at_ns)
                continue
            number = self._queue.peek(now_ns)
            if number is None:  # it is held aside by now, its model having failed while the store was asked
                continue
            candidate = self._load(number)
            if not isinstance(candidate, Candidate):
                await self._pass_over(number, candidate, now_ns, changed)
                continue
            wants_alone = self._refused.alone(number, candidate.tokens, self._tpm)
            decision = await self._store.step(now_ns, budget.Take(slot.slot, (candidate.offer,), alone=wants_alone))
            match decision:
                case budget.Taken(entry) if self._closed:  # while a shared store was asked
                    await self._store.step(self._clock.monotonic_ns(), budget.Lost(entry))
                    return None
                case budget.Taken(entry, _, alone):
                    self._queue.remove(number, now_ns)
                    self._in_flight += 1
                    self._admitted += 1
                    wait_seconds = (now_ns - asked_ns) / NS_PER_SECOND
                    waits = self._job_waits.sent(number, now_ns, self._waits)
                    return Ticket(candidate, entry, now_ns, wait_seconds, alone, waits)
                case budget.Later(at_ns, tokens):
                    await self._wait(changed, "tokens" if tokens else "requests", at_ns)
                case _:
                    slot = None
        if slot is not None:
            await self._store.step(self._clock.monotonic_ns(), budget.Return(slot.slot))
        return None

    def close(self) -> None:
        """Admit nothing more. What is in flight goes on."""
        self._closed = True
        self._wake()

    def retime(self, name: str | None, due_ns: int | None) -> None:
        """When one of the jobs held under this name may go."""
        self._queue.retime(name, due_ns)
        self._wake()

    def release(self, name: str | None) -> None:
        """Let all jobs go that are held under this name."""
        self._release(name, self._clock.monotonic_ns())
        self._wake()

    async def succeeded(self, ticket: Ticket, tokens: int | None) -> None:
        """The server took the request and the job has its answer; `tokens` it used, where known."""
        self._queue.succeeded(self._clock.monotonic_ns())
        await self.settle(ticket, tokens)

    async def settle(self, ticket: Ticket, tokens: int | None, *, then: Then = None) -> None:
        """The server took the request and it has ended; `tokens` it used, where known. `then`: what becomes of the job."""
        self._refused.accepted(ticket.job.number)
        self._requeue(ticket, then)
        await self._give_back(budget.Settle(ticket.entry, tokens))

    async def lost(self, ticket: Ticket, *, then: Then = None) -> None:
        """Whether the server took the request is not known. `then`: what becomes of the job."""
        if then is None:
            self._refused.forget(ticket.job.number)
        self._requeue(ticket, then)
        await self._give_back(budget.Lost(ticket.entry))

    async def refused(self, ticket: Ticket, retry_after_ns: int | None) -> bool:
        """The server answered 429: the job goes back to its place. False where it is found to be one that never fits."""
        number, now_ns = ticket.job.number, self._clock.monotonic_ns()
        yields_ns = self._refused.refused(number, alone=ticket.alone)
        if yields_ns == 0:
            self._queue.refused(number)
        elif yields_ns is not None:
            self._queue.again(number, now_ns + yields_ns)
        if yields_ns is not None:
            self._job_waits.back(number, now_ns, self._waits, backoff_ns=yields_ns)
        await self._give_back(budget.Refuse(ticket.entry, retry_after_ns, self._rng.random()))
        return yields_ns is not None

    async def _pass_over(self, number: int, why: Held | NotNow, now_ns: int, changed: trio.Event) -> None:
        """Take a job that is not sent out of the others' way, or wait where that cannot be."""
        if why is NotNow.WAIT:
            await self._wait(changed, "work", None)
        elif isinstance(why, Held) and not self._queue.has_room_for(number):
            if not self._release_the_hopeless(now_ns):
                await self._wait(changed, "models", self._queue.next_due_ns(now_ns))
        else:
            repeat = self._queue.remove(number, now_ns, sent=False)
            if isinstance(why, Held):
                self._queue.hold(number, why.name, why.due_ns, repeat=repeat)
                self._job_waits.held(number, now_ns, self._waits)
            else:
                self._job_waits.gone(number)
                self._refused.forget(number)
            await trio.lowlevel.checkpoint()  # a whole file of them must not keep signals and the writer waiting

    def _release_the_hopeless(self, now_ns: int) -> bool:
        """Where nothing is left, as far as can be seen, but what is held: let go what need not wait. Whether there was any."""
        if self._in_flight or not self._queue.only_held():
            return False
        names = [name for name in self._queue.held_names() if self._hopeless(name, now_ns)]
        for name in names:
            self._release(name, now_ns)
        return bool(names)

    def _release(self, name: str | None, now_ns: int) -> None:
        self._job_waits.released(self._queue.release(name), now_ns)

    def _idle_reason(self) -> Cause:
        """What is waited for where nothing of the queue can be sent now."""
        queue = self._queue.statistics()
        if queue.backing_off:
            return "retries"
        return "models" if queue.held else "work"

    def statistics(self) -> Statistics:
        waits, queue = self._waits, self._queue.statistics()
        waited_ns = waits.at(self._clock.monotonic_ns())
        return Statistics(
            in_flight=self._in_flight,
            backing_off=queue.backing_off,
            held=queue.held,
            waits_for=waits.cause,
            waited_seconds={cause: ns / NS_PER_SECOND for cause, ns in waited_ns.items()},
            admitted=self._admitted,
        )

    def _requeue(self, ticket: Ticket, then: Then) -> None:
        # Before the request is given back: else the dispatcher could see nothing queued and nothing in flight, and end.
        number, now_ns = ticket.job.number, self._clock.monotonic_ns()
        match then:
            case Backoff(after_ns, repeat):
                self._queue.again(number, now_ns + after_ns, repeat=repeat)
                self._job_waits.back(number, now_ns, self._waits, backoff_ns=after_ns)
            case Held(name, due_ns):
                self._queue.hold(number, name, due_ns, repeat=True)
                self._job_waits.held(number, now_ns, self._waits)

    async def _give_back(self, event: budget.Event) -> None:
        self._in_flight -= 1
        await self._store.step(self._clock.monotonic_ns(), event)
        self._wake()

    async def _wait(self, changed: trio.Event, reason: Cause, until_ns: int | None) -> None:
        """Sleep until `until_ns`, or until something has changed since `changed` was looked at."""
        if self._closed:  # by `load` perhaps, after the last look at it: nothing might ever change again
            return
        now_ns = self._clock.monotonic_ns()
        gate_seconds = self._store.statistics(now_ns).closed_for_seconds
        cause: Cause = "rate_limited" if gate_seconds and reason == "requests" else reason
        self._waits = self._waits.begin(cause, now_ns)
        seconds = float("inf") if until_ns is None else max(until_ns - now_ns, SHORTEST_SLEEP_NS) / NS_PER_SECOND
        with trio.move_on_after(seconds):
            await changed.wait()
        self._waits = self._waits.end(self._clock.monotonic_ns())

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _now(now_ns: int) -> Due:
    return Due(now_ns, "work")
