"""Prices in every unit that the platform documents, in each place where an entry may say them; and what no price is made of."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from batchrunner.catalog_prices import ModelPrice, Tier, model_price
from batchrunner.job import Usage
from batchrunner.pricing import PriceTable

TOKENS = {"prompt": "0.000003", "completion": "0.000015"}


def cost(usage: Usage, pricing: object = None, rows: object = None, *, opaque: bool = True, **tools: int) -> Decimal | None:
    entry = {"id": "m", "pricing": pricing, "pricing_rows": rows}
    return PriceTable.from_catalog([entry], fetched_at="x").cost("m", usage, tools, opaque=opaque)


def units(**counted: str) -> Usage:
    """An answer in which only these were counted."""
    return Usage(0, 0, units={name.replace("_", "-"): Decimal(number) for name, number in counted.items()}, tokens_known=False)


@pytest.mark.parametrize(
    ("pricing", "rows", "usage", "expected"),
    [
        ({"image": "0.04"}, None, units(image="3"), "0.12"),
        ({"video-second": "0.1"}, None, units(video_second="7.5"), "0.75"),
        ({"audio_second": "0.0001"}, None, units(audio_second="61.25"), "0.006125"),
        (None, [{"unit": "image", "price": "0.04"}], units(image="2"), "0.08"),
        (None, [{"unit": "per_video_second", "amount": "0.1"}], units(video_second="2"), "0.2"),
        ({}, [{"unit": "Audio seconds", "usd": 0.5}], units(audio_second="2"), "1"),
        ({"unit": "image", "price": "0.04"}, None, units(image="2"), "0.08"),
        ([{"unit": "image", "price": "0.04"}, {"unit": "request", "price": "1"}], None, units(image="2"), "1.08"),
        ({"request": "0.01", "image": "0.04"}, None, units(image="2"), "0.09"),
        ({"image": "0.04"}, [{"unit": "image", "price": "9"}], units(image="1"), "0.04"),
        ({"image": "0"}, [{"unit": "image", "price": "0"}, {"unit": "request", "price": "1"}], units(image="5"), "1"),
        ({"request": "0.02"}, None, units(image="4"), "0.02"),
    ],
)
def test_each_unit_costs_its_price(pricing: object, rows: object, usage: Usage, expected: str) -> None:
    """Pictures and seconds, from a key or a row; where both say a price, the key counts; requests and tokens beside them."""
    assert cost(usage, pricing, rows) == Decimal(expected)


def test_pictures_and_tokens_are_both_billed() -> None:
    """A usage that counts both is the whole bill."""
    usage = Usage(1000, 100, units={"image": Decimal(2)})
    assert cost(usage, TOKENS | {"image": "0.04"}) == Decimal("0.0845")


@pytest.mark.parametrize(
    ("pricing", "rows", "usage"),
    [
        ({"image": "0.04"}, None, Usage(10, 0)),
        ({"image": "0.04"}, None, units(video_second="3")),
        ({"image": "0.04", "audio-second": "0.1"}, None, units(image="3")),
        ({"image": "0.04", "image_output": "0.08"}, None, units(image="3")),
        ({"image": "ask us"}, None, units(image="3")),
        ({"image": "0.04", "prompt": ["0.1"]}, None, units(image="3")),
        ({"image": "0.04", "currency": "EUR"}, None, units(image="3")),
        (None, [{"unit": "image", "price": "0.04", "currency": "EUR"}], units(image="3")),
        (None, [{"unit": "image", "price": "0.04"}, {"unit": "image", "price": "0.08"}], units(image="3")),
        (None, [{"unit": "image", "price": "0.04", "amount": "4"}], units(image="3")),
        (None, [{"unit": "image"}], units(image="3")),
        (TOKENS | {"image": "0.04"}, None, units(image="3")),
    ],
)
def test_what_was_not_counted_or_has_no_clear_price_is_unknown(pricing: object, rows: object, usage: Usage) -> None:
    """Never 0: another unit was counted than is billed, one of two is missing, or two rows name two prices."""
    assert cost(usage, pricing, rows) is None


@pytest.mark.parametrize(
    ("pricing", "row"),
    [
        (TOKENS, {"unit": "custom", "price": "0.5"}),
        (TOKENS, {"unit": "custom"}),
        (TOKENS, {"unit": "gpu-hour", "price": "0.5"}),
        (TOKENS, {"price": "3"}),
        ({"image": "0.04"}, {"unit": "custom", "price": "1"}),
        (None, {"unit": "custom", "price": "1"}),
    ],
)
def test_an_unknown_unit_is_unknown_and_never_free(pricing: object, row: object) -> None:
    """Nobody can count it, so that nothing that the model answers has a known price: text no more than pictures."""
    for usage in (Usage(1000, 100), units(image="1"), Usage(1000, 100, units={"image": Decimal(1), "custom": Decimal(1)})):
        assert cost(usage, pricing, [row]) is None
        assert cost(usage, pricing, [row], opaque=False) is None


@pytest.mark.parametrize("row", [{"unit": "custom", "price": "0"}, {"unit": "gpu-hour", "price": 0}])
def test_an_unknown_unit_that_costs_nothing_is_no_matter(row: object) -> None:
    """There is nothing to count."""
    assert cost(Usage(1000, 100), TOKENS, [row]) == Decimal("0.0045")


@pytest.mark.parametrize(
    "quantity", ["NaN", "Infinity", "-1", "1E+50", "1E-50", "0.1234567890123456789012345678901234567890", "1000000001"]
)
def test_a_quantity_that_makes_no_sense_has_no_price(quantity: str) -> None:
    """It comes from a reply: unknown, and nothing raises."""
    assert cost(units(image=quantity), {"image": "0.04"}) is None


@pytest.mark.parametrize(
    ("rows", "usage", "expected"),
    [
        (
            [{"unit": "token", "name": "input", "price": "0.000003"}, {"unit": "token", "name": "output", "price": "0.000015"}],
            Usage(1000, 100),
            "0.0045",
        ),
        (
            [
                {"unit": "1M tokens", "label": "Input tokens", "price": "3"},
                {"unit": "1M tokens", "label": "Output tokens", "price": "15"},
                {"unit": "1K tokens", "label": "Cached input", "price": "0.0003"},
            ],
            Usage(1000, 100, 400),
            "0.00342",
        ),
        ([{"unit": "token", "price": "0.1"}], Usage(1000, 100), None),
        ([{"unit": "2 tokens", "name": "input", "price": "0.1"}], Usage(1000, 0), None),
        ([{"unit": "token", "name": "input", "price": "0.1"}] * 2, Usage(1000, 0), None),
        ([{"unit": "token", "name": "input", "price": "0.1", "above": 200}], Usage(1000, 0), None),
        ([{"unit": "request", "price": "x"}], Usage(1000, 0), None),
    ],
)
def test_tokens_may_be_priced_by_rows_alone(rows: object, usage: Usage, expected: str | None) -> None:
    """Told apart by their labels; per thousand and per million too. What is not clear is unknown."""
    assert cost(usage, None, rows, opaque=False) == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize(
    "pricing",
    [TOKENS | {"request": None}, [TOKENS | {"up_to": 2_000}, TOKENS], [TOKENS | {"up_to": 2_000, "request": None}, TOKENS]],
)
def test_what_a_row_says_of_requests_is_never_lost(pricing: object) -> None:
    """Also where the key is there and says nothing, and where there are tiers: each of them."""
    row = {"unit": "request", "price": "0.01"}
    assert cost(Usage(1000, 100), pricing, [row], opaque=False) == Decimal("0.0145")
    assert cost(Usage(1000, 100), pricing, [row | {"price": "ask us"}], opaque=False) is None


@pytest.mark.parametrize("tokens", [{"prompt": None, "completion": None}, {"prompt": None}])
def test_tokens_are_not_free_because_requests_are(tokens: dict[str, None]) -> None:
    """Tokens without a price cost nothing where requests do; where nothing has a price, nothing is known."""
    assert cost(Usage(1000, 100), tokens | {"request": "0"}, opaque=False) is None
    assert cost(Usage(1000, 100), tokens | {"request": "0.01"}, opaque=False) == Decimal("0.01")


@pytest.mark.parametrize(
    "more",
    [
        {"long_context": {"prompt": "0.000006", "above": 200_000}},
        {"overrides": [{"over": 200_000, "prices": {"completion": "0.00003"}}]},
        {"audio_input": {"per_token": 1e-5}},
    ],
)
def test_a_price_inside_of_something_unknown_makes_all_unknown(more: dict[str, Any]) -> None:
    """It may be the one that holds. What holds no price is no matter."""
    assert cost(Usage(1000, 100), TOKENS | more, opaque=False) is None
    beside = {"notes": ["subject to change"], "discounts": {}, "limits": {"rpm": 50}, "free": {"prompt": "0"}}
    assert cost(Usage(1000, 100), TOKENS | beside, opaque=False) == Decimal("0.0045")


def test_rows_that_repeat_the_price_of_tokens_change_nothing() -> None:
    """`pricing` counts: rows are there to be shown, and may be rounded."""
    rows = [{"unit": "1M tokens", "name": "input", "price": "3.01"}, {"unit": "token", "name": "reasoning", "price": "1"}]
    assert cost(Usage(1000, 100), TOKENS, rows) == Decimal("0.0045")


def test_a_model_billed_by_tool_calls_alone_costs_its_calls() -> None:
    """And an answer in which none was counted has no known price."""
    rows = [{"unit": "tool-call", "name": "search", "price": "0.005"}]
    assert cost(Usage(10, 0), None, rows, search=2) == Decimal("0.01")
    assert cost(Usage(10, 0), None, rows) is None
    assert cost(Usage(10, 0), None, rows, other=1) is None


def test_tiers_and_pictures_go_together() -> None:
    """The tier goes by tokens; a picture costs the same in each, or its price is unknown."""
    low, high = {"prompt": "1", "completion": "0", "image": "5", "up_to": 200}, {"prompt": "2", "completion": "0", "image": "5"}
    picture = {"image": Decimal(1)}
    assert cost(Usage(200, 0, units=picture), [low, high]) == 205
    assert cost(Usage(201, 0, units=picture), [low, high]) == 407
    assert cost(Usage(200, 0, units=picture), [low, high | {"image": "6"}]) is None
    assert cost(Usage(200, 0), [low, high], opaque=False) == 200


def test_text_from_a_model_that_is_billed_by_the_picture_has_no_known_price() -> None:
    """The catalog says nothing of it, which is not to say that it is free; where it says 0, it is."""
    assert cost(Usage(10, 10), {"image": "0.04"}, opaque=False) is None
    assert cost(Usage(10, 10), TOKENS | {"prompt": "0", "completion": "0", "image": "0.04"}, opaque=False) == 0


def test_a_table_kept_before_units_had_prices_prices_none() -> None:
    """What an older program kept of such a model says that it is billed beyond tokens, not by what: still unknown."""
    old = msgspec.json.decode(
        b'{"prices":{"m":{"tiers":[{"prompt":"0","completion":"0"}],"beyond_tokens":true}}}', type=PriceTable
    )
    assert old.cost("m", units(image="1"), opaque=True) is None
    assert old.cost("m", units(image="1")) is None
    assert old.cost("m", Usage(10, 10)) == 0


def test_units_are_kept_with_the_run() -> None:
    """A resume prices pictures as the first start did."""
    prices = PriceTable.from_catalog([{"id": "m", "pricing": {"image": "0.04", "audio": "1"}}], fetched_at="x")
    assert msgspec.json.decode(msgspec.json.encode(prices), type=PriceTable) == prices
    assert prices.prices["m"].units == {"image": Decimal("0.04"), "audio": None}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, ModelPrice()),
        ({"pricing": {"prompt": "0.15", "completion": "0.6", "per": "1M"}}, ModelPrice()),
        ({"pricing": "ask us"}, ModelPrice()),
        ({"pricing": {"request": "1"}, "pricing_rows": {}}, ModelPrice((Tier(Decimal(0), Decimal(0), None, Decimal(1)),))),
    ],
)
def test_an_entry_read(entry: dict[str, Any], expected: ModelPrice) -> None:
    """Nothing is made up."""
    assert model_price(entry) == expected
