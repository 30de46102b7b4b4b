"""Prices of what requests ask for beside tokens: in the most that they can cost, in predictions, by themselves."""

from __future__ import annotations

from decimal import Decimal

import pytest

from batchrunner.job import RequestSize, Usage
from batchrunner.pricing import PriceTable

PICTURES = {"image": Decimal(3)}
#: tells of three pictures; tells of nothing; holds none
TOLD = RequestSize("m", 1000, None, opaque_output=True, units=PICTURES)
UNTOLD = RequestSize("m", 1000, None, opaque_output=True)
TEXT = RequestSize("m", 1000, None)
BY_TOKEN = {"prompt": "0.001", "completion": "0.002"}


def table(pricing: object, rows: object = None, **entry: object) -> PriceTable:
    catalog = [{"id": "m", "pricing": pricing, "pricing_rows": rows} | entry]
    return PriceTable.from_catalog(catalog, fetched_at="1970-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("pricing", "rows", "expected"),
    [
        ({"image": "0.04"}, None, Decimal("0.12")),
        ({"prompt": "0.000001", "completion": "0", "image": "0.04"}, None, Decimal("0.121")),
        ({"request": "0.5"}, [{"unit": "image", "price": "0.04"}], Decimal("0.62")),
        ({"prompt": "0.000001", "completion": "0.000002", "image": "0.04"}, None, None),
        ({"image": "0.04", "video-second": "0.1"}, None, None),
        ({"video-second": "0.1"}, None, None),
        ({"image": "ask us"}, None, None),
        ({"prompt": "0", "completion": "0", "image_output": "0.04"}, None, None),
        (None, [{"unit": "custom", "price": "0.1"}], None),
        ({"request": "0.5"}, None, Decimal("0.5")),
    ],
)
def test_what_a_request_asks_for_is_in_the_most_that_it_costs(pricing: object, rows: object, expected: Decimal | None) -> None:
    """Where it tells of all that its model is billed by beside tokens, and its tokens are bounded or free; else unknown."""
    prices = table(pricing, rows)
    assert prices.ceiling("m", 1000, prices.output_bound(TOLD), PICTURES) == expected


def test_tokens_of_a_picture_are_bounded_as_any() -> None:
    """By the body's cap or the model's, beside the pictures."""
    prices = table({"prompt": "0", "completion": "0.001", "image": "0.04"}, max_output_tokens=50)
    capped = RequestSize("m", 1000, 10, opaque_output=True, units=PICTURES)
    free = RequestSize("m", 1000, None, choices=3, opaque_output=True, units=PICTURES)
    assert (prices.output_bound(capped), prices.output_bound(free)) == (10, 150)
    assert prices.ceiling("m", 1000, 10, PICTURES) == Decimal("0.13")
    assert prices.ceiling("m", 1000, 150, PICTURES) == Decimal("0.27")


@pytest.mark.parametrize("quantity", ["1E+12", "1E-30", "NaN", "Infinity", "-1"])
def test_a_quantity_that_makes_no_sense_bounds_nothing(quantity: str) -> None:
    """Nor does it raise, however exact sums are."""
    prices, units = table({"image": "0.04"}), {"image": Decimal(quantity)}
    odd = RequestSize("m", 1, None, opaque_output=True, units=units)
    assert prices.output_bound(odd) is None
    assert prices.ceiling("m", 1, None, units) is None
    assert prices.units_usd(odd) is None
    assert prices.prediction(odd, Usage(1, 0)) is None


def test_what_was_told_under_other_prices_is_no_bound_under_these() -> None:
    """An attempt's units were written down when its model was billed by pictures alone: now sounds have a price too."""
    prices = table({"prompt": "0", "completion": "0", "image": "0.04", "audio-second": "0.1"})
    assert prices.ceiling("m", 1000, 100, PICTURES) is None


def test_a_prediction_holds_what_is_asked_for() -> None:
    """Expected tokens and told pictures; what is not told makes it unknown where nothing else has a price."""
    assert table({"prompt": "0.001", "completion": "0", "image": "2"}).prediction(TOLD, Usage(10, 5)) == Decimal("6.01")
    assert table({"image": "2"}).prediction(TOLD, Usage(10, 5)) == 6
    assert table({"image": "2"}).prediction(UNTOLD, Usage(10, 5)) is None
    assert table({"request": "2"}).prediction(TOLD, Usage(10, 5)) == 2
    assert table(BY_TOKEN).prediction(UNTOLD, Usage(10, 5)) == Decimal("0.02")


def test_what_is_asked_for_beside_tokens_has_an_amount_of_its_own() -> None:
    """Nothing where the model bills tokens alone, unknown where it bills what the request does not tell."""
    by_picture = table({"image": "2"})
    assert [by_picture.units_usd(size) for size in (TOLD, UNTOLD, TEXT)] == [6, None, None]
    by_both = table(BY_TOKEN | {"image": "2"})
    assert [by_both.units_usd(size) for size in (TOLD, UNTOLD, TEXT)] == [6, None, 0]
    assert [table(BY_TOKEN).units_usd(size) for size in (TOLD, UNTOLD, TEXT)] == [0, 0, 0]
