"""The end of costs.jsonl, of which the journal may not know all; of what had been synced it does."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from batchrunner.costs import CostLine, read_cost_line
from batchrunner.disk import Disk
from batchrunner.errors import JournalDamaged
from batchrunner.journal.files import COSTS, prefix_crcs, whole_lines
from batchrunner.journal.reading import JournalReader
from batchrunner.journal.records import marks_of


class CostTail(NamedTuple):
    #: the good part's end, and its CRC
    end: int
    crc: int
    #: the newest line of each attempt that was asked for, behind what had been synced
    lines: dict[tuple[str, int], CostLine]


def read_cost_tail(disk: Disk, run_id: str, journal: JournalReader, is_wanted: Callable[[CostLine], bool]) -> CostTail:
    """What stands behind the part that `journal`, which has been read, names as synced. That must only be what it was.

    Raises: JournalDamaged.
    """
    synced = journal.synced.costs
    size = disk.size(COSTS) or 0
    if size < synced:
        raise JournalDamaged(COSTS, size, f"it ends here, and was {synced} bytes long once")
    (crc,) = prefix_crcs(disk, COSTS, [synced])
    if crc != journal.synced.costs_crc:
        _refuse(disk, run_id)
    end = synced
    tail: dict[tuple[str, int], CostLine] = {}
    for offset, raw in whole_lines(disk, COSTS, synced):
        line = read_cost_line(raw) if raw.endswith(b"\n") else None
        if line is None:
            break
        end = offset + len(raw)
        crc = zlib.crc32(raw, crc)
        if is_wanted(line):
            tail[line.custom_id, line.attempt] = line
    return CostTail(end, crc, tail)


def _refuse(disk: Disk, run_id: str) -> NoReturn:
    """Raise with the place from which on costs.jsonl is not what it was, as closely as the journal's marks tell."""
    marks = [mark for _, record in JournalReader(disk, run_id) if (mark := marks_of(record)) is not None]
    good = 0
    for mark, crc in zip(marks, prefix_crcs(disk, COSTS, (mark.costs for mark in marks)), strict=True):
        if crc != mark.costs_crc:
            raise JournalDamaged(COSTS, good, f"a line between here and byte {mark.costs} is not what was written")
        good = mark.costs
    raise AssertionError("the newest mark is one of them")
