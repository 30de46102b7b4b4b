from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

import pytest

from batchrunner.cli.price_file import read_prices
from batchrunner.errors import UsageError
from batchrunner.job import RequestSize, Usage
from batchrunner.pricing import PriceTable
from batchrunner.simulator.catalog import MODELS

ROOT = Path(__file__).parents[2]
PRICING = {"prompt": "0.000003", "completion": "0.000015"}


def prices(tmp_path: Path, data: object) -> PriceTable:
    path = tmp_path / "prices.json"
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return read_prices(str(path))


@pytest.mark.parametrize(
    "data",
    [
        {"data": [{"id": "m", "pricing": PRICING}]},
        {"models": [{"id": "m", "pricing": PRICING}]},
        [{"id": "m", "pricing": PRICING}],
        {"m": PRICING},
        {"m": {"pricing": PRICING, "max_output_tokens": 7}},
        {"m": [PRICING | {"up_to": 5_000}, PRICING]},
        b'{"m": {"prompt": 3e-6, "completion": 0.000015}}',
    ],
    ids=["catalog", "models", "bare array", "map", "map of entries", "map of tiers", "numbers"],
)
def test_a_file_may_be_a_catalog_or_a_map(tmp_path: Path, data: object) -> None:
    """The same prices from each; a model that stands in none of them is unknown, never free."""
    found = prices(tmp_path, data)
    assert found.cost("m", Usage(1000, 100)) == Decimal("0.0045")
    assert found.cost("other", Usage(1000, 100)) is None


def test_a_model_whose_price_cannot_be_understood_is_unknown(tmp_path: Path) -> None:
    """One bad entry does not spoil the others, and is no guess."""
    found = prices(tmp_path, {"m": PRICING, "per million": {"prompt": "3", "per": "1M"}, "typo": {"promt": "0.1"}, "none": None})
    assert [found.cost(model, Usage(1, 1)) is None for model in ("m", "per million", "typo", "none")] == [False, True, True, True]


def test_a_map_may_bound_the_output(tmp_path: Path) -> None:
    """So that a spend cap can be kept for requests that do not bound it themselves."""
    found = prices(tmp_path, {"m": PRICING | {"max_output_tokens": 7}})
    assert found.output_bound(RequestSize("m", input_tokens=1, output_cap_tokens=None)) == 7


def test_the_date_is_that_of_the_file(tmp_path: Path) -> None:
    """When it was last changed, in UTC."""
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"m": PRICING}))
    os.utime(path, ns=(0, 1_700_000_000_123_000_000))
    assert read_prices(str(path)).fetched_at == "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no list of prices"),
        (b"{", "is no list of prices"),
        (b"\xff\xfe", "is no list of prices"),
        (b"[" * 100_000, "is no list of prices"),
        (b"7", "is no list of prices"),
        ({}, "names no price that can be understood"),
        ([], "names no price that can be understood"),
        ({"data": []}, "names no price that can be understood"),
        ({"error": {"message": "not found"}}, "names no price that can be understood"),
        ({"m": "0.1"}, "names no price that can be understood"),
        ({"m": {"prompt": "-1"}}, "names no price that can be understood"),
    ],
)
def test_a_file_without_a_price_is_refused(tmp_path: Path, data: object, why: str) -> None:
    """2, with the file's name and what it should look like."""
    with pytest.raises(UsageError) as refused:
        prices(tmp_path, data)
    assert str(refused.value).startswith(f"--prices {tmp_path}/prices.json: {why}. Write {{")


@pytest.mark.parametrize(("name", "why"), [("gone.json", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, why: str) -> None:
    """2, in the system's words."""
    with pytest.raises(UsageError, match=f"cannot be read: {why}"):
        read_prices(str(tmp_path / name))


def test_the_example_prices_what_the_examples_ask_for() -> None:
    """Each model of the embedded platform that can be priced has a price in `jobs/prices.json`, for long prompts too."""
    found = read_prices(str(ROOT / "jobs" / "prices.json"))
    taken = {
        model.id: Usage(300_000, 100 if model.max_output_tokens else 0, units=dict.fromkeys(model.units, Decimal(1)))
        for model in MODELS
        if "custom" not in model.units
    }
    assert [model for model, usage in taken.items() if found.cost(model, usage) is None] == []
