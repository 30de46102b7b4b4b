"""A run: the dispatcher, the attempts and the writer, wired together in one nursery.

    admission -> attempts (transport -> outcome -> journal) -> settled budget
                                              `-> events -> tally, metrics, progress

A dispatcher for each account asks its admission for one ticket after another and starts a task for each; they share the lanes
of the queue, and nobody else takes from it.
The writer lives in the outer nursery and closes last, so that whatever ends a run, what came of it is on disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import Final

import msgspec
import trio

from batchrunner.advice import Statistics as AdviceStatistics
from batchrunner.budget import Limits
from batchrunner.clock import NS_PER_SECOND
from batchrunner.costs import timestamp
from batchrunner.credit import Forewarning, forecast_usd
from batchrunner.crew import Crew
from batchrunner.dispatcher import Dispatcher
from batchrunner.errors import BatchrunError, DiskError
from batchrunner.estimate import Share
from batchrunner.fair import MOST_HELD
from batchrunner.flight import Common
from batchrunner.lanes import Lanes
from batchrunner.lifecycle import State
from batchrunner.live import AccountLimits, Live
from batchrunner.parts import Parts
from batchrunner.retries import RetryBudget
from batchrunner.retries import Statistics as RetriesStatistics
from batchrunner.status import Binding, RunState, Status, StoppedBy, encode, less_than, named, sum_of_limits
from batchrunner.tally import Tally

STATUS_FILE = "status.json"
STATUS_INTERVAL_SECONDS = 5.0
#: With less free than this, and this for each request in flight, nothing more is sent: its answer might not fit.
FREE_BYTES = 64 << 20
BYTES_IN_FLIGHT = 64 << 10
#: Jobs that an account may keep aside while its server has no worker for their model, where another's may have one.
MOST_HELD_FROM_OTHERS: Final = 100
#: these are an account's own affair
ACCOUNT_STOPS: Final[frozenset[StoppedBy]] = frozenset(("credits", "keys", "unreachable"))


class Run:
    """Runs the jobs of an index to their end, or until it is told to stop.

    `drain()` admits nothing more and lets what is in flight end; `cancel()` cuts that off. Both leave a run that resumes.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._began_ns = parts.clock.monotonic_ns()
        self._retries = RetryBudget()
        self._common = Common(parts.tally.failed)
        self._dispatchers = self._one_for_each_account(parts)
        self._total = parts.total
        self._done_before = parts.tally.completed + parts.tally.failed
        self._attempts_before = parts.tally.attempts
        self._tokens_before = parts.tally.usage.total_tokens
        self._stopped_by: StoppedBy | None = None
        self._over = False
        #: a write failed: also where every job has ended, not all of it may be noted
        self._broken = False
        #: why the job file cannot be gone on with
        self._unusable: BatchrunError | None = None
        self._flights = trio.CancelScope()
        self._forewarning = Forewarning()
        #: why accounts are not used any more, in the order in which that was found
        self._resigned: list[StoppedBy] = []

    def _one_for_each_account(self, parts: Parts) -> list[Dispatcher]:
        accounts = parts.accounts
        lanes, common = Lanes(parts.index), self._common
        crew = Crew() if len(accounts) > 1 else None
        names = {account.name for account in accounts if account.name is not None}
        return [
            Dispatcher(
                parts,
                account,
                lanes,
                common,
                self._retries,
                stop=partial(self._stop_account, place),
                unusable=self._stop_for_good,
                crew=crew,
                foreign=names - {account.name},
                max_in_flight=max(1, parts.options.max_in_flight // len(accounts)),
                most_held=MOST_HELD if len({account.server for account in accounts}) == 1 else MOST_HELD_FROM_OTHERS,
            )
            for place, account in enumerate(accounts)
        ]

    async def run(self) -> Status:
        """Run until every job has ended, or until stopped; the last status. The first disk error stops it too.

        Raises: ChangedLines, perhaps in an ExceptionGroup; the run can be resumed.
        """
        try:
            await self._run()
        except* DiskError as errors:
            self._stop("disk", str(_first(errors)))
            self._broken = True
        self._over = True
        return self.status()

    async def _run(self) -> None:
        async with trio.open_nursery() as outer:
            await outer.start(self._parts.journal.run)
            try:
                async with trio.open_nursery() as inner:
                    inner.start_soon(self._write_status)
                    for dispatcher in self._dispatchers:
                        inner.start_soon(dispatcher.balance.run)
                    with self._flights:
                        async with trio.open_nursery() as dispatching:
                            for dispatcher in self._dispatchers:
                                dispatching.start_soon(dispatcher.run)
                    inner.cancel_scope.cancel()
                if self._stopped_by is None and self._resigned:
                    self._stopped_by = self._resigned[0]  # of jobs that only these accounts could have sent, if any are left
                await self._finish()
                if self._unusable is not None:
                    raise self._unusable
            finally:
                await self._parts.journal.close()

    def drain(self, stopped_by: StoppedBy = "signal") -> None:
        """Admit nothing more; what is in flight goes on to its end."""
        if self._stopped_by is None:
            self._stopped_by = stopped_by
        for dispatcher in self._dispatchers:
            dispatcher.drain()

    def cancel(self) -> None:
        """Cut off what is in flight. Each of these attempts is listed as perhaps billed."""
        self.drain("signal")
        self._flights.cancel()

    def live(self) -> Live:
        """What of this run may be changed while it is at work, as it stands."""
        accounts = tuple(AccountLimits(one.account.name, one.limits.rpm, one.limits.tpm) for one in self._dispatchers)
        return Live(accounts, self._parts.spending.max_cost_usd, paused=self._common.paused)

    async def adopt(self, live: Live) -> None:
        """Go on with other limits, another spend cap, paused or not: what is sent next goes by them."""
        self._common.paused = live.paused
        self._parts.spending.adopt(live.max_cost_usd)
        for dispatcher, given in zip(self._dispatchers, live.accounts, strict=True):
            limits = Limits(given.rpm, given.tpm, auto=dispatcher.limits.auto)
            if limits != dispatcher.limits:
                await dispatcher.adopt(limits)
            dispatcher.attempts.reconsider(dispatcher.admission)
            dispatcher.admission.wake()

    @property
    def stopping(self) -> bool:
        """Nothing more is sent."""
        return self._stopped_by is not None or self._over

    def status(self) -> Status:
        """The run as it stands: jobs and money as they are on disk."""
        now_ns = self._clock.monotonic_ns()
        # A copy, taken first: for another thread too, what has ended meanwhile is counted nowhere rather than twice.
        parts, tally = self._parts, msgspec.structs.replace(self._parts.tally)
        admissions = [dispatcher.admission.statistics() for dispatcher in self._dispatchers]
        limits = [dispatcher.limits for dispatcher in self._dispatchers]
        used = [account.store.statistics(now_ns) for account in parts.accounts]
        resilience = [dispatcher.attempts.statistics() for dispatcher in self._dispatchers]
        models_offline = list(dict.fromkeys(model for one in resilience for model in one.health.models_offline))
        predictions = parts.estimator.statistics()
        elapsed_seconds = (now_ns - self._began_ns) / NS_PER_SECOND
        done = tally.completed + tally.failed
        return Status(
            run_dir=parts.options.run_dir,
            run_id=parts.run_id,
            state=self._state(done),
            paused=self._common.paused and not self._over,
            stopped_by=self._stopped_by if done < self._total or self._broken else None,
            simulated=parts.options.simulate,
            pid=os.getpid(),
            at=timestamp(self._clock.wall_ns()),
            total=self._total,
            completed=tally.completed,
            failed=tally.failed,
            removed=tally.removed,
            # What was cut off is nowhere any more, and what waited will be due when the run goes on.
            in_flight=0 if self._over else sum(one.in_flight for one in admissions),
            backing_off=0 if self._over else sum(one.backing_off for one in admissions),
            held=0 if self._over else sum(one.held for one in admissions),
            submitted=parts.index.state.count(State.SUBMITTED),
            attempts=tally.attempts,
            rate_limited=tally.rate_limited,
            finish_length=tally.finish_length,
            finish_refusal=tally.finish_refusal,
            finish_empty=tally.finish_empty,
            usage=tally.usage,
            billed_usd=tally.billed_usd,
            maybe_billed_usd=tally.maybe_billed_usd,
            unpriced_attempts=tally.unpriced_attempts,
            max_cost_usd=parts.spending.max_cost_usd,
            balance_usd=self._balance_usd(),
            balance_at=self._balance_at(),
            forecast_usd=self._forecast_usd(tally),
            without_credits=0 if self._over else sum(one.credits.waits for one in resilience),
            rpm_limit=sum_of_limits(one.rpm for one in limits),
            tpm_limit=sum_of_limits(one.tpm for one in limits),
            rpm_effective=less_than((one.rpm for one in limits), (one.rpm_effective for one in used)),
            tpm_effective=less_than((one.tpm for one in limits), (one.tpm_effective for one in used)),
            requests_last_minute=sum(one.requests for one in used),
            tokens_last_minute=sum(one.tokens for one in used),
            binding=self._binding(),
            models_offline=named(models_offline),
            models_offline_total=len(models_offline),
            keys_suspended=sum(one.keys.suspended for one in resilience),
            keys_retired=tuple(fingerprint for one in resilience for fingerprint in one.retired if fingerprint),
            oversize_jobs=self.advice_statistics().oversize,
            input_prediction_error=sum(predictions.input.values(), Share()).ratio,
            output_prediction_error=sum(predictions.output.values(), Share()).ratio,
            first_token_seconds_p50=tally.first_token_seconds_p50,
            elapsed_seconds=elapsed_seconds,
            requests_per_minute=self._per_minute(tally.attempts - self._attempts_before, elapsed_seconds),
            tokens_per_minute=self._per_minute(tally.usage.total_tokens - self._tokens_before, elapsed_seconds),
            eta_seconds=self._eta_seconds(done, elapsed_seconds),
        )

    @property
    def parts(self) -> Parts:
        return self._parts

    @property
    def dispatchers(self) -> Sequence[Dispatcher]:
        """One for each of the accounts, in their order."""
        return self._dispatchers

    def advice_statistics(self) -> AdviceStatistics:
        found = [dispatcher.attempts.advice_statistics() for dispatcher in self._dispatchers]
        return AdviceStatistics(sum(one.oversize for one in found), sum(one.generous_caps for one in found))

    def retries_statistics(self) -> RetriesStatistics:
        return self._retries.statistics(self._clock.monotonic_ns())

    # ------------------------------------------------------------------------------------------------------- stopping

    def _stop_account(self, place: int, stopped_by: StoppedBy, message: str) -> None:
        """Why nothing more can succeed: with one of the accounts perhaps, and then the others go on."""
        this = self._dispatchers[place]
        if stopped_by == "credits" and self._parts.options.wait_for_credits:
            this.admission.surrender()  # others have some, perhaps; this one is probed
            this.balance.look()
            return
        others_go_on = not all(one.over for one in self._dispatchers if one is not this)
        if stopped_by not in ACCOUNT_STOPS or self._stopped_by is not None or not others_go_on:
            self._stop(stopped_by, message)
            return
        if not this.over:
            self._parts.say(f"account {this.account.name!r} is not used any more, the others go on: {message}")
            self._resigned.append(stopped_by)
        # What was submitted before the credits went was paid for, and is kept for an hour.
        this.resign(asks=stopped_by == "credits")

    def _stop_for_good(self, error: BatchrunError) -> None:
        """The job file proves unusable: what is in flight is waited for."""
        self._unusable = error
        self._parts.say(f"stopping once what is in flight has ended: {error}")
        self.drain("input")

    def _stop(self, stopped_by: StoppedBy, message: str) -> None:
        """Nothing more can or may succeed: let what is in flight end, and say why. The first reason stands, but for a disk's."""
        if self._stopped_by is None or stopped_by == "disk":
            self._stopped_by = stopped_by
            self._parts.say(f"stopping: {message}")
        self.drain(stopped_by)

    # ------------------------------------------------------------------------------------------------------ reporting

    async def _finish(self) -> None:
        """Leave the last status behind; and where every job has ended, the note by which the next start knows it."""
        await self._parts.journal.commit()
        if self._stopped_by in (None, "credits", "max_cost", "failures"):
            async with trio.open_nursery() as nursery:
                for dispatcher in self._dispatchers:
                    nursery.start_soon(dispatcher.balance.last)
        self._over = True
        last = encode(self.status())
        if self._parts.tally.completed + self._parts.tally.failed == self._total:
            await self._parts.journal.finish(self._parts.inputs.identity(), msgspec.json.format(last, indent=0))
        self._parts.disk.replace(STATUS_FILE, [last])

    async def _write_status(self) -> None:
        """Leave the figures behind every few seconds, and see whether the disk still holds what is to come."""
        while True:
            status = self.status()
            self._forewarn(status)
            try:
                self._parts.disk.replace(STATUS_FILE, [encode(status)], durable=False)
            except DiskError as error:
                self._stop("disk", str(error))
                return
            free_bytes = self._parts.disk.free_bytes()
            if free_bytes is not None and free_bytes < FREE_BYTES + status.in_flight * BYTES_IN_FLIGHT:
                self._stop(
                    "disk", f"only {free_bytes >> 20} MiB are free where {status.run_dir} is; what is in flight still fits."
                )
                return
            await trio.sleep(STATUS_INTERVAL_SECONDS)

    def _forewarn(self, status: Status) -> None:
        """Tell people while it is still time that what is left to pay with will not do."""
        watches = [dispatcher.balance for dispatcher in self._dispatchers]
        told = [watch.billed_usd for watch in watches if watch.billed_usd is not None]
        if status.balance_usd is None or not told:
            return
        balance_usd = status.balance_usd - (status.billed_usd - min(told))  # what was spent since
        warning = self._forewarning.look(status.forecast_usd, balance_usd, status.total - status.done)
        if warning is not None:
            self._parts.say(warning)

    def _balance_usd(self) -> Decimal | None:
        """Of all accounts together; None where one of them is not known."""
        known = [one.attempts.credit.statistics().balance_usd for one in self._dispatchers]
        return sum((one for one in known if one is not None), Decimal(0)) if None not in known else None

    def _balance_at(self) -> str | None:
        told = [one.balance.told_wall_ns for one in self._dispatchers]
        return timestamp(min(at for at in told if at is not None)) if None not in told else None

    def _forecast_usd(self, tally: Tally) -> Decimal | None:
        """None too where something was billed whose price is not known."""
        done = tally.completed + tally.failed
        if tally.unpriced_attempts:
            return None
        return forecast_usd(tally.billed_usd, done - self._parts.bad_lines, self._total - done)

    def _state(self, done: int) -> RunState:
        if not self._over:
            return "running" if self._stopped_by is None else "draining"
        return "completed" if done == self._total and not self._broken else "stopped"

    def _binding(self) -> Binding:
        if self._over:
            return "none"
        busy = [dispatcher for dispatcher in self._dispatchers if not dispatcher.over] or self._dispatchers
        if all(dispatcher.connecting for dispatcher in busy):
            return "server"
        causes = [dispatcher.admission.statistics().waits_for for dispatcher in busy]
        # One that has nothing to do holds nobody up.
        return next((cause for cause in causes if cause not in (None, "work")), causes[0]) or "none"

    @staticmethod
    def _per_minute(count: int, elapsed_seconds: float) -> float | None:
        return count / elapsed_seconds * 60 if elapsed_seconds >= 60 else None

    def _eta_seconds(self, done: int, elapsed_seconds: float) -> float | None:
        """At the mean speed of this process so far; None before there is one."""
        mine = done - self._done_before
        return elapsed_seconds / mine * (self._total - done) if mine > 0 and not self._over else None


def _first(errors: BaseExceptionGroup[DiskError]) -> BaseException:
    """Of errors that came together, one: the others are its echoes."""
    inner: BaseException = errors
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return inner
