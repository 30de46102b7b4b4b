"""Journals that were torn, altered, shortened, or are somebody else's."""

from __future__ import annotations

import random
from zlib import crc32

import pytest

from batchrunner.disk import MemoryDisk
from batchrunner.errors import InvalidInput, JournalDamaged
from batchrunner.journal import read_finished
from batchrunner.journal.files import JOURNAL, Ends, RunFiles
from batchrunner.journal.reading import JournalReader
from batchrunner.journal.records import Finished, Record, Reopened, Sent, Synced, encode, header
from tests.crash.scripted import RUN, World, ids_of, run_script, start

RECORDS = 100


def journal(records: int, *, synced_every: int = 0) -> tuple[bytes, list[Record], list[int]]:
    """A journal's bytes, its records, and the offset behind each line, the header's first."""
    line, crc = header(RUN)
    data, kept, ends = bytearray(line), [], [len(line)]
    for number in range(1, records + 1):
        record: Record = (
            Reopened(f"j{number}", "0", 1) if number % 10 else Sent(f"j{number}", "0", 1, "b", 2, 3, 4, None, "m", "/e")
        )
        if synced_every and number % synced_every == 0:
            record = Synced(0, 0, 0, len(data), costs_crc=0)
        line, crc = encode(record, number, crc)
        data += line
        kept.append(record)
        ends.append(len(data))
    return bytes(data), kept, ends


def disk_with(data: bytes) -> MemoryDisk:
    disk = MemoryDisk()
    disk.files[JOURNAL] = bytearray(data)
    disk.synced[JOURNAL] = len(data)
    return disk


def read(disk: MemoryDisk) -> tuple[JournalReader, list[Record]]:
    reader = JournalReader(disk, RUN)
    return reader, [record for _, record in reader]


def test_a_journal_torn_at_any_byte_keeps_exactly_its_whole_records() -> None:
    """Cut anywhere: what was whole is read, what was not is absent, and what is appended then is read with it."""
    data, records, ends = journal(RECORDS)
    whole = -1  # lines that stand whole before the cut, less the header
    for cut in range(len(data)):
        while whole + 1 < len(ends) and ends[whole + 1] <= cut:
            whole += 1
        disk = disk_with(data[:cut])
        reader, found = read(disk)
        assert found == records[: max(whole, 0)], cut
        assert reader.torn_bytes == cut - (ends[whole] if whole >= 0 else 0)
        if cut % 41 == 0 or cut in ends:  # appending reads all of it again
            files = RunFiles(disk, RUN, Ends(reader.end, reader.number, reader.crc))
            files.record(Reopened("after", "0", 1))
            assert read(disk)[1] == [*found, Reopened("after", "0", 1)], cut


def altered(data: bytes, ends: list[int], below: int, chance: random.Random) -> tuple[bytes, int]:
    """Damage to one place below an offset: the bytes, and where the first record concerned begins."""
    kind = chance.choice(("flip", "zero", "lose", "double", "swap"))
    line = chance.randrange(len([end for end in ends if end < below]))
    begin, end = ends[line], ends[line + 1]
    if kind == "flip":
        place = chance.randrange(begin, end)
        return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :], begin
    if kind == "zero":
        return data[:begin] + bytes(end - begin) + data[end:], begin
    if kind == "lose":
        return data[:begin] + data[end:], begin
    if kind == "double":
        return data[:end] + data[begin:], end
    after = ends[line + 2]
    return data[:begin] + data[end:after] + data[begin:end] + data[after:], begin


def test_damage_below_a_synced_mark_is_refused_with_its_place() -> None:
    """Flipped bits, zeroed, lost, doubled and swapped records: all refused, none guessed at."""
    data, _, ends = journal(60, synced_every=10)
    mark = ends[48]  # the last synced record is the 60th and names what ends with the 59th; its line must stay whole
    for seed in range(2_000):
        chance = random.Random(seed)
        damaged, begin = altered(data, ends, mark, chance)
        with pytest.raises(JournalDamaged) as caught:
            read(disk_with(damaged))
        assert caught.value.offset == begin, seed
        assert f"byte {begin}" in str(caught.value)


def test_damage_behind_the_last_synced_mark_is_a_torn_end() -> None:
    """What was never synced may be anything after a power cut: it is cut off where it goes wrong."""
    data, records, ends = journal(25, synced_every=10)
    for line in range(20, 25):
        holed = data[: ends[line]] + bytes(20) + data[ends[line] + 20 :]
        reader, found = read(disk_with(holed))
        assert found == records[:line]
        assert reader.torn_bytes == len(data) - ends[line]


def test_a_record_with_a_number_out_of_turn_is_not_taken() -> None:
    """The chain alone would let it pass."""
    line, crc = header(RUN)
    reader, found = read(disk_with(line + encode(Reopened("a", "0", 1), 2, crc)[0]))
    assert found == []
    assert reader.torn_bytes > 0


def test_what_is_written_where_a_tail_was_cut_is_synced_again() -> None:
    """A file that was on disk, was cut and has grown to its old size is not on disk."""
    disk = MemoryDisk()
    files = RunFiles(disk, RUN)
    files.final_line("results.jsonl", b"first\n")
    files.commit()
    files.truncate("results.jsonl", 0)
    files.final_line("results.jsonl", b"other\n")
    files.commit()
    assert disk.synced["results.jsonl"] == 6


def test_what_is_written_behind_a_shorter_replacement_is_synced() -> None:
    """A file that was replaced by less is on disk only as far as the new one was synced, whatever the old one's length."""
    disk = MemoryDisk()
    files = RunFiles(disk, RUN)
    files.final_line("errors.jsonl", b"a line that goes\n")
    files.commit()
    files.replace("errors.jsonl", [])
    files.final_line("errors.jsonl", b"other\n")
    files.commit()
    assert disk.synced["errors.jsonl"] == 6


def test_a_header_of_another_run_is_not_resumed() -> None:
    """A journal that was copied from another run directory is refused by name."""
    disk = disk_with(header("another")[0])
    with pytest.raises(InvalidInput, match="belongs to run 'another'"):
        read(disk)


def test_a_header_of_another_format_is_not_resumed() -> None:
    """A journal of a later format is not read with today's eyes."""
    disk = disk_with(header(RUN)[0].replace(b'"batchrun_journal":1', b'"batchrun_journal":2'))
    with pytest.raises(InvalidInput, match="format 2"):
        read(disk)


@pytest.mark.parametrize("first", [b"hello\n", b'{"a":1}\n', header(RUN)[0].replace(b"crc", b"cRc"), bytes(200)])
def test_a_file_that_is_no_journal_is_not_overwritten(first: bytes) -> None:
    """Whatever stands under the journal's name and is none is left alone."""
    disk = disk_with(first)
    with pytest.raises(JournalDamaged):
        start(disk, ids_of(1))
    assert disk.files[JOURNAL] == first


def test_a_record_of_an_unknown_kind_is_another_versions() -> None:
    """A whole record that this version does not know stops it, before anything is cut."""
    line, crc = header(RUN)
    known, _ = encode(Reopened("a", "0", 1), 1, crc)
    beginning = known[: known.rindex(b',"crc"')].replace(b"reopened", b"rewarded")
    data = line + b'%b,"crc":"%08x"}\n' % (beginning, crc32(beginning, crc))
    with pytest.raises(InvalidInput, match="does not know"):
        read(disk_with(data))


async def test_an_unchanged_finished_run_is_told_from_its_end_alone() -> None:
    """The last record answers for the whole run, summary and all."""
    disk = MemoryDisk()
    await run_script(disk, ids_of(8), World())
    finished = read_finished(disk, RUN)
    assert isinstance(finished, Finished)
    assert bytes(finished.summary) == b'{"status":"completed"}'
    assert finished.identity == [["jobs.jsonl", 1, 2, 3]]


@pytest.mark.parametrize("name", ["results.jsonl", "errors.jsonl", "costs.jsonl", JOURNAL])
async def test_a_finished_run_with_a_changed_file_is_not_answered_at_once(name: str) -> None:
    """A file that is longer or shorter than it was sends the command through recovery."""
    for change in (b"x\n", None):
        disk = MemoryDisk()
        await run_script(disk, ids_of(8), World())
        if change is None:
            del disk.files[name][-1:]
        else:
            disk.files[name] += change
        assert read_finished(disk, RUN) is None


async def test_a_finished_run_of_another_name_or_none_is_not_answered() -> None:
    """Nothing, a beginning, a record torn off, or another run's journal: none of them is a finished run."""
    disk = MemoryDisk()
    assert read_finished(disk, RUN) is None
    start(disk, ids_of(1))
    assert read_finished(disk, RUN) is None
    await run_script(disk, ids_of(1), World())
    assert read_finished(disk, "another") is None
    line, _ = header(RUN)
    assert read_finished(disk_with(line), RUN) is None
    assert read_finished(disk_with(line + b"{}\n{}\n"), RUN) is None
