"""A run: the dispatcher, the attempts and the writer, wired together in one nursery.

    admission -> attempts (transport -> outcome -> journal) -> settled budget
                                              `-> events -> tally, metrics, progress

The dispatcher asks admission for one ticket after another and starts a task for each; nobody else takes from the queue.
The writer lives in the outer nursery and closes last, so that whatever ends a run, what came of it is on disk.
"""

from __future__ import annotations

import os

import msgspec
import trio

from batchrunner.admission import Admission
from batchrunner.admission import Statistics as AdmissionStatistics
from batchrunner.advice import Statistics as AdviceStatistics
from batchrunner.attempts import Attempts
from batchrunner.budget import Limits
from batchrunner.clock import NS_PER_SECOND
from batchrunner.costs import timestamp
from batchrunner.errors import BatchrunError, DiskError
from batchrunner.estimate import Share
from batchrunner.fair import FairQueue
from batchrunner.lanes import Lanes
from batchrunner.parts import Parts
from batchrunner.resilience import Statistics as ResilienceStatistics
from batchrunner.retries import RetryBudget
from batchrunner.retries import Statistics as RetriesStatistics
from batchrunner.status import Binding, RunState, Status, StoppedBy, encode, named
from batchrunner.transport import Connection, TransportError

STATUS_FILE = "status.json"
STATUS_INTERVAL_SECONDS = 5.0
#: With less free than this, and this for each request in flight, nothing more is sent: its answer might not fit.
FREE_BYTES = 64 << 20
BYTES_IN_FLIGHT = 64 << 10
#: A server that was never reached for this long is taken for a wrong address.
UNREACHED_SECONDS = 30.0
CONNECT_BACKOFF_BASE_SECONDS = 0.5
CONNECT_BACKOFF_CAP_SECONDS = 30.0
UNREACHED_BACKOFF_CAP_SECONDS = 4.0


class Run:
    """Runs the jobs of an index to their end, or until it is told to stop.

    `drain()` admits nothing more and lets what is in flight end; `cancel()` cuts that off. Both leave a run that resumes.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._clock = parts.clock
        self._began_ns = parts.clock.monotonic_ns()
        self._attempts = Attempts(parts, self._stop)
        self._retries = RetryBudget()
        lanes = Lanes(parts.index)
        self._admission = Admission(
            parts.store,
            FairQueue(lanes.all, lanes.of, limits=Limits(parts.options.rpm, parts.options.tpm), retries=self._retries),
            parts.clock,
            load=self._attempts.load,
            look=self._attempts.look,
            expect=self._attempts.expect,
            due=self._attempts.due,
            hopeless=self._attempts.hopeless,
            max_in_flight=parts.options.max_in_flight,
            tpm=parts.options.tpm,
            rng=parts.rng,
        )
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
        self._reached = False
        self._connecting = False
        self._stopping = trio.Event()
        self._flights = trio.CancelScope()
        self._opening = trio.CancelScope()

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
                    with self._flights:
                        await self._dispatch()
                    inner.cancel_scope.cancel()
                await self._finish()
                if self._unusable is not None:
                    raise self._unusable
            finally:
                await self._parts.journal.close()

    def drain(self, stopped_by: StoppedBy = "signal") -> None:
        """Admit nothing more; what is in flight goes on to its end."""
        if self._stopped_by is None:
            self._stopped_by = stopped_by
        self._stopping.set()
        self._opening.cancel()
        self._admission.close()

    def cancel(self) -> None:
        """Cut off what is in flight. Each of these attempts is listed as perhaps billed."""
        self.drain("signal")
        self._flights.cancel()

    def status(self) -> Status:
        """The run as it stands: jobs and money as they are on disk."""
        now_ns = self._clock.monotonic_ns()
        # A copy, taken first: for another thread too, what has ended meanwhile is counted nowhere rather than twice.
        parts, tally = self._parts, msgspec.structs.replace(self._parts.tally)
        admission = self._admission.statistics()
        used = parts.store.statistics(now_ns)
        resilience = self._attempts.statistics()
        predictions = parts.estimator.statistics()
        models_offline = resilience.health.models_offline
        elapsed_seconds = (now_ns - self._began_ns) / NS_PER_SECOND
        done = tally.completed + tally.failed
        return Status(
            run_dir=parts.options.run_dir,
            run_id=parts.run_id,
            state=self._state(done),
            stopped_by=self._stopped_by if done < self._total or self._broken else None,
            simulated=parts.options.simulate,
            pid=os.getpid(),
            at=timestamp(self._clock.wall_ns()),
            total=self._total,
            completed=tally.completed,
            failed=tally.failed,
            # What was cut off is nowhere any more, and what waited will be due when the run goes on.
            in_flight=0 if self._over else admission.in_flight,
            backing_off=0 if self._over else admission.backing_off,
            held=0 if self._over else admission.held,
            attempts=tally.attempts,
            rate_limited=tally.rate_limited,
            finish_length=tally.finish_length,
            finish_refusal=tally.finish_refusal,
            finish_empty=tally.finish_empty,
            usage=tally.usage,
            billed_usd=tally.billed_usd,
            maybe_billed_usd=tally.maybe_billed_usd,
            unpriced_attempts=tally.unpriced_attempts,
            rpm_limit=parts.options.rpm,
            tpm_limit=parts.options.tpm,
            requests_last_minute=used.requests,
            tokens_last_minute=used.tokens,
            binding=self._binding(),
            models_offline=named(models_offline),
            models_offline_total=len(models_offline),
            keys_suspended=resilience.keys.suspended,
            oversize_jobs=self._attempts.advice_statistics().oversize,
            input_prediction_error=sum(predictions.input.values(), Share()).ratio,
            output_prediction_error=sum(predictions.output.values(), Share()).ratio,
            elapsed_seconds=elapsed_seconds,
            requests_per_minute=self._per_minute(tally.attempts - self._attempts_before, elapsed_seconds),
            tokens_per_minute=self._per_minute(tally.usage.total_tokens - self._tokens_before, elapsed_seconds),
            eta_seconds=self._eta_seconds(done, elapsed_seconds),
        )

    @property
    def parts(self) -> Parts:
        return self._parts

    def admission_statistics(self) -> AdmissionStatistics:
        return self._admission.statistics()

    def resilience_statistics(self) -> ResilienceStatistics:
        return self._attempts.statistics()

    def advice_statistics(self) -> AdviceStatistics:
        return self._attempts.advice_statistics()

    def retries_statistics(self) -> RetriesStatistics:
        return self._retries.statistics(self._clock.monotonic_ns())

    # ---------------------------------------------------------------------------------------------------- dispatching

    async def _dispatch(self) -> None:
        """Send until nothing is left to send. What is in flight is waited for, also where the job file proves unusable."""
        self._attempts.check_failures()
        async with trio.open_nursery() as flights:
            while await self._admission.ready():
                # Opened before its slot is due: a handshake must not make a send late, nor a dead server cost a job.
                connection = await self._connect()
                if connection is None:
                    break
                try:
                    ticket = await self._admission.admit()
                except BatchrunError as error:
                    self._unusable = error
                    self._parts.say(f"stopping once what is in flight has ended: {error}")
                    self.drain("input")
                    ticket = None
                if ticket is None:
                    connection.release()
                    break
                flight = self._attempts.begin(ticket, connection)
                flights.start_soon(self._attempts.carry_out, flight, self._admission)
                await trio.lowlevel.checkpoint()  # nothing above need have waited

    async def _connect(self) -> Connection | None:
        """An open connection; None once the run is stopping. A server that is away is waited for, unless it never was there."""
        unreached_since_ns = self._parts.unreached_since_ns
        failures = 0
        while not self._stopping.is_set():
            try:
                with trio.CancelScope() as self._opening:
                    connection = await self._parts.pool.connect()
                if self._opening.cancelled_caught:
                    return None
            except TransportError as error:
                failures += 1
                now_ns = self._clock.monotonic_ns()
                unreached_since_ns = now_ns if unreached_since_ns is None else unreached_since_ns
                if not self._reached and now_ns - unreached_since_ns >= UNREACHED_SECONDS * NS_PER_SECOND:
                    self._stop("unreachable", error.failure.message)
                    return None
                if failures == 1:
                    self._parts.say(f"{error.failure.message}; trying again")
                self._connecting = True
                cap = CONNECT_BACKOFF_CAP_SECONDS if self._reached else UNREACHED_BACKOFF_CAP_SECONDS
                ceiling = min(cap, CONNECT_BACKOFF_BASE_SECONDS * 2 ** min(failures, 10))
                with trio.move_on_after(self._parts.rng.uniform(ceiling / 2, ceiling)):
                    await self._stopping.wait()
            else:
                self._reached = True
                self._connecting = False
                return connection
        return None

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
        self._over = True
        last = encode(self.status())
        if self._parts.tally.completed + self._parts.tally.failed == self._total:
            await self._parts.journal.finish(self._parts.inputs.identity(), msgspec.json.format(last, indent=0))
        self._parts.disk.replace(STATUS_FILE, [last])

    async def _write_status(self) -> None:
        """Leave the figures behind every few seconds, and see whether the disk still holds what is to come."""
        while True:
            status = self.status()
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

    def _state(self, done: int) -> RunState:
        if not self._over:
            return "running" if self._stopped_by is None else "draining"
        return "completed" if done == self._total and not self._broken else "stopped"

    def _binding(self) -> Binding:
        if self._over:
            return "none"
        if self._connecting:
            return "server"
        return self._admission.statistics().waits_for or "none"

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
