"""Sums over usage events: exact, complete, and honest about what is not known."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batchrunner.catalog_prices import ModelPrice
from batchrunner.job import Usage
from batchrunner.pricing import PriceTable
from batchrunner.usage_event import UsageEvent
from batchrunner.usage_sums import UNKNOWN, WAYS, UsageSums

DAY_NS = 86_400 * 10**9


def event(**fields: Any) -> UsageEvent:
    return UsageEvent(**({"id": "e"} | fields))


def sums(*events: UsageEvent) -> UsageSums:
    made = UsageSums(WAYS)
    for one in events:
        made.add(one)
    return made


def test_each_way_of_summing_up() -> None:
    """By what an event says; the day is UTC's."""
    made = sums(
        event(model="a", endpoint="/x", status="succeeded", source="api", at_ns=DAY_NS - 1, cost_usd=Decimal("0.1")),
        event(model="a", endpoint="/y", status="failed", source="api", at_ns=DAY_NS, cost_usd=Decimal("0.2"), status_code=502),
        event(model="b", endpoint="/x", status="succeeded", source="playground", at_ns=DAY_NS, cost_usd=Decimal("0.4")),
    )
    billed = {way: {name: row.billed_usd for name, row in rows.items()} for way, rows in made.by.items()}
    assert billed["model"] == {"a": Decimal("0.3"), "b": Decimal("0.4")}
    assert billed["endpoint"] == {"/x": Decimal("0.5"), "/y": Decimal("0.2")}
    assert billed["status"] == {"succeeded": Decimal("0.5"), "failed": Decimal("0.2")}
    assert billed["source"] == {"api": Decimal("0.3"), "playground": Decimal("0.4")}
    assert billed["day"] == {"1970-01-01": Decimal("0.1"), "1970-01-02": Decimal("0.6")}
    assert billed["tool"] == {}
    assert (made.total.events, made.total.failed, made.first_ns, made.last_ns) == (3, 1, DAY_NS - 1, DAY_NS)


def test_an_event_without_a_cost_is_not_free() -> None:
    """It is counted apart, and by whatever it does name."""
    made = sums(event(tokens=Usage(5, 3, 2)), event(cost_usd=Decimal(0)))
    assert (made.total.unpriced, made.total.billed_usd) == (1, Decimal(0))
    assert (made.total.input_tokens, made.total.cached_tokens) == (5, 2)
    assert made.by["model"][UNKNOWN].events == made.by["day"][UNKNOWN].events == 2
    assert made.first_ns is None


def test_the_discount_is_what_list_and_bill_differ_by() -> None:
    """From the list price where there is one, else from the discount that is named; none where nothing is said."""
    made = sums(
        event(cost_usd=Decimal("0.9"), list_cost_usd=Decimal(1)),
        event(cost_usd=Decimal("1.8"), discount_usd=Decimal("0.2")),
        event(cost_usd=Decimal(4)),
    )
    assert (made.total.list_usd, made.total.discount_usd, made.total.billed_usd) == (Decimal(7), Decimal("0.3"), Decimal("6.7"))


def test_tools_with_their_calls_and_surcharges() -> None:
    """An event counts for each of its tools. A surcharge is known only where each model's price of it is."""
    made = sums(
        event(model="a", tool_usage={"search": 2, "code": 1}, cost_usd=Decimal(1)),
        event(model="b", tool_usage={"search": 3}, cost_usd=Decimal(2)),
        event(model="a", cost_usd=Decimal(4)),
    )
    assert {tool: (row.tool_calls, row.events, row.billed_usd) for tool, row in made.by["tool"].items()} == {
        "search": (5, 2, Decimal(3)),
        "code": (1, 1, Decimal(1)),
    }
    assert made.total.tool_calls == 6
    both = {name: ModelPrice(tools={"search": Decimal(price)}) for name, price in (("a", "0.01"), ("b", "0.03"))}
    assert made.surcharge("search", PriceTable(both)) == Decimal("0.11")
    assert made.surcharge("search", PriceTable({"a": both["a"]})) is None
    assert made.surcharge("code", PriceTable(both)) is None
    assert made.surcharge_by("a", "search", PriceTable(both)) == Decimal("0.02")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.decimals(-(10**6), 10**6, places=18)), max_size=40))
def test_rows_add_up_to_the_total_exactly(costs: list[tuple[str, Decimal]]) -> None:
    """Whatever the digits."""
    made = sums(*(event(model=model, cost_usd=cost) for model, cost in costs))
    assert sum(row.billed_usd for row in made.by["model"].values()) == made.total.billed_usd
    scaled = sum(int(cost.scaleb(18)) for _, cost in costs)
    assert int(made.total.billed_usd.scaleb(18)) == scaled
