"""Exact sums over an account's usage events: all of them, and by model, endpoint, day, status, source or tool. Pure."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, get_args

import msgspec

from batchrunner.pricing import EXACT, PriceTable
from batchrunner.usage_event import UsageEvent

By = Literal["model", "endpoint", "day", "status", "source", "tool"]
WAYS: Final[tuple[By, ...]] = get_args(By)
#: what stands for a field that an event does not have
UNKNOWN: Final = "(unknown)"
NS_PER_SECOND: Final = 1_000_000_000
_NOTHING: Final = Decimal(0)


class Sum(msgspec.Struct):
    """Of some events. Money in USD, exact."""

    events: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    #: what was charged, and what it would have been without a discount
    billed_usd: Decimal = _NOTHING
    list_usd: Decimal = _NOTHING
    #: events that name no cost: they are in none of the amounts
    unpriced: int = 0
    #: calls that tools were made; their surcharges are in what was billed
    tool_calls: int = 0

    @property
    def discount_usd(self) -> Decimal:
        return EXACT.subtract(self.list_usd, self.billed_usd)

    def add(self, event: UsageEvent, tool_calls: int) -> None:
        """Count an event with so many calls."""
        self.events += 1
        self.failed += event.error is not None or (event.status_code or 0) >= 400
        self.tool_calls += tool_calls
        if event.tokens is not None:
            self.input_tokens += event.tokens.input_tokens
            self.cached_tokens += event.tokens.cached_tokens
            self.output_tokens += event.tokens.output_tokens
        if event.cost_usd is None:
            self.unpriced += 1
            return
        self.billed_usd = EXACT.add(self.billed_usd, event.cost_usd)
        self.list_usd = EXACT.add(self.list_usd, listed_usd(event) or _NOTHING)


class UsageSums:
    """Sums that grow event by event; memory by the number of different models, days and so on."""

    def __init__(self, ways: tuple[By, ...]) -> None:
        self.total = Sum()
        #: by way, then by model, day or whatever it is; an event with several tools counts for each
        self.by: dict[By, dict[str, Sum]] = {way: {} for way in ways}
        #: calls by model and tool
        self.tool_calls: Counter[tuple[str, str]] = Counter()
        self.first_ns: int | None = None
        self.last_ns: int | None = None

    def add(self, event: UsageEvent) -> None:
        """Count an event in all ways."""
        self.total.add(event, sum(event.tool_usage.values()))
        for tool, calls in event.tool_usage.items():
            self.tool_calls[event.model or UNKNOWN, tool] += calls
        for way, sums in self.by.items():
            for name, calls in _names(event, way):
                sums.setdefault(name, Sum()).add(event, calls)
        if event.at_ns is not None:
            self.first_ns = event.at_ns if self.first_ns is None else min(self.first_ns, event.at_ns)
            self.last_ns = event.at_ns if self.last_ns is None else max(self.last_ns, event.at_ns)

    def surcharge(self, tool: str, prices: PriceTable) -> Decimal | None:
        """What a tool's calls cost by the catalog; None where it does not name the price of each."""
        parts = [self.surcharge_by(model, tool, prices) for model, name in self.tool_calls if name == tool]
        known = [part for part in parts if part is not None]
        return sum(known, _NOTHING) if len(known) == len(parts) else None

    def surcharge_by(self, model: str, tool: str, prices: PriceTable) -> Decimal | None:
        """What a tool's calls by one model cost."""
        known = prices.prices.get(model)
        price = None if known is None else known.tools.get(tool)
        return None if price is None else EXACT.multiply(price, Decimal(self.tool_calls[model, tool]))


def _names(event: UsageEvent, way: By) -> list[tuple[str, int]]:
    """What an event counts for in one way, and the tool calls that count with it."""
    calls = sum(event.tool_usage.values())
    match way:
        case "tool":
            return list(event.tool_usage.items())
        case "day":
            return [(UNKNOWN if event.at_ns is None else _day(event.at_ns), calls)]
        case _:
            return [(getattr(event, way) or UNKNOWN, calls)]


def _day(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // NS_PER_SECOND, UTC).date().isoformat()


def listed_usd(event: UsageEvent) -> Decimal | None:
    """What an event would have cost: as it says, else by its discount; without one it is what it did cost."""
    if event.list_cost_usd is not None or event.cost_usd is None or event.discount_usd is None:
        return event.cost_usd if event.list_cost_usd is None else event.list_cost_usd
    return EXACT.add(event.cost_usd, event.discount_usd)
