"""Inputs that are not what they were, errors.jsonl when it must change, and disks that fail."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.disk import MemoryDisk, SystemDisk
from batchrunner.errors import ChangedLines, DiskError
from batchrunner.index import Index
from batchrunner.job import BadLine
from batchrunner.journal import Recovered
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.lifecycle import State
from batchrunner.results import failure_line
from tests.crash.byhand import Run, finished, raw_success, settled, states
from tests.crash.scripted import (
    BAD_LINES,
    CEILING,
    PRICE,
    RUN,
    PowerCut,
    World,
    after_power_cut,
    break_at,
    check_money,
    final_lines,
    ids_of,
    index_of,
    killed,
    lines_of,
    run_script,
    start,
)

# Other inputs ----------------------------------------------------------------------------------------------------


def changed_index(ids: list[str], *numbers: int) -> Index:
    return index_of(ids, {ids[number]: 77 + number for number in numbers})


async def test_changed_lines_that_have_not_succeeded_stop_the_run() -> None:
    """The first five are named with their count, and nothing is touched."""
    ids = ids_of(9)
    disk = await finished(ids)
    run = Run(disk, ids)
    for number in range(3, 8):
        run.send(number)
    before = {key: bytes(data) for key, data in disk.files.items()}
    with pytest.raises(ChangedLines) as caught:
        start(disk, ids, index=changed_index(ids, 0, 2, 3, 4, 5, 6, 7, 8))
    assert caught.value.count == 6
    assert caught.value.lines == [(f"line {number + 1}", f"job-{number}") for number in (2, 3, 4, 5, 6)]
    assert {key: bytes(data) for key, data in disk.files.items()} == before


async def test_accepted_changes_run_anew_and_stay_accepted() -> None:
    """A failed job's line goes, a started job starts over, and the next start asks no more."""
    ids = ids_of(5)
    disk = await finished(ids)
    Run(disk, ids).send(3)
    changed = changed_index(ids, 2, 3)
    recovered, index = start(disk, ids, index=changed, accept_changes=True)
    assert states(index) == ["SUCCEEDED", "SUCCEEDED", "PENDING", "PENDING", "PENDING"]
    assert {number: history.sends for number, history in recovered.histories.items()} == {2: 1, 3: 1}
    assert sorted(final_lines(disk)) == ["job-0", "job-1"]
    settled(disk, ids, changed_index(ids, 2, 3))


async def test_a_changed_line_that_succeeded_keeps_its_result() -> None:
    """What is paid for stays, with a warning; also where only its line tells of it."""
    ids = ids_of(4)
    disk = await finished(ids)
    disk.files[RESULTS] += raw_success("job-3")
    recovered, index = start(disk, ids, index=changed_index(ids, 0, 3))
    assert states(index) == ["SUCCEEDED", "SUCCEEDED", "FAILED", "SUCCEEDED"]
    (warning,) = (warning for warning in recovered.warnings if warning.startswith("2 changed line(s)"))
    assert warning.endswith("The first is line 1.")


def test_a_failure_known_by_its_line_alone_is_a_change_too() -> None:
    """An adoptable failure of another line than the input's asks for --accept-changes, and then runs anew."""
    ids = ids_of(1)
    disk = MemoryDisk()
    Run(disk, ids)
    disk.files[ERRORS] += failure_line(RUN, "job-0", 1234, 1, code="c", message="m")
    with pytest.raises(ChangedLines, match=r"line 1 \('job-0'\)"):
        start(killed(disk), ids)
    _, index = start(disk, ids, accept_changes=True)
    assert states(index) == ["PENDING"]
    assert final_lines(disk) == {}
    settled(disk, ids)


async def test_removed_jobs_keep_their_lines() -> None:
    """Lines of jobs that the input does not hold any more stay, are counted once, and their bills count on."""
    ids = ids_of(5)
    disk = await finished(ids)
    Run(disk, ids).send(3)
    before = final_lines(disk)
    recovered, index = start(disk, ["job-1", "job-9"])
    assert final_lines(disk).keys() == before.keys()
    assert any(warning.startswith("3 job(s) of this run are not in the input") for warning in recovered.warnings)
    assert (recovered.completed, recovered.failed, recovered.lost) == (1, 0, 1)
    assert (recovered.totals.billed, recovered.totals.maybe_billed) == (2 * PRICE, CEILING)
    assert states(index) == ["SUCCEEDED", "PENDING"]


async def test_appended_lines_just_run() -> None:
    """A longer input has more pending jobs, and that is all."""
    disk = await finished(ids_of(3))
    recovered, index = start(disk, ids_of(5))
    assert states(index) == ["SUCCEEDED", "SUCCEEDED", "FAILED", "PENDING", "PENDING"]
    assert recovered.warnings == []


# errors.jsonl ----------------------------------------------------------------------------------------------------


async def test_another_set_of_bad_lines_replaces_the_file() -> None:
    """New bad lines come first, then the jobs' lines in their order; the same set again touches nothing."""
    ids = ids_of(3)
    disk = await finished(ids)
    failed = lines_of(disk, ERRORS)
    start(disk, ids, bad_lines=BAD_LINES)
    assert lines_of(disk, ERRORS)[2:] == failed
    assert [json.loads(raw)["line"] for raw in lines_of(disk, ERRORS)[:2]] == [3, 9]
    disk.operations.clear()
    assert start(disk, ids, bad_lines=BAD_LINES)[0].bad_lines == 2
    assert ("replace", ERRORS) not in disk.operations
    start(disk, ids, bad_lines=[BadLine(3, "not_json", "other words")])
    assert len(lines_of(disk, ERRORS)) == 2
    start(disk, ids)
    assert lines_of(disk, ERRORS) == failed


async def test_failed_jobs_are_reopened_durably_before_their_lines_go() -> None:
    """`--retry-failed`: records, their sync, then the replaced file; attempts are counted on, and may all be used again."""
    ids = ids_of(4)
    disk = await finished(ids)
    disk.operations.clear()
    recovered, index = start(disk, ids, retry_failed=True, bad_lines=BAD_LINES)
    replaced = disk.operations.index(("replace", ERRORS))
    assert disk.operations[replaced - 1] == ("sync", JOURNAL)
    assert states(index)[2] == "PENDING"
    assert (recovered.histories[2].sends, recovered.histories[2].spent, recovered.failed) == (1, 0, 0)
    assert len(lines_of(disk, ERRORS)) == 2


async def test_a_reopened_job_stays_reopened_when_its_line_did_not_go() -> None:
    """Cut off between the records and the replaced file: the old line does not count any more, and goes at the next start."""
    ids = ids_of(4)
    disk = await finished(ids)

    def fail(operation: str, name: str) -> None:
        if operation == "replace":
            raise PowerCut

    disk.fail = fail  # type: ignore[method-assign]
    with pytest.raises(PowerCut):
        start(disk, ids, retry_failed=True)
    left = disk.crash()
    recovered, index = start(left, ids)
    assert states(index)[2] == "PENDING"
    assert (recovered.histories[2].sends, recovered.failed) == (1, 0)
    assert lines_of(left, ERRORS) == []
    settled(left, ids)


async def test_reopening_may_be_cut_off_anywhere() -> None:
    """Crash at any operation of it: a failed job has its line, or runs again and has none; then ends with one."""
    ids = ids_of(8)
    template = MemoryDisk()
    await run_script(template, ids, World())
    for nth in range(1, 40):
        disk = killed(template)
        break_at(disk, nth, PowerCut())
        with contextlib.suppress(PowerCut):
            start(disk, ids, retry_failed=True, bad_lines=[BadLine(5, "not_json", "x")])
        left = after_power_cut(disk, random.Random(nth))
        recovered, index = start(left, ids, bad_lines=BAD_LINES)
        check_money(left, recovered)
        finals = final_lines(left)
        for number, custom_id in enumerate(ids):
            ended = index.state[number] in (State.SUCCEEDED, State.FAILED)
            assert len(finals.get(custom_id, [])) == ended, nth
        recovered.files.close()
        await run_script(left, ids, World())
        assert {len(found) for found in final_lines(left).values()} == {1}
        assert sorted(final_lines(left)) == sorted(ids)


# Disks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["write", "sync", "open", "replace", "truncate"])
async def test_the_nth_failing_operation_ends_the_run_and_harms_nothing(operation: str) -> None:
    """ENOSPC or EIO at any place: one DiskError, nothing shown that is not on disk, and the run goes on afterwards."""
    ids = ids_of(12)
    broken: set[str] = set()
    for nth in range(1, 200):
        disk, world = MemoryDisk(), World()
        disk.files[COSTS] = bytearray(b"torn")
        disk.synced[COSTS] = 0
        disk.fail = failing(operation, nth)  # type: ignore[assignment, method-assign]
        try:
            await run_script(disk, ids, world)
        except DiskError as error:
            broken.add(error.operation)
        else:
            break
        left = after_power_cut(disk, random.Random(nth))
        recovered, index = start(left, ids, bad_lines=BAD_LINES)
        for custom_id, succeeded in world.shown.items():
            assert index.state[ids.index(custom_id)] == (State.SUCCEEDED if succeeded else State.FAILED)
        check_money(left, recovered)
        recovered.files.close()
        await run_script(left, ids, world)
        assert {key: len(found) for key, found in final_lines(left).items()} == dict.fromkeys(ids, 1)
    else:
        pytest.fail("the run never came to its end")
    assert broken == {operation}


def failing(broken: str, nth: int) -> Callable[[str, str], None]:
    left = nth

    def fail(operation: str, name: str) -> None:
        nonlocal left
        left -= operation == broken
        if left == 0 and operation == broken:
            raise OSError(5, "broken")

    return fail


async def test_a_real_directory_goes_through_a_run_and_its_recovery(tmp_path: Path) -> None:
    """On the machine's own disk: the same files, private, and the same end after a torn journal."""
    ids = ids_of(10)
    memory = MemoryDisk()
    await run_script(memory, ids, World())
    await run_script(SystemDisk(tmp_path / "run"), ids, World())
    for name in (RESULTS, ERRORS, COSTS, JOURNAL):
        assert (tmp_path / "run" / name).read_bytes() == bytes(memory.files[name])
        assert (tmp_path / "run" / name).stat().st_mode & 0o777 == 0o600
    journal = tmp_path / "run" / JOURNAL
    journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2])
    recovered, index = start(SystemDisk(tmp_path / "run"), ids, bad_lines=BAD_LINES)
    assert isinstance(recovered, Recovered)
    assert State.PENDING not in list(index.state)
    recovered.files.close()
