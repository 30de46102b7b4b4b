"""A plan as it is shown, and what its exit code says."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from batchrunner.catalog import models
from batchrunner.checks import Problem
from batchrunner.duration import Duration, Limits
from batchrunner.estimate import Estimator
from batchrunner.forecast import UNKNOWN, Interval
from batchrunner.job import Extras
from batchrunner.jobfile import ParsedLine
from batchrunner.plan import AccountTime, Forecast, forecast, times
from batchrunner.plan_report import (
    AccountRow,
    BadLineFound,
    Balance,
    PlanReport,
    Range,
    Row,
    SampleRow,
    account_rows,
    found_problems,
    money,
    plan_text,
)
from batchrunner.pricing import PriceTable
from batchrunner.survey import Found, Place, Survey

KNOWN = Forecast(3, Interval(900.0, 1000.4, 1100.0), Interval(10.0, 20.0, 30.0), Interval(0.1, 0.25, 1.5), "profile")

TIME = Duration(61.0, "requests")


def made(**changes: Any) -> PlanReport:
    fields: dict[str, Any] = {
        "files": ("jobs.jsonl",),
        "jobs": 3,
        "invalid": 0,
        "invalid_lines": [],
        "failing": 0,
        "problems": [],
        "prices_of": "2026-01-01T00:00:00Z",
        "total": Row.of(KNOWN, TIME),
        "models": [Row.of(KNOWN, TIME, "m")],
        "accounts": [AccountRow(None, 50, 0, 3, 61.0, "requests")],
        "seconds": 61.0,
        "binding": "requests",
        "latency_seconds": 2.0,
        "balance": None,
        "sample": None,
    }
    return PlanReport(**(fields | changes))


def test_a_plan_in_words() -> None:
    """What is expected, and from where to where."""
    text = plan_text(made())
    assert text.startswith("jobs.jsonl: 3 jobs.\n\n  model   jobs  input tokens ")
    assert "  m       3     1,000 (900 to 1,100)  20 (10 to 30)  $0.250 ($0.100 to $1.50)  1:01  by earlier jobs\n" in text
    assert "  time      about 1:01, limited by requests (--rpm)\n" in text
    assert text.endswith("  prices    of 2026-01-01T00:00:00Z\n")


def test_all_that_there_may_be_to_say() -> None:
    """Lines that are none, problems with their places, accounts, balance, sample; escaped, since names come from files."""
    place = Place("jobs.jsonl", 7, "a")
    problem = Problem("error", "unknown_model", "x\x1b", "model", "gone.")
    two = [AccountRow("a", 50, 0, 3, 61.0, "requests"), AccountRow("b\x1b", 50, 0, 0, 1.0, "tokens")]
    text = plan_text(
        made(
            invalid=3,
            invalid_lines=[BadLineFound("invalid_json", "jobs.jsonl line 2 is no job: why.", "jobs.jsonl", 2)],
            problems=found_problems([Found(problem, 5, [place] * 4)]),
            failing=5,
            accounts=two,
            balance=Balance(1.5, "short"),
            sample=SampleRow("jobs.run", 20, 19, 0.0421),
            total=Row.of(Forecast(3, UNKNOWN, Interval(0, 5, None), UNKNOWN, "unknown"), TIME),
            latency_seconds=None,
            prices_of=None,
        )
    )
    for line in (
        "jobs.jsonl: 3 jobs; 3 lines that are none.",
        "  error    jobs.jsonl line 2 is no job: why.",
        "  error    and 2 more lines that are no jobs",
        "  error    x\\x1b: gone. 5 jobs, at jobs.jsonl 7, jobs.jsonl 7, jobs.jsonl 7 ...",
        "  time      about 1:01, limited by requests (--rpm), the answers' own time not counted",
        "            b\\x1b: 0:01, limited by tokens (--tpm)",
        "  balance   $1.50: NOT ENOUGH",
        "  sample    19 of 20 jobs measured for $0.0421, kept in jobs.run",
        "  failing   5 jobs certain to fail, in none of these figures",
        "  prices    none known",
    ):
        assert f"{line}\n" in text
    assert "unknown 5 (0 to no bound) unknown" in " ".join(text.split())
    assert "\x1b" not in text


@pytest.mark.parametrize(("invalid", "failing", "code"), [(0, 0, 0), (0, 1, 1), (1, 0, 65), (1, 1, 65)])
def test_the_exit_code(invalid: int, failing: int, code: int) -> None:
    """Lines that are no jobs come first: they must be mended before anything else is known."""
    report = made(invalid=invalid, failing=failing, invalid_lines=[BadLineFound("c", "why", None, 1)] * invalid)
    assert report.exit_code == code
    assert ("error    why" in plan_text(report)) == bool(invalid)
    assert "more lines" not in plan_text(report)


@pytest.mark.parametrize(
    ("amount", "verdict"),
    [("2", "enough"), ("1.5", "enough"), ("1.49", "perhaps"), ("0.09", "short"), ("0", "short"), (None, "unknown")],
)
def test_the_balance_against_the_cost(amount: str | None, verdict: str) -> None:
    """Enough for the highest, short of the lowest, else perhaps."""
    found = Balance.against(None if amount is None else Decimal(amount), KNOWN.cost_usd)
    assert found.verdict == verdict
    assert Balance.against(Decimal(10**9), UNKNOWN).verdict == "perhaps"


@pytest.mark.parametrize(
    ("usd", "text"), [(0.0, "$0.00"), (1234.567, "$1,234.57"), (1.0, "$1.00"), (0.5, "$0.500"), (0.00012345, "$0.000123")]
)
def test_money(usd: float, text: str) -> None:
    """Cents, or three digits of less than a dollar."""
    assert money(usd) == text


def test_figures_are_rounded_and_what_is_unknown_stays_unknown() -> None:
    assert Range.of(Interval(1.26, 2.34, None), 1) == Range(1.3, 2.3, None)
    assert Range.of(UNKNOWN, 0) == Range(0.0, None, None)


def test_problems_come_errors_first_then_the_most_frequent() -> None:
    def found(level: Any, code: Any, count: int) -> Found:
        return Found(Problem(level, code, "m", None, ""), count, [])

    shown = found_problems(
        [found("warning", "above_tpm", 1), found("warning", "no_model", 9), found("error", "unknown_model", 1)]
    )
    assert [(one.code, one.jobs) for one in shown] == [("unknown_model", 1), ("no_model", 9), ("above_tpm", 1)]


PRICES = PriceTable.from_catalog([{"id": "m", "pricing": {"prompt": "1", "completion": "1"}}], fetched_at="x")


def surveyed(*accounts: str | None, lengths: Estimator | None = None, url: str = "/v1/chat/completions") -> Survey:
    names = frozenset(name for name in accounts if name is not None) | {"b"}
    offered = {model.id: model for model in models([{"id": "m"}])}
    survey = Survey(offered, PRICES, lengths or Estimator(), rpm=50, tpm=0, accounts=names)
    for number, account in enumerate(accounts):
        body = msgspec.json.encode({"model": "m", "max_tokens": 10, "messages": []})
        survey.add(number, ParsedLine(str(number), url, body, Extras(account=account)), Place("f", number + 1, str(number)))
    return survey


def test_time_by_account() -> None:
    """What is bound to one takes its time there; all else goes to whichever is free; one account has it all."""
    limits = Limits(1, 0, 100)
    kinds = surveyed(*["a"] * 40, *[None] * 10).kinds.values()
    both = times(kinds, {"a": limits, "b": limits}, tokens=None)
    assert [(one.account, one.jobs_bound) for one in both] == [("a", 40), ("b", 0)]
    assert both[0].time.seconds == pytest.approx(39 * 60.25, rel=0.05)
    assert both[1].time.seconds == pytest.approx(9 * 60.25, rel=0.05)
    (alone,) = times(kinds, {None: limits}, tokens=None)
    assert (alone.jobs_bound, alone.time.seconds) == (50, 49 * 60.25)
    assert account_rows([AccountTime("a", 1, 0, 5, Duration(1.26, "tokens"))]) == [AccountRow("a", 1, 0, 5, 1.3, "tokens")]


def test_tokens_that_were_measured_set_the_time() -> None:
    """In the place of those that were expected."""
    kinds = surveyed(*[None] * 40).kinds.values()
    limits = Limits(0, 1_000, 100)
    (found,) = times(kinds, {None: limits}, tokens=11_000)
    assert found.time.seconds == pytest.approx((11_000 - 250) / 1_000 * 60.25)


def test_an_unknown_price_leaves_the_cost_unknown() -> None:
    """Of a prompt, of an answer, or of all: never from nothing to something."""
    survey = surveyed(None)
    for pricing in ({"prompt": None, "completion": "1"}, {"prompt": "1"}, "ask us"):
        prices = PriceTable.from_catalog([{"id": "m", "pricing": pricing}], fetched_at="x")
        found = forecast(survey.kinds.values(), prices)
        assert (found.cost_usd, found.basis) == (UNKNOWN, "unknown")
