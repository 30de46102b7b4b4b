"""Jobs that the server works on: submitted once, asked for until they end, over any number of processes.

A question is a request of the account like any other: its job stands in the queue as one that backs off, takes a slot when it is
due, and waits while the account's keys or its server do. It waits neither for credits nor for the end of a pause, since what
was paid for is kept for an hour. It costs no tokens, spends no attempt, and is nothing that is billed: one attempt is one
submission, with one charge at its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from batchrunner import dialect, outcome, polling, rate_hints
from batchrunner.admission import Admission
from batchrunner.budget import Hints
from batchrunner.clock import NS_PER_SECOND
from batchrunner.endings import Endings
from batchrunner.exchange import Reply
from batchrunner.flight import Flight
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.journal import Submitted
from batchrunner.keyring import Use
from batchrunner.outcome import Blame
from batchrunner.parts import AccountParts, Parts
from batchrunner.polling import Missing, Submission, Unanswered, Waiting
from batchrunner.resilience import Resilience
from batchrunner.sending import Sending
from batchrunner.status import StoppedBy
from batchrunner.tickets import Backoff, Candidate, Held, NotNow, Ticket
from batchrunner.transport import Connection
from batchrunner.wording import counted

# Under these jobs are held aside; no model is called so.
#: while as much is out as can be asked for
FULL: Final = "\0full"
#: while what is out stands in the way of the spend cap
CAPPED: Final = "\0capped"
#: a question asks for no model, and writes nothing
_QUESTION: Final = RequestSize("", 0, 0)
_NOTHING: Final = Usage(0, 0)
#: what a model that takes work on shows of itself
_TAKEN_ON: Final = outcome.Done(dialect.ReplyFacts(None, dialect.Finish.OTHER))


class _Work(msgspec.Struct):
    """What the server works on."""

    submitted: Submitted
    #: of the submission, without its body: what it may still cost is counted by it
    candidate: Candidate
    #: that this process knows of it
    since_ns: int
    asked: int = 0
    #: since when the server does not know it
    missing_since_ns: int | None = None


class Polls:
    """The works of one account. `stop` is told why nothing more can succeed."""

    def __init__(
        self,
        parts: Parts,
        account: AccountParts,
        resilience: Resilience,
        endings: Endings,
        sending: Sending,
        stop: Callable[[StoppedBy, str], None],
    ) -> None:
        self._parts = parts
        self._account = account
        self._resilience = resilience
        self._endings = endings
        self._sending = sending
        self._stop = stop
        self._rpm = account.limits.rpm
        self._works: dict[int, _Work] = {}

    def adopt(self, rpm: int) -> None:
        """Go by another limit of requests from now on; 0: none."""
        self._rpm = rpm

    def __len__(self) -> int:
        return len(self._works)

    def full(self) -> Held | None:
        """Whether so many are out that another could not be asked for in time."""
        return Held(FULL, None) if len(self._works) >= polling.most_submitted(self._rpm) else None

    # -------------------------------------------------------------------------------------------------- how they begin

    def resume(self, admission: Admission) -> None:
        """Go on asking for what an earlier process has submitted. What it may still cost counts from here on."""
        now_ns = self._parts.clock.monotonic_ns()
        foreign: Counter[str | None] = Counter()
        for number, history in self._parts.histories.items():
            if history.submission is not None and self._is_ours(history.submission):
                job = self._parts.inputs.load(self._parts.index, number)
                size = dialect.of(job).size(job.body)
                self._begin(history.submission, Candidate(job, size, self._parts.estimator.predict(size)))
                self._parts.spending.sent(self._works[number].candidate)
                admission.resume(number, now_ns)
                if history.submission.account != self._account.name:
                    foreign[history.submission.account] += 1
        for name, count in foreign.items():
            self._parts.say(_of_another_account(count, name, self._account.name))

    async def submitted(self, flight: Flight, submission: Submission, admission: Admission, hints: Hints | None) -> None:
        """The server has taken a job on: note its name before anything else, and ask for it from now on."""
        job = flight.job
        record = self._parts.journal.submitted(
            job, flight.attempt, name=submission.name, path=submission.path, account=self._account.name
        )
        self._parts.histories[job.number].submission = record
        self._endings.submitted(job)
        self._answered(flight.ticket, flight.key, _TAKEN_ON, admission)
        self._begin(record, flight.ticket.candidate)
        await admission.settle(flight.ticket, None, then=self._later(job.number), hints=hints)

    def _begin(self, record: Submitted, candidate: Candidate) -> None:
        job = msgspec.structs.replace(candidate.job, body=b"")
        kept = msgspec.structs.replace(candidate, job=job)
        self._works[job.number] = _Work(record, kept, self._parts.clock.monotonic_ns())

    def _is_ours(self, submitted: Submitted) -> bool:
        """Those of an account that is not among the run's any more are the first one's: it may only have been renamed."""
        accounts = self._parts.accounts
        named = next((account for account in accounts if account.name == submitted.account), accounts[0])
        return named is self._account

    # ------------------------------------------------------------------------------------------------ how they are asked

    def question(self, job: Job) -> Candidate | NotNow:
        """What admission lets go for a job that the server works on. Another account's is left to the next process."""
        return Candidate(job, _QUESTION, _NOTHING) if job.number in self._works else NotNow.WITHDRAWN

    def begin(self, ticket: Ticket, connection: Connection) -> Flight:
        """A question goes out. Nothing is written down: it changes nothing."""
        work = self._works[ticket.job.number]
        work.asked += 1
        key = self._resilience.sent(ticket, asks=True)
        now_ns = self._parts.clock.monotonic_ns()
        return Flight(ticket, connection, work.submitted.attempt, key, None, now_ns, asks=True)

    async def carry_out(self, flight: Flight, admission: Admission) -> None:
        """Ask, and go by the answer. Cut off, the work is as it was, and the next process goes on asking."""
        result = await self._sending.ask(flight, self._works[flight.job.number].submitted.path)
        job, work = flight.job, self._works[flight.job.number]
        history = self._parts.histories[job.number]
        tries = outcome.Tries(history.spent + 1, job.extras.max_attempts or self._parts.options.max_attempts)
        wall_ns = self._parts.clock.wall_ns()
        verdict = polling.judge(result, dialect.of(job), tries, self._parts.rng, wall_ns)
        reply = result if isinstance(result, Reply) else None
        hints = None if reply is None else rate_hints.read(reply, wall_ns)
        if self._is_gone(work, verdict):
            verdict = polling.expired(work.submitted.job)
        elif isinstance(verdict, Waiting | Missing | Unanswered) and self._is_too_old(work):
            verdict = polling.given_up(work.submitted.job)
        await self._conclude(flight, verdict, reply, tries, admission, hints)

    def _is_gone(self, work: _Work, verdict: polling.Polled) -> bool:
        """Whether the server has not known the work for long enough; questions that fail tell nothing of that."""
        if isinstance(verdict, Unanswered):
            return False
        if not isinstance(verdict, Missing):
            work.missing_since_ns = None
            return False
        now_ns = self._parts.clock.monotonic_ns()
        if work.missing_since_ns is None:
            work.missing_since_ns = now_ns
        if work.submitted.account != self._account.name and self._age_ns(work) < polling.FOREIGN_NS:
            return False  # it may only be that it is not told of to this account
        return now_ns - work.missing_since_ns >= polling.MISSING_NS

    def _age_ns(self, work: _Work) -> int:
        return self._parts.clock.wall_ns() - work.submitted.wall_ns

    def _is_too_old(self, work: _Work) -> bool:
        return self._parts.clock.monotonic_ns() - work.since_ns >= polling.PATIENCE_NS

    # ------------------------------------------------------------------------------------------------------ how they end

    def reconsider(self, admission: Admission) -> None:
        """Something has changed that submissions may be held back for."""
        for name in (FULL, CAPPED):
            admission.retime(name, self._parts.clock.monotonic_ns())

    def other_ended(self, admission: Admission) -> None:
        """Another attempt has ended: what waits for the spend cap may go."""
        if self._works:
            admission.retime(CAPPED, self._parts.clock.monotonic_ns())

    async def _conclude(
        self,
        flight: Flight,
        verdict: polling.Polled,
        reply: Reply | None,
        tries: outcome.Tries,
        admission: Admission,
        hints: Hints | None,
    ) -> None:
        ticket = flight.ticket
        match verdict:
            case Waiting() | Missing():
                self._answered(ticket, flight.key, None, admission)
                after_ns = verdict.after_ns if isinstance(verdict, Waiting) else 0
                await admission.settle(ticket, None, then=self._later(flight.job.number, after_ns), hints=hints)
            case Unanswered(again):
                blames = Blame.NOBODY if again.blames is Blame.MODEL else again.blames  # a question asks for no model
                free = msgspec.structs.replace(again, spends=False, repeats=False, refundable=False, blames=blames)
                self._resilience.failed(ticket, free, tries, admission)
                self._resilience.note_key(flight.key, free)
                # While the server is away too: a question costs no attempt that an outage could eat, and repeats nothing.
                then = self._later(flight.job.number, again.after_ns)
                await admission.give_back(ticket, let_in=outcome.let_in(reply), then=then, hints=hints)
            case outcome.Refused(retry_after_ns, _):
                self._answered(ticket, flight.key, verdict, admission)
                # However often it is refused: it has no size that could be the reason.
                await admission.refused(msgspec.structs.replace(ticket, alone=False), retry_after_ns, hints=hints)
            case outcome.StopAccount(message):
                self._answered(ticket, flight.key, verdict, admission)
                await admission.lost(ticket, then=self._later(flight.job.number, polling.LONGEST_NS))
                self._stop("credits", message)
            case outcome.SuspendKey(message):
                some_key_is_left = self._answered(ticket, flight.key, verdict, admission)
                await admission.lost(ticket, then=Backoff(0))
                if not some_key_is_left:
                    self._stop("keys", message)
            case outcome.Done() | outcome.Failed() | outcome.Again():
                await self._end(flight, verdict, reply, tries, admission, hints)

    async def _end(
        self,
        flight: Flight,
        verdict: outcome.Done | outcome.Failed | outcome.Again,
        reply: Reply | None,
        tries: outcome.Tries,
        admission: Admission,
        hints: Hints | None,
    ) -> None:
        """The work has ended, and with it the attempt that submitted it: from here on all is as with any attempt."""
        ticket, job = flight.ticket, flight.job
        work = self._works.pop(job.number)
        now_ns = self._parts.clock.monotonic_ns()
        flight.seconds = (now_ns - work.since_ns) / NS_PER_SECOND
        flight.ticket = msgspec.structs.replace(ticket, candidate=msgspec.structs.replace(work.candidate, job=job))
        self._parts.spending.ended(work.candidate)
        self.reconsider(admission)
        self._answered(ticket, flight.key, None, admission)
        if isinstance(verdict, outcome.Again):
            verdict = outcome.exhausted(verdict, tries) or verdict
        match verdict:
            case outcome.Done(facts):
                assert reply is not None
                self._endings.note_error(verdict)
                self._endings.done(flight, reply, facts)
                await admission.succeeded(ticket, None, hints=hints)
            case outcome.Failed():
                self._endings.failed(flight, verdict, reply)
                await admission.settle(ticket, None, hints=hints)
                self._endings.note_error(verdict)
            case outcome.Again():
                self._parts.histories[job.number].submission = None
                self._endings.again(flight, verdict)
                then = Backoff(verdict.after_ns, repeat=verdict.repeats)
                await admission.settle(ticket, None, then=then, hints=hints)

    def _answered(self, ticket: Ticket, key: Use, verdict: outcome.Outcome | None, admission: Admission) -> bool:
        """The server has answered, in whatever way (None: as it should). False where no key is left."""
        self._resilience.ended(ticket, verdict, admission)
        return self._resilience.note_key(key, verdict)

    def _later(self, number: int, after_ns: int = 0) -> Backoff:
        """When it is asked for next; not before `after_ns`."""
        own_ns = polling.next_ns(self._works[number].asked, len(self._works), self._rpm, self._parts.rng)
        return Backoff(max(own_ns, after_ns))


def _of_another_account(count: int, submitted: str | None, asked: str | None) -> str:
    """What people should know where a run goes on without an account that the server still works for."""
    was, now = (repr(name) if name is not None else "an account without a name" for name in (submitted, asked))
    return (
        f"warning: {counted(count, 'job')} of this run {'was' if count == 1 else 'were'} submitted under {was}, which this start "
        f"does not have: {now} is asked for {'its result' if count == 1 else 'their results'}. If these are two accounts, "
        "stop this, and start it with --account as before: results are kept for an hour."
    )
