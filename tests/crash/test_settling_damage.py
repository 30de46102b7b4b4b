"""What recovery makes of synced lines and bills that are gone or altered: refused with the place, and nothing touched."""

from __future__ import annotations

import pytest

from batchrunner.disk import MemoryDisk
from batchrunner.errors import JournalDamaged
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from tests.crash.byhand import Run, finished, settled, states
from tests.crash.scripted import (
    PRICE,
    ids_of,
    start,
)


@pytest.mark.parametrize("name", [RESULTS, ERRORS])
@pytest.mark.parametrize("harm", ["alter", "lose"])
async def test_a_synced_line_that_is_gone_or_altered_is_refused(name: str, harm: str) -> None:
    """Nothing is guessed and nothing touched; the message names file, place and job."""
    ids = ids_of(4)
    disk = await finished(ids)
    if harm == "alter":
        place = disk.files[name].index(b'"body"')
        disk.files[name][place + 1 : place + 5] = b"BODY"
    else:
        disk.files[name][:] = b""
    before = {key: bytes(data) for key, data in disk.files.items()}
    job = "job-0" if name == RESULTS else "job-2"
    with pytest.raises(JournalDamaged, match=rf"{name}: damaged at byte 0: the line of job '{job}'"):
        start(disk, ids)
    assert {key: bytes(data) for key, data in disk.files.items()} == before


async def test_synced_costs_that_are_gone_are_refused() -> None:
    """A bill that was on disk does not vanish by itself."""
    ids = ids_of(4)
    disk = await finished(ids)
    del disk.files[COSTS][-10:]
    with pytest.raises(JournalDamaged, match=r"costs\.jsonl"):
        start(disk, ids)


@pytest.mark.parametrize("number", [0, 2])
def test_a_line_that_never_reached_the_disk_runs_its_job_again(number: int) -> None:
    """The journal outlived the line: the job is pending again, and what it was billed stays billed."""
    ids = ids_of(3)
    disk = MemoryDisk()
    run = Run(disk, ids)
    run.send(number)
    run.fail(number) if number == 2 else run.done(number)
    left = disk.crash({JOURNAL: 10_000})
    recovered, index = start(left, ids)
    assert states(index) == ["PENDING"] * 3
    assert recovered.totals.billed == (PRICE if number == 0 else 0)
    assert (recovered.histories[number].sends, recovered.histories[number].spent) == (1, 0)
    assert any("run again" in warning for warning in recovered.warnings)
    settled(left, ids)


@pytest.mark.parametrize("change", ["grown", "edited", "line edited in a later part"])
async def test_synced_costs_that_were_altered_are_refused_with_the_place(change: str) -> None:
    """Not a digit of a bill that was on disk may change, whatever the file's length; nothing is touched."""
    ids = ids_of(4)
    disk = await finished(ids)
    run = Run(disk, ids)
    whole = len(disk.files[COSTS])
    run.send(3)
    run.done(3)
    await run.journal.commit()
    costs = disk.files[COSTS]
    place = costs.index(b'"output":3', whole if "later" in change else 0)
    if change == "grown":
        costs[place:place] = b" "
    else:
        costs[place : place + 10] = b'"output":4'
    before = {name: bytes(data) for name, data in disk.files.items()}
    offset = whole if "later" in change else 0
    with pytest.raises(JournalDamaged, match=rf"costs\.jsonl: damaged at byte {offset}: .* not what was written"):
        start(disk, ids)
    assert {name: bytes(data) for name, data in disk.files.items()} == before
