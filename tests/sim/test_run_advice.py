"""Sizes of jobs in whole runs: what is larger than a minute's tokens, what is capped far too high, how good predictions are."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from batchrunner.simulator.settings import Charging
from tests.sim.nights import MakeNight, assert_whole, job, jobs

#: our log forgets a send after so long
MINUTE = 60.25


async def test_jobs_larger_than_a_minute_go_alone(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Two jobs that may take twice the minute's tokens among forty: all succeed on a server that takes them, nothing is sent
    within a minute before them, people are told of the first, and the second is counted.
    """
    lines = [*jobs(20, cap=50), job("big", cap=3_000), *(job(f"more-{number}", cap=50) for number in range(20))]
    lines.append(job("bigger", cap=4_000))
    night = make_night(lines, tpm=1_500, charging=Charging.ACTUAL, output_median_tokens=40, output_sigma=0.1)
    status = await night.run(rpm=50, tpm=1_500)
    assert_whole(night, status)
    assert (status.completed, status.oversize_jobs) == (42, 2)
    sent = {asked.custom_id: asked.at_seconds for asked in night.platform.asked}
    for big in ("big", "bigger"):
        assert not [one for one, at in sent.items() if sent[big] - MINUTE < at < sent[big]]
    assert [said for said in night.said if "alone" in said] == [said for said in night.said if "job big " in said]
    assert len([said for said in night.said if "job big " in said]) == 1


@pytest.mark.parametrize(("cap", "told"), [(60_000, 1), (400, 0)])
async def test_a_cap_that_nobody_needs_is_told(autojump_clock: MockClock, make_night: MakeNight, cap: int, told: int) -> None:
    """Sixty answers of about 40 tokens: with caps of 60,000 people are told, once."""
    night = make_night(jobs(60, cap=cap), output_median_tokens=40, output_sigma=0.1)
    status = await night.run(rpm=50, tpm=2_000_000)
    assert_whole(night, status)
    assert len([said for said in night.said if f"{cap:,}" in said and "simulated-small" in said]) == told


async def test_the_status_says_how_good_predictions_are(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Long prompts, and answers of about 40 tokens: once both are learned they are close."""
    night = make_night(jobs(400, cap=50, text="How high is the moon? " * 100), output_median_tokens=40, output_sigma=0.1)
    status = await night.run(rpm=600, tpm=2_000_000)
    assert status.input_prediction_error is not None
    assert status.output_prediction_error is not None
    assert 0 <= status.input_prediction_error < 0.3
    assert 0 < status.output_prediction_error < 0.3
