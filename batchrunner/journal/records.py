"""The records of journal.jsonl and how they stand in it. Pure.

One JSON object a line, under a header line:

    {"batchrun_journal":1,"run":"RUN","crc":"5f0d9a1c"}
    {"n":1,"t":"started",...,"crc":"..."}
    {"n":2,"t":"sent","id":"job-1",...,"crc":"..."}

`n` counts records. `crc` is the CRC-32 of the line's bytes up to it, begun with the crc of the line before (the header's
with that of the run id), so that a line proves itself and its place: a lost, doubled or moved block breaks the chain at
its first byte, and a block of another run never fits. Behind a damaged line the chain can be picked up again from any
line's own `crc` text, which is how recovery learns whether what is damaged had once been synced.
"""

from __future__ import annotations

import enum
import zlib
from decimal import Decimal
from typing import Final, TypeAlias

import msgspec

from batchrunner.costs import Charge

VERSION: Final = 1
_CRC_START: Final = b',"crc":"'
_CRC_BYTES: Final = len(b',"crc":"01234567"}\n')


class What(enum.StrEnum):
    """What an attempt came to."""

    DONE = "done"  # succeeded: its line is in results.jsonl
    FAILED = "failed"  # failed for good: its line is in errors.jsonl. May end a job that was not in flight
    AGAIN = "again"  # failed, and is worth another attempt
    REFUSED = "refused"  # 429
    LOST = "lost"  # in flight when a process ended


class _Record(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    pass


class Started(_Record, tag="started", frozen=True):
    """A process began. Monotonic times behind it are of this boot."""

    boot: str
    mono_ns: int
    wall_ns: int
    pid: int
    version: str


class Sent(_Record, tag="sent", frozen=True):
    """A request's first byte goes out next."""

    id: str
    #: the job line's fingerprint, 16 hex digits
    fp: str
    #: the ordinal of this send among all of the job, 1 for the first
    attempt: int
    #: monotonic times compare only under the same boot
    boot: str
    mono_ns: int
    #: tokens that the budget set aside
    reserve: int
    #: estimated input tokens
    input: int
    #: the output that the request allows, in tokens
    cap: int | None
    model: str
    endpoint: str
    #: what the job has waited for since it last ended, or since the process began: milliseconds by cause, see `waits`
    waits: dict[str, int] = {}
    #: whose requests it counts among; None where the run has no name for it
    account: str | None = None
    #: what the request asks for beside tokens, by the catalog's units, as far as it says so
    units: dict[str, Decimal] = {}


class Submitted(_Record, tag="submitted", frozen=True):
    """The server has taken an attempt's work on: it is asked for the result from here on, by any process, and sent no more."""

    id: str
    fp: str
    attempt: int
    wall_ns: int
    #: the server's name for the work
    job: str
    #: where the result is asked for: a path below `/v1/`, never a host
    path: str
    #: of the account that has sent it, and that alone may ask
    account: str | None = None


class Line(msgspec.Struct, frozen=True):
    """A line of results.jsonl or errors.jsonl. `offset` is where it was written: a file that was replaced moved it."""

    file: str
    offset: int
    #: bytes, with the line end
    length: int
    #: CRC-32 of the whole line
    crc: int


class Ended(_Record, tag="ended", frozen=True):
    """An attempt is over, or a job that was not in flight failed (`attempt` is then the number of sends before it)."""

    id: str
    fp: str
    attempt: int
    what: What
    wall_ns: int
    #: counts toward the job's max_attempts
    spent: bool = False
    #: None where nothing was or may have been billed
    charge: Charge | None = None
    #: the final line, for done and failed
    line: Line | None = None
    #: why, for people and the log; an error code as a rule
    why: str | None = None
    #: how a success ended, in the words of `dialect.Finish`
    finish: str | None = None
    #: the server has said that nothing came of its work: a repeat is a new request
    in_vain: bool = False


class Reopened(_Record, tag="reopened", frozen=True):
    """A job may run again: its final line does not count any more. Bills stay. `attempt`: how often it was sent so far."""

    id: str
    fp: str
    attempt: int
    why: str | None = None


class Refunded(_Record, tag="refunded", frozen=True):
    """So many of a job's attempts do not count toward its max_attempts: they were part of an outage."""

    id: str
    fp: str
    attempts: int


class Settled(_Record, tag="settled", frozen=True):
    """What the platform charged an attempt, by its own usage events: it takes the place of what was believed before."""

    id: str
    fp: str
    attempt: int
    wall_ns: int
    #: `not_billed` where nothing was charged
    charge: Charge
    #: what was believed; None where the attempt was thought to have cost nothing
    was: Charge | None = None
    #: the id of the usage event; None where there is none, or where it is one of several that are alike
    event: str | None = None


class Synced(_Record, tag="synced", frozen=True):
    """The files are on disk up to these sizes, in bytes."""

    results: int
    errors: int
    costs: int
    journal: int
    #: CRC-32 of costs.jsonl up to there: its lines have no seal of their own, and no other file holds them as they stand
    costs_crc: int


class Finished(_Record, tag="finished", frozen=True):
    """Every job has ended and all files are on disk. The last record of a finished run."""

    synced: Synced
    #: the inputs as they were: whatever tells that they are unchanged
    identity: list[list[str | int]]
    #: what the run's last command printed, to be given again
    summary: msgspec.Raw


def marks_of(record: Record) -> Synced | None:
    """How far a record says that the files are on disk; None where it speaks of something else."""
    if isinstance(record, Finished):
        return record.synced
    return record if isinstance(record, Synced) else None


Record: TypeAlias = Started | Sent | Submitted | Ended | Reopened | Refunded | Settled | Synced | Finished

_encoder: Final = msgspec.json.Encoder()
_decoder: Final[msgspec.json.Decoder[Record]] = msgspec.json.Decoder(Record)


class Header(msgspec.Struct, frozen=True):
    """The first line."""

    batchrun_journal: int
    run: str


def fingerprint_text(fingerprint: int) -> str:
    """A fingerprint as records spell it."""
    return f"{fingerprint:016x}"


def header(run_id: str) -> tuple[bytes, int]:
    """The header line, and its crc."""
    return _sealed(_encoder.encode(Header(VERSION, run_id))[:-1], zlib.crc32(run_id.encode()))


def encode(record: Record, number: int, previous_crc: int) -> tuple[bytes, int]:
    """The line of the `number`th record behind a line with `previous_crc`; and its own crc."""
    return _sealed(b'{"n":%d,%b' % (number, _encoder.encode(record)[1:-1]), previous_crc)


def check(line: bytes, previous_crc: int) -> int | None:
    """The crc of a line (with its end) that stands whole behind one with `previous_crc`; None where it does not."""
    crc = zlib.crc32(line[:-_CRC_BYTES], previous_crc)
    return crc if line.endswith(b'%b%08x"}\n' % (_CRC_START, crc)) else None


def declared_crc(line: bytes) -> int | None:
    """The crc that a line names as its own, true or not."""
    seal = line[-_CRC_BYTES:]
    if len(seal) < _CRC_BYTES or not seal.startswith(_CRC_START) or not seal.endswith(b'"}\n'):
        return None
    text = seal[len(_CRC_START) : -3]
    try:
        crc = int(text, 16)
    except ValueError:
        return None
    return crc if b"%08x" % crc == text else None  # int() also takes capitals, spaces and underscores


def is_numbered(line: bytes, number: int) -> bool:
    """Whether a record line names this as its number."""
    return line.startswith(b'{"n":%d,' % number)


def decode(line: bytes) -> Record:
    """The record of a line whose crc stands. Raises msgspec.DecodeError where another version wrote it."""
    return _decoder.decode(line)


def read_header(line: bytes) -> Header | None:
    """What a first line says, whether its crc stands or not; None where it is no header."""
    try:
        return msgspec.json.decode(line, type=Header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _sealed(start: bytes, previous_crc: int) -> tuple[bytes, int]:
    crc = zlib.crc32(start, previous_crc)
    return b'%b,"crc":"%08x"}\n' % (start, crc), crc
