"""How far forecasts are off, on files drawn from the embedded platform's own distributions."""

from __future__ import annotations

import math
import random
import statistics

import msgspec
import pytest

from batchrunner.estimate import Estimator
from batchrunner.plan import Measured, Stratum, forecast, measured_forecast, strata
from tests.unit.plans import PRICES, Job, experience, file_of, surveyed

FILES = range(100)


def half_width(low: float, expected: float | None, high: float | None) -> float:
    assert expected is not None
    assert high is not None
    return max(high - expected, expected - low)


@pytest.mark.parametrize("files", [FILES[:30], pytest.param(FILES, marks=pytest.mark.campaign)], ids=["share", "whole"])
def test_with_two_hundred_earlier_jobs_the_interval_holds_and_is_narrow(files: range) -> None:
    """In 85 of 100 files or more the real cost lies within it, and it is at most half as wide as its midpoint."""
    within = 0
    for seed in files:
        jobs = file_of(seed, 300, prefix="new")
        found = forecast(surveyed(jobs, experience(file_of(seed, 200, prefix="old"))).kinds.values(), PRICES)
        low, high = found.cost_usd.low, found.cost_usd.high
        assert high is not None
        assert (found.basis, found.jobs) == ("profile", 300)
        assert high - low <= (high + low) / 4, seed
        within += low <= sum(job.usd for job in jobs) <= high
    assert within >= 0.85 * len(files)


def test_tokens_are_forecast_as_money_is() -> None:
    """Each by itself, input far more closely than output."""
    within = {"input": 0, "output": 0}
    for seed in range(20):
        jobs = file_of(seed, 200, prefix="new")
        found = forecast(surveyed(jobs, experience(file_of(seed, 300, prefix="old"))).kinds.values(), PRICES)
        reads, writes = found.input_tokens, found.output_tokens
        within["input"] += reads.low <= sum(job.usage.input_tokens for job in jobs) <= (reads.high or 0)
        within["output"] += writes.low <= sum(job.usage.output_tokens for job in jobs) <= (writes.high or 0)
        assert half_width(*msgspec.structs.astuple(reads)) < half_width(*msgspec.structs.astuple(writes))
    assert min(within.values()) >= 17


def test_without_any_the_interval_is_from_nothing_to_the_cap() -> None:
    """It says how little is known: the upper end is what all jobs cost that write as much as they may."""
    jobs = file_of(1, 100)
    found = forecast(surveyed(jobs, Estimator()).kinds.values(), PRICES)
    assert found.basis == "guess"
    assert found.cost_usd.low == 0
    assert found.cost_usd.high is not None
    assert found.cost_usd.high >= 5 * float(sum(job.usd for job in jobs))
    assert found.output_tokens.high == sum(bound(job) for job in jobs)


def bound(job: Job) -> int:
    body = msgspec.json.decode(job.line)["body"]
    cap: int = body.get("max_tokens", 8_192)
    return cap


def measured(jobs: list[Job], sample: int, seed: int) -> list[tuple[Stratum, list[Measured]]]:
    """A sample of a file, drawn and paid for."""
    rng = random.Random(f"sample {seed}")
    survey = surveyed(jobs, Estimator(), sample=sample, rng=rng)
    drawn = strata(survey.kinds.values(), sample, rng)
    return [(stratum, [took(jobs[one.number]) for one in stratum.drawn]) for stratum in drawn]


def took(job: Job) -> Measured:
    return Measured(job.usage.input_tokens, job.usage.output_tokens, float(job.usd))


@pytest.mark.parametrize(("sample", "size"), [(20, 300), (50, 500), (100, 300)])
def test_a_sample_narrows_it_as_far_as_a_sample_can(sample: int, size: int) -> None:
    """Half its width is at most 1.2 times 1.645 s sqrt(1/n - 1/N) N, s that of the sample; and it holds as it should."""
    within = 0
    for seed in range(40):
        jobs = file_of(seed, size)
        found = measured(jobs, sample, seed)
        total = measured_forecast(found)
        assert total is not None
        values = [one.usd for _, of_stratum in found for one in of_stratum]
        assert len(values) == sample
        allowed = 1.2 * 1.645 * statistics.stdev(values) * math.sqrt(1 / sample - 1 / size) * size
        assert half_width(*msgspec.structs.astuple(total.cost_usd)) <= allowed, seed
        within += total.cost_usd.low <= sum(job.usd for job in jobs) <= (total.cost_usd.high or 0)
    assert within >= 32


def test_a_sample_of_all_is_the_truth() -> None:
    """Nothing is left to be uncertain about."""
    jobs = file_of(3, 40)
    total = measured_forecast(measured(jobs, 40, 1))
    assert total is not None
    real = float(sum(job.usd for job in jobs))
    assert total.cost_usd.low == pytest.approx(real)
    assert total.cost_usd.high == pytest.approx(real)


@pytest.mark.parametrize("sample", [1, 2, 7, 20, 50, 100])
def test_strata_hold_each_job_once_and_give_the_sample(sample: int) -> None:
    """Sizes add up to the file, what is drawn to the sample, no job twice; each but a single one gives several."""
    jobs = file_of(5, 120)
    rng = random.Random(1)
    drawn = strata(surveyed(jobs, Estimator(), sample=sample, rng=rng).kinds.values(), sample, rng)
    assert sum(stratum.jobs for stratum in drawn) == 120
    numbers = [one.number for stratum in drawn for one in stratum.drawn]
    assert len(numbers) == len(set(numbers)) == sample
    assert len(drawn) == 1 or min(len(stratum.drawn) for stratum in drawn) >= 4
    assert all(one.custom_id == f"job-{one.number}" for stratum in drawn for one in stratum.drawn)


def test_each_job_is_as_likely_to_be_drawn() -> None:
    """Over many samples, whatever its kind and wherever it stands."""
    jobs = file_of(7, 60)
    times = dict.fromkeys(range(60), 0)
    for seed in range(400):
        rng = random.Random(seed)
        for stratum in strata(surveyed(jobs[:60], Estimator(), sample=15, rng=rng).kinds.values(), 15, rng):
            for one in stratum.drawn:
                times[one.number] += 1
    assert 60 <= min(times.values()) <= max(times.values()) <= 145


def test_a_sample_of_which_a_part_is_not_known_leaves_the_total_unknown() -> None:
    """What is missing is not missing by chance: better none than one that leaves dear jobs out."""
    found = measured(file_of(1, 100), 20, 1)
    found[0] = (found[0][0], found[0][1][1:])
    assert measured_forecast(found) is None
    assert measured_forecast([]) is None
