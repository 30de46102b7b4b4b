"""The story of one job, out of the journal and the files: each send, what came of it, what it cost, where it stands.

One pass over the journal, in the memory of the job's own records; only reads, also of a run that is at work.
"""

from __future__ import annotations

import zlib
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal

import msgspec

from batchrunner.clock import NS_PER_SECOND
from batchrunner.costs import Charge, timestamp
from batchrunner.errors import InvalidInput
from batchrunner.events import Billing
from batchrunner.journal.records import Ended, Line, Record, Refunded, Reopened, Sent, Settled, Started, Submitted, What
from batchrunner.pricing import EXACT
from batchrunner.run_directory import read_manifest
from batchrunner.verification.chain import Chain
from batchrunner.verification.reader import RunReader
from batchrunner.verification.report import Findings

_NEAR: Final = 5

Kind = Literal["sent", "submitted", "done", "failed", "again", "refused", "lost", "reopened", "refunded", "settled", "process"]
Standing = Literal["pending", "in_flight", "succeeded", "failed"]


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened to a job, or to the process that had it in hand."""

    what: Kind
    #: RFC 3339, UTC; None where the journal does not tell
    at: str | None
    #: of the record in journal.jsonl, in bytes
    offset: int
    #: the ordinal of the send; of `reopened` and `refunded` how many sends or attempts it is about
    attempt: int = 0
    #: since the step before, in seconds, where both times are known
    after_seconds: float | None = None
    #: the process: that began, or that sent
    pid: int | None = None
    #: sent: tokens set aside, estimated input, most that may be written
    reserve_tokens: int | None = None
    input_tokens: int | None = None
    cap_tokens: int | None = None
    model: str | None = None
    endpoint: str | None = None
    #: sent: what the job waited for since it last ended or since the process began, milliseconds by cause, see `waits`
    waits_ms: dict[str, int] = {}
    #: submitted: what the server calls it
    job: str | None = None
    #: ended: why, and whether it counts toward --max-attempts
    why: str | None = None
    finish: str | None = None
    spent: bool = False
    charge: Charge | None = None


class FinalPlace(msgspec.Struct, frozen=True):
    """The line that ended a job."""

    file: str
    #: where it stands now; None where it does not
    offset: int | None
    #: bytes
    length: int


class Story(msgspec.Struct):
    """Everything that the run's files tell of one job."""

    custom_id: str
    state: Standing
    steps: list[Step]
    sends: int
    #: of these, how many count toward --max-attempts
    spent: int
    final: FinalPlace | None
    billed_usd: Decimal
    maybe_billed_usd: Decimal
    unpriced_attempts: int
    #: a part of the journal is damaged, and may have told more
    damaged: bool


def tell(path: Path, custom_id: str) -> Story:
    """The story of the job with this id.

    Raises: InvalidInput where the journal does not know it, with ids that are like it, or where there is no run; DiskError.
    """
    manifest = read_manifest(path)
    with RunReader(path) as reader:
        chain = Chain(reader, manifest.run_id, Findings())
        teller = _Teller(custom_id)
        for place, _, record in chain:
            teller.take(place.offset or 0, record)
        if not teller.known:
            raise InvalidInput(_unknown(path, custom_id, teller.near))
        line = teller.line
        final = None if line is None else FinalPlace(line.file, _find(reader, line), line.length)
        return teller.story(final, damaged=chain.damaged)


class _Teller:
    """Picks one job's records out of all."""

    def __init__(self, custom_id: str) -> None:
        self.known = False
        self.line: Line | None = None
        #: other ids that are like it
        self.near: dict[str, None] = {}
        self._custom_id = custom_id
        self._folded = custom_id.strip().casefold()
        self._steps: list[Step] = []
        self._process: Started | None = None
        self._last_ns: int | None = None
        self._state: Standing = "pending"
        self._sends = 0
        self._spent = 0
        #: the newest charge of each attempt
        self._charges: dict[int, Charge | None] = {}

    def take(self, offset: int, record: Record) -> None:
        """Look at the next record."""
        match record:
            case Started():
                self._process = record
                if self.known and self._state in ("pending", "in_flight"):
                    self._add(Step("process", None, offset, pid=record.pid), record.wall_ns)
            case Sent() | Submitted() | Ended() | Reopened() | Refunded() | Settled() if record.id == self._custom_id:
                self.known = True
                self._own(offset, record)
            case Sent() if not self.known and len(self.near) < _NEAR:
                folded = record.id.casefold()
                if self._folded and (self._folded in folded or folded in self._folded):
                    self.near[record.id] = None

    def story(self, final: FinalPlace | None, *, damaged: bool) -> Story:
        billed = maybe = Decimal(0)
        unpriced = 0
        for charge in self._charges.values():
            if charge is None or charge.billing is Billing.NOT:
                continue
            if charge.amount is None:
                unpriced += 1
            elif charge.billing is Billing.BILLED:
                billed = EXACT.add(billed, charge.amount)
            else:
                maybe = EXACT.add(maybe, charge.amount)
        return Story(self._custom_id, self._state, self._steps, self._sends, self._spent, final, billed, maybe, unpriced, damaged)

    def _own(self, offset: int, record: Sent | Submitted | Ended | Reopened | Refunded | Settled) -> None:
        match record:
            case Submitted():
                self._add(Step("submitted", None, offset, record.attempt, job=record.job), record.wall_ns)
            case Sent():
                self._sent(offset, record)
            case Ended():
                self._ended(offset, record)
            case Reopened():
                self._state, self._spent, self.line = "pending", 0, None
                self._add(Step("reopened", None, offset, record.attempt, why=record.why), None)
            case Refunded():
                self._spent -= record.attempts
                self._add(Step("refunded", None, offset, record.attempts), None)
            case Settled():
                self._charges[record.attempt] = record.charge
                self._add(Step("settled", None, offset, record.attempt, charge=record.charge), record.wall_ns)

    def _sent(self, offset: int, sent: Sent) -> None:
        self._state = "in_flight"
        self._sends = max(self._sends, sent.attempt)
        step = Step(
            "sent",
            None,
            offset,
            sent.attempt,
            pid=None if self._process is None else self._process.pid,
            reserve_tokens=sent.reserve,
            input_tokens=sent.input,
            cap_tokens=sent.cap,
            model=sent.model,
            endpoint=sent.endpoint,
            waits_ms=sent.waits,
        )
        self._add(step, self._wall_ns(sent))

    def _ended(self, offset: int, ended: Ended) -> None:
        if ended.line is not None:
            self._state = "succeeded" if ended.what is What.DONE else "failed"
            self.line = ended.line
        elif self._state == "in_flight":
            self._state = "pending"
        self._sends = max(self._sends, ended.attempt)
        self._spent += ended.spent
        if ended.what is not What.FAILED or ended.spent:  # else it failed unsent, and names the attempt before
            self._charges[ended.attempt] = ended.charge  # a reply that turned up takes the place of a loss
        step = Step(
            ended.what.value,
            None,
            offset,
            ended.attempt,
            why=ended.why,
            finish=ended.finish,
            spent=ended.spent,
            charge=ended.charge,
        )
        self._add(step, ended.wall_ns)

    def _wall_ns(self, sent: Sent) -> int | None:
        """A monotonic time as people read it, by the process that sent."""
        if self._process is None or self._process.boot != sent.boot:
            return None
        return self._process.wall_ns + sent.mono_ns - self._process.mono_ns

    def _add(self, step: Step, wall_ns: int | None) -> None:
        if wall_ns is not None:
            since = None if self._last_ns is None else round((wall_ns - self._last_ns) / NS_PER_SECOND, 3)
            step = msgspec.structs.replace(step, at=timestamp(wall_ns), after_seconds=since)
            self._last_ns = wall_ns
        self._steps.append(step)


def _find(reader: RunReader, line: Line) -> int | None:
    """Where a final line stands: where it was written, or elsewhere in a file that was replaced since."""
    if zlib.crc32(reader.read(line.file, line.offset, line.length)) == line.crc:
        return line.offset
    for offset, raw in reader.lines(line.file, end=reader.size(line.file)):
        if len(raw) == line.length and zlib.crc32(raw) == line.crc:
            return offset
    return None


def _unknown(path: Path, custom_id: str, near: dict[str, None]) -> str:
    like = f" Like it are {', '.join(map(repr, near))}." if near else ""
    why = "it has not been sent yet, or is in no job file of this run"
    return f"{path}: the journal does not know a job {custom_id!r}: {why}.{like}"
