from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.errors import AccountError
from batchrunner.job import Usage
from batchrunner.platform.catalog import Catalog, ModelFacts
from batchrunner.simulator import catalog as simulated

ENTRY = {
    "id": "qwen",
    "display_name": "Qwen",
    "provider": "alibaba",
    "category": "text",
    "context_length": 131072,
    "max_output_tokens": 8192,
    "input_modalities": ["text", "image"],
    "output_modalities": ["text"],
    "features": ["tools", "", 7],
    "supported_parameters": [{"name": "max_tokens", "type": "integer"}, "seed", {"type": "x"}],
    "served_from": "eu",
    "status": "Available",
    "pricing": {"prompt": "0.000001", "completion": "0.000002"},
    "something_new": {"a": 1},
}


def one(**changes: Any) -> ModelFacts:
    answer = json.dumps({"object": "list", "data": [ENTRY | changes]}).encode()
    return Catalog.parse(answer, fetched_at="2026-01-02").models["qwen"]


def test_an_entry_is_read() -> None:
    """All that the catalog shows of a model, and nothing that it does not."""
    assert one() == ModelFacts(
        "qwen",
        "Qwen",
        "alibaba",
        "text",
        131072,
        8192,
        ("text", "image"),
        ("text",),
        ("tools",),
        ("max_tokens", "seed"),
        "eu",
        "Available",
    )


def test_other_spellings_are_read() -> None:
    """Fields have a second name in some answers."""
    facts = one(
        display_name=None, name="Q", context_length=None, context_window=5, provider=None, owned_by="o", api_status="offline"
    )
    assert (facts.name, facts.context_length, facts.provider, facts.status) == ("Q", 5, "o", "offline")


def test_fields_of_a_wrong_type_count_as_absent() -> None:
    """One odd entry does not cost the catalog."""
    odd: dict[str, Any] = {key: {"a": 1} for key in ENTRY} | {"id": "qwen"}
    assert one(**odd) == ModelFacts("qwen")


@pytest.mark.parametrize(
    ("status", "available"), [("available", True), ("ONLINE", True), (None, True), ("offline", False), ("x", False)]
)
def test_a_status_that_is_no_word_for_available_warns(status: str | None, available: bool) -> None:
    """No status at all is none to worry about."""
    assert one(status=status).available is available


def test_prices_come_with_the_facts() -> None:
    """One answer gives both, with its date."""
    catalog = Catalog.parse([ENTRY], fetched_at="2026-01-02")
    assert catalog.prices.cost("qwen", Usage(10, 10)) == Decimal("0.00003")
    assert catalog.prices.fetched_at == "2026-01-02"


def test_an_answer_that_is_no_catalog_is_an_error() -> None:
    """With what to check."""
    with pytest.raises(AccountError, match="--base-url"):
        Catalog.parse(b"<html>", fetched_at="x")


@given(st.sampled_from(simulated.MODELS), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**5))
def test_the_simulated_platform_is_priced_as_it_bills(model: simulated.Model, plain: int, cached: int, output: int) -> None:
    """Every shape of price that it shows is understood, in every tier."""
    prices = Catalog.parse(simulated.Catalog().list_body(), fetched_at="x").prices
    assert prices.cost(model.id, Usage(plain + cached, output, cached)) == model.cost(plain + cached, cached, output)
