"""Whole runs in virtual time, verified: whatever ends or interrupts a run, nothing is wrong with what it leaves."""

from __future__ import annotations

from pathlib import Path

import trio
from trio.testing import MockClock

from batchrunner.runner import Run
from tests.sim.nights import PRICES, MakeNight, Night, after, job, jobs
from tests.verified import assert_clean, written

KINDS = ("error500", "error504", "error400", "reset_before", "reset_body", "truncated", "html200", "rate_limited", "gzip")
FAULTS = dict.fromkeys(KINDS, 0.05)


def directory(night: Night, tmp_path: Path) -> Path:
    return written(night.disk, tmp_path / "night.run", run_id="night", prices=PRICES)


async def test_a_run_through_faults(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """Every kind of attempt, bad lines included; each amount is what usage and prices come to."""
    night = make_night([*jobs(200), b"nonsense\n", job("job-1"), job("unknown", model="no-such-model")], faults=FAULTS)
    status = await night.run()
    report = assert_clean(directory(night, tmp_path))
    assert report.notes == []
    assert report.finished
    assert (report.checked.results, report.checked.errors) == (status.completed, status.failed - 2)
    assert report.checked.bad_lines == 2
    assert report.checked.amounts == report.checked.cost_lines > 200
    assert (report.sums.billed_usd, report.sums.maybe_billed_usd) == (status.billed_usd, status.maybe_billed_usd)
    assert status.maybe_billed_usd > 0


async def test_resumed_retried_and_interrupted(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """A run that was drained, cancelled, resumed and retried is as clean as one that went through, at every station."""
    night = make_night(jobs(60), faults=FAULTS, latency_median_seconds=2.0)
    await night.run(after(3, Run.cancel), max_in_flight=10)
    assert assert_clean(directory(night, tmp_path)).notes == []
    await night.run(after(3, Run.drain), max_in_flight=10)
    assert not assert_clean(directory(night, tmp_path)).finished
    await night.run()
    assert night.failures()
    assert assert_clean(directory(night, tmp_path)).finished
    await night.run(retry_failed=True)
    assert assert_clean(directory(night, tmp_path)).notes == []


async def test_killed_at_many_moments(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """What kill -9 leaves is no finding: at most notes on what the next start settles."""
    night = make_night(jobs(80), faults=FAULTS, latency_median_seconds=2.0)
    unsettled = 0

    async def look(_run: Run) -> None:
        nonlocal unsettled
        for moment in range(60):
            await trio.sleep(0.17)
            left = written(night.killed(), tmp_path / f"{moment}.run", run_id="night", prices=PRICES)
            unsettled += assert_clean(left).unsettled

    await night.run(look, max_in_flight=10)
    assert unsettled > 20
