"""Whole runs against a platform that counts its minute in each of the ways that there are."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from batchrunner.simulator.settings import Change, Foreign, RateHeaders, WindowShape
from tests.sim.nights import MakeNight, assert_whole, jobs


@pytest.mark.parametrize("window", list(WindowShape))
async def test_every_window_lets_a_run_through(window: WindowShape, make_night: MakeNight, autojump_clock: MockClock) -> None:
    """150 jobs at 50 a minute end whole, whatever the window, and none is billed twice.

    Rejections stay few, but where every request has to be 1.2 s after the last: no pace is that even after 190 ms of jitter.
    """
    night = make_night(jobs(150), rpm=50, window=window, burst=10, jitter_seconds=(0.01, 0.2))
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert status.completed == 150
    counts = night.platform.account.counts
    assert (counts.accepted, counts.billed, counts.doubles) == (150, 150, 0)
    assert counts.rejected_by.total() <= (100 if window is WindowShape.SPACING else 15)


@pytest.mark.parametrize(
    "settings",
    [
        {"count_rejected": True},
        {"log_at": "completion"},
        {"rate_headers": RateHeaders.ANTHROPIC, "tpm": 20_000},
        {"rate_headers": RateHeaders.GROQ, "tpm": 20_000},
        {"changes": (Change(at_seconds=40, rpm=25), Change(at_seconds=160, rpm=50))},
        {"foreign": (Foreign(rpm=25, burst=5),)},
    ],
    ids="-".join,
)
async def test_every_policy_lets_a_run_through(
    settings: dict[str, Any], make_night: MakeNight, autojump_clock: MockClock
) -> None:
    """150 jobs end whole however the platform counts, whatever it says, and whoever else is there."""
    night = make_night(jobs(150), rpm=50, **settings)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert status.completed == 150
