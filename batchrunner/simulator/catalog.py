"""The models on offer, their prices in each shape that the real catalog has, and what a request to one of them costs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

_NO_TOOLS: Mapping[str, int] = {}


class Price(msgspec.Struct, frozen=True):
    """USD per token and per request. A catalog entry with several of them has context tiers."""

    prompt: Decimal = Decimal(0)
    completion: Decimal = Decimal(0)
    #: None: cached tokens cost what others do
    input_cache_read: Decimal | None = None
    request: Decimal | None = None
    #: this tier holds from so many input tokens on
    min_context: int = 0

    def cost(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> Decimal:
        """USD, exact; `input_tokens` includes cached."""
        cached_price = self.prompt if self.input_cache_read is None else self.input_cache_read
        tokens = self.prompt * (input_tokens - cached_tokens) + cached_price * cached_tokens + self.completion * output_tokens
        return tokens + (self.request or 0)


class Model(msgspec.Struct, frozen=True):
    """One entry of the catalog."""

    id: str
    display_name: str
    context_length: int
    max_output_tokens: int
    #: cheapest context first
    prices: tuple[Price, ...]
    reasoning: bool = False
    category: str = "text"
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    #: USD a call, by tool that the platform runs
    tools: dict[str, Decimal] = {}

    def cost(
        self, input_tokens: int, cached_tokens: int, output_tokens: int, tool_usage: Mapping[str, int] = _NO_TOOLS
    ) -> Decimal:
        """USD, exact, in the tier that `input_tokens` (cached included) falls into, and for calls by tool."""
        tier = self.prices[0]
        if len(self.prices) > 1:
            tier = next(price for price in reversed(self.prices) if input_tokens >= price.min_context)
        cost = tier.cost(input_tokens, cached_tokens, output_tokens)
        for tool, calls in tool_usage.items():
            cost += self.tools[tool] * calls
        return cost


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
    ),
    Model(
        id="simulated-rerank",
        display_name="Simulated Rerank",
        context_length=32_768,
        max_output_tokens=0,
        prices=(Price(Decimal("0.00000005")),),
        category="rerank",
        output_modalities=("score",),
    ),
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
    tiers = [_pricing(price, tiered=len(model.prices) > 1) for price in model.prices]
    features = ["reasoning"] if model.reasoning else []
    cap = {"name": "max_tokens", "type": "integer", "min": 1, "max": model.max_output_tokens}
    rows = [{"unit": "tool-call", "name": tool, "price": format(price, "f")} for tool, price in model.tools.items()]
    return {
        "id": model.id,
        "object": "model",
        "display_name": model.display_name,
        "provider": "simulated",
        "category": model.category,
        "context_length": model.context_length,
        "max_output_tokens": model.max_output_tokens,
        "input_modalities": list(model.input_modalities),
        "output_modalities": list(model.output_modalities),
        "supported_parameters": [cap] if model.max_output_tokens else [],
        "capabilities": {"reasoning": model.reasoning},
        "features": features,
        "served_from": "loopback",
        "status": "available",
        "pricing": tiers if len(tiers) > 1 else tiers[0],
    } | ({"pricing_rows": rows} if rows else {})


def _pricing(price: Price, *, tiered: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if price.prompt or price.completion:
        shown |= {"prompt": format(price.prompt, "f"), "completion": format(price.completion, "f")}
    if price.input_cache_read is not None:
        shown["input_cache_read"] = format(price.input_cache_read, "f")
    if price.request is not None:
        shown["request"] = format(price.request, "f")
    if tiered:
        shown["min_context"] = price.min_context
    return shown
