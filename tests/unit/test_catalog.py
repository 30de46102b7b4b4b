"""What a catalog tells of its models, in each spelling, and whatever stands in an entry."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.catalog import Model, Parameter, models
from batchrunner.errors import AccountError

ENTRY: dict[str, Any] = {
    "id": "vendor-1",
    "display_name": "Vendor One",
    "provider": "Vendor",
    "category": "text",
    "context_length": 131_072,
    "max_output_tokens": 8_192,
    "input_modalities": ["text", "image"],
    "output_modalities": ["text"],
    "supported_parameters": [
        {"name": "temperature", "type": "number", "min": 0, "max": 2, "default": 0.7},
        {"name": "effort", "type": "string", "options": ["low", "high"]},
        "seed",
    ],
    "capabilities": {"tools": True, "vision": False},
    "features": ["json"],
    "served_from": "EU",
    "status": "Available",
    "pricing": {"prompt": "0.1", "completion": "0.2"},
}


def read(**changes: Any) -> Model:
    (model,) = models(json.dumps({"data": [ENTRY | changes]}).encode())
    return model


def test_an_entry_with_everything() -> None:
    """Each documented field has its place."""
    model = read()
    assert (model.id, model.name, model.provider, model.category) == ("vendor-1", "Vendor One", "Vendor", "text")
    assert (model.context_tokens, model.max_output_tokens, model.region) == (131_072, 8_192, "EU")
    assert model.modality == "text+image -> text"
    assert (model.capabilities, model.features) == (("tools",), ("json",))
    assert (model.status, model.is_available) == ("available", True)
    assert model.parameter("temperature") == Parameter("temperature", "number", (), Decimal(0), Decimal(2), Decimal("0.7"))
    assert model.parameter("effort") == Parameter("effort", "string", ("low", "high"))
    assert model.parameter("seed") == Parameter("seed")
    assert model.parameter("other") is None
    assert model.price.tiers[0].prompt == Decimal("0.1")


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"display_name": None, "name": "N"}, "name", "N"),
        ({"display_name": " "}, "name", "vendor-1"),
        ({"provider": {"name": "V"}}, "provider", "V"),
        ({"provider": None, "owned_by": "o"}, "provider", "o"),
        ({"context_length": None, "context_window": 7}, "context_tokens", 7),
        ({"context_length": "many"}, "context_tokens", None),
        ({"input_modalities": None, "output_modalities": 5}, "modality", "text"),
        ({"input_modalities": None}, "modality", "? -> text"),
        ({"served_from": ["EU", "US"]}, "region", "EU, US"),
        ({"served_from": []}, "region", None),
        ({"capabilities": ["tools"]}, "capabilities", ("tools",)),
        ({"supported_parameters": None}, "parameters", None),
        ({"supported_parameters": []}, "parameters", ()),
        (
            {"supported_parameters": {"n": {"maximum": 4}, "seed": None}},
            "parameters",
            (Parameter("n", max=Decimal(4)), Parameter("seed")),
        ),
        ({"supported_parameters": [5, {}, {"name": 5}, {"name": "n", "min": "x", "max": True}]}, "parameters", (Parameter("n"),)),
        (
            {"supported_parameters": [{"name": "s", "enum": [{"value": 1}, {}, "2"]}]},
            "parameters",
            (Parameter("s", options=(1, "2")),),
        ),
        (
            {"supported_parameters": [{"name": "n", "min": "-1e99999999999999", "max": "1e99999999999999"}]},
            "parameters",
            (Parameter("n"),),
        ),
        ({"status": None}, "status", None),
        ({"status": None, "api_status": "LIVE "}, "status", "live"),
        ({"status": {"api": "offline"}}, "status", "offline"),
        ({"status": {"status": "beta"}}, "status", "beta"),
        ({"status": 5, "available": False}, "status", "unavailable"),
        ({"status": None, "available": True}, "status", "available"),
    ],
)
def test_other_spellings(changes: dict[str, Any], field: str, expected: object) -> None:
    """What real catalogs say is taken; a field of the wrong type counts as absent."""
    assert getattr(read(**changes), field) == expected


@pytest.mark.parametrize(("status", "available"), [(None, True), ("active", True), ("Offline", False), ("maintenance", False)])
def test_a_status_that_is_no_word_for_available_means_that_it_is_not(status: str | None, available: bool) -> None:
    """Where none is said, nothing speaks against the model."""
    assert read(status=status).is_available == available


@pytest.mark.parametrize(
    ("parameter", "value", "problem"),
    [
        (Parameter("t", min=Decimal(0), max=Decimal(2)), 1, None),
        (Parameter("t", min=Decimal(0), max=Decimal(2)), 2.5, "is above 2"),
        (Parameter("t", min=Decimal("0.5")), Decimal("0.4"), "is below 0.5"),
        (Parameter("t", max=Decimal(2)), "many", None),
        (Parameter("t", max=Decimal(0)), True, None),
        (Parameter("t", max=Decimal(0)), None, None),
        (Parameter("t", max=Decimal(0)), float("nan"), None),
        (Parameter("e", options=("low", "high")), "low", None),
        (Parameter("e", options=("low", "high")), "none", "is none of low, high"),
        (Parameter("e", options=("low",)), ["low"], None),
        (Parameter("e", options=("low",)), ["low", "high"], "is none of low"),
        (Parameter("e", options=("low",)), {"type": "low"}, None),
        (Parameter("t", max=Decimal(2)), 1e300, "is above 2"),
        (Parameter("n", options=("1", "2")), 2, None),
    ],
)
def test_values_that_a_model_does_not_take(parameter: Parameter, value: object, problem: str | None) -> None:
    """Outside of the bounds, or none of the options; a type that bounds say nothing about is not judged."""
    assert parameter.problem(value) == problem


def test_a_model_that_is_listed_twice_is_one() -> None:
    """The later entry stands, as for prices."""
    found = models([ENTRY, ENTRY | {"status": "offline"}, {"id": "b"}, {"name": "no id"}])
    assert [(model.id, model.status) for model in found] == [("vendor-1", "offline"), ("b", None)]


def test_what_is_no_catalog_is_said_to_be_none() -> None:
    """With what to check."""
    with pytest.raises(AccountError, match="catalog"):
        models(b"<html>")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "min", "max", "options", "value", "status", "api", "id"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(set(ENTRY) - {"id"})), JSON), JSON)
def test_no_entry_raises(fields: dict[str, Any], value: object) -> None:
    """Nor does judging a value by what it says of its parameters."""
    (model,) = models([fields | {"id": "m"}])
    assert model.modality is not None
    for parameter in model.parameters or ():
        parameter.problem(value)
