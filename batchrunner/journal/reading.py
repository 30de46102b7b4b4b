"""Reads journal.jsonl: each record proven, the torn tail told from damage.

What a power cut leaves behind the last sync may be anything: nothing, half a record, blocks of zeros, later blocks without
earlier ones. All that is cut. What had been synced before cannot have been torn, so that a fault in it is somebody's
doing, and nothing is guessed. Which of the two it is, `synced` records say, those behind the fault too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from batchrunner.disk import Disk
from batchrunner.errors import InvalidInput, JournalDamaged
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS, whole_lines
from batchrunner.journal.records import (
    VERSION,
    Finished,
    Record,
    Synced,
    check,
    declared_crc,
    decode,
    header,
    is_numbered,
    marks_of,
    read_header,
)

_TAIL_BYTES: Final = 1 << 20


class JournalReader:
    """The records of a run's journal with their offsets, in the memory of one.

    After the last one, `end` is the offset behind it, `size` that of the file, `number` and `crc` those of the last line,
    and `synced` the largest sizes that a record names as being on disk.

    Raises, while being iterated: JournalDamaged, InvalidInput where the journal is another run's or version's; DiskError.
    """

    def __init__(self, disk: Disk, run_id: str) -> None:
        self.end = 0
        self.size = 0
        self.number = 0
        self.crc = 0
        self.synced = Synced(0, 0, 0, 0, costs_crc=0)
        self._disk = disk
        self._run_id = run_id

    @property
    def torn_bytes(self) -> int:
        """What stands behind the last good record, to be cut."""
        return self.size - self.end

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        self.size = self._disk.size(JOURNAL) or 0
        lines = whole_lines(self._disk, JOURNAL)
        if not self._read_header(next(lines, None)):
            return
        for offset, line in lines:
            crc = check(line, self.crc)
            if crc is None or not is_numbered(line, self.number + 1):
                self._refuse_damage(offset, line, lines)
                return
            record = self._decode(line, offset)
            self.synced = marks_of(record) or self.synced
            self.number += 1
            self.crc = crc
            self.end = offset + len(line)
            yield offset, record

    def _read_header(self, found: tuple[int, bytes] | None) -> bool:
        """Whether there is a journal at all. One that has no whole first line was cut off while it was being made."""
        expected, crc = header(self._run_id)
        if found is None or not (line := found[1]).endswith(b"\n"):
            if self.size > len(expected):
                raise JournalDamaged(JOURNAL, 0, "its first line is not a journal's")
            return False
        if line != expected:
            self._refuse_header(line)
        self.crc = crc
        self.end = len(line)
        return True

    def _refuse_header(self, line: bytes) -> None:
        named = read_header(line)
        if named is not None and named.batchrun_journal != VERSION:
            raise InvalidInput(
                f"{JOURNAL}: written in format {named.batchrun_journal}, and this batchrun reads format {VERSION}. "
                "Use the version that began this run, or another --run-dir."
            )
        if named is not None and named.run != self._run_id:
            raise InvalidInput(
                f"{JOURNAL}: belongs to run {named.run!r}, and the directory's manifest to run {self._run_id!r}. "
                "Files of two runs were mixed: restore them, or use another --run-dir."
            )
        raise JournalDamaged(JOURNAL, 0, "its first line is not a journal's")

    def _decode(self, line: bytes, offset: int) -> Record:
        try:
            return decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
            raise InvalidInput(
                f"{JOURNAL}: the record at byte {offset} is whole, but of a kind that this batchrun does not know ({cause}). "
                "Use the version that began this run, or another --run-dir."
            ) from cause

    def _refuse_damage(self, damaged: int, line: bytes, rest: Iterator[tuple[int, bytes]]) -> None:
        """Raise if a record behind the fault at `damaged` proves that its place had been synced."""
        for _, following in rest:
            seed = declared_crc(line)
            line = following
            if seed is None or check(following, seed) is None:
                continue
            try:
                marks = marks_of(decode(following))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if marks is not None and marks.journal > damaged:
                raise JournalDamaged(JOURNAL, damaged, "a record does not match its checksum, number or place")


def read_finished(disk: Disk, run_id: str) -> Finished | None:
    """The last record of a finished run whose files still have the sizes that it names, read from the journal's end alone.

    None in every other case, however odd: a whole recovery then says what is the matter.
    """
    size = disk.size(JOURNAL)
    expected, _ = header(run_id)
    first = next(whole_lines(disk, JOURNAL), (0, b""))[1]
    if size is None or first != expected:
        return None
    tail = b"".join(disk.chunks(JOURNAL, max(0, size - _TAIL_BYTES)))
    lines = tail.splitlines(keepends=True)[-2:]  # every line is JSON: no other line ends in it
    if len(lines) < 2:
        return None
    seed = declared_crc(lines[0])
    if seed is None or check(lines[1], seed) is None:
        return None
    try:
        record = decode(lines[1])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(record, Finished):
        return None
    marks = record.synced
    sizes = {RESULTS: marks.results, ERRORS: marks.errors, COSTS: marks.costs}
    return record if all((disk.size(name) or 0) == named for name, named in sizes.items()) else None
