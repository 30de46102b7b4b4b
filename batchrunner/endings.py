"""How attempts end: written down, then the job's state moved, then told to those who learn from it.

In this order always: the journal (results, costs, record), the job's state. What is not written down has not happened.
"""

from __future__ import annotations

from collections.abc import Callable

from batchrunner import lifecycle, outcome
from batchrunner.advice import Advice
from batchrunner.costs import Charge
from batchrunner.dialect import ReplyFacts
from batchrunner.errors import DiskError
from batchrunner.events import AttemptResult, Billing, Event
from batchrunner.exchange import Reply
from batchrunner.flight import Common, Flight
from batchrunner.job import Job, Usage
from batchrunner.journal import History
from batchrunner.lifecycle import Happening, State
from batchrunner.parts import Parts
from batchrunner.status import StoppedBy
from batchrunner.wording import counted


class Endings:
    """Writes down what became of one account's attempts. `stop` is told where too many jobs have failed."""

    def __init__(self, parts: Parts, common: Common, advice: Advice, stop: Callable[[StoppedBy, str], None]) -> None:
        self._parts = parts
        self._common = common
        self._advice = advice
        self._stop = stop

    def check_failures(self) -> None:
        """Stop the run where more of its jobs have failed than --max-failures allows."""
        limit = self._parts.options.max_failures
        if limit is not None and limit.exceeded(self._common.failures, self._parts.total):
            failed = f"{self._common.failures:,} of {counted(self._parts.total, 'job')} failed"
            self._stop("failures", f"{failed}, and --max-failures is {limit}; errors.jsonl says why")

    def interrupted(self, flight: Flight, *, sent: bool) -> None:
        self._parts.spending.ended(flight.ticket.candidate)
        charge = self._maybe(flight) if sent else None
        event = self._event(flight, AttemptResult.INTERRUPTED, charge, message="interrupted")
        try:
            self._parts.journal.lost(flight.job, flight.attempt, charge=charge, why="interrupted", event=event)
        except DiskError:
            return  # it is what ended the run; recovery lists the attempt as lost
        self.move(flight.job, Happening.LOSE)

    def done(self, flight: Flight, reply: Reply, facts: ReplyFacts) -> None:
        job, size = flight.job, flight.ticket.candidate.size
        charge = self._parts.spending.billed(job, size, facts)
        event = self._event(
            flight, AttemptResult.OK, charge, reply, final=True, succeeded=True, usage=facts.usage, finish=facts.finish.value
        )
        self._parts.journal.done(job, flight.attempt, reply, charge=charge, finish=facts.finish.value, event=event)
        self.move(job, Happening.SUCCEED)
        self._forget(job)
        if facts.usage is not None:
            # How long work took that was asked for says nothing of answers.
            self._parts.estimator.learn(size, facts.usage, None if flight.asks else flight.seconds)
            self._advice.answered(size, self._parts.estimator.outputs_of(size))

    def failed(self, flight: Flight, verdict: outcome.Failed, reply: Reply | None) -> None:
        charge = self._maybe(flight) if verdict.billing is Billing.MAYBE else None
        event = self._event(flight, verdict.result, charge, reply, final=True, message=verdict.message)
        self._parts.journal.failed(
            flight.job, flight.attempt, code=verdict.code, message=verdict.message, reply=reply, charge=charge, event=event
        )
        self.move(flight.job, Happening.FAIL)
        self._forget(flight.job)
        self._count_failure()

    def again(self, flight: Flight, verdict: outcome.Again) -> None:
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
        self.move(flight.job, Happening.AGAIN)

    def submitted(self, job: Job) -> None:
        """The server works on a job, as the journal says by now."""
        self.move(job, Happening.SUBMIT)

    def note_error(self, verdict: outcome.Done | outcome.Failed) -> None:
        """Stop the run where every answer is the same permanent error."""
        if self._common.same_error.note(verdict) and isinstance(verdict, outcome.Failed):
            self._stop("failures", f"jobs fail one after another with the same error, {verdict.code}: {verdict.message}")

    def refused(self, flight: Flight, reply: Reply | None, message: str) -> None:
        """429: the job goes back to its place."""
        event = self._event(flight, AttemptResult.RATE_LIMITED, None, reply, message=message)
        self._parts.journal.refused(flight.job, flight.attempt, why="rate_limited", event=event)
        self.move(flight.job, Happening.REFUSE)

    def send_back(self, flight: Flight, reply: Reply | None, message: str) -> None:
        """The account was refused, not the job: it costs the job nothing."""
        event = self._event(flight, AttemptResult.ACCOUNT, None, reply, message=message)
        self._parts.journal.again(flight.job, flight.attempt, why="account_refused", spent=False, event=event)
        self.move(flight.job, Happening.AGAIN)

    def never_fits(self, flight: Flight) -> None:
        message = (
            "refused with 429 again and again while it had the whole minute to itself and other jobs were accepted: it is "
            "larger than the account's limit, or its model has a limit of its own. Split it, or ask for a higher limit."
        )
        self.fail_unsent(flight.job, flight.ticket.candidate.size.model, "rate_limit_unsatisfiable", message)

    def fail_unsent(self, job: Job, model: str, code: str, message: str) -> None:
        """End a job that is not in flight."""
        history = self._parts.histories.get(job.number, History())
        event = Event(job.custom_id, job.line, 0, model, job.url, AttemptResult.INVALID, final=True, message=message)
        self.move(job, Happening.READY)
        self._parts.journal.failed(job, history.sends, code=code, message=message, spent=False, event=event)
        self.move(job, Happening.FAIL)
        self._forget(job)
        self._count_failure()

    def _count_failure(self) -> None:
        self._common.failures += 1
        self.check_failures()

    def _maybe(self, flight: Flight) -> Charge:
        return self._parts.spending.maybe(flight.job, flight.ticket.candidate.size)

    def move(self, job: Job, happening: Happening) -> None:
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
        flight: Flight,
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
            first_token_seconds=flight.first_token_seconds,
            admission_wait_seconds=flight.ticket.wait_seconds,
            usage=usage,
            billing=Billing.NOT if charge is None else charge.billing,
            cost_usd=None if charge is None else charge.amount,
            finish=finish,
            message=message,
        )
