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
from batchrunner.changes import Changes
from batchrunner.clock import NS_PER_SECOND, Clock
from batchrunner.crew import Crew
from batchrunner.errors import BatchrunError
from batchrunner.fair import FairQueue
from batchrunner.job import RequestSize, Usage
from batchrunner.lookahead import LookAhead
from batchrunner.refused import RefusedJobs
from batchrunner.status import Cause
from batchrunner.tickets import Backoff, Candidate, Due, Held, NotNow, Then, Ticket
from batchrunner.waits import CAUSES, JobWaits, Waits

#: No sleep is shorter: a nanosecond lost in a float must not make a loop spin.
SHORTEST_SLEEP_NS = 1_000


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


class _Wait(msgspec.Struct, frozen=True):
    """Nothing can be sent before then, or (None) before something changes."""

    reason: Cause
    until_ns: int | None


class _Next(enum.Enum):
    """What to ask for next."""

    JOB = enum.auto()
    SLOT = enum.auto()


class Admission:
    """Grants one request at a time, in the order of the queue, within the budget and the cap on requests in flight.

    `load` reads and sizes the job of a number just before it is sent, or says why it is not sent. `due` says when anything
    may be sent at all, for all that the budget does not know; `hopeless` whether jobs held under a name need not wait any
    longer, nothing else being left to do. `look` and `expect` are those of `LookAhead`; without them no job goes before its turn.
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
        look: Callable[[int], RequestSize | None] = lambda _number: None,
        expect: Callable[[RequestSize], Usage | None] = lambda _size: None,
        max_in_flight: int,
        tpm: int,
        rng: random.Random,
        crew: Crew | None = None,
    ) -> None:
        self._crew = crew
        if crew is not None:
            crew.join(self)
            queue.on_return = self.wake
        self._store = store
        self._queue = queue
        self._clock = clock
        self._load = load
        self._due = due or (lambda now_ns: Due(now_ns, "work", now_ns))
        self._hopeless = hopeless
        self._max_in_flight = max_in_flight
        self._tpm = tpm
        self._rng = rng
        self._refused = RefusedJobs()
        self._ahead = LookAhead(queue, look, expect, tpm=tpm)
        self._in_flight = self._admitted = 0
        #: slots come later than they are asked for: then there is no sense in loading a job first
        self._paced = True
        self._closed = self._resigned = False
        self._replanned = False  # slots that were reserved before are void
        self._changes = Changes()
        self._waits = Waits()
        self._job_waits = JobWaits()

    async def ready(self) -> bool:
        """Wait until a job could be sent now, but for the budget. False once there will be none, or after `close`."""
        while not self._closed:
            now_ns = self._clock.monotonic_ns()
            due = self._due_now(now_ns)
            if self._in_flight < self._max_in_flight and self._next(due, now_ns) is not None:
                return True
            if self.idle:
                if self._crew is None or self._resigned or self._crew.idle:
                    break
                await self._wait(self._changes.count, "work", None)
            elif self._in_flight >= self._max_in_flight:
                await self._wait(self._changes.count, "in_flight", None)
            elif not due.sends(now_ns):
                await self._wait(self._changes.count, due.reason, due.next_ns(self._queue.next_question_ns()))
            elif not self._release_the_hopeless(now_ns):
                await self._wait(self._changes.count, self._queue.idle_cause, self._queue.next_due_ns(now_ns))
        if self._crew is not None:
            self._crew.wake()
        return False

    def _next(self, due: Due, now_ns: int) -> int | None:
        """The job whose turn it is; while nothing may be sent, one that is only asked for, where that may be done."""
        if due.sends(now_ns):
            return self._queue.peek(now_ns)
        return self._queue.question(now_ns) if due.asks(now_ns) else None

    def _due_now(self, now_ns: int) -> Due:
        due = self._due(now_ns)
        return msgspec.structs.replace(due, at_ns=None) if self._resigned else due

    @property
    def idle(self) -> bool:
        """Nothing is in flight, and nothing waits that could be sent."""
        if self._in_flight or self._closed:
            return self._in_flight == 0
        return self._queue.empty() or (self._resigned and self._queue.next_question_ns() is None)

    async def admit(self) -> Ticket | None:
        """Wait for leave to send the next job. None once there is nothing left to send, or after `close`."""
        asked_ns = self._clock.monotonic_ns()
        slot: budget.Slot | None = None
        while await self.ready():
            # What changes from here on, while the store is asked too, ends the next wait.
            changes = self._changes.count
            if self._replanned:
                slot, self._replanned = None, False
            if slot is None and self._paced:
                now_ns = self._clock.monotonic_ns()
                decision = await self._store.step(now_ns, budget.Reserve())
                assert isinstance(decision, budget.Slot)
                slot = decision
                self._paced = slot.at_ns > now_ns
            if slot is not None and slot.at_ns > self._clock.monotonic_ns():
                await self._wait(changes, "requests", slot.at_ns)
                continue
            number = slot.slot if slot is not None else 0
            if self._crew is None:
                chosen = await self._choose(number, asked_ns)
            else:
                async with self._crew.turnstile:
                    chosen = await self._choose(number, asked_ns)
            match chosen:
                case budget.Slot():
                    slot = chosen
                    self._paced = True
                case Ticket():
                    return chosen
                case _Wait(reason, until_ns):
                    await self._wait(changes, reason, until_ns)
                case _Next.JOB:
                    await trio.lowlevel.checkpoint()  # a whole file of them must not keep signals and the writer waiting
                case _Next.SLOT:
                    slot = None
        if slot is not None:
            await self._store.step(self._clock.monotonic_ns(), budget.Return(slot.slot))
        return None

    async def _choose(self, slot: int, asked_ns: int) -> Ticket | budget.Slot | _Wait | _Next:
        """Offer what could go now to the budget, a slot being due; 0: perhaps one is."""
        now_ns = self._clock.monotonic_ns()
        due = self._due_now(now_ns)
        number = self._next(due, now_ns)
        if number is None:  # it is held aside by now, its model having failed while the store was asked
            return _Next.JOB
        candidate = self._load(number)
        if not isinstance(candidate, Candidate):
            return self._pass_over(number, candidate, now_ns)
        offer = candidate.offer
        wants_alone = self._refused.alone(number, offer.tokens, self._tpm)
        offered = self._ahead.offered(number, offer, slot, alone=wants_alone, only=not due.sends(now_ns))
        match await self._store.step(now_ns, offered.take):
            case budget.Taken(entry) if self._closed:  # while a shared store was asked
                await self._store.step(self._clock.monotonic_ns(), budget.Lost(entry))
                return _Next.SLOT
            case budget.Taken(entry, chosen, alone, delay_ns):
                if chosen:
                    self._ahead.passed(number, delay_ns)
                    instead = await self._load_instead(offered.numbers[chosen], entry, now_ns)
                    if not isinstance(instead, Candidate):
                        return _Next.SLOT
                    candidate = instead
                return self._ticket(candidate, entry, asked_ns, now_ns, alone=alone)
            case budget.Slot() as reserved:
                return reserved
            case budget.Later(at_ns, tokens):
                return _Wait("tokens" if tokens else "requests", at_ns)
            case _:
                return _Next.SLOT

    def _ticket(self, candidate: Candidate, entry: int, asked_ns: int, now_ns: int, *, alone: bool) -> Ticket:
        """The budget has let a job go: it leaves the queue."""
        number = candidate.job.number
        self._queue.remove(number, now_ns, tokens=candidate.tokens)
        self._ahead.gone(number)
        self._in_flight += 1
        self._admitted += 1
        waits = self._job_waits.sent(number, now_ns, self._waits)
        return Ticket(candidate, entry, now_ns, (now_ns - asked_ns) / NS_PER_SECOND, alone, waits)

    async def _load_instead(self, number: int, entry: int, now_ns: int) -> Candidate | None:
        """The job that goes before the one whose turn it is. None where it cannot, something having changed meanwhile.

        What it was to take stays charged then: nobody knows any more what would have been chosen instead.
        """
        try:
            candidate = self._load(number)
        except BatchrunError:
            await self._store.step(now_ns, budget.Lost(entry))
            raise
        if isinstance(candidate, Candidate):
            return candidate
        await self._store.step(now_ns, budget.Lost(entry))
        self._pass_over(number, candidate, now_ns)
        return None

    def close(self) -> None:
        """Admit nothing more. What is in flight goes on."""
        self._closed = True
        (self._crew or self).wake()  # the others may have waited for nothing else

    def resign(self, *, asks: bool) -> None:
        """Leave all jobs to the others of the crew: those too that come back later. Admit nothing more, but with `asks` questions
        after what the server works on, to the last.
        """
        self._resigned = True
        if not asks:
            self.close()
        self.surrender()

    def surrender(self) -> None:
        """Leave what has come back to the others of the crew, if there are any."""
        if self._crew is not None:
            self._queue.surrender()
            self._crew.wake()

    def adopt(self, limits: budget.Limits) -> None:
        """Go by other limits, of which the store knows already: whoever waits looks anew."""
        self._tpm = limits.tpm
        self._queue.adopt(limits)
        self._ahead.adopt(limits.tpm)
        self._replanned = True
        self.wake()

    def retime(self, name: str | None, due_ns: int | None) -> None:
        """When one of the jobs held under this name may go."""
        self._queue.retime(name, due_ns)
        self.wake()

    def release(self, name: str | None) -> None:
        """Let all jobs go that are held under this name."""
        self._release(name, self._clock.monotonic_ns())
        self.wake()

    async def succeeded(self, ticket: Ticket, tokens: int | None, *, hints: budget.Hints | None = None) -> None:
        """The server took the request and the job has its answer; `tokens` it used, where known."""
        self._queue.succeeded(self._clock.monotonic_ns())
        await self.settle(ticket, tokens, hints=hints)

    async def give_back(self, ticket: Ticket, *, let_in: bool, then: Then = None, hints: budget.Hints | None = None) -> None:
        """The request has ended without an answer that can be used; `let_in`: the server took it, as far as that is known."""
        await (self.settle(ticket, None, then=then, hints=hints) if let_in else self.lost(ticket, then=then))

    async def settle(self, ticket: Ticket, tokens: int | None, *, then: Then = None, hints: budget.Hints | None = None) -> None:
        """The server took the request and it has ended; `tokens` it used, where known. `then`: what becomes of the job."""
        self._refused.accepted(ticket.job.number)
        self._requeue(ticket, then)
        await self._give_back(budget.Settle(ticket.entry, tokens, hints))

    async def lost(self, ticket: Ticket, *, then: Then = None) -> None:
        """Whether the server took the request is not known. `then`: what becomes of the job."""
        if then is None:
            self._refused.forget(ticket.job.number)
        self._requeue(ticket, then)
        await self._give_back(budget.Lost(ticket.entry))

    async def refused(self, ticket: Ticket, retry_after_ns: int | None, *, hints: budget.Hints | None = None) -> bool:
        """The server answered 429: the job goes back to its place. False where it is found to be one that never fits."""
        number, now_ns = ticket.job.number, self._clock.monotonic_ns()
        yields_ns = self._refused.refused(number, alone=ticket.alone)
        if yields_ns == 0:
            self._queue.refused(number)
        elif yields_ns is not None:
            self._queue.again(number, now_ns + yields_ns)
        if yields_ns is not None:
            self._job_waits.back(number, now_ns, self._waits, backoff_ns=yields_ns)
        await self._give_back(budget.Refuse(ticket.entry, retry_after_ns, self._rng.random(), hints))
        return yields_ns is not None

    def resume(self, number: int, due_ns: int) -> None:
        """Take in a job that an earlier process left with the server."""
        self._queue.again(number, due_ns)

    def _pass_over(self, number: int, why: Held | NotNow, now_ns: int) -> _Wait | _Next:
        """Take a job that is not sent out of the others' way, or wait where that cannot be."""
        if why is NotNow.WAIT:
            return _Wait("work", None)
        if isinstance(why, Held) and not self._queue.has_room_for(number):
            if self._release_the_hopeless(now_ns):
                return _Next.JOB
            return _Wait("models", self._queue.next_due_ns(now_ns))
        repeat = self._queue.remove(number, now_ns, sent=False)
        self._ahead.gone(number)
        if isinstance(why, Held):
            self._queue.hold(number, why.name, why.due_ns, repeat=repeat)
            self._job_waits.held(number, now_ns, self._waits)
        else:
            self._job_waits.gone(number)
            self._refused.forget(number)
        return _Next.JOB

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

    def statistics(self) -> Statistics:
        waits, queue = self._waits, self._queue.statistics()
        waited_ns = waits.at(self._clock.monotonic_ns())
        return Statistics(
            in_flight=self._in_flight,
            backing_off=queue.backing_off,
            held=queue.held,
            waits_for=waits.cause,
            waited_seconds={cause: waited_ns.get(cause, 0) / NS_PER_SECOND for cause in CAUSES},
            admitted=self._admitted,
        )

    def _requeue(self, ticket: Ticket, then: Then) -> None:
        # Before the request is given back: else the dispatcher could see nothing queued and nothing in flight, and end.
        if then is None:
            return
        number, now_ns = ticket.job.number, self._clock.monotonic_ns()
        match then:
            case Backoff(after_ns, repeat):
                self._queue.again(number, now_ns + after_ns, repeat=repeat)
                self._job_waits.back(number, now_ns, self._waits, backoff_ns=after_ns)
            case Held(name, due_ns):
                self._queue.hold(number, name, due_ns, repeat=True)
                self._job_waits.held(number, now_ns, self._waits)

    async def _give_back(self, event: budget.Event) -> None:
        if self._resigned:
            self._queue.surrender()
        self._in_flight -= 1
        await self._store.step(self._clock.monotonic_ns(), event)
        (self._crew or self).wake()

    async def _wait(self, changes: int, reason: Cause, until_ns: int | None) -> None:
        """Sleep until `until_ns`, or until something changes; not at all where it has, since there were so many `changes`."""
        if changes != self._changes.count or self._closed:  # by `load` perhaps: nothing might ever change again
            await trio.lowlevel.checkpoint()
            return
        now_ns = self._clock.monotonic_ns()
        gate_seconds = self._store.statistics(now_ns).closed_for_seconds
        cause: Cause = "rate_limited" if gate_seconds and reason == "requests" else reason
        self._waits = self._waits.begin(cause, now_ns)
        seconds = float("inf") if until_ns is None else max(until_ns - now_ns, SHORTEST_SLEEP_NS) / NS_PER_SECOND
        await self._changes.wait(seconds)
        self._waits = self._waits.end(self._clock.monotonic_ns())

    def wake(self) -> None:
        self._changes.note()
