"""Few attempts and events, by a few words each, before a background of many that are certain."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.reconciliation import Attempt, Settlement, reconcile
from batchrunner.usage_event import UsageEvent

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
OVER = START + 10_000 * SECOND
CHAT = "/v1/chat/completions"


def billed(name: str, at: float, usage: Usage, seconds: float = 1.0, **more: Any) -> Attempt:
    return attempt(name, at, Billing.BILLED, seconds, usage=usage, **({"amount_usd": Decimal(1)} | more))


def unseen(name: str, at: float, seconds: float = 1.0, **more: Any) -> Attempt:
    return attempt(name, at, Billing.MAYBE, seconds, **({"why": "read", "left": True, "cap_tokens": 500} | more))


def attempt(name: str, at: float, billing: Billing, seconds: float, **more: Any) -> Attempt:
    sent_ns = START + round(at * SECOND)
    given: dict[str, Any] = {
        "custom_id": name,
        "number": 1,
        "request": name,
        "model": "small",
        "endpoint": CHAT,
        "sent_ns": sent_ns,
        "ended_ns": sent_ns + round(seconds * SECOND),
        "billing": billing,
    }
    return Attempt(**(given | more))


def event(at: float, usage: Usage | None, **more: Any) -> UsageEvent:
    at_ns = None if at < 0 else START + round(at * SECOND)
    given: dict[str, Any] = {
        "id": f"ue_{at}",
        "at_ns": at_ns,
        "model": "small",
        "endpoint": CHAT,
        "tokens": usage,
        "cost_usd": Decimal(1),
    }
    return UsageEvent(**(given | more))


def background(count: int = 200) -> tuple[list[Attempt], list[UsageEvent]]:
    """Answers of a second each, one every ten seconds, with tokens of their own, that tell how clocks and answers are."""
    usages = [Usage(10_000 + number, 7) for number in range(count)]
    attempts = [billed(f"plain-{number}", 10.0 * number, usage) for number, usage in enumerate(usages)]
    return attempts, [event(10.0 * number + 0.9 + number % 10 / 100, usage) for number, usage in enumerate(usages)]


def settled(
    attempts: list[Attempt], events: list[UsageEvent], complete_until_ns: int = OVER, horizon_seconds: int = 900
) -> Settlement:
    """What is said of these, which stand before the background."""
    more_attempts, more_events = background()
    return reconcile(
        [*attempts, *more_attempts],
        [*events, *more_events],
        complete_until_ns=complete_until_ns,
        horizon_ns=horizon_seconds * SECOND,
    )
