"""What people and machines see of credits, caps and pauses: summary, live display, metrics."""

from __future__ import annotations

import io
from collections.abc import Callable
from decimal import Decimal

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from batchrunner import credit
from batchrunner.metrics import Metrics, families
from batchrunner.status import Status
from batchrunner.terminal_display import live_figures
from batchrunner.wording import BINDING_TEXT, credits_text, summary_text

MakeStatus = Callable[..., Status]
AT = "2026-01-01T00:00:00Z"


def drawn(status: Status) -> str:
    out = io.StringIO()
    Console(file=out, width=300).print(live_figures(status))
    return " ".join(out.getvalue().split())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, ""),
        ({"balance_usd": Decimal("12.30"), "balance_at": AT}, f"$12.3 left at {AT}"),
        (
            {"balance_usd": Decimal(0), "balance_at": AT, "forecast_usd": Decimal(4), "without_credits": 1},
            f"$0 left at {AT}, about $4 for the open jobs, 1 account without credits",
        ),
        ({"forecast_usd": Decimal(0)}, ""),
        ({"forecast_usd": Decimal("0.000001")}, "about $0.000001 for the open jobs"),
    ],
)
def test_the_summary_has_what_is_known(make_status: MakeStatus, fields: dict[str, object], text: str) -> None:
    """What is left and what is to come; nothing where neither is known."""
    status = make_status(**fields)
    assert credits_text(status) == text
    assert (f"  credits   {text}\n" in summary_text(status)) == bool(text)


def test_the_display_has_balance_trouble_and_pause(make_status: MakeStatus) -> None:
    shown = drawn(make_status(balance_usd=Decimal("1.50"), without_credits=2, binding="credits", paused=True))
    for words in ("$1.5 left", "2 accounts without credits", BINDING_TEXT["credits"], "paused"):
        assert words in shown
    plain = drawn(make_status())
    for words in ("left", "credits", "paused"):
        assert words not in plain


def samples(metrics: Metrics) -> dict[str, float]:
    families_shown = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {sample.name: sample.value for family in families_shown for sample in family.samples}


def test_metrics_have_balance_forecast_cap_and_pause(make_status: MakeStatus) -> None:
    """What is not known is left out."""
    metrics = Metrics()
    now = make_status(max_cost_usd=Decimal("2.5"), forecast_usd=Decimal(7), paused=True)
    account = credit.Statistics(waits=True, balance_usd=Decimal("-0.5"))
    metrics.watch(families.RUN, lambda: now)
    metrics.watch(families.CREDITS, lambda: account, account="prod")
    shown = samples(metrics)
    assert shown["batchrun_run_cost_cap_dollars"] == 2.5
    assert shown["batchrun_run_forecast_dollars"] == 7
    assert shown["batchrun_paused"] == 1
    assert shown["batchrun_account_balance_dollars"] == -0.5
    assert shown["batchrun_account_waits_for_credits"] == 1
    now, account = make_status(), credit.Statistics(waits=False, balance_usd=None)
    shown = samples(metrics)
    assert not {"batchrun_run_cost_cap_dollars", "batchrun_run_forecast_dollars", "batchrun_account_balance_dollars"} & set(shown)
    assert shown["batchrun_account_waits_for_credits"] == shown["batchrun_paused"] == 0
