"""Sums over events."""

from __future__ import annotations

import decimal
from decimal import Decimal

import pytest

from batchrunner.events import AttemptResult, Billing, Event
from batchrunner.job import Usage
from batchrunner.status import TokenSums
from batchrunner.tally import Tally


def event(result: AttemptResult = AttemptResult.OK, attempt: int = 1, **fields: object) -> Event:
    return Event("a", 1, attempt, "m", "/v1/chat/completions", result, **fields)  # type: ignore[arg-type]


def tally(*events: Event) -> Tally:
    sums = Tally()
    for one in events:
        sums.add(one)
    return sums


def test_a_success() -> None:
    """A final success counts once as completed, as one attempt, with its tokens and its cost."""
    sums = tally(
        event(
            final=True, succeeded=True, usage=Usage(10, 5, 3, 2), billing=Billing.BILLED, cost_usd=Decimal("0.1"), finish="stop"
        )
    )
    assert sums == Tally(
        completed=1,
        attempts=1,
        input_tokens=10,
        output_tokens=5,
        cached_tokens=3,
        reasoning_tokens=2,
        billed_usd=Decimal("0.1"),
    )
    assert sums.usage == TokenSums(10, 5, 3, 2)


def test_a_failure() -> None:
    """A final failure counts as failed."""
    assert tally(event(AttemptResult.INVALID, final=True)) == Tally(failed=1, attempts=1)


def test_an_attempt_that_is_not_the_last() -> None:
    """An attempt that ends no job counts as an attempt alone."""
    assert tally(event(AttemptResult.SERVER_ERROR)) == Tally(attempts=1)


def test_a_job_that_was_never_sent() -> None:
    """Attempt 0 is none."""
    assert tally(event(AttemptResult.INVALID, 0, final=True)) == Tally(failed=1)


def test_rate_limited() -> None:
    """429s are counted apart, and are attempts."""
    assert tally(event(AttemptResult.RATE_LIMITED), event(AttemptResult.RATE_LIMITED, 2)) == Tally(attempts=2, rate_limited=2)


@pytest.mark.parametrize("finish", ["length", "refusal", "empty"])
def test_answers_to_look_at(finish: str) -> None:
    """Successes cut at the cap, refused or without text are counted, each under its name."""
    sums = tally(event(final=True, succeeded=True, finish=finish), event(final=True, succeeded=True, finish="stop"))
    assert sums == Tally(completed=2, attempts=2, **{f"finish_{finish}": 1})  # type: ignore[arg-type]


def test_money_by_what_is_known_of_the_bill() -> None:
    """Billed and maybe billed are two sums; what is not billed is in neither, and an unknown price is counted."""
    sums = tally(
        event(billing=Billing.BILLED, cost_usd=Decimal("0.10")),
        event(billing=Billing.MAYBE, cost_usd=Decimal("0.02")),
        event(billing=Billing.MAYBE, cost_usd=Decimal("0.03")),
        event(billing=Billing.NOT, cost_usd=Decimal(9)),
        event(billing=Billing.BILLED, cost_usd=None),
        event(billing=Billing.MAYBE, cost_usd=None),
    )
    assert (sums.billed_usd, sums.maybe_billed_usd, sums.unpriced_attempts) == (Decimal("0.10"), Decimal("0.05"), 2)


def test_sums_of_money_are_exact() -> None:
    """A tenth of a nano-dollar beside a million dollars is not lost; a sum that would have to be rounded raises."""
    sums = tally(*(event(billing=Billing.BILLED, cost_usd=Decimal(amount)) for amount in ("1000000", "1E-28")))
    assert str(sums.billed_usd) == "1000000." + "0" * 27 + "1"
    with pytest.raises(decimal.Inexact):
        sums.add(event(billing=Billing.BILLED, cost_usd=Decimal("1E-140")))
