"""Usage times price, exactly: decimal arithmetic that never rounds, and None wherever a price is not known for sure."""

from __future__ import annotations

import decimal
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Self

import msgspec

from batchrunner.catalog import decoded, entries
from batchrunner.catalog_prices import ModelPrice, model_price
from batchrunner.job import RequestSize, Usage

#: digits that hold any product of a price and a count below their bounds; a result that would not fit raises
EXACT: Final = decimal.Context(prec=120, traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow])
_NO_TOOLS: Final[Mapping[str, int]] = {}
_NO_UNITS: Final[Mapping[str, Decimal]] = {}
_NOTHING: Final = Usage(0, 0, tokens_known=False)
#: no answer holds more pictures or seconds, nor parts of them so small
_MOST: Final = 1_000_000_000
_MOST_DECIMALS: Final = 18


class PriceTable(msgspec.Struct, frozen=True):
    """The prices of all models at one time. Encodes to plain JSON, amounts as decimal strings."""

    prices: dict[str, ModelPrice] = {}
    #: ISO date and time at which the catalog was fetched, or a file of one's own last changed; None for no prices
    fetched_at: str | None = None
    #: they were more than a day old when they had to do: no spend cap may rest on them
    stale: bool = False

    @classmethod
    def from_catalog(cls, catalog: bytes | object, *, fetched_at: str, stale: bool = False) -> Self:
        """The prices in an answer of `GET /v1/models`, as bytes or decoded.

        Raises: AccountError where it is no catalog. An entry whose price cannot be understood is kept without one.
        """
        return cls({entry["id"]: model_price(entry) for entry in entries(catalog)}, fetched_at, stale)

    @classmethod
    def from_file(cls, data: bytes, *, changed_at: str) -> Self:
        """The prices in a file of one's own: a catalog as above, or `{"MODEL": PRICING, ...}`, which may say `max_output_tokens`.

        Raises: AccountError where it is neither.
        """
        found = decoded(data)
        if isinstance(found, dict) and not isinstance(found.get("data", found.get("models")), list):
            found = [_entry(model, pricing) for model, pricing in found.items()]
        return cls.from_catalog(found, fetched_at=changed_at)

    def cost(
        self, model: str, usage: Usage | None, tool_usage: Mapping[str, int] = _NO_TOOLS, *, opaque: bool = False
    ) -> Decimal | None:
        """USD for one answer, exact; None where any part of it has no known price. `tool_usage` is calls by tool.

        Without usage of tokens only a model whose tokens are free has a known cost. An `opaque` answer may hold more than its
        usage counts: it has a known cost where the model is billed by nothing else, or by units all of which are counted.
        """
        price = self.prices.get(model)
        usage = usage or _NOTHING
        if price is None or (not usage.tokens_known and not price.tokens_are_free):
            return None
        tier = price.tier(usage.input_tokens)
        if tier is None or not _is_counted(price, usage, tool_usage, opaque=opaque):
            return None
        cached_price = tier.prompt if tier.input_cache_read is None else tier.input_cache_read
        # A unit without a price costs nothing where the model is billed by tokens or requests alone.
        unit_price = None if price.beyond_tokens else Decimal(0)
        return _total(
            [
                (usage.input_tokens - usage.cached_tokens, tier.prompt),
                (usage.cached_tokens, cached_price),
                (usage.output_tokens, tier.completion),
                (1, tier.request or Decimal(0)),
                *((quantity, price.units.get(unit, unit_price)) for unit, quantity in usage.units.items()),
                *((calls, price.tools.get(tool)) for tool, calls in tool_usage.items()),
            ]
        )

    def output_bound(self, size: RequestSize) -> int | None:
        """The most output tokens that a request can be billed for: its own cap, else the model's for each choice.

        None where neither is known, and where the model may bill the answer by what the request does not tell: then no number
        bounds it.
        """
        price = self.prices.get(size.model)
        if size.opaque_output and price is not None and price.beyond_tokens and _told(price, size.units) is None:
            return None
        if size.output_cap_tokens is not None:
            return size.output_cap_tokens
        return None if price is None or price.max_output_tokens is None else price.max_output_tokens * size.choices

    def ceiling(
        self, model: str, input_tokens: int, output_bound_tokens: int | None, units: Mapping[str, Decimal] = _NO_UNITS
    ) -> Decimal | None:
        """USD that one request may cost at most: nothing cached, all the output that it may take, all `units` that it asks for.

        None where the price is not known, or no bound on an output that costs something.
        """
        price = self.prices.get(model)
        if price is None:
            return None
        told = _told(price, units)
        if told is None and price.beyond_tokens and (units or output_bound_tokens is None):
            return None
        if output_bound_tokens is None and not price.written_is_free:
            return None
        return self.cost(model, Usage(input_tokens, output_bound_tokens or 0, units=told or {}))

    def prediction(self, size: RequestSize, predicted: Usage) -> Decimal | None:
        """USD that a request of which these tokens are expected will cost, the units that it asks for included."""
        price = self.prices.get(size.model)
        told = None if price is None else _told(price, size.units)
        return self.cost(size.model, msgspec.structs.replace(predicted, units=told) if told else predicted)

    def units_usd(self, size: RequestSize) -> Decimal | None:
        """USD for what a request asks for beside tokens; None where its model bills by something that it does not tell."""
        price = self.prices.get(size.model)
        if price is None or not (price.by_unit_alone or (price.beyond_tokens and size.opaque_output)):
            return Decimal(0)
        told = _told(price, size.units)
        return None if told is None else _total([(quantity, price.units[unit]) for unit, quantity in told.items()])


def _told(price: ModelPrice, units: Mapping[str, Decimal]) -> dict[str, Decimal] | None:
    """Of what a request asks for, what the model bills beside tokens; None where it does not tell of all of that."""
    if not price.units or not price.units.keys() <= units.keys():
        return None
    told = {unit: units[unit] for unit in price.units}
    return told if all(map(_makes_sense, told.values())) else None


def _is_counted(price: ModelPrice, usage: Usage, tool_usage: Mapping[str, int], *, opaque: bool) -> bool:
    """Whether a usage names all that this price is billed by, in numbers that make sense."""
    if not all(map(_makes_sense, usage.units.values())):
        return False
    if price.beyond_tokens and opaque:
        return bool(price.units) and price.units.keys() <= usage.units.keys()
    return bool(usage.units or tool_usage) or not price.by_unit_alone


def _makes_sense(quantity: Decimal) -> bool:
    """Whether an answer can hold so many pictures or seconds, and EXACT all digits of their price."""
    if not quantity.is_finite() or not 0 <= quantity <= _MOST:
        return False
    return quantity.adjusted() >= -_MOST_DECIMALS and len(quantity.as_tuple().digits) <= 2 * _MOST_DECIMALS


def _total(parts: list[tuple[int | Decimal, Decimal | None]]) -> Decimal | None:
    total = Decimal(0)
    for quantity, price in parts:
        if quantity:
            if price is None:
                return None
            total = EXACT.add(total, EXACT.multiply(price, Decimal(quantity)))
    return total


def json_number(amount: Decimal) -> str:
    """An amount as a JSON number: all its digits, no exponent, no zeros at the end. Raises: ValueError where it is not finite."""
    if not amount.is_finite():
        raise ValueError(f"{amount} is no amount")
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _entry(model: str, pricing: object) -> dict[str, Any]:
    """A model of a map as a catalog has it: `pricing` is what it costs, or an entry that says so under that name."""
    return {"pricing": pricing} | (pricing if isinstance(pricing, dict) else {}) | {"id": model}
