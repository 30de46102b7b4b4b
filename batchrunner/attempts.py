"""One attempt, from the ticket to its record: sent, answered, judged, written down, handed back to the budget.

Everything that ends an attempt goes through `_conclude` in this order: the journal (results, costs, record), the job's
state, the budget. What is not written down has not happened.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from batchrunner import dialect, outcome, polling, rate_hints
from batchrunner.admission import Admission
from batchrunner.advice import Advice
from batchrunner.advice import Statistics as AdviceStatistics
from batchrunner.budget import Limits
from batchrunner.clock import NS_PER_SECOND
from batchrunner.credit import Credit
from batchrunner.endings import Endings
from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.flight import Common, Flight
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.journal import History
from batchrunner.lifecycle import Happening, State
from batchrunner.parts import AccountParts, Parts
from batchrunner.polls import CAPPED, Polls
from batchrunner.resilience import Resilience
from batchrunner.resilience import Statistics as ResilienceStatistics
from batchrunner.sending import Sending
from batchrunner.status import StoppedBy
from batchrunner.tickets import Backoff, Candidate, Due, Held, NotNow, Ticket
from batchrunner.transport import Connection


class Attempts:
    """Loads jobs for an account's admission, and carries out what it admits.

    `stop` is told why nothing more can succeed, for the summary and for people.
    """

    def __init__(self, parts: Parts, account: AccountParts, common: Common, stop: Callable[[StoppedBy, str], None]) -> None:
        self._parts = parts
        self._account = account
        self._common = common
        self._stop = stop
        self._resilience = Resilience(parts, account.heads.keys, account.heads.fingerprint)
        self._advice = Advice(account.limits.rpm, account.limits.tpm, parts.say)
        self._endings = Endings(parts, common, self._advice, stop)
        self._sending = Sending(parts, account)
        self._polls = Polls(parts, account, self._resilience, self._endings, self._sending, stop)

    def advice_statistics(self) -> AdviceStatistics:
        return self._advice.statistics()

    def adopt(self, limits: Limits) -> None:
        """Go by other limits from now on."""
        self._advice.adopt(limits.rpm, limits.tpm)
        self._polls.adopt(limits.rpm)

    def reconsider(self, admission: Admission) -> None:
        """Limits or the spend cap are others now: what is held back for them may go."""
        self._polls.reconsider(admission)

    @property
    def credit(self) -> Credit:
        return self._resilience.credit

    def statistics(self) -> ResilienceStatistics:
        return self._resilience.statistics()

    def due(self, now_ns: int) -> Due:
        """When anything may be sent at all: not while paused, nor while `Resilience` waits for something.

        What the server works on is in flight, and is asked for all the same: it keeps a result for an hour.
        """
        due = self._resilience.due(now_ns)
        return Due(None, "paused", due.asks_ns) if self._common.paused else due

    def hopeless(self, name: str | None, now_ns: int) -> bool:
        """Whether held jobs need not wait any longer, nothing else being left to do."""
        return self._resilience.hopeless(name, now_ns)

    def resume(self, admission: Admission) -> None:
        """Go on asking for what an earlier process has left with the server."""
        self._polls.resume(admission)

    def check_failures(self) -> None:
        """Stop the run where more of its jobs have failed than --max-failures allows."""
        self._endings.check_failures()

    # --------------------------------------------------------------------------------------------- before it is sent

    def load(self, number: int) -> Candidate | Held | NotNow:
        """Read and size up a job, and see whether it may be sent."""
        job = self._parts.inputs.load(self._parts.index, number)
        if self._parts.index.state[number] == State.SUBMITTED:
            return self._polls.question(job)
        size = dialect.of(job).size(job.body)
        candidate = Candidate(job, size, self._parts.estimator.predict(size))
        if not self._is_ours(job):
            names = " and ".join(repr(account.name) for account in self._parts.accounts)
            message = f"it asks for account {job.extras.account!r}, and this run's is {names} (--account)."
            self._endings.fail_unsent(job, size.model, "unknown_account", message)
            return NotNow.WITHDRAWN
        if self._resilience.given_up(size.model):
            message = "its model was offline, for long, when nothing else was left to do; --retry-failed tries it again."
            self._endings.fail_unsent(job, size.model, "model_unavailable", message)
            return NotNow.WITHDRAWN
        held = self._resilience.held(size.model, self._parts.clock.monotonic_ns())
        if held is None and job.url in dialect.ASYNCHRONOUS_URLS:
            held = self._polls.full()
        if held is not None:
            return held
        match self._parts.spending.verdict(size, candidate.predicted):
            case "allowed":
                return candidate
            case "wait":
                # What the server works on is asked for meanwhile: the queue must not stop at this job.
                return Held(CAPPED, None) if len(self._polls) else NotNow.WAIT
            case "cap_reached":
                self._stop("max_cost", f"the next job could pass --max-cost {self._parts.options.max_cost_usd} USD")
                return NotNow.WAIT
            case "price_unknown":
                message = (
                    f"model {size.model!r} has no known price, or the request no bound on its output: under --max-cost it "
                    "is not sent. Give it an output cap (or a film its seconds), name a model of the catalog, or leave "
                    "--max-cost out."
                )
                self._endings.fail_unsent(job, size.model, "price_unknown", message)
                return NotNow.WITHDRAWN

    def look(self, number: int) -> RequestSize | None:
        """Size up a job before its turn. None where it is not to be sent ahead of others: what is wrong is told in its turn."""
        if self._parts.index.state[number] == State.SUBMITTED:
            return None
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

    def begin(self, ticket: Ticket, connection: Connection) -> Flight:
        """Write down that the request goes out. From here on it may have been billed."""
        job = ticket.job
        if self._parts.index.state[job.number] == State.SUBMITTED:
            return self._polls.begin(ticket, connection)
        history = self._parts.histories.setdefault(job.number, History())
        history.sends += 1
        self._endings.move(job, Happening.READY)
        self._endings.move(job, Happening.SEND)
        self._parts.journal.sent(
            job,
            history.sends,
            model=ticket.candidate.size.model,
            input_tokens=ticket.candidate.size.guessed_tokens,
            output_cap_tokens=self._parts.spending.output_bound(ticket.candidate.size),
            units=ticket.candidate.size.units,
            reserve_tokens=ticket.candidate.tokens,
            waits=ticket.waits,
            account=self._account.name,
        )
        self._parts.spending.sent(ticket.candidate)
        if history.sends == 1:
            self._advice.sent(job, ticket.candidate.tokens)
        key = self._resilience.sent(ticket)
        return Flight(
            ticket, connection, history.sends, key, self._idempotency_key(job, history), self._parts.clock.monotonic_ns()
        )

    def _idempotency_key(self, job: Job, history: History) -> str | None:
        """What a repeat of a request is known by. It changes with each outcome that was seen: only an unknown one is repeated."""
        if not self._parts.options.idempotency_keys:
            return None
        return f"{self._parts.run_id}-{job.fingerprint:016x}-{history.in_vain}"

    # ------------------------------------------------------------------------------------------------- while it flies

    async def carry_out(self, flight: Flight, admission: Admission) -> None:
        """Send the request, wait for its end, and conclude it. Cancellation is an end like any other: `interrupted`."""
        if flight.asks:
            await self._polls.carry_out(flight, admission)
            return
        try:
            result = await self._sending.post(flight, fresh=flight.job.number in self._common.stale)
        except trio.Cancelled:
            flight.seconds = (self._parts.clock.monotonic_ns() - flight.began_ns) / NS_PER_SECOND
            self._endings.interrupted(flight, sent=flight.connection.started)
            raise
        flight.seconds = (self._parts.clock.monotonic_ns() - flight.began_ns) / NS_PER_SECOND
        await self._conclude(flight, result, admission)

    # ------------------------------------------------------------------------------------------------ when it has ended

    def _judge(
        self, job: Job, result: Reply | Failure, tries: outcome.Tries, wall_ns: int
    ) -> outcome.Outcome | polling.Submission:
        shape, rng = dialect.of(job), self._parts.rng
        verdict = outcome.classify(result, shape, tries, rng, wall_ns)
        if job.url in dialect.ASYNCHRONOUS_URLS and isinstance(verdict, outcome.Done) and isinstance(result, Reply):
            return polling.opened(result, shape, str(self._account.pool.origin), tries, rng, wall_ns)
        return verdict

    async def _conclude(self, flight: Flight, result: Reply | Failure, admission: Admission) -> None:
        job = flight.job
        history = self._parts.histories[job.number]
        tries = outcome.Tries(
            history.spent + 1, job.extras.max_attempts or self._parts.options.max_attempts, job.number in self._common.stale
        )
        wall_ns = self._parts.clock.wall_ns()
        verdict = self._judge(job, result, tries, wall_ns)
        reply = result if isinstance(result, Reply) else None
        hints = None if reply is None else rate_hints.read(reply, wall_ns)
        if isinstance(result, Failure) and result.kind is FailureKind.STALE:
            self._common.stale.add(job.number)
        if isinstance(verdict, polling.Submission):
            await self._polls.submitted(flight, verdict, admission, hints)
            return
        self._parts.spending.ended(flight.ticket.candidate)
        self._polls.other_ended(admission)
        if isinstance(verdict, outcome.Again):
            verdict = self._resilience.failed(flight.ticket, verdict, tries, admission)
        else:
            self._resilience.ended(flight.ticket, verdict, admission)
        some_key_is_left = self._resilience.note_key(flight.key, verdict)
        match verdict:
            case outcome.Done(facts):
                assert reply is not None
                self._endings.note_error(verdict)
                self._endings.done(flight, reply, facts)
                used = facts.usage.total_tokens if facts.usage and facts.usage.tokens_known else None
                await admission.succeeded(flight.ticket, used, hints=hints)
            case outcome.Failed():
                self._endings.failed(flight, verdict, reply)
                await admission.give_back(flight.ticket, let_in=outcome.let_in(reply), hints=hints)
                self._endings.note_error(verdict)
            case outcome.Again():
                self._endings.again(flight, verdict)
                then = self._resilience.then(verdict)
                await admission.give_back(flight.ticket, let_in=outcome.let_in(reply), then=then, hints=hints)
            case outcome.Refused(retry_after_ns, message):
                self._endings.refused(flight, reply, message)
                if not await admission.refused(flight.ticket, retry_after_ns, hints=hints):
                    self._endings.never_fits(flight)
            case outcome.StopAccount(message):
                self._endings.send_back(flight, reply, message)
                await admission.lost(flight.ticket, then=Backoff(0))
                self._stop("credits", message)
            case outcome.SuspendKey(message):
                self._endings.send_back(flight, reply, message)
                await admission.lost(flight.ticket, then=Backoff(0))
                if not some_key_is_left:
                    self._stop("keys", message)
