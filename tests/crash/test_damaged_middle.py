"""R-03: damage anywhere in a run's files, by bits, sectors and blocks, below and above what was once synced.

Below it, nothing is guessed: refused, with the file and the byte, and nothing touched. Above it, after a power cut, anything may
stand: what is kept is a beginning that was really written. 2,000 of each in the campaign, the first of them in every test run.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from batchrunner.disk import MemoryDisk
from batchrunner.errors import InvalidInput, JournalDamaged
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.journal.reading import JournalReader
from batchrunner.journal.records import Record, Synced
from batchrunner.verification import verify
from tests.crash import scripted
from tests.crash.scripted import (
    BAD_LINES,
    RUN,
    PowerCut,
    World,
    break_at,
    check_finished,
    check_money,
    ids_of,
    killed,
    lines_of,
    run_script,
    run_until_broken,
    start,
)
from tests.verified import written

JOBS = 40
TAIL_BYTES = 3_000
SECTOR_BYTES = 512
KINDS = ("flip", "zero", "rubbish", "double", "swap", "lose", "foreign")

share = pytest.mark.parametrize(
    "times", [pytest.param(100, id="some"), pytest.param(2_000, id="all", marks=pytest.mark.campaign)]
)


def damaged(data: bytes, below: int, foreign: bytes, chance: random.Random) -> tuple[str, bytes]:
    """One piece of damage that begins below an offset: its kind, and all the bytes. Sometimes nothing has changed."""
    kind = chance.choice(KINDS)
    sectors = max(1, below // SECTOR_BYTES)
    at = chance.randrange(sectors) * SECTOR_BYTES if chance.random() < 0.7 else chance.randrange(below)
    end = min(at + SECTOR_BYTES, below)
    block = data[at:end]
    match kind:
        case "flip":
            place = chance.randrange(below)
            return kind, data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
        case "zero":
            return kind, data[:at] + bytes(len(block)) + data[end:]
        case "rubbish":
            return kind, data[:at] + chance.randbytes(len(block)) + data[end:]
        case "double":
            return kind, data[:end] + block + data[end:]
        case "swap":
            after = data[end : min(end + len(block), below)]
            return kind, data[:at] + after + block + data[end + len(after) :]
        case "lose":
            return kind, data[:at] + data[end:]
        case _:
            return kind, data[:at] + foreign[at:end].ljust(len(block), b"x") + data[end:]


def damages(data: bytes, mark: int, foreign: bytes, times: int) -> Iterator[tuple[int, str, bytes]]:
    """So many pieces of damage that alter a byte below the mark: seed, kind, and all the bytes."""
    found = 0
    for seed in itertools.count():
        kind, changed = damaged(data, mark, foreign, random.Random(seed))
        if first_difference(data, changed) < mark:
            yield seed, kind, changed
            found += 1
            if found == times:
                return


def with_file(disk: MemoryDisk, name: str, data: bytes) -> MemoryDisk:
    changed = killed(disk)
    changed.files[name] = bytearray(data)
    changed.synced[name] = len(data)
    return changed


def contents(disk: MemoryDisk) -> dict[str, bytes]:
    return {name: bytes(data) for name, data in disk.files.items()}


def records_of(disk: MemoryDisk) -> list[Record]:
    return [record for _, record in JournalReader(disk, RUN)]


def newest_mark(disk: MemoryDisk) -> Synced:
    """How far the files are known to be on disk."""
    return [record for record in records_of(disk) if isinstance(record, Synced)][-1]


def first_difference(before: bytes, after: bytes) -> int:
    return next(
        (at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), min(len(before), len(after))
    )


class Disks(NamedTuple):
    #: a run at its end
    whole: MemoryDisk
    #: another run of the same jobs
    foreign: MemoryDisk
    #: the first one killed, with records behind the newest mark
    cut_off: MemoryDisk


@pytest.fixture
async def disks(monkeypatch: pytest.MonkeyPatch) -> Disks:
    """One after the other: fixtures of their own would be made at the same time, both under the other run's name."""
    whole, foreign = MemoryDisk(), MemoryDisk()
    await run_script(whole, ids_of(JOBS), World())
    with monkeypatch.context() as patched:
        patched.setattr(scripted, "RUN", "run-1-test")
        await run_script(foreign, ids_of(JOBS), World())
    return Disks(whole, foreign, await with_a_tail(len(whole.operations)))


async def with_a_tail(operations: int) -> MemoryDisk:
    for nth in range(operations * 2 // 3, operations):
        disk = MemoryDisk()
        break_at(disk, nth, PowerCut())
        await run_until_broken(disk, ids_of(JOBS), World())
        disk = killed(disk)
        if len(disk.files[JOURNAL]) > newest_mark(disk).journal + TAIL_BYTES:
            return disk
    raise AssertionError("no kill left a tail")


@share
async def test_R03_journals_damaged_below_the_mark(tmp_path: Path, disks: Disks, times: int) -> None:
    """Refused at the byte where the first damaged record begins, nothing touched; `verify` finds it too."""
    before = contents(disks.whole)
    data, mark = before[JOURNAL], newest_mark(disks.whole).journal
    kinds: Counter[str] = Counter()
    for seed, kind, changed in damages(data, mark, before_of(disks.foreign, JOURNAL), times):
        disk = with_file(disks.whole, JOURNAL, changed)
        begins = data.rfind(b"\n", 0, first_difference(data, changed)) + 1
        with pytest.raises(InvalidInput) as caught:
            start(disk, ids_of(JOBS), bad_lines=BAD_LINES)
        if isinstance(caught.value, JournalDamaged):
            assert (caught.value.path, caught.value.offset) == (JOURNAL, begins), (seed, kind)
        else:
            assert (kind, begins) == ("foreign", 0), "only a first line says whose the journal is"
        assert contents(disk) == before | {JOURNAL: changed}, seed
        assert is_found(disk, tmp_path / f"{seed % 7}.run", JOURNAL), (seed, kind)
        kinds[kind] += 1
    print(f"R-03: {times} journals damaged below the mark, {dict(kinds)}: all refused with their offset, 0 wrong recoveries")
    assert kinds.keys() == set(KINDS)


def before_of(disk: MemoryDisk, name: str) -> bytes:
    return bytes(disk.files[name])


def is_found(disk: MemoryDisk, directory: Path, name: str) -> bool:
    """Whether a check from outside has something to say of the file."""
    try:
        report = verify(written(disk, directory, run_id=RUN))
    except InvalidInput as error:
        return name in str(error)
    return any(finding.place.file == name for finding in report.findings)


@share
async def test_R03_journals_damaged_above_the_mark(disks: Disks, times: int) -> None:
    """What was never synced may be anything: a beginning of what was written is kept, and the run goes on to its end."""
    ids = ids_of(JOBS)
    data, mark, written_records = before_of(disks.cut_off, JOURNAL), newest_mark(disks.cut_off).journal, records_of(disks.cut_off)
    kept = 0
    for seed in range(times):
        chance = random.Random(seed)
        _, tail = damaged(data[mark:], len(data) - mark, before_of(disks.foreign, JOURNAL)[mark:], chance)
        disk = with_file(disks.cut_off, JOURNAL, data[:mark] + tail)
        found = records_of(disk)
        assert found == written_records[: len(found)], seed
        kept += len(found)
        recovered, _ = start(disk, ids, bad_lines=BAD_LINES)
        check_money(disk, recovered)
        recovered.files.close()
        if seed % 10 == 0:
            await run_script(disk, ids, World())
            check_finished(disk, ids, World(), power=True)
    print(f"R-03: {times} damaged tails: {kept / times:.1f} of {len(written_records)} records kept in the mean, none made up")


@share
@pytest.mark.parametrize("name", [RESULTS, ERRORS, COSTS])
async def test_R03_other_files_damaged_below_their_mark(tmp_path: Path, disks: Disks, name: str, times: int) -> None:
    """Refused with its place and nothing touched, and found by `verify`.

    Or, where every line is there all the same, doubled or in another order: each job's line is kept once, as it was written.
    The words of a line that is no job are sealed by nothing; what they were is read from the input again.
    """
    before = contents(disks.cut_off)
    mark = getattr(newest_mark(disks.cut_off), name.removesuffix(".jsonl"))
    proven = {line for line in before[name][:mark].splitlines(keepends=True) if b'"custom_id":null' not in line}
    kinds: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for seed, kind, changed in damages(before[name], mark, before_of(disks.foreign, name), times // 2):
        disk = with_file(disks.cut_off, name, changed)
        error = refusal(disk)
        kinds[error is not None][kind] += 1
        if error is not None:
            assert error.path == name, (seed, kind)
            assert f"byte {error.offset}" in str(error)
            assert contents(disk) == before | {name: changed}, seed
            assert is_found(disk, tmp_path / f"{seed % 7}.run", name), (seed, kind)
        else:
            assert name != COSTS, (seed, kind)
            lines = Counter(lines_of(disk, name))
            assert {line: lines[line] for line in proven} == dict.fromkeys(proven, 1), (seed, kind)
    refused, whole = kinds[True].total(), dict(kinds[False])
    print(f"R-03: {name} damaged below its mark: {refused} refused with offset, {whole} harmless; 0 wrong recoveries")
    assert refused > times // 4


def refusal(disk: MemoryDisk) -> JournalDamaged | None:
    """Why a run does not start on this disk; None where it does, with its books in order."""
    try:
        recovered, _ = start(disk, ids_of(JOBS), bad_lines=BAD_LINES)
    except JournalDamaged as error:
        return error
    check_money(disk, recovered)
    recovered.files.close()
    return None


@pytest.mark.parametrize("every", [pytest.param(29, id="some"), pytest.param(1, id="all", marks=pytest.mark.campaign)])
async def test_R02_a_whole_run_torn_at_each_byte_goes_on(disks: Disks, every: int) -> None:
    """Cut its journal's tail at any byte behind the mark: the run recovers, appends, is read back, and ends whole."""
    ids = ids_of(JOBS)
    data, mark = before_of(disks.cut_off, JOURNAL), newest_mark(disks.cut_off).journal
    for cut in range(mark, len(data), every):
        disk = with_file(disks.cut_off, JOURNAL, data[:cut])
        recovered, _ = start(disk, ids, bad_lines=BAD_LINES)
        recovered.files.close()
        again, _ = start(disk, ids, bad_lines=BAD_LINES)
        assert not [warning for warning in again.warnings if "torn" in warning], "what was appended is not read back"
        again.files.close()
        if cut % (every * 31) == 0:
            await run_script(disk, ids, World())
            check_finished(disk, ids, World(), power=True)
    print(f"R-02: {len(range(mark, len(data), every))} cuts of a run's journal, each appended to and read back")
