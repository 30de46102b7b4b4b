"""Intervals from moments and from samples, against figures that were reckoned in another way."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.forecast import NOTHING, UNKNOWN, Interval, allotted, expanded, predicted, student
from batchrunner.job import Usage
from batchrunner.moments import WINDOW, Moments, Rates, Total

RATES = Rates(3.0, -1.5, 15.0)


def learned(answers: list[tuple[int, Usage]]) -> Moments:
    moments = Moments()
    for guessed, usage in answers:
        moments.add(guessed, usage)
    return moments


def some(count: int, seed: int = 1) -> list[tuple[int, Usage]]:
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        guessed = rng.randint(10, 1000)
        read = round(guessed * rng.uniform(0.8, 1.2))
        found.append((guessed, Usage(read, rng.randint(1, 400), rng.randint(0, read))))
    return found


def test_moments_say_what_the_answers_themselves_would() -> None:
    """Mean and residual variance are those of the values one by one, about a line through what was read."""
    answers = some(60)
    sizes = [float(guess) for guess, _ in answers]
    reads = [RATES.input * use.input_tokens + RATES.cached * use.cached_tokens for _, use in answers]
    costs = [read + RATES.output * use.output_tokens for read, (_, use) in zip(reads, answers, strict=True)]
    slope = statistics.linear_regression(sizes, reads).slope
    mean, size = statistics.fmean(costs), statistics.fmean(sizes)
    of_one = sum((cost - mean - slope * (guess - size)) ** 2 for cost, guess in zip(costs, sizes, strict=True)) / 58
    total = learned(answers).total(RATES, 60, round(60 * size))
    assert total.mean == pytest.approx(sum(costs))
    assert total.variance == pytest.approx(of_one * 120)
    larger = learned(answers).total(RATES, 60, round(60 * size) + 1000)
    assert larger.mean == pytest.approx(sum(costs) + 1000 * slope)
    assert larger.variance > total.variance
    assert total.answers == 60


def test_nothing_is_ever_forecast_to_give_something_back() -> None:
    """A line through sizes that were seen says nothing of much smaller ones."""
    moments = learned([(1_000, Usage(500, 0)), (2_000, Usage(1_600, 0))] * 10)
    assert moments.total(Rates(1, 0, 0), 1, 100).mean == 0


def test_input_goes_by_size_and_output_by_number() -> None:
    """Twice the tokens of prompts cost twice the input; twice the jobs twice the output."""
    moments = learned([(100, Usage(200, 10))] * 20)
    assert moments.total(RATES, 1, 100) == Total(750.0, 0.0, 20)
    assert moments.total(RATES, 1, 200).mean == 1350.0
    assert moments.total(RATES, 2, 100).mean == 900.0


def test_old_answers_fade() -> None:
    """After a few windows new ones are all that counts."""
    moments = learned([(100, Usage(100, 10))] * WINDOW + [(100, Usage(100, 50))] * (3 * WINDOW))
    assert 48 <= moments.total(Rates(0, 0, 1), 1, 100).mean <= 50
    assert moments.count <= WINDOW


def test_moments_add_up() -> None:
    """Two kinds together are as if they had been one."""
    first, second = some(20, 1), some(30, 2)
    assert learned(first) + learned(second) == learned(first + second)


def test_kinds_vary_independently() -> None:
    """Their variances add, not their widths."""
    one = Total(100.0, 16.0, 10_000)
    assert predicted([one, one]).expected == 200.0
    assert (predicted([one]).high or 0) - 100 == pytest.approx(1.645 * 4, rel=1e-3)
    assert (predicted([one, one]).high or 0) - 200 == pytest.approx(1.645 * math.sqrt(32), rel=1e-3)
    assert predicted([]) == NOTHING
    assert predicted([Total(1.0, 100.0, 10)]).low == 0.0


@pytest.mark.parametrize(
    ("freedom", "expected"), [(0, 6.314), (1, 6.314), (5, 2.015), (6, 1.943), (10, 1.812), (30, 1.697), (100, 1.660)]
)
def test_students_quantile(freedom: int, expected: float) -> None:
    """As the tables have it, to a few thousandths."""
    assert student(freedom) == pytest.approx(expected, abs=0.005)


def test_a_sample_is_expanded_as_the_textbook_has_it() -> None:
    """sum of N y, and N^2 s^2 (1/n - 1/N) for each stratum."""
    strata = [(10, [1.0, 3.0]), (20, [5.0, 6.0, 10.0])]
    variance = 100 * 2 * (1 / 2 - 1 / 10) + 400 * 7 * (1 / 3 - 1 / 20)
    found = expanded(strata)
    assert found.expected == 10 * 2 + 20 * 7
    assert (found.high or 0) - 160 == pytest.approx(student(3) * math.sqrt(variance))


def test_what_was_measured_is_the_least_that_it_costs() -> None:
    """It is spent."""
    assert expanded([(3, [1.0, 9.0])]).low == 10.0


def test_one_says_nothing_of_how_much_they_differ() -> None:
    """Nothing bounds the total from above then; of a single job it is the whole truth."""
    assert expanded([(10, [2.0])]) == Interval(2.0, 20.0, None)
    assert expanded([(1, [2.0])]) == Interval(2.0, 2.0, 2.0)


def test_intervals_of_what_is_unknown_add_up_end_to_end() -> None:
    """And an unknown end stays unknown."""
    assert Interval(1, 2, 3) + Interval(10, 20, 30) == Interval(11, 22, 33)
    assert Interval(1, 2, 3) + UNKNOWN == Interval(1, None, None)


@given(st.dictionaries(st.text(max_size=2), st.integers(0, 1000), max_size=20), st.integers(0, 2000))
def test_what_is_allotted_is_the_sample_and_no_more_than_there_is(sizes: dict[str, int], sample: int) -> None:
    """To each stratum its share, within one where it has as many."""
    given_ = allotted(sizes, sample)
    whole = sum(sizes.values())
    assert sum(given_.values()) == min(sample, whole)
    for name, count in given_.items():
        assert 0 <= count <= sizes[name]
        assert abs(count - min(sample, whole) * sizes[name] / whole) <= 1
