"""A run held against its job files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from trio.testing import MockClock

from batchrunner.inputs import Inputs
from batchrunner.runner import Run
from batchrunner.sources import opened
from batchrunner.verification import Report, verify
from tests.sim.nights import PRICES, MakeNight, Night, after, fault, job, jobs
from tests.verified import written

LINES = [*jobs(4), b"nonsense\n", job("job-2")]


def against(night: Night, tmp_path: Path, *lines: bytes) -> Report:
    """Verify with a job file of these lines."""
    path = tmp_path / "other.jsonl"
    path.write_bytes(b"".join(lines))
    with opened([path]) as sources:
        inputs = Inputs([plain for source in sources if (plain := source.as_it_is()) is not None])
        return verify(written(night.disk, tmp_path / "night.run", run_id="night", prices=PRICES), inputs)


def codes(report: Report) -> list[tuple[str, int | None, str | None]]:
    return [(finding.code, finding.place.line, finding.custom_id) for finding in report.findings]


def noted(report: Report) -> dict[str, int]:
    return {note.code: note.count for note in report.notes}


async def test_as_it_was(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """Bad lines and repeated ids included, nothing is wrong."""
    night = make_night(LINES)
    await night.run()
    report = against(night, tmp_path, *LINES)
    assert (codes(report), noted(report), report.checked.input_lines) == ([], {}, 6)


async def test_a_line_without_an_end(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """Of a finished run every job must have ended."""
    night = make_night(LINES)
    await night.run()
    assert codes(against(night, tmp_path, *LINES, job("new"))) == [("no_end", 7, "new")]


async def test_an_unfinished_run(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """Before its end, jobs that have not ended are counted, sent before or not."""
    night = make_night(jobs(4), latency_median_seconds=9.0)
    await night.run(after(2, Run.cancel), max_in_flight=2)
    report = against(night, tmp_path, *jobs(4))
    assert (codes(report), noted(report)["open"]) == ([], 4)


@pytest.mark.parametrize(("kind", "expected"), [("error400", [("changed_line", 2, "job-1")]), (None, [])])
async def test_a_changed_line(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path, kind: str | None, expected: list[object]
) -> None:
    """A line that is not what ran is a finding where its job failed; where it succeeded, its result stays, and that is a note."""
    night = make_night(jobs(3), **({} if kind is None else fault(kind, times=0)))
    await night.run()
    changed = job("job-1", text="Another question?")
    report = against(night, tmp_path, *jobs(1), changed, job("job-2"))
    assert codes(report) == expected
    assert noted(report) == ({} if expected else {"changed_line": 1})


async def test_a_removed_line(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """A job that is in no file any more keeps its line."""
    night = make_night(jobs(3))
    await night.run()
    assert noted(against(night, tmp_path, *jobs(2))) == {"removed": 1}


async def test_other_bad_lines(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """errors.jsonl of a finished run lists the lines that are no jobs."""
    night = make_night(LINES)
    await night.run()
    lines = [msgspec.json.encode({"custom_id": "x"}) + b"\n", *LINES]
    assert [code for code, *_ in codes(against(night, tmp_path, *lines))] == ["bad_lines"]
