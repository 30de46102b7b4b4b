"""Sets a run directory right as the next start would, without the job file.

It is recovery itself, run on an index of the jobs that the journal knows instead of the input's. So what a start takes
from the input is left for the next one: lines that were changed or added since, and lines of jobs that the journal has
never heard of, as a power cut can leave them, stay as they are. Damage below what was synced is refused, as by a start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from batchrunner import __version__, dialect
from batchrunner.clock import Clock
from batchrunner.disk import Disk, SystemDisk
from batchrunner.errors import InvalidInput
from batchrunner.index import Index
from batchrunner.job import BadLine
from batchrunner.journal import Facts, Recovered, RunLock, Tariff, recover
from batchrunner.journal.files import COSTS, CUT, ERRORS, JOURNAL, RESULTS, whole_lines
from batchrunner.journal.records import Ended, Refunded, Reopened, Sent, Settled, decode
from batchrunner.pricing import PriceTable
from batchrunner.run_directory import Manifest, read_manifest
from batchrunner.verification.chain import Chain
from batchrunner.verification.reader import RunReader
from batchrunner.verification.report import Findings

_FILES: Final = (RESULTS, ERRORS, COSTS, JOURNAL, CUT)


class Change(msgspec.Struct, frozen=True):
    """What became of a file, in bytes."""

    file: str
    before: int
    after: int


class Repair(msgspec.Struct, frozen=True):
    """What was done."""

    #: in the words of a start
    done: list[str]
    changes: list[Change]


def repair(path: Path, clock: Clock) -> Repair:
    """Do what a start would do to a run directory before it sends anything, and no more.

    Raises: RunDirectoryInUse; JournalDamaged and InvalidInput with nothing touched; DiskError.
    """
    manifest = read_manifest(path)  # before the lock: what is no run directory gets no lock file
    with RunLock(path, wall_ns=clock.wall_ns()), RunReader(path) as reader:
        disk = SystemDisk(path)
        before = {name: disk.size(name) or 0 for name in _FILES}
        recovered = recover_by_journal(reader, disk, manifest, clock, pid=os.getpid(), version=__version__)
        recovered.files.close()
        changes = [Change(name, before[name], disk.size(name) or 0) for name in _FILES]
    return Repair(recovered.warnings, [change for change in changes if change.before != change.after])


def recover_by_journal(reader: RunReader, disk: Disk, manifest: Manifest, clock: Clock, *, pid: int, version: str) -> Recovered:
    """Recover a run without its job file. The caller holds its lock. Raises: as `recover`."""
    index = _index(reader, manifest.run_id)
    return recover(
        disk,
        run_id=manifest.run_id,
        index=index,
        clock=clock,
        tariff=_tariff(reader, index, manifest.prices or PriceTable()),
        pid=pid,
        version=version,
        bad_lines=_BadLines(disk),
    )


def _index(reader: RunReader, run_id: str) -> Index:
    """The jobs that the journal knows, as they last ran; each is found in the file again by its newest sending."""

    def id_of(number: int) -> str:
        record = decode(reader.read(JOURNAL, index.offsets[number], index.lengths[number]))
        assert isinstance(record, Sent | Ended | Reopened | Refunded | Settled)
        return record.id

    index = Index(id_of)
    for place, line, record in Chain(reader, run_id, Findings()):
        if not isinstance(record, Sent | Ended | Reopened | Refunded | Settled):
            continue
        offset, fingerprint = place.offset or 0, int(record.fp, 16)
        number = index.find(record.id, fingerprint)
        if number is None:
            index.add(record.id, fingerprint, offset, len(line), 0)
            continue
        if isinstance(record, Settled):  # it may be of an attempt at what the line was before it was changed
            continue
        index.fingerprints[number] = fingerprint
        if isinstance(record, Sent):
            index.offsets[number], index.lengths[number] = offset, len(line)
    return index


def _tariff(reader: RunReader, index: Index, prices: PriceTable) -> Tariff:
    """Prices as a start's; what the job file would tell of a request is taken from its job's newest sending."""

    def request(number: int) -> tuple[str, str]:
        record = decode(reader.read(JOURNAL, index.offsets[number], index.lengths[number]))
        if not isinstance(record, Sent):
            raise InvalidInput(
                f"{JOURNAL}: of a job with a whole result no sending is known, and so neither its model nor its price. "
                "Submit its job file again: that settles it."
            )
        return record.endpoint, record.model

    def facts(endpoint: str, body: bytes) -> Facts | None:
        return dialect.for_url(endpoint).read(body)

    def price(model: str, said: Facts) -> Decimal | None:
        return prices.cost(model, said.usage, said.tool_usage, opaque=said.opaque)

    return Tariff(request=request, facts=facts, price=price, ceiling=prices.ceiling)


class _Error(msgspec.Struct):
    code: str
    message: str


class _BadLine(msgspec.Struct):
    line: int
    error: _Error
    custom_id: str | None


class _BadLines:
    """The lines of errors.jsonl that are of no job, as the last start wrote them. Read anew each time they are gone through."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __iter__(self) -> Iterator[BadLine]:
        for _, raw in whole_lines(self._disk, ERRORS):
            if b'"custom_id":null' not in raw[:200]:
                continue
            try:
                line = msgspec.json.decode(raw, type=_BadLine)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if line.custom_id is None:
                yield BadLine(line.line, line.error.code, line.error.message)
