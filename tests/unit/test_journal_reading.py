"""What is refused of a journal, in which words and at which place; and its end read by itself."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import msgspec
import pytest

from batchrunner.disk import MemoryDisk
from batchrunner.errors import InvalidInput, JournalDamaged
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.journal.reading import JournalReader, read_finished
from batchrunner.journal.records import Finished, Record, Refunded, Synced, encode, header

FINISHED = Finished(Synced(0, 0, 0, 0, 0), [["jobs.jsonl", 5]], msgspec.Raw(b'{"status":"completed"}'))
REFUND = Refunded("job-0", "0" * 16, 1)


def journal(*records: Record, run: str = "run") -> MemoryDisk:
    """A disk with a journal of these records, and nothing else."""
    disk = MemoryDisk()
    line, crc = header(run)
    data = bytearray(line)
    for number, record in enumerate(records, 1):
        line, crc = encode(record, number, crc)
        data += line
    disk.files[JOURNAL] = data
    return disk


def refused(disk: MemoryDisk, error: type[InvalidInput] = InvalidInput) -> str:
    with pytest.raises(error) as caught:
        list(JournalReader(disk, "run"))
    return str(caught.value)


def test_a_first_line_that_is_no_journals_is_damage_at_byte_0() -> None:
    """Whether it ends in the right place or not."""
    for data in (b'{"some":"other file"}\n', b"x" * 1_000):
        disk = MemoryDisk()
        disk.files[JOURNAL] = bytearray(data)
        with pytest.raises(JournalDamaged) as caught:
            list(JournalReader(disk, "run"))
        assert (caught.value.path, caught.value.offset) == (JOURNAL, 0)
        assert "damaged at byte 0: its first line is not a journal's. This part was" in str(caught.value)


def test_a_header_whose_seal_is_broken_is_damage() -> None:
    """It names the right run and version, and is not what was written."""
    disk = journal(REFUND)
    place = disk.files[JOURNAL].index(b'"crc":"') + 7
    disk.files[JOURNAL][place] ^= 1
    assert "its first line is not a journal's." in refused(disk, JournalDamaged)


def test_a_journal_of_another_format_names_both_and_what_to_do() -> None:
    disk = MemoryDisk()
    disk.files[JOURNAL] = bytearray(b'{"batchrun_journal":2,"run":"run","crc":"00000000"}\n')
    assert refused(disk) == (
        "journal.jsonl: written in format 2, and this batchrun reads format 1. "
        "Use the version that began this run, or another --run-dir."
    )


def test_a_journal_of_another_run_names_both_and_what_to_do() -> None:
    assert refused(journal(REFUND, run="other")) == (
        "journal.jsonl: belongs to run 'other', and the directory's manifest to run 'run'. "
        "Files of two runs were mixed: restore them, or use another --run-dir."
    )


def test_damage_below_what_was_synced_names_its_place() -> None:
    """A later record says that it had been on disk."""
    disk = journal(REFUND, REFUND)
    first = len(header("run")[0])
    synced = journal(REFUND, REFUND, Synced(0, 0, 0, len(disk.files[JOURNAL]), 0))
    synced.files[JOURNAL][first + 10] ^= 1
    with pytest.raises(JournalDamaged) as caught:
        list(JournalReader(synced, "run"))
    assert (caught.value.path, caught.value.offset) == (JOURNAL, first)
    assert "a record does not match its checksum, number or place." in str(caught.value)


def test_a_record_of_a_later_version_is_refused_with_its_place() -> None:
    """It stands whole: another version wrote it."""
    disk = journal()
    first = len(disk.files[JOURNAL])
    _, crc = header("run")
    line, _ = encode(REFUND, 1, crc)
    unknown = line.replace(b'"refunded"', b'"sideways"')[: line.rindex(b',"crc"')]
    disk.files[JOURNAL] += b'%b,"crc":"%08x"}\n' % (unknown, zlib.crc32(unknown, crc))
    found = refused(disk)
    assert found.startswith(
        f"journal.jsonl: the record at byte {first} is whole, but of a kind that this batchrun does not know ("
    )
    assert found.endswith("). Use the version that began this run, or another --run-dir.")


# The end of a finished run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1, 40_000])
def test_a_finished_run_is_told_by_the_end_of_its_journal(before: int) -> None:
    """However long it is: megabytes of records are not read for it."""
    disk = journal(*[REFUND] * before, FINISHED)
    found = read_finished(disk, "run")
    assert found is not None
    assert (found.identity, bytes(found.summary)) == (FINISHED.identity, b'{"status":"completed"}')


def test_a_long_journal_is_read_from_its_end_alone() -> None:
    """Damage in what is not looked at is not seen: a whole recovery would."""
    disk = journal(*[REFUND] * 40_000, FINISHED)
    disk.files[JOURNAL][1_000] ^= 1
    asked: list[int] = []
    chunks = disk.chunks

    def note(name: str, offset: int = 0) -> Iterator[bytes]:
        asked.append(offset)
        return chunks(name, offset)

    disk.chunks = note  # type: ignore[method-assign]
    assert read_finished(disk, "run") is not None
    assert asked == [0, len(disk.files[JOURNAL]) - (1 << 20)]


@pytest.mark.parametrize("name", [RESULTS, ERRORS, COSTS])
def test_a_file_of_another_size_than_its_end_names_needs_a_recovery(name: str) -> None:
    """Grown, or gone."""
    disk = journal(FINISHED)
    disk.files[name] = bytearray(b"x")
    assert read_finished(disk, "run") is None
    gone = journal(Finished(Synced(1, 1, 1, 0, 0), [], msgspec.Raw(b"{}")))
    for other in {RESULTS, ERRORS, COSTS} - {name}:
        gone.files[other] = bytearray(b"x")
    assert read_finished(gone, "run") is None


@pytest.mark.parametrize(
    "disk",
    [
        MemoryDisk(),
        journal(),
        journal(REFUND),
        journal(FINISHED, REFUND),
        journal(FINISHED, run="other"),
    ],
    ids=["nothing", "no record", "not finished", "gone on since", "another run"],
)
def test_what_is_no_finished_run_is_none(disk: MemoryDisk) -> None:
    assert read_finished(disk, "run") is None


def test_an_end_that_is_not_what_was_written_is_none() -> None:
    disk = journal(REFUND, FINISHED)
    place = re.search(rb"completed", disk.files[JOURNAL])
    assert place is not None
    disk.files[JOURNAL][place.start()] ^= 1
    assert read_finished(disk, "run") is None
    torn = journal(REFUND, FINISHED)
    del torn.files[JOURNAL][-5:]
    assert read_finished(torn, "run") is None
