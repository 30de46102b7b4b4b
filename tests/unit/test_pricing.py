from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.catalog_prices import ModelPrice, Tier
from batchrunner.errors import AccountError
from batchrunner.job import RequestSize, Usage
from batchrunner.pricing import PriceTable, json_number

SIMPLE = {"prompt": "0.000003", "completion": "0.000015", "input_cache_read": "0.0000003"}


def table(pricing: object, **fields: Any) -> PriceTable:
    entry = {"id": "m", "pricing": pricing} | fields
    return PriceTable.from_catalog(json.dumps({"data": [entry]}).encode(), fetched_at="2026-01-02")


USAGE = Usage(1000, 100)


def cost(pricing: object, usage: Usage = USAGE) -> Decimal | None:
    return table(pricing).cost("m", usage)


def test_tokens_cost_their_price() -> None:
    """Input, cached input and output, each at its own."""
    assert cost(SIMPLE, Usage(1000, 100, 400)) == Decimal("0.00342")


def test_cached_input_without_a_price_of_its_own_costs_what_input_does() -> None:
    """A missing discount is none."""
    assert cost({"prompt": "0.000003", "completion": "0"}, Usage(1000, 100, 400)) == Decimal("0.003")


def test_a_request_may_cost_beside_its_tokens() -> None:
    """Both are billed."""
    assert cost(SIMPLE | {"request": "0.01"}) == Decimal("0.0145")


def test_a_model_billed_by_request_has_free_tokens() -> None:
    """The call is what is paid for."""
    assert cost({"request": "0.005"}) == Decimal("0.005")


def test_a_price_of_zero_is_a_price() -> None:
    """Free is not unknown."""
    assert cost({"prompt": "0", "completion": "0"}) == 0


def test_an_unknown_model_has_no_cost() -> None:
    """None, never 0."""
    assert table(SIMPLE).cost("other", Usage(1, 1)) is None
    assert table(SIMPLE).ceiling("other", 1, 1) is None
    assert PriceTable().cost("m", Usage(1, 1)) is None


@pytest.mark.parametrize(
    "pricing",
    [
        None,
        {},
        [],
        "0.1",
        {"prompt": None, "completion": None},
        {"prompt": "0.1"},
        {"completion": "0.1"},
        {"prompt": "-1", "completion": "-1"},
        {"prompt": "NaN", "completion": "0"},
        {"prompt": "Infinity", "completion": "0"},
        {"prompt": "1e-99", "completion": "0"},
        {"prompt": "1e99", "completion": "0"},
        {"prompt": "9999999", "completion": "0"},
        {"prompt": "1_000", "completion": "0"},
        {"prompt": "$0.1", "completion": "0"},
        {"prompt": True, "completion": "0"},
        {"prompt": ["0.1"], "completion": "0"},
        SIMPLE | {"unit": "image"},
        SIMPLE | {"unit": {}},
        SIMPLE | {"currency": "EUR"},
        SIMPLE | {"input_cache_write": "0.00000375"},
        SIMPLE | {"fine_tuned_surcharge": 0.5},
        [SIMPLE, "x"],
        [SIMPLE, SIMPLE],
        [SIMPLE | {"max_context": 10}, SIMPLE | {"max_context": 10}],
        [SIMPLE | {"max_context": 10}, SIMPLE, SIMPLE],
        [SIMPLE | {"min_context": 10}, SIMPLE | {"min_context": 20}],
        [SIMPLE | {"min_context": "10"}, SIMPLE],
        [SIMPLE, SIMPLE | {"min_context": 10, "currency": "EUR"}],
    ],
)
def test_a_price_that_cannot_be_understood_is_unknown(pricing: object) -> None:
    """A wrong amount is worse than none."""
    assert cost(pricing) is None
    assert table(pricing).ceiling("m", 10, 10) is None


@pytest.mark.parametrize(
    "beside",
    [
        {"image": "0.04"},
        {"unit": "token"},
        {"currency": "USD"},
        {"note": "promo"},
        {"version": 2},
        {"input_cache_write": "0"},
        {"a": None},
    ],
)
def test_what_a_text_reply_is_not_billed_by_does_not_matter(beside: dict[str, Any]) -> None:
    """Prices of pictures, words and empty surcharges leave the price of tokens as it is."""
    assert cost(SIMPLE | beside) == Decimal("0.0045")


@pytest.mark.parametrize("price", ["0.000003", " 0.000003 ", "3e-6", 0.000003])
def test_a_price_may_be_spelt_in_any_decimal_way(price: object) -> None:
    """A string by rule; a number where a server writes one. All digits count."""
    assert cost({"prompt": price, "completion": 0}) == Decimal("0.003")


def test_a_catalog_already_decoded_is_read_alike() -> None:
    """Floats stand for the digits that the server wrote."""
    catalog = [{"id": "m", "pricing": {"prompt": 0.1, "completion": Decimal("0.2")}}]
    assert PriceTable.from_catalog(catalog, fetched_at="x").cost("m", Usage(3, 0)) == Decimal("0.3")


LOW = {"prompt": "1", "completion": "0"}
HIGH = {"prompt": "2", "completion": "0"}


@pytest.mark.parametrize(
    ("tiers", "last_low"),
    [
        ([LOW | {"max_context": 200}, HIGH], 200),
        ([HIGH, LOW | {"up_to": 200}], 200),
        ([LOW | {"up_to": 200}, HIGH | {"up_to": 1000}], 200),
        ([LOW | {"context_length": 200}, HIGH | {"context_length": 1000}], 200),
        ([LOW | {"min_context": 0, "max_context": 200}, HIGH | {"min_context": 201, "max_context": None}], 200),
        ([LOW | {"min_context": 0}, HIGH | {"min_context": 200}], 199),
        ([LOW, HIGH | {"min_context": 200}], 199),
        ([HIGH | {"min_context": 200}, LOW | {"min_context": 1}], 199),
        ([LOW, HIGH | {"above": 200}], 200),
        ([LOW, HIGH | {"threshold": 200}], 200),
        ([LOW | {"context_length": 1000}, HIGH | {"context_length": 1000, "min_context": 200}], 199),
    ],
)
def test_the_tier_goes_by_input_tokens(tiers: list[dict[str, Any]], last_low: int) -> None:
    """Upper bounds are inclusive, lower bounds too, thresholds are not; order does not matter."""
    assert cost(tiers, Usage(last_low, 5)) == last_low
    assert cost(tiers, Usage(last_low + 1, 5)) == 2 * (last_low + 1)


def test_past_the_last_tier_the_price_is_unknown() -> None:
    """The catalog does not say."""
    assert cost([LOW | {"up_to": 200}, HIGH | {"up_to": 1000}], Usage(1001, 5)) is None


def test_an_array_of_one_is_its_price() -> None:
    """Bounds of a single tier are the model's own."""
    assert cost([SIMPLE | {"context_length": 10}]) == Decimal("0.0045")


def test_tools_cost_by_call() -> None:
    """Where a tool fired, its row's price is added."""
    rows = [{"unit": "tool-call", "name": "web_search", "price": "0.01"}, {"unit": "image", "name": "image", "price": "1"}]
    assert table(SIMPLE, pricing_rows=rows).cost("m", Usage(1000, 100), {"web_search": 3}) == Decimal("0.0345")


@pytest.mark.parametrize("rows", [None, {}, ["x"], [{"unit": "tool-call", "name": "web_search"}], [{"unit": [], "price": 0}]])
def test_a_tool_without_a_price_makes_the_cost_unknown(rows: object) -> None:
    """Its surcharge is part of the bill."""
    assert table(SIMPLE, pricing_rows=rows).cost("m", Usage(1000, 100), {"web_search": 1}) is None
    assert table(SIMPLE, pricing_rows=rows).cost("m", Usage(1000, 100), {"web_search": 0}) == Decimal("0.0045")


def test_the_ceiling_is_input_and_all_the_output_uncached() -> None:
    """Nothing counts as cached; no bound on the output is no bound on the cost."""
    prices = table(SIMPLE)
    assert prices.ceiling("m", 1000, 10) == Decimal("0.00315")
    assert prices.ceiling("m", 1000, None) is None


def test_output_is_bounded_by_the_body_or_by_the_model_for_each_choice() -> None:
    """The body's own cap holds all its choices; a request without one may take the model's for each."""
    prices = table(SIMPLE, max_output_tokens=50)
    assert prices.output_bound(RequestSize("m", 1, 160, choices=16)) == 160
    assert prices.output_bound(RequestSize("m", 1, None)) == 50
    assert prices.output_bound(RequestSize("m", 1, None, choices=16)) == 800
    assert prices.output_bound(RequestSize("other", 1, None)) is None
    assert table(SIMPLE, max_output_tokens="x").output_bound(RequestSize("m", 1, None)) is None


PRICES = st.decimals(min_value=0, max_value=1_000_000, places=18).map(lambda price: format(price, "f"))
COUNTS = st.integers(0, 10**9)


@given(PRICES, PRICES, PRICES, PRICES, COUNTS, COUNTS, COUNTS)
def test_the_cost_is_exact(prompt: str, completion: str, read: str, request: str, plain: int, cached: int, output: int) -> None:
    """Equal to the sum in fractions, to the last digit."""
    pricing = {"prompt": prompt, "completion": completion, "input_cache_read": read, "request": request}
    amount = cost(pricing, Usage(plain + cached, output, cached))
    assert amount is not None
    exact = Fraction(prompt) * plain + Fraction(read) * cached + Fraction(completion) * output + Fraction(request)
    assert Fraction(amount) == Fraction(json_number(amount)) == exact


@pytest.mark.parametrize(
    ("amount", "text"),
    [("1E+3", "1000"), ("1E-7", "0.0000001"), ("0.1200", "0.12"), ("0E-9", "0"), ("-0", "0"), ("100", "100"), ("-1.50", "-1.5")],
)
def test_an_amount_is_written_without_exponent(amount: str, text: str) -> None:
    """As a plain JSON number, for tools that know no other."""
    assert json_number(Decimal(amount)) == text
    assert json.loads(text) == float(amount)


def test_what_is_not_finite_is_no_amount() -> None:
    """JSON has no word for it."""
    with pytest.raises(ValueError, match="no amount"):
        json_number(Decimal("NaN"))


def test_a_table_survives_its_record() -> None:
    """Through JSON: amounts as decimal strings, and the date with them."""
    prices = table(
        [LOW | {"up_to": 200}, HIGH], max_output_tokens=9, pricing_rows=[{"unit": "call", "tool": "t", "amount": "0.1"}]
    )
    record = msgspec.json.encode(prices)
    assert msgspec.json.decode(record, type=PriceTable) == prices
    assert b'"prompt":"1"' in record
    assert b'"fetched_at":"2026-01-02"' in record


@pytest.mark.parametrize(
    "catalog", [b"", b"<html>", b"{}", b"7", b'{"data":{}}', b'{"data":[1e99999999999999999999]}', b'{"a":"\xff"}']
)
def test_an_answer_that_is_no_catalog_is_an_error(catalog: bytes) -> None:
    """Said clearly, with what to check."""
    with pytest.raises(AccountError, match="catalog"):
        PriceTable.from_catalog(catalog, fetched_at="x")


def test_entries_without_an_id_are_left_out() -> None:
    """The others count; a price that cannot be read leaves its model without one."""
    catalog = {"models": [5, {}, {"id": 7}, {"id": ""}, {"id": "a"}, {"id": "b", "pricing": SIMPLE}]}
    prices = PriceTable.from_catalog(catalog, fetched_at="x").prices
    assert prices["a"] == ModelPrice()
    assert prices["b"].tiers == (Tier(Decimal("0.000003"), Decimal("0.000015"), Decimal("0.0000003")),)
    assert len(prices) == 2


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["0.1", "token", "tool-call"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "completion", "unit", "min_context", "up_to", "name", "price", "x"]), inner, max_size=4
        )
    ),
    max_leaves=10,
)


@given(JSON, JSON, JSON)
def test_no_catalog_entry_raises(pricing: object, rows: object, cap: object) -> None:
    """Whatever an entry holds, its cost is an amount or unknown."""
    entry = {"id": "m", "pricing": pricing, "pricing_rows": rows, "max_output_tokens": cap}
    amount = PriceTable.from_catalog([entry], fetched_at="x").cost("m", Usage(10, 10), {"x": 1})
    assert amount is None or amount >= 0


def test_what_writes_nothing_needs_no_price_of_output() -> None:
    """An embedding's bill is bounded by its input alone, whatever the model could write."""
    prices = table({"prompt": "0.000001"}, max_output_tokens=100)
    embedding = RequestSize("m", 1000, 0)
    assert prices.output_bound(embedding) == 0
    assert prices.cost("m", Usage(1000, 0)) == prices.ceiling("m", 1000, prices.output_bound(embedding)) == Decimal("0.001")
    assert prices.cost("m", Usage(1000, 1)) is None


@pytest.mark.parametrize(
    ("pricing", "expected"),
    [
        ({"request": "0.04"}, Decimal("0.04")),
        ({"prompt": "0.000001", "completion": "0"}, Decimal("0.001")),
        ({"prompt": "0", "completion": "0", "request": "0.5"}, Decimal("0.5")),
        ({"prompt": "0.000001"}, None),
        ({"prompt": "0.000001", "completion": "0.000001"}, None),
        ({"prompt": "0", "completion": "0", "image": "0.04"}, None),
        ([LOW | {"up_to": 2000, "completion": "0"}, HIGH | {"completion": "0.000001"}], None),
        ("ask us", None),
    ],
)
def test_an_output_that_is_free_needs_no_bound(pricing: object, expected: Decimal | None) -> None:
    """A picture at so much a call has a price before it is made; one whose output costs something has none without a bound."""
    assert table(pricing).ceiling("m", 1000, None) == expected


BEYOND: list[tuple[object, object]] = [
    ({"prompt": "0", "completion": "0", "image": "0.04"}, None),
    ({"prompt": "0", "completion": "0", "image_output": "0.04"}, None),
    ({"prompt": "0", "completion": "0", "audio-second": "ask us"}, None),
    ([LOW | {"up_to": 2000}, HIGH | {"video": "0.1"}], None),
    (SIMPLE, [{"unit": "image", "price": "0.04"}]),
    (SIMPLE, [{"unit": "audio-second", "amount": 0.001}]),
]


@pytest.mark.parametrize(("pricing", "rows"), BEYOND)
def test_an_answer_that_may_hold_more_than_tokens_is_not_priced_by_tokens_alone(pricing: object, rows: object) -> None:
    """Where pictures or seconds have a price and the answer may hold some, nothing tells how many: unknown, and no bound."""
    prices = table(pricing, pricing_rows=rows, max_output_tokens=100)
    text, picture = RequestSize("m", 1000, 100), RequestSize("m", 1000, 100, opaque_output=True)
    assert prices.cost("m", USAGE, opaque=True) is None
    assert prices.cost("m", None, opaque=True) is None
    assert prices.output_bound(picture) is None
    assert prices.cost("m", USAGE) is not None
    assert prices.output_bound(text) == 100


@pytest.mark.parametrize(
    ("pricing", "rows"),
    [
        (SIMPLE, None),
        (SIMPLE | {"image": "0", "audio": None}, [{"unit": "image", "price": "0"}]),
        (SIMPLE, [{"unit": "token", "price": "0.000003"}, {"unit": "tool-call", "name": "t", "price": "0.01"}, "x"]),
        (SIMPLE, "nonsense"),
    ],
)
def test_a_model_billed_by_tokens_alone_is_so_whatever_it_answers(pricing: object, rows: object) -> None:
    """Its usage is the whole bill."""
    prices = table(pricing, pricing_rows=rows)
    assert prices.cost("m", USAGE, opaque=True) == prices.cost("m", USAGE) == Decimal("0.0045")
    assert prices.output_bound(RequestSize("m", 1000, 100, opaque_output=True)) == 100


def test_a_price_beyond_tokens_is_kept_with_the_run() -> None:
    """A resume tells such models apart as the first start did; a table kept before there was the word has none."""
    prices = table({"prompt": "0", "completion": "0", "image": "0.04"})
    assert msgspec.json.decode(msgspec.json.encode(prices), type=PriceTable) == prices
    old = msgspec.json.decode(b'{"prices":{"m":{"tiers":[{"prompt":"0","completion":"0"}]}}}', type=PriceTable)
    assert not old.prices["m"].beyond_tokens
