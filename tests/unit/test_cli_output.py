"""The summary document and the exit code that a run's last status stands for."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from batchrunner.cli.output import exit_code, summary
from batchrunner.cli.status import now_text
from batchrunner.status import Status, TokenSums

MakeStatus = Callable[..., Status]


def document(status: Status) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(summary(status, 1.23456), parse_float=Decimal)
    return found


def test_the_summary_has_the_contracts_fields(make_status: MakeStatus) -> None:
    """Every field of the contract, amounts as exact numbers."""
    figures = {"completed": 9, "failed": 1, "attempts": 12, "rate_limited": 2, "billed_usd": Decimal("0.10000001")}
    figures |= {"balance_usd": Decimal("12.340"), "forecast_usd": Decimal(0)}
    status = make_status(state="completed", usage=TokenSums(100, 50, 10), **figures)
    assert document(status) == {
        "run_dir": status.run_dir,
        "status": "completed",
        "stopped_by": None,
        "request_counts": {"total": 10, "completed": 9, "failed": 1},
        "usage": {"input_tokens": 100, "cached_tokens": 10, "output_tokens": 50},
        "cost": {"amount": Decimal("0.10000001"), "currency": "USD", "maybe_billed": 0, "unpriced_attempts": 0},
        "balance": Decimal("12.34"),
        "forecast": 0,
        "attempts": 12,
        "rate_limited": 2,
        "wall_seconds": Decimal("1.235"),
    }


def test_an_unknown_cost_is_null_and_never_zero(make_status: MakeStatus) -> None:
    """Where nothing is known but that something was billed, no figure is given; beside known sums a count says what lacks."""
    assert document(make_status(unpriced_attempts=3))["cost"] == {
        "amount": None,
        "currency": "USD",
        "maybe_billed": None,
        "unpriced_attempts": 3,
    }
    known = document(make_status(unpriced_attempts=3, billed_usd=Decimal(1)))["cost"]
    assert (known["amount"], known["maybe_billed"], known["unpriced_attempts"]) == (1, 0, 3)


@pytest.mark.parametrize(
    ("fields", "terminated", "code"),
    [
        ({"state": "completed"}, False, 0),
        ({"state": "completed", "failed": 1}, False, 1),
        ({"state": "completed"}, True, 0),
        ({"state": "stopped"}, False, 70),
        ({"state": "stopped", "stopped_by": "max_cost", "failed": 1}, False, 3),
        ({"state": "stopped", "stopped_by": "failures"}, False, 3),
        ({"state": "stopped", "stopped_by": "credits"}, False, 69),
        ({"state": "stopped", "stopped_by": "keys"}, False, 69),
        ({"state": "stopped", "stopped_by": "unreachable"}, False, 69),
        ({"state": "stopped", "stopped_by": "disk"}, True, 74),
        ({"state": "stopped", "stopped_by": "signal"}, False, 130),
        ({"state": "stopped", "stopped_by": "signal"}, True, 143),
    ],
)
def test_exit_codes(make_status: MakeStatus, fields: dict[str, Any], terminated: bool, code: int) -> None:
    """The contract's table."""
    assert exit_code(make_status(**fields), terminated=terminated) == code


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"binding": "none"}, "2 in flight."),
        (
            {"binding": "models", "held": 3, "eta_seconds": 90.0},
            "3 held back, about 1:30 to go, waiting for offline models.",
        ),
        ({"binding": "server"}, "2 in flight, waiting for the server to come back."),
        ({"binding": "keys"}, "2 in flight, waiting to try a refused key again."),
        ({"binding": "retries"}, "2 in flight, waiting to try jobs again."),
    ],
)
def test_status_says_what_a_live_run_waits_for(make_status: MakeStatus, fields: dict[str, Any], words: str) -> None:
    """The last line of `batchrun status`, while somebody is at work on the run."""
    found = make_status(in_flight=2, **fields)
    assert words in now_text(found, alive=True)
    assert "No process is at work" in now_text(found, alive=False)
    assert now_text(make_status(state="completed", **fields), alive=False) == ""
