"""Crashes of every kind, verified before and after the next start, and repaired without the job file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from batchrunner.disk import MemoryDisk
from batchrunner.journal.files import COSTS, CUT, ERRORS, JOURNAL, RESULTS
from batchrunner.verification import repair, verify
from tests.crash.byhand import Run, raw_success
from tests.crash.scripted import (
    BAD_LINES,
    RUN,
    PowerCut,
    StepClock,
    World,
    after_power_cut,
    break_at,
    ids_of,
    killed,
    run_script,
    run_until_broken,
    start,
)
from tests.verified import assert_clean, written

IDS = ids_of(21)


async def broken(nth: int) -> tuple[MemoryDisk, bool]:
    """The directory of a run whose nth operation on the disk was its last."""
    disk = MemoryDisk()
    break_at(disk, nth, PowerCut())
    return disk, await run_until_broken(disk, IDS, World())


async def test_killed_before_each_operation(tmp_path: Path) -> None:
    """Wherever a process ends, nothing is wrong; neither is anything after the next start, nor after a repair in its place."""
    for nth in range(1, 1_000, 3):
        disk, ended = await broken(nth)
        left = written(killed(disk), tmp_path / "left.run", run_id=RUN)
        assert_clean(left)
        disk = killed(disk)
        start(disk, IDS, bad_lines=BAD_LINES)
        after = assert_clean(written(disk, tmp_path / "started.run", run_id=RUN))
        assert not after.unsettled
        if ended:
            break
    assert nth > 100


async def test_power_cut_before_each_operation(tmp_path: Path) -> None:
    """The same where what was not synced is lost, or torn, or followed by rubbish."""
    chance = random.Random(7)
    torn = 0
    for nth in range(1, 1_000, 3):
        disk, ended = await broken(nth)
        disk = after_power_cut(disk, chance)
        torn += any(note.code.startswith("torn") for note in assert_clean(written(disk, tmp_path / "cut.run", run_id=RUN)).notes)
        start(disk, IDS, bad_lines=BAD_LINES)
        assert not assert_clean(written(disk, tmp_path / "started.run", run_id=RUN)).unsettled
        if ended:
            break
    assert torn > 20


async def test_repaired_after_each_kill(tmp_path: Path) -> None:
    """A repair settles what a kill left, without the job file; the run then goes on to the end that it would have had."""
    for nth in range(2, 1_000, 7):
        disk, ended = await broken(nth)
        left = written(killed(disk), tmp_path / f"{nth}.run", run_id=RUN)
        if verify(left).unsettled:
            repair(left, StepClock())
            assert not assert_clean(left).unsettled
        again = MemoryDisk()
        for name in (RESULTS, ERRORS, COSTS, JOURNAL):
            again.files[name] = bytearray((left / name).read_bytes() if (left / name).exists() else b"")
            again.synced[name] = len(again.files[name])
        await run_script(again, IDS, World())
        report = assert_clean(written(again, tmp_path / f"{nth}.end.run", run_id=RUN))
        assert (report.checked.jobs, report.checked.bad_lines) == (len(IDS), len(BAD_LINES))
        if ended:
            break
    assert nth > 100


async def run_with_tail(tmp_path: Path) -> Path:
    """A run of two results with a third request in flight, and rubbish at the ends of its files."""
    disk = MemoryDisk()
    run = Run(disk, ids_of(3))
    for number in range(3):
        run.send(number)
    run.done(0)
    run.done(1)
    await run.journal.commit()
    left = written(disk, tmp_path / "tail.run", run_id=RUN)
    tails = {RESULTS: raw_success("job-0", run_id="another-run") + b'{"id":"torn', COSTS: b'{"custom_id"', JOURNAL: b"\0" * 40}
    for name, data in tails.items():
        (left / name).write_bytes((left / name).read_bytes() + data)
    return left


async def test_a_repair_says_what_it_did(tmp_path: Path) -> None:
    """Each torn end, put-by line and lost attempt is named, and each file's size before and after."""
    left = await run_with_tail(tmp_path)
    before = {name: (left / name).stat().st_size for name in (RESULTS, COSTS, JOURNAL)}
    assert [finding.code for finding in verify(left).findings] == ["foreign"]
    done = repair(left, StepClock())
    text = "\n".join(done.done)
    assert "journal.jsonl: a torn end of 40 bytes was cut" in text
    assert "costs.jsonl: a torn end of 12 bytes was cut" in text
    assert "results.jsonl: a torn last line of 11 bytes was cut" in text
    assert "results.cut: 2 line(s)" in text
    assert "1 attempt(s) were in flight" in text
    changes = {change.file: (change.before, change.after) for change in done.changes}
    assert set(changes) == {RESULTS, COSTS, JOURNAL, CUT}
    assert {name: changes[name][0] for name in before} == before
    assert all((left / name).stat().st_size == after for name, (_, after) in changes.items())
    assert b"another-run" in (left / CUT).read_bytes()
    assert not assert_clean(left).unsettled


async def test_a_repair_keeps_lines_that_only_the_job_file_explains(tmp_path: Path) -> None:
    """A whole line of a job that the journal never heard of, as a power cut leaves it, stays for the next start."""
    disk = MemoryDisk()
    run = Run(disk, ids_of(2))
    run.send(0)
    run.done(0)
    await run.journal.commit()
    paid_for = raw_success("job-1")
    disk.files[RESULTS] += paid_for
    left = written(disk, tmp_path / "paid.run", run_id=RUN)
    assert [note.code for note in assert_clean(left).notes if note.code != "no_status"] == ["uncommitted_line"]
    repair(left, StepClock())
    assert (left / RESULTS).read_bytes().endswith(paid_for)
    assert not (left / CUT).exists()


@pytest.mark.parametrize("name", [RESULTS, COSTS, JOURNAL])
async def test_a_repair_refuses_what_a_start_refuses(tmp_path: Path, name: str) -> None:
    """Damage below what was synced is named, and no byte of any file is touched."""
    left = await run_with_tail(tmp_path)
    data = bytearray((left / name).read_bytes())
    data[data.index(b"job-0")] ^= 1
    (left / name).write_bytes(data)
    files = {file.name: file.read_bytes() for file in left.iterdir() if file.name != "lock"}
    with pytest.raises(Exception, match=f"{name}: damaged at byte"):
        repair(left, StepClock())
    assert {file.name: file.read_bytes() for file in left.iterdir() if file.name != "lock"} == files
