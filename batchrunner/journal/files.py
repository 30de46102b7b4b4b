"""A run's four append-only files as one: what is written in which order, and synced in which order.

Synchronous and without time: the writer of a run and recovery both stand on it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from batchrunner.disk import AppendFile, Disk
from batchrunner.journal.records import Line, Record, Synced, encode, header

JOURNAL: Final = "journal.jsonl"
RESULTS: Final = "results.jsonl"
ERRORS: Final = "errors.jsonl"
COSTS: Final = "costs.jsonl"
CUT: Final = "results.cut"

#: the journal last: a record on disk means that the lines it speaks of are
_SYNC_ORDER: Final = (RESULTS, ERRORS, COSTS, JOURNAL)


class RunFiles:
    """The open files of a run directory, and the end of the journal's chain.

    `number` and `crc` are those of the journal's last good line, `cut_at` the offset behind it: what follows is cut. An
    empty journal gets its header, synced before anything else is written, so that one without it was never this run's.

    Raises: DiskError from every method. The first one is final: the file concerned refuses more.
    """

    def __init__(self, disk: Disk, run_id: str, *, number: int = 0, crc: int = 0, cut_at: int = 0) -> None:
        self.disk = disk
        self.run_id = run_id
        self._files: dict[str, AppendFile] = {name: disk.open(name) for name in _SYNC_ORDER}
        self._number = number
        self._crc = crc
        #: bytes known to be on disk; what was there before this process is not
        self._on_disk: dict[str, int] = dict.fromkeys(_SYNC_ORDER, -1)
        self.bytes_written = 0
        if self._files[JOURNAL].size > cut_at:
            self.truncate(JOURNAL, cut_at)
        if self._files[JOURNAL].size == 0:
            line, self._crc = header(run_id)
            self._append(JOURNAL, line)
            self._files[JOURNAL].sync()

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

    def marks(self) -> Synced:
        """How far the files go now: what a sync that begins now will have put on disk."""
        sizes = (self._files[name].size for name in _SYNC_ORDER)
        return Synced(*sizes)

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
