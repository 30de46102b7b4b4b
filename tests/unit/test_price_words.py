"""Prices as people say them, exact and in the unit that they think in."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from batchrunner.catalog_prices import model_price
from batchrunner.price_words import Rate, dollars, highest, price_text, rates

TOKENS = {"prompt": "0.00000015", "completion": "0.0000006", "input_cache_read": "0.000000075"}
TIERS = [{"prompt": "0.000001", "completion": "0", "up_to": 200}, {"prompt": "0.000002", "completion": "0"}]


def entry(pricing: object, *rows: dict[str, Any]) -> dict[str, Any]:
    return {"id": "m", "pricing": pricing, "pricing_rows": list(rows)}


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (entry(TOKENS), "$0.15 in, $0.60 out, $0.075 cached per 1M tokens"),
        (
            entry(TIERS),
            "$1 in, $0 out per 1M tokens up to 200 input tokens; $2 in, $0 out per 1M tokens from 201 input tokens",
        ),
        (entry({"prompt": "0.00002"}), "$20 in per 1M tokens"),
        (entry({"request": "0.005"}), "$0.005 per request"),
        (entry(TOKENS | {"request": "1.5"}), "$0.15 in, $0.60 out, $0.075 cached per 1M tokens, $1.50 per request"),
        (entry({"image": "0.04"}), "$0.04 per image"),
        (entry({"video-second": "0.1", "audio-second": "0.001"}), "$0.10 per second of video, $0.001 per second of audio"),
        (entry({"prompt": "0", "completion": "0"}), "$0 in, $0 out per 1M tokens"),
        (entry(None, {"unit": "tool-call", "name": "search", "price": "0.01"}), "$0.01 a call of search"),
        (entry({"image": "ask us"}), "unknown per image"),
        (entry(TOKENS, {"unit": "custom", "price": "1"}), "unknown"),
        (entry(None), "unknown"),
    ],
)
def test_a_price_on_one_line(said: dict[str, Any], text: str) -> None:
    """By million tokens, request, picture, second and call; what is not known says so."""
    assert price_text(model_price(said)) == text


def test_each_rate_by_itself() -> None:
    """What is paid for, by how much, and for requests of which length."""
    assert rates(model_price(entry(TIERS)))[::2] == [
        Rate("input", "1M tokens", Decimal(1), 0, 200),
        Rate("input", "1M tokens", Decimal(2), 201, None),
    ]
    assert rates(model_price(entry({"video-second": "0.1"}))) == [Rate("video-second", "second", Decimal("0.1"))]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (entry(TOKENS), "0.6"),
        (entry({"request": "0.005", "image": "0.04"}), "0.04"),
        (entry({"image": "0.04", "audio": "x"}), None),
        (entry(None), None),
    ],
)
def test_the_highest_rate(said: dict[str, Any], expected: str | None) -> None:
    """By which models are found that cost no more; a price that is not wholly known is no such model's."""
    assert highest(model_price(said)) == (None if expected is None else Decimal(expected))


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0.6", "$0.60"), ("1E-7", "$0.0000001"), ("1234.5", "$1,234.50"), ("3", "$3"), ("0E-9", "$0"), ("1E+3", "$1,000")],
)
def test_dollars(amount: str, text: str) -> None:
    """All digits, two places at least where there are any, no exponent."""
    assert dollars(Decimal(amount)) == text
