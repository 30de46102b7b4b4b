"""A model on offer and its price, in each unit that the real catalog has."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

AVAILABLE = "available"
_NOTHING: Mapping[str, Any] = {}


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
    #: USD each, by unit: image, video-second, audio-second, custom
    units: dict[str, Decimal] = {}
    #: USD a call, by tool
    tools: dict[str, Decimal] = {}
    #: whether units stand in `pricing_rows`; else each is a key of `pricing`
    in_rows: bool = False
    #: descriptions as the catalog shows them, beside that of the cap
    parameters: tuple[dict[str, Any], ...] = ()
    status: str = AVAILABLE

    def cost(
        self,
        input_tokens: int,
        cached_tokens: int,
        output_tokens: int,
        tool_usage: Mapping[str, int] = _NOTHING,
        units: Mapping[str, Decimal] = _NOTHING,
    ) -> Decimal:
        """USD, exact, in the tier that `input_tokens` (cached included) falls into; calls by tool and `units` with it."""
        price = self.prices[0]
        if len(self.prices) > 1:
            price = next(price for price in reversed(self.prices) if input_tokens >= price.min_context)
        total = price.cost(input_tokens, cached_tokens, output_tokens)
        for unit, quantity in units.items():
            total += self.units.get(unit, 0) * quantity
        for tool, calls in tool_usage.items():
            total += self.tools[tool] * calls
        return total
