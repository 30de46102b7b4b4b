"""The models on offer, their prices in each shape that the real catalog has, and what a request to one of them costs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec

from batchrunner.simulator.media_models import MEDIA_MODELS
from batchrunner.simulator.model import Model, Price

__all__ = ["MODELS", "Catalog", "Model", "Price", "entry"]

#: of models that write, beside the cap
_WRITING = (
    {"name": "temperature", "type": "number", "min": 0, "max": 2, "default": 1},
    {"name": "top_p", "type": "number"},
    {"name": "n", "type": "integer", "min": 1, "default": 1},
)

MODELS = (
    Model(
        id="simulated-small",
        display_name="Simulated Small",
        context_length=131_072,
        max_output_tokens=8_192,
        prices=(Price(Decimal("0.00000015"), Decimal("0.0000006"), Decimal("0.000000075")),),
    ),
    Model(
        id="simulated-large",
        display_name="Simulated Large (context tiers)",
        context_length=1_000_000,
        max_output_tokens=65_536,
        prices=(
            Price(Decimal("0.00000125"), Decimal("0.00001"), Decimal("0.000000125")),
            Price(Decimal("0.0000025"), Decimal("0.000015"), Decimal("0.00000025"), min_context=200_000),
        ),
        input_modalities=("text", "image"),
        tools={"web_search": Decimal("0.01"), "code_interpreter": Decimal("0.03")},
    ),
    Model(
        id="simulated-reasoner",
        display_name="Simulated Reasoner",
        context_length=200_000,
        max_output_tokens=32_768,
        prices=(Price(Decimal("0.00000055"), Decimal("0.00000219")),),
        reasoning=True,
    ),
    Model(
        id="simulated-per-request",
        display_name="Simulated Search (billed by request)",
        context_length=32_768,
        max_output_tokens=4_096,
        prices=(Price(request=Decimal("0.005")),),
    ),
    Model(
        id="simulated-embedding",
        display_name="Simulated Embedding",
        context_length=32_768,
        max_output_tokens=0,
        prices=(Price(Decimal("0.00000002")),),
        category="embedding",
        output_modalities=("embedding",),
        parameters=(
            {"name": "dimensions", "type": "integer", "min": 1},
            {"name": "encoding_format", "type": "string", "options": ["float", "base64"], "default": "float"},
        ),
    ),
    Model(
        id="simulated-rerank",
        display_name="Simulated Rerank",
        context_length=32_768,
        max_output_tokens=0,
        prices=(Price(Decimal("0.00000005")),),
        category="rerank",
        output_modalities=("score",),
        parameters=({"name": "top_n", "type": "integer", "min": 1},),
    ),
    *MEDIA_MODELS,
)


class Catalog:
    """The models by id, and the two answers that show them."""

    def __init__(self, models: tuple[Model, ...] = MODELS) -> None:
        self._models = {model.id: model for model in models}
        self._list = msgspec.json.encode({"object": "list", "data": [entry(model) for model in models]})

    def get(self, model_id: str) -> Model | None:
        return self._models.get(model_id)

    def list_body(self) -> bytes:
        return self._list


def entry(model: Model) -> dict[str, Any]:
    """A model as the catalog shows it; `pricing` is one object, or an array where there are context tiers."""
    tiers = [_pricing(model, price) for price in model.prices]
    features = ["reasoning"] if model.reasoning else []
    cap = {"name": "max_tokens", "type": "integer", "min": 1, "max": model.max_output_tokens}
    shown = {
        "id": model.id,
        "object": "model",
        "display_name": model.display_name,
        "provider": "simulated",
        "category": model.category,
        "context_length": model.context_length,
        "max_output_tokens": model.max_output_tokens,
        "input_modalities": list(model.input_modalities),
        "output_modalities": list(model.output_modalities),
        "supported_parameters": [
            *([cap, *_WRITING] if model.max_output_tokens else []),
            *([{"name": "tools", "type": "array"}] if model.tools else []),
            *model.parameters,
        ],
        "capabilities": {"reasoning": model.reasoning, "tools": bool(model.tools)},
        "features": features,
        "served_from": "loopback",
        "status": model.status,
        "pricing": tiers if len(tiers) > 1 else tiers[0],
    }
    rows = list(_rows(model))
    return shown | ({"pricing_rows": rows} if rows else {})


def _rows(model: Model) -> Iterator[dict[str, str]]:
    """What is priced by the picture, second or call, and as people are shown it."""
    for unit, price in model.units.items() if model.in_rows else ():
        yield {"unit": unit, "label": f"per {unit}", "price": format(price, "f"), "currency": "USD"}
    for tool, price in model.tools.items():
        yield {"unit": "tool-call", "name": tool, "price": format(price, "f"), "currency": "USD"}


def _pricing(model: Model, price: Price) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if price.prompt or price.completion:
        shown |= {"prompt": format(price.prompt, "f"), "completion": format(price.completion, "f")}
    if price.input_cache_read is not None:
        shown["input_cache_read"] = format(price.input_cache_read, "f")
    if price.request is not None:
        shown["request"] = format(price.request, "f")
    if not model.in_rows:
        shown |= {unit: format(each, "f") for unit, each in model.units.items()}
    if len(model.prices) > 1:
        shown["min_context"] = price.min_context
    return shown
