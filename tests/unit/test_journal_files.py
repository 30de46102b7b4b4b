"""The run's files as one: lines and checksums over the borders of what is read at a time, and what a sync leaves alone."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import pytest

from batchrunner.disk import CHUNK_BYTES, MemoryDisk
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS, Ends, RunFiles, prefix_crcs, whole_lines
from batchrunner.journal.records import Reopened


def disk_with(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> MemoryDisk:
    """A disk with this file, read so many bytes at a time."""
    disk = MemoryDisk()
    disk.files[COSTS] = bytearray(data)

    def chunks(name: str, offset: int = 0) -> Iterator[bytes]:
        for start in range(offset, len(data), chunk_bytes):
            yield data[start : start + chunk_bytes]

    disk.chunks = chunks  # type: ignore[method-assign]
    return disk


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 100])
def test_lines_are_whole_however_they_are_read(chunk_bytes: int) -> None:
    """Empty ones too, each with its offset; the last may lack its end."""
    data = b"one\n\ntwo and a half\nthree"
    expected = [(0, b"one\n"), (4, b"\n"), (5, b"two and a half\n"), (20, b"three")]
    disk = disk_with(data, chunk_bytes)
    assert list(whole_lines(disk, COSTS)) == expected
    assert list(whole_lines(disk, COSTS, 5)) == expected[2:]
    assert list(whole_lines(disk, COSTS, len(data))) == []


@pytest.mark.parametrize("chunk_bytes", [1, 3, 8, 100])
def test_checksums_of_all_beginnings_are_those_of_the_bytes(chunk_bytes: int) -> None:
    """In one reading; the same end may be asked for twice, and one behind the file's counts as the file's."""
    data = bytes(range(40))
    ends = [0, 1, 1, 7, 8, 9, 30, 40, 99]
    found = list(prefix_crcs(disk_with(data, chunk_bytes), COSTS, ends))
    assert found == [zlib.crc32(data[:end]) for end in ends]


def test_a_file_that_is_not_there_has_the_checksum_of_nothing() -> None:
    assert list(prefix_crcs(MemoryDisk(), COSTS, [0, 5])) == [0, 0]


def syncs(disk: MemoryDisk, do: Callable[[], object]) -> list[str]:
    """The files that this syncs."""
    disk.operations.clear()
    do()
    return [name for operation, name in disk.operations if operation == "sync"]


def test_a_sync_goes_to_what_has_grown_since_the_last() -> None:
    """In the order on which recovery relies: the journal last. What was there before this process was perhaps never synced."""
    disk = MemoryDisk()
    files = RunFiles(disk, "run")
    assert syncs(disk, lambda: files.sync(files.marks())) == [RESULTS, ERRORS, COSTS, JOURNAL]
    assert syncs(disk, lambda: files.sync(files.marks())) == []
    files.final_line(ERRORS, b"{}\n")
    files.record(Reopened("job-0", "0", 1))
    assert syncs(disk, lambda: files.sync(files.marks())) == [ERRORS, JOURNAL]
    files.record(Reopened("job-0", "0", 1))
    assert syncs(disk, files.sync_journal) == [JOURNAL]
    assert syncs(disk, lambda: files.sync(files.marks())) == []


def test_a_journal_comes_into_being_with_its_header() -> None:
    """Whole and on disk before there is anything else: a power cut leaves no part of it."""
    disk = MemoryDisk()
    disk.files[JOURNAL] = bytearray(b"torn")
    disk.synced[JOURNAL] = 0
    files = RunFiles(disk, "run", Ends())
    assert disk.operations[0] == ("replace", JOURNAL)
    assert {operation for operation, _ in disk.operations[1:]} == {"open"}
    assert disk.synced[JOURNAL] == len(disk.files[JOURNAL]) == files.marks().journal


def test_marks_name_each_file_and_the_costs_checksum() -> None:
    disk = MemoryDisk()
    files = RunFiles(disk, "run")
    files.final_line(RESULTS, b"1\n")
    files.final_line(ERRORS, b"22\n")
    files.cost_line(b"333\n")
    files.cost_line(b"4\n")
    marks = files.marks()
    assert (marks.results, marks.errors, marks.costs, marks.costs_crc) == (2, 3, 6, zlib.crc32(b"333\n4\n"))
    assert files.bytes_written == 2 + 3 + 6
