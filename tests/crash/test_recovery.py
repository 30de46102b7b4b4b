"""A run is cut off at every single step that it takes, in every way that a machine can end, and goes on."""

from __future__ import annotations

import random

import pytest

from batchrunner.disk import MemoryDisk
from batchrunner.journal import read_finished
from tests.crash.scripted import (
    BAD_LINES,
    RUN,
    PowerCut,
    World,
    after_power_cut,
    break_at,
    check_finished,
    check_money,
    check_shown,
    ids_of,
    killed,
    run_script,
    run_until_broken,
    start,
)

JOBS = 30


async def _operations() -> int:
    disk = MemoryDisk()
    await run_script(disk, ids_of(JOBS), World())
    return len(disk.operations)


@pytest.mark.parametrize("mode", ["kill", "power"])
async def test_a_run_cut_off_before_any_operation_goes_on_to_the_same_end(mode: str) -> None:
    """Wherever it is cut off: one final line a job, nothing shown is lost, every bill is counted once."""
    ids = ids_of(JOBS)
    for nth in range(1, await _operations() + 1):
        chance = random.Random(nth)
        disk, world = MemoryDisk(), World()
        break_at(disk, nth, PowerCut())
        assert not await run_until_broken(disk, ids, world)
        left = killed(disk) if mode == "kill" else after_power_cut(disk, chance)
        # The recovery is cut off as well, at some operation of its own or of the run behind it.
        break_at(left, chance.randint(1, 12), PowerCut())
        await run_until_broken(left, ids, world)
        left = killed(left) if mode == "kill" else after_power_cut(left, chance)
        recovered, index = start(left, ids, bad_lines=BAD_LINES)
        check_shown(world, index, ids)
        check_money(left, recovered)
        recovered.files.close()
        await run_script(left, ids, world)
        check_finished(left, ids, world, power=mode == "power")
        assert read_finished(left, RUN) is not None
        again, _ = start(left, ids, bad_lines=BAD_LINES)
        check_money(left, again)
        assert again.warnings == []
