"""What a check makes of the turns that a job's life can take: each of them is in order, and is found to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrunner.costs import Charge
from batchrunner.disk import MemoryDisk
from batchrunner.errors import InvalidInput
from batchrunner.exchange import Reply
from batchrunner.job import BadLine
from batchrunner.journal.files import COSTS, ERRORS, RESULTS
from batchrunner.journal.records import Ended, What, fingerprint_text
from batchrunner.verification import Report, verify
from batchrunner.verification.repair import repair
from tests.crash.byhand import Run, finished, raw_success
from tests.crash.scripted import CEILING, RUN, URL, StepClock, fingerprint_of, ids_of, index_of, job_of, killed, start
from tests.verified import assert_clean, written

IDS = ids_of(4)
MAYBE = Charge.maybe("model-1", URL, 5, 7, CEILING)


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]


def checked(disk: MemoryDisk, tmp_path: Path) -> Report:
    return assert_clean(written(disk, tmp_path / "a.run", run_id=RUN))


async def test_a_line_that_turns_up_after_its_attempt_was_counted_lost(tmp_path: Path) -> None:
    """The attempt is charged once: its second charge takes the first one's place."""
    disk = MemoryDisk()
    Run(disk, IDS).send(0)
    start(disk, IDS)
    disk.files[RESULTS] += raw_success("job-0")
    start(disk, IDS)
    checked(disk, tmp_path)


async def test_an_attempt_that_is_charged_twice_is_found(tmp_path: Path) -> None:
    """No crash of ours writes that: the second one is none of an attempt that was counted as lost."""
    disk = await finished(IDS)
    run = Run(disk, IDS)
    run.send(3)
    run.journal.again(job_of(run.index, IDS, 3), 1, why="timeout", charge=MAYBE)
    run.journal.record(Ended("job-3", fingerprint_text(fingerprint_of("job-3")), 1, What.LOST, 0, charge=MAYBE, why="again"))
    await run.journal.commit()
    assert "charged_twice" in codes(verify(written(disk, tmp_path / "a.run", run_id=RUN)))


async def test_attempts_that_were_given_back(tmp_path: Path) -> None:
    disk = await finished(IDS)
    run = Run(disk, IDS)
    run.send(3)
    run.journal.again(job_of(run.index, IDS, 3), 1, why="http_500")
    run.journal.refunded("job-3", fingerprint_of("job-3"), 1)
    await run.journal.commit()
    checked(disk, tmp_path)


async def test_an_open_job_whose_line_was_changed(tmp_path: Path) -> None:
    """It runs anew without ever having ended."""
    disk = await finished(IDS)
    run = Run(disk, IDS)
    run.send(3)
    left = killed(disk)
    start(left, IDS, index=index_of(IDS, {"job-3": 33}), accept_changes=True)
    checked(left, tmp_path)


async def test_a_failed_job_that_may_have_been_billed_and_runs_again(tmp_path: Path) -> None:
    """Its bill stays, though its line goes."""
    disk = await finished(IDS)
    run = Run(disk, IDS)
    run.send(3)
    job = job_of(run.index, IDS, 3)
    run.journal.failed(job, 1, code="not_json", message="no", reply=Reply(200, (), b"<p>"), charge=MAYBE)
    await run.journal.commit()
    start(disk, IDS, retry_failed=True)
    checked(disk, tmp_path)


async def test_a_bill_behind_the_newest_sync_is_a_note_whoevers_it_is(tmp_path: Path) -> None:
    """The journal may not know of it yet."""
    disk = await finished(IDS)
    disk.files[COSTS] += bytes(disk.files[COSTS]).splitlines(keepends=True)[0].replace(b'"attempt":1', b'"attempt":2')
    assert "uncommitted_bill" in {note.code for note in checked(disk, tmp_path).notes}


# Repair --------------------------------------------------------------------------------------------------------------


async def test_a_repair_does_not_guess_the_price_of_what_it_never_saw_sent(tmp_path: Path) -> None:
    """A job that failed unsent, ran again, and whose answer outlived the record of its sending: the job file is needed."""
    disk = MemoryDisk()
    run = Run(disk, IDS)
    run.journal.failed(job_of(run.index, IDS, 0), 0, code="price_unknown", message="no", spent=False)
    await run.journal.commit()
    start(disk, IDS, retry_failed=True)
    disk.files[RESULTS] += raw_success("job-0")
    directory = written(disk, tmp_path / "a.run", run_id=RUN)
    with pytest.raises(InvalidInput, match=r"no sending is known.* Submit its job file again"):
        repair(directory, StepClock())


async def test_a_repair_prices_what_it_saw_sent_by_its_sending(tmp_path: Path) -> None:
    """The line is adopted, and its model is the one that was asked."""
    disk = await finished(IDS)
    Run(disk, IDS).send(3)
    disk.files[RESULTS] += raw_success("job-3")
    directory = written(disk, tmp_path / "a.run", run_id=RUN)
    repair(directory, StepClock())
    assert_clean(directory)
    assert b'"custom_id":"job-3"' in (directory / RESULTS).read_bytes().splitlines()[-1]
    assert b'"model":"model-1"' in (directory / COSTS).read_bytes().splitlines()[-1]


async def test_a_repair_keeps_bad_lines_and_puts_by_what_only_looks_like_one(tmp_path: Path) -> None:
    """A line of no job that is not whole in itself is not taken for one."""
    disk = await finished(IDS)
    start(disk, IDS, bad_lines=[BadLine(3, "not_json", "line 3 is no JSON")])
    good = bytes(disk.files[ERRORS])
    strange = b'{"id":"x","custom_id":null,"line":"three","response":null,"error":null}\n'
    disk.files[ERRORS] += strange
    directory = written(disk, tmp_path / "a.run", run_id=RUN)
    repair(directory, StepClock())
    assert (directory / ERRORS).read_bytes() == good
    assert (directory / "results.cut").read_bytes() == strange
    assert_clean(directory)
