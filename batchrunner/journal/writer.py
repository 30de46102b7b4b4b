"""The run's writer: records at once, syncs in groups, tells others only afterwards.

`record` and the methods that end attempts write before they return, so that killing the process hides nothing. What a
power cut would take back is told to nobody: an event is handed to the sink only after the sync that covers its record.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Final

import msgspec
import trio

from batchrunner.clock import NS_PER_SECOND, Clock
from batchrunner.costs import Charge, Totals, cost_line
from batchrunner.errors import DiskError
from batchrunner.events import Billing, Event, Sink
from batchrunner.exchange import Reply
from batchrunner.job import Job
from batchrunner.journal.files import ERRORS, RESULTS, RunFiles
from batchrunner.journal.records import (
    Ended,
    Finished,
    Line,
    Record,
    Refunded,
    Sent,
    Submitted,
    Synced,
    What,
    fingerprint_text,
)
from batchrunner.results import clean, failure_line, success_line

COMMIT_RECORDS: Final = 256
COMMIT_SECONDS: Final = 0.020
_NO_WAITS: Final[Mapping[str, int]] = {}
_NO_UNITS: Final[Mapping[str, Decimal]] = {}

#: Runs a blocking function to its end and returns; never before its end, cancelled or not.
SyncIn = Callable[[Callable[[], None]], Awaitable[None]]


async def in_thread(blocking: Callable[[], None]) -> None:
    """Where a disk takes time: a worker thread, never abandoned."""
    await trio.to_thread.run_sync(blocking, abandon_on_cancel=False)


async def inline(blocking: Callable[[], None]) -> None:
    """Where it takes none: here and now. For a MemoryDisk under virtual time, which threads would break."""
    await trio.lowlevel.checkpoint()
    blocking()


class JournalStatistics(msgspec.Struct, frozen=True):
    """What the writer did in this process, and what it has before it."""

    records: int
    commits: int
    bytes_written: int
    #: records written and not yet known to be on disk
    pending: int
    #: how long the newest commit's syncs took; 0 before the first
    last_sync_seconds: float


class Journal:
    """Writes what happens to each attempt, in the one order that recovery relies on: final line, cost line, record.

    The result goes first because it is what was paid for: a line without a record is adopted and its cost computed
    again, a cost without a result could only be regretted.

    `sink` gets each event after the sync that covers its record, in order. `totals` counts at once: a spend cap must not
    wait for a disk. Every method that writes raises the first DiskError again for ever after.
    """

    def __init__(
        self,
        files: RunFiles,
        clock: Clock,
        *,
        sink: Sink,
        totals: Totals | None = None,
        sync_in: SyncIn = in_thread,
        commit_records: int = COMMIT_RECORDS,
        commit_seconds: float = COMMIT_SECONDS,
    ) -> None:
        self.totals = Totals() if totals is None else totals
        self._files = files
        self._clock = clock
        self._sink = sink
        self._sync_in = sync_in
        self._commit_records = commit_records
        self._commit_seconds = commit_seconds
        self._pending = 0
        self._events: list[Event] = []
        self._work = trio.Event()
        self._full = trio.Event()
        self._committing = trio.Lock()
        self._closing = False
        self._broken: DiskError | None = None
        self._records = 0
        self._commits = 0
        self._last_sync_seconds = 0.0
        self._last_marks = files.marks()

    # What happens to attempts -------------------------------------------------------------------------------------

    def sent(
        self,
        job: Job,
        attempt: int,
        *,
        model: str,
        input_tokens: int,
        output_cap_tokens: int | None,
        reserve_tokens: int,
        units: Mapping[str, Decimal] = _NO_UNITS,
        waits: Mapping[str, int] = _NO_WAITS,
        account: str | None = None,
    ) -> None:
        """The request's first byte goes out next. `attempt` is the ordinal of the send among all of the job's; `units` is what it
        asks for beside tokens; `waits` what it has waited for, in milliseconds by cause; `account` the name of the one whose
        request it is.
        """
        self.record(
            Sent(
                id=job.custom_id,
                fp=fingerprint_text(job.fingerprint),
                attempt=attempt,
                boot=self._clock.boot_id,
                mono_ns=self._clock.monotonic_ns(),
                reserve=reserve_tokens,
                input=input_tokens,
                cap=output_cap_tokens,
                model=model,
                endpoint=job.url,
                waits=dict(waits),
                account=account,
                units=dict(units),
            )
        )
        self.totals.attempts += 1

    def submitted(self, job: Job, attempt: int, *, name: str, path: str, account: str | None = None) -> Submitted:
        """The server works on the attempt, calls it `name`, and is asked for its result at `path`."""
        record = Submitted(
            id=job.custom_id,
            fp=fingerprint_text(job.fingerprint),
            attempt=attempt,
            wall_ns=self._clock.wall_ns(),
            job=name,
            path=path,
            account=account,
        )
        self.record(record)
        return record

    def done(
        self, job: Job, attempt: int, reply: Reply, *, charge: Charge, finish: str | None = None, event: Event | None = None
    ) -> None:
        """The job succeeded with this reply, which ended by `finish` (in the words of `dialect.Finish`)."""
        raw = success_line(self._files.run_id, job.custom_id, job.fingerprint, attempt, reply)
        self._end(job, attempt, What.DONE, charge=charge, final=(RESULTS, raw), spent=True, finish=finish, event=event)

    def failed(
        self,
        job: Job,
        attempt: int,
        *,
        code: str,
        message: str,
        reply: Reply | None = None,
        charge: Charge | None = None,
        spent: bool = True,
        event: Event | None = None,
    ) -> None:
        """The job failed for good. `reply`: the server's answer, where one came. `attempt` 0: it never was sent."""
        raw = failure_line(self._files.run_id, job.custom_id, job.fingerprint, attempt, code=code, message=message, reply=reply)
        self._end(job, attempt, What.FAILED, charge=charge, final=(ERRORS, raw), spent=spent, why=code, event=event)

    def again(
        self,
        job: Job,
        attempt: int,
        *,
        why: str,
        charge: Charge | None = None,
        spent: bool = True,
        in_vain: bool = False,
        event: Event | None = None,
    ) -> None:
        """The attempt failed and the job is worth another. `in_vain`: the server has said that nothing came of its work."""
        self._end(job, attempt, What.AGAIN, charge=charge, spent=spent, in_vain=in_vain, why=why, event=event)

    def refused(self, job: Job, attempt: int, *, why: str, event: Event | None = None) -> None:
        """The attempt was answered 429: it costs no money and none of the job's attempts."""
        self._end(job, attempt, What.REFUSED, why=why, event=event)
        self.totals.rate_limited += 1

    def refunded(self, custom_id: str, fingerprint: int, attempts: int) -> None:
        """So many of a job's attempts do not count any more."""
        self.record(Refunded(custom_id, fingerprint_text(fingerprint), attempts))

    def lost(self, job: Job, attempt: int, *, charge: Charge | None, why: str, event: Event | None = None) -> None:
        """We stopped looking while the attempt was in flight. `charge` is None where nothing of it had been written."""
        self._end(job, attempt, What.LOST, charge=charge, why=why, event=event)

    def record(self, record: Record, event: Event | None = None) -> None:
        """Write a record before returning, and hand `event` to the sink once it is on disk.

        Raises: DiskError. Nothing is committed after that.
        """
        self._refuse_if_broken()
        try:
            self._files.record(record)
        except DiskError as error:
            self._broken = error
            raise
        self._records += 1
        self._pending += 1
        if event is not None:
            self._events.append(event)
        if self._pending == 1:
            self._work.set()
        if self._pending >= self._commit_records:
            self._full.set()

    # Commits ------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit in groups until `close`, or until cancelled; then once more. Parks while there is nothing to commit.

        Raises: DiskError, which ends the run.
        """
        task_status.started()
        try:
            while True:
                await self._work.wait()
                if not self._closing:
                    with trio.move_on_after(self._commit_seconds):
                        await self._full.wait()
                await self.commit()
                if self._closing:
                    return
        finally:
            with trio.CancelScope(shield=True):
                await self._last_commit()

    async def commit(self) -> None:
        """Put everything written so far on disk, then hand out its events. Does nothing where nothing is new.

        Once begun it is not interrupted by cancellation. Raises: DiskError; the first one is final, because a kernel
        that failed to write a page may call the next sync of it a success.
        """
        async with self._committing:
            self._refuse_if_broken()
            await self._commit()

    async def finish(self, identity: list[list[str | int]], summary: bytes) -> None:
        """Commit, and note durably that every job has ended: the same command can then be answered at once.

        `identity` tells unchanged inputs; `summary` is the JSON document to be given again. Nothing is written after it.
        """
        await self.commit()
        async with self._committing:
            self._note(Finished(self._last_marks, identity, msgspec.Raw(summary)))
            with trio.CancelScope(shield=True):
                await self._sync(self._files.sync_journal)

    async def close(self) -> None:
        """Commit what is left, also when cancelled, let `run` return, and close the files.

        Raises: DiskError where the last commit fails; an earlier failure has been raised already and is not repeated.
        """
        with trio.CancelScope(shield=True):
            self._closing = True
            try:
                await self._last_commit()
            finally:
                self._work.set()
                self._full.set()
                async with self._committing:
                    self._files.close()

    def statistics(self) -> JournalStatistics:
        return JournalStatistics(
            records=self._records,
            commits=self._commits,
            bytes_written=self._files.bytes_written,
            pending=self._pending,
            last_sync_seconds=self._last_sync_seconds,
        )

    def _end(
        self,
        job: Job,
        attempt: int,
        what: What,
        *,
        charge: Charge | None = None,
        final: tuple[str, bytes] | None = None,
        spent: bool = False,
        in_vain: bool = False,
        why: str | None = None,
        finish: str | None = None,
        event: Event | None = None,
    ) -> None:
        """Final line, cost line, record: see the class."""
        self._refuse_if_broken()
        wall_ns = self._clock.wall_ns()
        line: Line | None = None
        try:
            if final is not None:
                line = self._files.final_line(*final)
            if charge is not None and charge.billing is not Billing.NOT:
                self._files.cost_line(cost_line(job.custom_id, attempt, charge, wall_ns))
        except DiskError as error:
            self._broken = error
            raise
        ended = Ended(
            id=job.custom_id,
            fp=fingerprint_text(job.fingerprint),
            attempt=attempt,
            what=what,
            wall_ns=wall_ns,
            spent=spent,
            in_vain=in_vain,
            charge=charge,
            line=line,
            why=None if why is None else clean(why),
            finish=finish,
        )
        self.record(ended, event)
        self.totals.add(charge)
        self.totals.add_finish(finish)

    async def _last_commit(self) -> None:
        """As `commit`, but an earlier failure, which has been raised where it happened, is not raised again."""
        async with self._committing:
            if self._broken is None:
                await self._commit()

    async def _commit(self) -> None:
        if self._pending == 0:
            return
        marks, events = self._take()
        with trio.CancelScope(shield=True):
            await self._sync(partial(self._files.sync, marks))
        self._last_marks = marks
        self._note(marks)
        self._commits += 1
        for event in events:
            self._sink(event)

    def _take(self) -> tuple[Synced, list[Event]]:
        """The batch that a commit covers; what is written from here on is the next one's."""
        events, self._events = self._events, []
        self._pending = 0
        self._work = trio.Event()
        self._full = trio.Event()
        return self._files.marks(), events

    async def _sync(self, blocking: Callable[[], None]) -> None:
        began_ns = self._clock.monotonic_ns()
        try:
            await self._sync_in(blocking)
        except DiskError as error:
            self._broken = error
            raise
        self._last_sync_seconds = (self._clock.monotonic_ns() - began_ns) / NS_PER_SECOND

    def _note(self, record: Synced | Finished) -> None:
        """A record about the files themselves: it asks for no commit of its own."""
        try:
            self._files.record(record)
        except DiskError as error:
            self._broken = error
            raise

    def _refuse_if_broken(self) -> None:
        if self._broken is not None:
            raise self._broken
