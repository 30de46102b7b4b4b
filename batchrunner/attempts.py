"""One attempt, from the ticket to its record: sent, answered, judged, written down, handed back to the budget.

Everything that ends an attempt goes through `_conclude` in this order: the journal (results, costs, record), the job's
state, the budget. What is not written down has not happened.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import trio

from batchrunner import budget, dialect, lifecycle, outcome, rate_hints
from batchrunner.admission import Admission
from batchrunner.advice import Advice
from batchrunner.advice import Statistics as AdviceStatistics
from batchrunner.clock import NS_PER_SECOND
from batchrunner.costs import Charge
from batchrunner.credit import Credit
from batchrunner.errors import DiskError
from batchrunner.events import AttemptResult, Billing, Event
from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.journal import History
from batchrunner.keyring import Use
from batchrunner.lifecycle import Happening, State
from batchrunner.parts import AccountParts, Parts
from batchrunner.resilience import Resilience
from batchrunner.resilience import Statistics as ResilienceStatistics
from batchrunner.status import StoppedBy
from batchrunner.tickets import Backoff, Candidate, Due, Held, NotNow, Then, Ticket
from batchrunner.transport import Connection, Timeouts, TransportError
from batchrunner.wording import counted


class _Flight(msgspec.Struct):
    """An attempt under way."""

    ticket: Ticket
    connection: Connection
    #: the ordinal of this send among all of the job's
    attempt: int
    key: Use
    idempotency_key: str | None
    began_ns: int
    #: of the attempt, so far
    seconds: float = 0.0

    @property
    def job(self) -> Job:
        return self.ticket.job


class Common(msgspec.Struct):
    """What the attempts of all accounts know together."""

    #: jobs that failed, counted as soon as written, as the spend cap counts; earlier processes' and bad lines included
    failures: int
    #: people have the run send nothing for now
    paused: bool = False
    #: jobs whose connection was found closed when they were sent
    stale: set[int] = msgspec.field(default_factory=set)
    same_error: outcome.SameError = msgspec.field(default_factory=outcome.SameError)


class Attempts:
    """Loads jobs for an account's admission, and carries out what it admits.

    `stop` is told why nothing more can succeed, for the summary and for people.
    """

    def __init__(self, parts: Parts, account: AccountParts, common: Common, stop: Callable[[StoppedBy, str], None]) -> None:
        self._parts = parts
        self._account = account
        self._common = common
        self._stop = stop
        self._resilience = Resilience(parts, account.heads.keys)
        self._advice = Advice(account.limits.rpm, account.limits.tpm, parts.say)

    def advice_statistics(self) -> AdviceStatistics:
        return self._advice.statistics()

    def adopt(self, limits: budget.Limits) -> None:
        """Go by other limits from now on."""
        self._advice.adopt(limits.rpm, limits.tpm)

    @property
    def credit(self) -> Credit:
        return self._resilience.credit

    def statistics(self) -> ResilienceStatistics:
        return self._resilience.statistics()

    def due(self, now_ns: int) -> Due:
        """When anything may be sent at all: not while paused, nor while `Resilience` waits for something."""
        return Due(None, "paused") if self._common.paused else self._resilience.due(now_ns)

    def hopeless(self, name: str | None, now_ns: int) -> bool:
        """Whether held jobs need not wait any longer, nothing else being left to do."""
        return self._resilience.hopeless(name, now_ns)

    def check_failures(self) -> None:
        """Stop the run where more of its jobs have failed than --max-failures allows."""
        limit = self._parts.options.max_failures
        if limit is not None and limit.exceeded(self._common.failures, self._parts.total):
            failed = f"{self._common.failures:,} of {counted(self._parts.total, 'job')} failed"
            self._stop("failures", f"{failed}, and --max-failures is {limit}; errors.jsonl says why")

    # --------------------------------------------------------------------------------------------- before it is sent

    def load(self, number: int) -> Candidate | Held | NotNow:
        """Read and size up a job, and see whether it may be sent."""
        job = self._parts.inputs.load(self._parts.index, number)
        size = dialect.of(job).size(job.body)
        candidate = Candidate(job, size, self._parts.estimator.predict(size))
        if not self._is_ours(job):
            names = " and ".join(repr(account.name) for account in self._parts.accounts)
            message = f"it asks for account {job.extras.account!r}, and this run's is {names} (--account)."
            self._fail_unsent(job, size.model, "unknown_account", message)
            return NotNow.WITHDRAWN
        if self._resilience.given_up(size.model):
            message = "its model was offline, for long, when nothing else was left to do; --retry-failed tries it again."
            self._fail_unsent(job, size.model, "model_unavailable", message)
            return NotNow.WITHDRAWN
        held = self._resilience.held(size.model, self._parts.clock.monotonic_ns())
        if held is not None:
            return held
        match self._parts.spending.verdict(size, candidate.predicted):
            case "allowed":
                return candidate
            case "wait":
                return NotNow.WAIT
            case "cap_reached":
                self._stop("max_cost", f"the next job could pass --max-cost {self._parts.options.max_cost_usd} USD")
                return NotNow.WAIT
            case "price_unknown":
                message = (
                    f"model {size.model!r} has no known price, or the request no bound on its output: under --max-cost it "
                    "is not sent. Give it an output cap, name a model of the catalog, or leave --max-cost out."
                )
                self._fail_unsent(job, size.model, "price_unknown", message)
                return NotNow.WITHDRAWN

    def look(self, number: int) -> RequestSize | None:
        """Size up a job before its turn. None where it is not to be sent ahead of others: what is wrong is told in its turn."""
        job = self._parts.inputs.load(self._parts.index, number)
        return dialect.of(job).size(job.body) if self._is_ours(job) else None

    def expect(self, size: RequestSize) -> Usage | None:
        """What a request of this size will take; None where such a one may not be sent now."""
        if self._resilience.given_up(size.model) or self._resilience.held(size.model, self._parts.clock.monotonic_ns()):
            return None
        predicted = self._parts.estimator.predict(size)
        return predicted if self._parts.spending.verdict(size, predicted) == "allowed" else None

    def _is_ours(self, job: Job) -> bool:
        return job.extras.account in (None, self._account.name)

    def begin(self, ticket: Ticket, connection: Connection) -> _Flight:
        """Write down that the request goes out. From here on it may have been billed."""
        job = ticket.job
        history = self._parts.histories.setdefault(job.number, History())
        history.sends += 1
        self._move(job, Happening.READY)
        self._move(job, Happening.SEND)
        self._parts.journal.sent(
            job,
            history.sends,
            model=ticket.candidate.size.model,
            input_tokens=ticket.candidate.size.input_tokens,
            output_cap_tokens=self._parts.spending.output_bound(ticket.candidate.size),
            reserve_tokens=ticket.candidate.tokens,
            waits=ticket.waits,
            account=self._account.name,
        )
        self._parts.spending.sent(ticket.candidate)
        if history.sends == 1:
            self._advice.sent(job, ticket.candidate.tokens)
        key = self._resilience.sent(ticket)
        return _Flight(
            ticket, connection, history.sends, key, self._idempotency_key(job, history), self._parts.clock.monotonic_ns()
        )

    def _idempotency_key(self, job: Job, history: History) -> str | None:
        """What a repeat of a request is known by. It changes with each outcome that was seen: only an unknown one is repeated."""
        if not self._parts.options.idempotency_keys:
            return None
        return f"{self._parts.run_id}-{job.fingerprint:016x}-{history.in_vain}"

    # ------------------------------------------------------------------------------------------------- while it flies

    async def carry_out(self, flight: _Flight, admission: Admission) -> None:
        """Send the request, wait for its end, and conclude it. Cancellation is an end like any other: `interrupted`."""
        try:
            result = await self._exchange(flight)
        except trio.Cancelled:
            flight.seconds = (self._parts.clock.monotonic_ns() - flight.began_ns) / NS_PER_SECOND
            self._interrupted(flight, sent=flight.connection.started)
            raise
        flight.seconds = (self._parts.clock.monotonic_ns() - flight.began_ns) / NS_PER_SECOND
        await self._conclude(flight, result, admission)

    async def _exchange(self, flight: _Flight) -> Reply | Failure:
        job = flight.job
        timeouts = Timeouts(attempt_seconds=job.extras.timeout or self._parts.options.timeout_seconds)
        try:
            if not flight.connection.alive() or job.number in self._common.stale:
                # It went stale while we waited for the slot; nothing was written, so that nothing is lost.
                flight.connection.close()
                flight.connection = await self._account.pool.connect(timeouts, fresh=True)
            head = self._account.heads.head(job, flight.key, flight.idempotency_key)
            return self._account.heads.without_keys(await flight.connection.exchange(head, job.body, timeouts))
        except TransportError as error:
            return self._account.heads.failure_without_keys(error.failure)

    def _interrupted(self, flight: _Flight, *, sent: bool) -> None:
        self._parts.spending.ended(flight.ticket.candidate)
        charge = self._maybe(flight) if sent else None
        event = self._event(flight, AttemptResult.INTERRUPTED, charge, message="interrupted")
        try:
            self._parts.journal.lost(flight.job, flight.attempt, charge=charge, why="interrupted", event=event)
        except DiskError:
            return  # it is what ended the run; recovery lists the attempt as lost
        self._move(flight.job, Happening.LOSE)

    # ------------------------------------------------------------------------------------------------ when it has ended

    async def _conclude(self, flight: _Flight, result: Reply | Failure, admission: Admission) -> None:
        job = flight.job
        history = self._parts.histories[job.number]
        tries = outcome.Tries(
            history.spent + 1, job.extras.max_attempts or self._parts.options.max_attempts, job.number in self._common.stale
        )
        wall_ns = self._parts.clock.wall_ns()
        verdict = outcome.classify(result, dialect.of(job), tries, self._parts.rng, wall_ns)
        reply = result if isinstance(result, Reply) else None
        hints = None if reply is None else rate_hints.read(reply, wall_ns)
        if isinstance(result, Failure) and result.kind is FailureKind.STALE:
            self._common.stale.add(job.number)
        self._parts.spending.ended(flight.ticket.candidate)
        if isinstance(verdict, outcome.Again):
            verdict = self._resilience.failed(flight.ticket, verdict, tries, admission)
        else:
            self._resilience.ended(flight.ticket, verdict, admission)
        some_key_is_left = self._resilience.note_key(flight.key, verdict)
        match verdict:
            case outcome.Done(facts):
                assert reply is not None
                self._common.same_error.note(verdict)
                self._done(flight, reply, facts)
                await admission.succeeded(flight.ticket, facts.usage.total_tokens if facts.usage else None, hints=hints)
            case outcome.Failed():
                self._failed(flight, verdict, reply)
                await self._give_back(admission, flight.ticket, reply, hints)
                if self._common.same_error.note(verdict):
                    self._stop("failures", f"jobs fail one after another with the same error, {verdict.code}: {verdict.message}")
            case outcome.Again():
                self._again(flight, verdict)
                await self._give_back(admission, flight.ticket, reply, hints, self._resilience.then(verdict))
            case outcome.Refused(retry_after_ns, message):
                event = self._event(flight, AttemptResult.RATE_LIMITED, None, reply, message=message)
                self._parts.journal.refused(job, flight.attempt, why="rate_limited", event=event)
                self._move(job, Happening.REFUSE)
                if not await admission.refused(flight.ticket, retry_after_ns, hints=hints):
                    self._never_fits(flight)
            case outcome.StopAccount(message):
                await self._send_back(flight, reply, message, admission)
                self._stop("credits", message)
            case outcome.SuspendKey(message):
                await self._send_back(flight, reply, message, admission)
                if not some_key_is_left:
                    self._stop("keys", message)

    async def _give_back(
        self, admission: Admission, ticket: Ticket, reply: Reply | None, hints: budget.Hints | None, then: Then = None
    ) -> None:
        """An answer to the request itself shows that the limiter let it pass; an overload, an outage or silence does not."""
        if reply is not None and reply.status < 500 and reply.status != 408:
            await admission.settle(ticket, None, then=then, hints=hints)
        else:
            await admission.lost(ticket, then=then)

    def _done(self, flight: _Flight, reply: Reply, facts: dialect.ReplyFacts) -> None:
        job, size = flight.job, flight.ticket.candidate.size
        charge = self._parts.spending.billed(job, size, facts)
        event = self._event(
            flight, AttemptResult.OK, charge, reply, final=True, succeeded=True, usage=facts.usage, finish=facts.finish.value
        )
        self._parts.journal.done(job, flight.attempt, reply, charge=charge, finish=facts.finish.value, event=event)
        self._move(job, Happening.SUCCEED)
        self._forget(job)
        if facts.usage is not None:
            self._parts.estimator.learn(size, facts.usage)
            self._advice.answered(size, self._parts.estimator.outputs_of(size))

    def _failed(self, flight: _Flight, verdict: outcome.Failed, reply: Reply | None) -> None:
        charge = self._maybe(flight) if verdict.billing is Billing.MAYBE else None
        event = self._event(flight, verdict.result, charge, reply, final=True, message=verdict.message)
        self._parts.journal.failed(
            flight.job, flight.attempt, code=verdict.code, message=verdict.message, reply=reply, charge=charge, event=event
        )
        self._move(flight.job, Happening.FAIL)
        self._forget(flight.job)
        self._count_failure()

    def _again(self, flight: _Flight, verdict: outcome.Again) -> None:
        charge = self._maybe(flight) if verdict.billing is Billing.MAYBE else None
        event = self._event(flight, verdict.result, charge, message=verdict.message)
        self._parts.journal.again(
            flight.job,
            flight.attempt,
            why=verdict.code,
            charge=charge,
            spent=verdict.spends,
            in_vain=verdict.in_vain,
            event=event,
        )
        history = self._parts.histories[flight.job.number]
        history.spent += verdict.spends
        history.in_vain += verdict.in_vain
        self._move(flight.job, Happening.AGAIN)

    async def _send_back(self, flight: _Flight, reply: Reply | None, message: str, admission: Admission) -> None:
        """The account was refused, not the job: it costs the job nothing."""
        event = self._event(flight, AttemptResult.ACCOUNT, None, reply, message=message)
        self._parts.journal.again(flight.job, flight.attempt, why="account_refused", spent=False, event=event)
        self._move(flight.job, Happening.AGAIN)
        await admission.lost(flight.ticket, then=Backoff(0))

    def _never_fits(self, flight: _Flight) -> None:
        message = (
            "refused with 429 again and again while it had the whole minute to itself and other jobs were accepted: it is "
            "larger than the account's limit, or its model has a limit of its own. Split it, or ask for a higher limit."
        )
        self._fail_unsent(flight.job, flight.ticket.candidate.size.model, "rate_limit_unsatisfiable", message)

    def _fail_unsent(self, job: Job, model: str, code: str, message: str) -> None:
        """End a job that is not in flight."""
        history = self._parts.histories.get(job.number, History())
        event = Event(job.custom_id, job.line, 0, model, job.url, AttemptResult.INVALID, final=True, message=message)
        self._move(job, Happening.READY)
        self._parts.journal.failed(job, history.sends, code=code, message=message, spent=False, event=event)
        self._move(job, Happening.FAIL)
        self._forget(job)
        self._count_failure()

    def _count_failure(self) -> None:
        self._common.failures += 1
        self.check_failures()

    def _maybe(self, flight: _Flight) -> Charge:
        return self._parts.spending.maybe(flight.job, flight.ticket.candidate.size)

    def _move(self, job: Job, happening: Happening) -> None:
        """READY is for jobs that back off; for others it is nothing."""
        state = State(self._parts.index.state[job.number])
        if happening is Happening.READY and state is not State.BACKING_OFF:
            return
        history = self._parts.histories.get(job.number, "")
        self._parts.index.state[job.number] = lifecycle.after(state, happening, job.custom_id, history)

    def _forget(self, job: Job) -> None:
        self._parts.histories.pop(job.number, None)
        self._common.stale.discard(job.number)

    def _event(
        self,
        flight: _Flight,
        result: AttemptResult,
        charge: Charge | None,
        reply: Reply | None = None,
        *,
        final: bool = False,
        succeeded: bool = False,
        usage: Usage | None = None,
        finish: str | None = None,
        message: str | None = None,
    ) -> Event:
        return Event(
            custom_id=flight.job.custom_id,
            line=flight.job.line,
            attempt=flight.attempt,
            model=flight.ticket.candidate.size.model,
            endpoint=flight.job.url,
            result=result,
            final=final,
            succeeded=succeeded,
            status_code=None if reply is None else reply.status,
            seconds=flight.seconds,
            admission_wait_seconds=flight.ticket.wait_seconds,
            usage=usage,
            billing=Billing.NOT if charge is None else charge.billing,
            cost_usd=None if charge is None else charge.amount,
            finish=finish,
            message=message,
        )
