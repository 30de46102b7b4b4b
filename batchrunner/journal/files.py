"""A run's four append-only files as one: what is written in which order, and synced in which order.

Synchronous and without time: the writer of a run and recovery both stand on it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from batchrunner.disk import AppendFile, Disk
from batchrunner.journal.records import Line, Record, Synced, encode, header

JOURNAL: Final = "journal.jsonl"
RESULTS: Final = "results.jsonl"
ERRORS: Final = "errors.jsonl"
COSTS: Final = "costs.jsonl"
CUT: Final = "results.cut"

#: the journal last: a record on disk means that the lines it speaks of are
_SYNC_ORDER: Final = (RESULTS, ERRORS, COSTS, JOURNAL)


class Ends(msgspec.Struct, frozen=True):
    """Where the good parts of journal.jsonl and costs.jsonl end, in bytes, and the checksums that go on from there."""

    journal: int = 0
    #: of the journal's last good line
    number: int = 0
    crc: int = 0
    costs: int = 0
    #: of all of costs.jsonl up to its end
    costs_crc: int = 0


_NEW: Final = Ends()


class RunFiles:
    """The open files of a run directory, the end of the journal's chain and the checksum of the costs.

    What stands behind `ends` is cut. A journal comes into being with its header, whole or not at all, so that a file without it
    was never this run's.

    Raises: DiskError from every method. The first one is final: the file concerned refuses more.
    """

    def __init__(self, disk: Disk, run_id: str, ends: Ends = _NEW) -> None:
        self.disk = disk
        self.run_id = run_id
        if ends.journal == 0:
            ends = _with_header(disk, run_id, ends)
        self._files: dict[str, AppendFile] = {name: disk.open(name) for name in _SYNC_ORDER}
        self._number = ends.number
        self._crc = ends.crc
        self._costs_crc = ends.costs_crc
        #: bytes known to be on disk; what was there before this process is not
        self._on_disk: dict[str, int] = dict.fromkeys(_SYNC_ORDER, -1)
        self.bytes_written = 0
        for name, end in ((JOURNAL, ends.journal), (COSTS, ends.costs)):
            if self._files[name].size > end:
                self.truncate(name, end)

    def record(self, record: Record) -> None:
        """Put a record into the journal, with one write, before this returns."""
        line, crc = encode(record, self._number + 1, self._crc)
        self._append(JOURNAL, line)
        self._number += 1
        self._crc = crc

    def final_line(self, name: str, line: bytes) -> Line:
        """Put a line into results.jsonl or errors.jsonl, with one write; where it stands."""
        return Line(name, self._append(name, line), len(line), zlib.crc32(line))

    def cost_line(self, line: bytes) -> None:
        """Put a line into costs.jsonl, with one write."""
        self._append(COSTS, line)
        self._costs_crc = zlib.crc32(line, self._costs_crc)

    def marks(self) -> Synced:
        """How far the files go now: what a sync that begins now will have put on disk."""
        results, errors, costs, journal = (self._files[name].size for name in _SYNC_ORDER)
        return Synced(results, errors, costs, journal, self._costs_crc)

    def sync(self, marks: Synced) -> None:
        """Return once everything up to `marks` is on disk. Files that have not grown are left alone.

        May run in another thread while this one appends.
        """
        for name, size in zip(_SYNC_ORDER, (marks.results, marks.errors, marks.costs, marks.journal), strict=True):
            if size > self._on_disk[name]:
                self._files[name].sync()
                self._on_disk[name] = size

    def sync_journal(self) -> None:
        """Return once the journal is on disk, whatever the others are."""
        self._files[JOURNAL].sync()
        self._on_disk[JOURNAL] = self._files[JOURNAL].size

    def commit(self) -> None:
        """Sync everything, and note in the journal that it is. The note itself may be lost: it is only a bound."""
        marks = self.marks()
        self.sync(marks)
        self.record(marks)

    def replace(self, name: str, parts: Iterable[bytes]) -> None:
        """Put a whole new file in the place of results.jsonl or errors.jsonl, durably, and go on at its end."""
        self.disk.replace(name, parts)
        self._files[name].close()
        self._files[name] = self.disk.open(name)
        self._on_disk[name] = -1  # of the old file: the new one may grow for long before it is as large

    def truncate(self, name: str, size: int) -> None:
        """Cut a torn tail."""
        self._files[name].truncate(size)
        self._on_disk[name] = -1

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _append(self, name: str, data: bytes) -> int:
        offset = self._files[name].append(data)
        self.bytes_written += len(data)
        return offset


def _with_header(disk: Disk, run_id: str, ends: Ends) -> Ends:
    """Make the journal, durably; where it ends now."""
    line, crc = header(run_id)
    disk.replace(JOURNAL, [line])
    return msgspec.structs.replace(ends, journal=len(line), crc=crc)


def whole_lines(disk: Disk, name: str, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each line of a file with its offset and its line end, in the memory of one line. The last may lack its end."""
    parts: list[bytes] = []
    for chunk in disk.chunks(name, offset):
        start = 0
        while (end := chunk.find(b"\n", start) + 1) > 0:
            line = chunk[start:end]
            if parts:
                line = b"".join((*parts, line))
                parts.clear()
            yield offset, line
            offset += len(line)
            start = end
        if start < len(chunk):
            parts.append(chunk[start:])
    if parts:
        yield offset, b"".join(parts)


def prefix_crcs(disk: Disk, name: str, ends: Iterable[int]) -> Iterator[int]:
    """CRC-32 of a file's bytes up to each of `ends`, which ascend, in one reading. A file that is shorter counts as it is."""
    crc = at = 0
    chunks = disk.chunks(name)
    rest = memoryview(b"")
    for end in ends:
        while at < end and (rest := rest or memoryview(next(chunks, b""))):
            part = rest[: end - at]
            crc = zlib.crc32(part, crc)
            at += len(part)
            rest = rest[len(part) :]
        yield crc
