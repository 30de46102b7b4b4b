"""What people are told of the sizes of their jobs: once, and only where it matters."""

from __future__ import annotations

import pytest

from batchrunner.advice import KNOWN_AFTER, Advice, Statistics
from batchrunner.estimate import Outputs
from batchrunner.job import Job, RequestSize


class Told(Advice):
    def __init__(self, rpm: int = 50, tpm: int = 2_000_000) -> None:
        self.said: list[str] = []
        super().__init__(rpm, tpm, self.said.append)

    def job(self, tokens: int, custom_id: str = "a") -> None:
        self.sent(Job(0, 1, custom_id, "/v1/chat/completions", b"{}", 0), tokens)

    def answer(self, cap: int | None, most: int, *, model: str = "m", count: int = KNOWN_AFTER, prompt: int = 1_000) -> None:
        self.answered(RequestSize(model, prompt, cap), Outputs(count=count, most=most))


def test_a_job_larger_than_a_minute_is_told_once_and_counted() -> None:
    """The first by name, with both figures; the others are counted."""
    advice = Told()
    advice.job(2_000_001, "the-big-one")
    advice.job(3_000_000)
    assert len(advice.said) == 1
    for word in ("the-big-one", "2,000,001", "2,000,000", "--tpm", "alone"):
        assert word in advice.said[0]
    assert advice.statistics() == Statistics(oversize=2, generous_caps=0)


@pytest.mark.parametrize(("tpm", "tokens"), [(2_000_000, 2_000_000), (0, 10**12)])
def test_what_fits_into_a_minute_is_nothing_to_tell(tpm: int, tokens: int) -> None:
    """Exactly a minute's tokens do, and without a limit anything does."""
    advice = Told(tpm=tpm)
    advice.job(tokens)
    assert advice.said == []
    assert advice.statistics().oversize == 0


def test_a_cap_far_above_all_that_was_used_is_told_once() -> None:
    """For a model and a class of cap: another answer says nothing new, another model or another class does."""
    advice = Told()
    advice.answer(128_000, 1_100)
    advice.answer(127_000, 1_200)
    assert len(advice.said) == 1
    for word in ("128,000", "'m'", "1,100", "Lower it"):
        assert word in advice.said[0]
    advice.answer(128_000, 1_100, model="other")
    advice.answer(64_000, 1_100)
    assert len(advice.said) == 3
    assert advice.statistics() == Statistics(oversize=0, generous_caps=3)


@pytest.mark.parametrize(
    ("cap", "most", "count", "told"),
    [
        (128_000, 12_800, KNOWN_AFTER, True),
        (128_000, 12_801, KNOWN_AFTER, False),
        (128_000, 1, KNOWN_AFTER - 1, False),
        (128_000, 0, KNOWN_AFTER, True),
        (None, 1, KNOWN_AFTER, False),
        (0, 0, KNOWN_AFTER, False),
    ],
)
def test_ten_times_what_fifty_answers_have_used(cap: int | None, most: int, count: int, told: bool) -> None:
    advice = Told()
    advice.answer(cap, most, count=count)
    assert bool(advice.said) is told


@pytest.mark.parametrize(
    ("rpm", "tpm", "prompt", "told"),
    [
        (50, 2_000_000, 1_000, False),  # 36,000 tokens each are less than the 40,000 that 50 a minute may be
        (50, 2_000_000, 5_001, True),
        (0, 2_000_000, 1, True),
        (50, 0, 1_000, False),
        (0, 0, 1_000, False),
    ],
)
def test_a_cap_matters_where_tokens_would_bind(rpm: int, tpm: int, prompt: int, told: bool) -> None:
    """Charged with its cap, a job must be larger than its share of the tokens: else requests are what there are too few of."""
    advice = Told(rpm, tpm)
    advice.answer(35_000, 100, prompt=prompt)
    assert bool(advice.said) is told


def test_an_unknown_class_is_nothing_to_tell() -> None:
    advice = Told()
    advice.answered(RequestSize("m", 1_000, 128_000), None)
    assert advice.said == []


def test_a_models_name_is_shortened() -> None:
    advice = Told()
    advice.answer(128_000, 1, model="x" * 10_000)
    assert len(advice.said[0]) < 400
