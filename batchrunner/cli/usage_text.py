"""What `batchrun usage` shows: sums of usage events, as lines for people and as one JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from batchrunner.cli.tables import aligned
from batchrunner.costs import timestamp
from batchrunner.platform.usage import UsagePages
from batchrunner.pricing import PriceTable, json_number
from batchrunner.usage_sums import By, Sum, UsageSums
from batchrunner.wording import counted, usd

_COLUMNS = (
    ("events", "events"),
    ("failed", "failed"),
    ("input", "input_tokens"),
    ("cached", "cached_tokens"),
    ("output", "output_tokens"),
    ("tool calls", "tool_calls"),
    ("list", "list_usd"),
    ("discount", "discount_usd"),
    ("billed", "billed_usd"),
    ("without cost", "unpriced"),
)
#: fields that are shown also where all of them are 0
_ALWAYS = frozenset({"events", "input_tokens", "output_tokens", "billed_usd"})


def report(pages: UsagePages, sums: UsageSums, prices: PriceTable) -> Iterator[str]:
    """Balance, totals, and a table for each way of summing up."""
    yield f"balance   {_balance(pages.balance_usd)}"
    yield f"events    {_events(sums)}"
    if not sums.total.events:
        return
    yield f"billed    {_billed(sums.total)}"
    for tool in sorted({tool for _, tool in sums.tool_calls}):
        calls = sum(calls for (_, name), calls in sums.tool_calls.items() if name == tool)
        surcharge = sums.surcharge(tool, prices)
        known = "a surcharge that is not known" if surcharge is None else f"{usd(surcharge)} by the catalog"
        yield f"tool      {tool}: {counted(calls, 'call')}, {known}, in what was billed"
    for way in sums.by:
        yield ""
        yield from _table(way, sums)


def document(server: str, filters: Mapping[str, str], pages: UsagePages, sums: UsageSums, prices: PriceTable) -> bytes:
    """The `--json` document: amounts are exact numbers in USD, null where they are not known."""
    tools = [
        {"model": model, "tool": tool, "calls": calls, "surcharge": _number(sums.surcharge_by(model, tool, prices))}
        for (model, tool), calls in sorted(sums.tool_calls.items())
    ]
    return msgspec.json.encode(
        {
            "server": server,
            "balance": _number(pages.balance_usd),
            "currency": "USD",
            "filters": filters,
            "complete": pages.complete,
            "first_at": None if sums.first_ns is None else timestamp(sums.first_ns),
            "last_at": None if sums.last_ns is None else timestamp(sums.last_ns),
            "total": _figures(sums.total),
            "by": {way: [{way: name} | _figures(row) for name, row in _in_order(way, rows)] for way, rows in sums.by.items()},
            "tools": tools,
        }
    )


def _balance(balance_usd: Decimal | None) -> str:
    if balance_usd is None:
        return "not told"
    return usd(balance_usd) + ("" if balance_usd > 0 else " (calls fail until the account is topped up)")


def _events(sums: UsageSums) -> str:
    if not sums.total.events:
        return "none"
    failed = f", {sums.total.failed:,} failed" if sums.total.failed else ""
    if sums.first_ns is None or sums.last_ns is None:
        return f"{sums.total.events:,}{failed}"
    return f"{sums.total.events:,}{failed}, from {timestamp(sums.first_ns)} to {timestamp(sums.last_ns)}"


def _billed(total: Sum) -> str:
    discount = f" ({usd(total.list_usd)} less a discount of {usd(total.discount_usd)})" if total.discount_usd else ""
    unpriced = f" + unknown for {counted(total.unpriced, 'event')} without a cost" if total.unpriced else ""
    return f"{usd(total.billed_usd)}{discount}{unpriced}"


def _table(way: By, sums: UsageSums) -> Iterator[str]:
    """A row for each, and the columns that say anything."""
    rows = _in_order(way, sums.by[way])
    if not rows:
        yield f"No event has a {way}."
        return
    total = sums.total
    shown = [
        (heading, field)
        for heading, field in _COLUMNS
        if field in _ALWAYS or getattr(total, "discount_usd" if field == "list_usd" else field)
    ]
    yield from aligned(
        [[way, *(heading for heading, _ in shown)], *([name, *(_cell(row, field) for _, field in shown)] for name, row in rows)]
    )


def _cell(row: Sum, field: str) -> str:
    value = getattr(row, field)
    return usd(value) if isinstance(value, Decimal) else f"{value:,}"


def _in_order(way: By, rows: Mapping[str, Sum]) -> list[tuple[str, Sum]]:
    """Days by date, all else by what it cost."""
    if way == "day":
        return sorted(rows.items())
    return sorted(rows.items(), key=lambda item: (-item[1].billed_usd, -item[1].events, item[0]))


def _figures(row: Sum) -> dict[str, Any]:
    amounts = {"billed": row.billed_usd, "list": row.list_usd, "discount": row.discount_usd}
    counts = ("events", "failed", "input_tokens", "cached_tokens", "output_tokens", "tool_calls", "unpriced")
    return {name: getattr(row, name) for name in counts} | {name: _number(amount) for name, amount in amounts.items()}


def _number(amount: Decimal | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if amount is None else json_number(amount).encode())
