"""A file looked through: problems with their places, kinds with their sums, and costs beside tokens."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from batchrunner import survey as surveys
from batchrunner.catalog import models
from batchrunner.estimate import Estimator, Latency
from batchrunner.job import Extras, Usage
from batchrunner.jobfile import ParsedLine
from batchrunner.plan import forecast
from batchrunner.pricing import PriceTable
from batchrunner.survey import Place, Survey

CATALOG = [
    {"id": "text", "max_output_tokens": 100, "pricing": {"prompt": "0.001", "completion": "0.01"}, "supported_parameters": []},
    {"id": "tiers", "pricing": [{"prompt": "1", "completion": "0", "up_to": 100}, {"prompt": "2", "completion": "0"}]},
    {"id": "image", "pricing": {"image": "0.04"}},
    {"id": "video", "pricing": {"video-second": "0.5"}, "supported_parameters": [{"name": "seconds", "default": 4}]},
    {"id": "film", "pricing": {"video-second": "0.5"}},
    {"id": "drawn", "pricing": {"prompt": "0.001", "completion": "0", "image": "0.04"}},
    {"id": "speech", "pricing": {"audio-second": "0.001"}},
    {"id": "call", "pricing": {"request": "0.005"}},
    {"id": "custom", "pricing_rows": [{"unit": "custom", "price": "1"}]},
    {"id": "search", "pricing_rows": [{"unit": "tool-call", "name": "web_search", "price": "0.01"}]},
]
PRICES = PriceTable.from_catalog(CATALOG, fetched_at="x")
CHAT = "/v1/chat/completions"


def made(**options: Any) -> Survey:
    catalog = {model.id: model for model in models(CATALOG)}
    return Survey(catalog, PRICES, Estimator(), **({"rpm": 50, "tpm": 100_000} | options))


def add(survey: Survey, number: int, *, url: str = CHAT, account: str | None = None, **body: Any) -> None:
    line = ParsedLine(f"job-{number}", url, msgspec.json.encode({"model": "text"} | body), Extras(account=account))
    survey.add(number, line, Place("jobs.jsonl", number + 1, line.custom_id))


def test_a_problem_is_told_once_and_counted_with_its_first_places() -> None:
    """Memory does not grow with a file in which each line has it."""
    survey = made()
    for number in range(25):
        add(survey, number, temperature=1)
    (found,) = survey.found.values()
    assert (found.problem.code, found.problem.parameter, found.count) == ("unknown_parameter", "temperature", 25)
    assert found.places == [Place("jobs.jsonl", number + 1, f"job-{number}") for number in range(surveys.PLACES_KEPT)]


def test_kinds_of_problems_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile file has no end of parameters."""
    monkeypatch.setattr(surveys, "MOST_KINDS", 3)
    survey = made()
    for number in range(10):
        body: dict[str, Any] = {f"parameter_{number}": 1}
        add(survey, number, **body)
    assert len(survey.found) == 3
    assert sum(found.count for found in survey.found.values()) == 10


def test_kinds_of_jobs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And all jobs are still in the sums."""
    monkeypatch.setattr(surveys, "MOST_KINDS", 3)
    survey = made()
    for number in range(10):
        add(survey, number, max_tokens=1 << number)
    assert len(survey.kinds) == 4
    assert sum(kind.jobs for kind in survey.kinds.values()) == 10


def test_jobs_of_kinds_past_the_bound_are_forecast_at_nobodys_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model's would be wrong: what they cost is unknown, and all are still counted."""
    monkeypatch.setattr(surveys, "MOST_KINDS", 1)
    survey = made()
    add(survey, 0, model="call", messages=[])
    for number in range(1, 4):
        add(survey, number, model="text", max_tokens=1 << number)
    found = forecast(survey.kinds.values(), PRICES)
    assert (found.jobs, found.basis, found.cost_usd.high) == (4, "unknown", None)
    assert found.cost_usd.low == pytest.approx(0.005)


def test_a_job_that_is_certain_to_fail_is_in_no_sum() -> None:
    """It costs nothing, and must not be drawn for a sample."""
    survey = made(sample=5)
    add(survey, 0, model="nobody's")
    add(survey, 1)
    (kind,) = survey.kinds.values()
    assert (survey.jobs, kind.jobs, [one.number for one in kind.drawn]) == (2, 1, [1])


def test_jobs_are_apart_by_account_only_where_there_are_several() -> None:
    """What all others may send is anybody's."""
    several, one = made(accounts=frozenset({"a", "b"})), made(accounts=frozenset({"a"}))
    for number, account in enumerate(["a", "b", "a", None]):
        add(several, number, account=account)
        add(one, number, account=None if account is None else "a")
    assert {kind.key.account: kind.jobs for kind in several.kinds.values()} == {"a": 2, "b": 1, "": 1}
    assert {kind.key.account: kind.jobs for kind in one.kinds.values()} == {"": 4}


@pytest.mark.parametrize(
    ("accounts", "whose"), [(frozenset(), "without a name"), (frozenset({"a"}), "'a'"), (frozenset({"a", "b"}), "'a' and 'b'")]
)
def test_a_job_for_another_account_is_certain_to_fail(accounts: frozenset[str], whose: str) -> None:
    """No run sends it: it costs nothing, and is drawn for no sample."""
    survey = made(accounts=accounts, sample=5)
    add(survey, 0, account="other")
    (found,) = survey.found.values()
    assert (found.problem.level, found.problem.code, found.count) == ("error", "unknown_account", 1)
    assert f"asks for account 'other', and the run's is {whose} (--account)" in found.problem.message
    assert not survey.kinds


def test_context_tiers_are_apart() -> None:
    """Each is forecast at its own price."""
    survey = made()
    add(survey, 0, model="tiers", messages=["x" * 100], max_tokens=1)
    add(survey, 1, model="tiers", messages=["x" * 4_000], max_tokens=1)
    assert [kind.key.tier for kind in survey.kinds.values()] == [0, 1]


IMAGES, VIDEOS, SPEECH = "/v1/images/generations", "/v1/videos/generations", "/v1/audio/speech"


@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        (IMAGES, {"model": "image", "prompt": "p", "n": 3}, 0.12),
        (IMAGES, {"model": "image", "prompt": "p"}, 0.04),
        (IMAGES, {"model": "image", "prompt": "p", "n": "many"}, None),
        (IMAGES, {"model": "video", "prompt": "p"}, None),
        (VIDEOS, {"model": "image", "prompt": "p"}, None),
        (VIDEOS, {"model": "video", "prompt": "p", "seconds": 8}, 4.0),
        (VIDEOS, {"model": "video", "prompt": "p", "duration": "2.5"}, 1.25),
        (VIDEOS, {"model": "video", "prompt": "p"}, 2.0),
        (VIDEOS, {"model": "video", "prompt": "p", "n": 2}, 4.0),
        (VIDEOS, {"model": "video", "prompt": "p", "seconds": "many"}, None),
        (VIDEOS, {"model": "film", "prompt": "p"}, None),
        (VIDEOS, {"model": "film", "prompt": "p", "seconds": "many"}, None),
        (VIDEOS, {"model": "film", "prompt": "p", "seconds": True}, None),
        (VIDEOS, {"model": "film", "prompt": "p", "seconds": 1e300}, None),
        (SPEECH, {"model": "speech", "input": "hello"}, None),
        (CHAT, {"model": "call", "messages": []}, 0.005),
        (CHAT, {"model": "custom", "messages": []}, None),
        (CHAT, {"model": "search", "messages": []}, None),
    ],
)
def test_what_is_billed_by_the_piece_is_known_where_the_request_says_it(
    url: str, body: dict[str, Any], expected: float | None
) -> None:
    """Exact then; where the answer alone says how much it holds, unknown, and said so."""
    survey = made()
    add(survey, 0, url=url, **body)
    cost = forecast(survey.kinds.values(), PRICES).cost_usd
    codes = [found.problem.code for found in survey.found.values()]
    if expected is None:
        assert (cost.low, cost.expected, cost.high) == (0.0, None, None)
        assert "price_unknown" in codes
    else:
        assert cost.low == pytest.approx(expected)
        assert cost.high == pytest.approx(expected)
        assert "price_unknown" not in codes


def test_a_picture_with_a_price_of_its_prompt_is_bounded() -> None:
    """By its pictures, which are certain, and by the worst that its prompt can be."""
    survey = made()
    add(survey, 0, url=IMAGES, model="drawn", prompt="p" * 4_000, n=2)
    cost = forecast(survey.kinds.values(), PRICES).cost_usd
    (kind,) = survey.kinds.values()
    assert cost.low == pytest.approx(0.08)
    assert cost.high == pytest.approx(0.08 + 0.001 * surveys.WORST_INPUT * kind.guessed)


def test_a_request_without_any_bound_may_cost_anything() -> None:
    """Neither body nor model caps its answer."""
    survey = made()
    add(survey, 0, model="tiers", messages=[])
    found = forecast(survey.kinds.values(), PRICES)
    assert found.output_tokens.high is None
    assert found.cost_usd.high is not None  # its output is free


def test_what_is_kept_to_draw_from_is_bounded() -> None:
    """By the sample's size, for each kind."""
    survey = made(sample=7, rng=random.Random(1))
    for number in range(200):
        add(survey, number)
    (kind,) = survey.kinds.values()
    numbers = [one.number for one in kind.drawn]
    assert len(set(numbers)) == 7
    assert max(numbers) > 50


def test_what_was_learned_meanwhile_is_taken_over() -> None:
    """After a sample the rows go by it."""
    survey = made()
    add(survey, 0, max_tokens=50)
    (kind,) = survey.kinds.values()
    lengths = Estimator()
    for _ in range(20):
        lengths.learn(kind.size, Usage(30, 10), 2.5)
    survey.learn(lengths)
    assert kind.moments is not None
    assert kind.latency == Latency(2.5, 2.5, 20)
    assert forecast(survey.kinds.values(), PRICES).basis == "profile"
