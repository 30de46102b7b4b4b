"""Usage times price, exactly: decimal arithmetic that never rounds, and None wherever a price is not known for sure.

Prices come from the platform's catalog as decimal strings in USD per unit. `pricing` of an entry is one object or an array of
context tiers. How a tier says where it holds is not documented; assumed here, and tried in this order:

    an upper bound    `max_context`, `up_to`, `max_input_tokens`, `context_length`, ...   holds to so many input tokens, inclusive
    a lower bound     `min_context`, `from`, `min_input_tokens`                           holds from so many on
                      `above`, `over`, `threshold`                                        holds from one more on

All tiers of an array must be bounded in the same way, save one: the last without an upper bound, the first without a lower
one. Whatever does not fit this, and whatever is billed by a unit that a reply's usage does not show, makes the price unknown:
a wrong amount is worse than none.
"""

from __future__ import annotations

import decimal
import itertools
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final, Self

import msgspec

from batchrunner.errors import AccountError
from batchrunner.job import RequestSize, Usage

#: digits that hold any product of a price and a count below their bounds; a result that would not fit raises
EXACT: Final = decimal.Context(prec=120, traps=[decimal.Inexact, decimal.InvalidOperation, decimal.Overflow])
_PRICE: Final = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,2})?")
_MAX_PRICE: Final = 1_000_000
_MAX_DECIMALS: Final = 60
_NO_TOOLS: Final[Mapping[str, int]] = {}

#: parts of a price that token replies are billed by
_COMPONENTS: Final = ("prompt", "completion", "input_cache_read", "request")
#: parts for what a reply of text does not hold, and what no reply counts
_BEYOND_TOKENS: Final = frozenset(
    {"image", "image_output", "audio", "video", "video-second", "video_second", "audio-second", "audio_second"}
)
#: tools are priced by row and only count where one fired
_BESIDE: Final = _BEYOND_TOKENS | {"tool-call", "tool_call", "web_search"}
_TOKEN_UNITS: Final = frozenset({"token", "tokens", "per_token", "request", "per_request"})
_ROW_PRICES: Final = ("price", "amount", "usd")
_TOOL_UNITS: Final = frozenset({"tool-call", "tool_call", "call", "tool"})

_UPPER: Final = ("max_context", "up_to", "max_input_tokens", "max_prompt_tokens", "context_length", "context_window")
_LOWER: Final = ("min_context", "from", "min_input_tokens", "min_prompt_tokens")
_ABOVE: Final = ("above", "over", "threshold")
_BOUNDS: Final = frozenset((*_UPPER, *_LOWER, *_ABOVE))


class Tier(msgspec.Struct, frozen=True):
    """USD per token and per request, for requests of some length. None: the catalog does not say."""

    prompt: Decimal | None = None
    completion: Decimal | None = None
    #: None: cached tokens cost what others do
    input_cache_read: Decimal | None = None
    request: Decimal | None = None
    #: input tokens, inclusive; None where there is no end
    up_to: int | None = None


class ModelPrice(msgspec.Struct, frozen=True):
    """What one model costs."""

    #: shortest first; none where the catalog's price could not be understood
    tiers: tuple[Tier, ...] = ()
    #: USD a call, by tool
    tools: dict[str, Decimal] = {}
    max_output_tokens: int | None = None
    #: pictures, seconds or the like have a price too
    beyond_tokens: bool = False

    @property
    def tokens_are_free(self) -> bool:
        """Whether a request costs the same, however long it is."""
        return len(self.tiers) == 1 and not any((self.tiers[0].prompt, self.tiers[0].completion, self.tiers[0].input_cache_read))

    @property
    def output_is_free(self) -> bool:
        """Whether nothing that is written costs anything."""
        return bool(self.tiers) and not self.beyond_tokens and all(tier.completion == 0 for tier in self.tiers)

    def tier(self, input_tokens: int) -> Tier | None:
        """The tier for a request of so many input tokens; None past the last one's end."""
        for tier in self.tiers:
            if tier.up_to is None or input_tokens <= tier.up_to:
                return tier
        return None


class PriceTable(msgspec.Struct, frozen=True):
    """The prices of all models at one time. Encodes to plain JSON, amounts as decimal strings."""

    prices: dict[str, ModelPrice] = {}
    #: ISO date and time at which the catalog was fetched, or a file of one's own last changed; None for no prices
    fetched_at: str | None = None

    @classmethod
    def from_catalog(cls, catalog: bytes | object, *, fetched_at: str) -> Self:
        """The prices in an answer of `GET /v1/models`, as bytes or decoded.

        Raises: AccountError where it is no catalog. An entry whose price cannot be understood is kept without one.
        """
        return cls({entry["id"]: model_price(entry) for entry in catalog_entries(catalog)}, fetched_at)

    @classmethod
    def from_file(cls, data: bytes, *, changed_at: str) -> Self:
        """The prices in a file of one's own: a catalog as above, or `{"MODEL": PRICING, ...}`, which may say `max_output_tokens`.

        Raises: AccountError where it is neither.
        """
        found = _decoded(data)
        if isinstance(found, dict) and not isinstance(found.get("data", found.get("models")), list):
            found = [_entry(model, pricing) for model, pricing in found.items()]
        return cls.from_catalog(found, fetched_at=changed_at)

    def cost(
        self, model: str, usage: Usage | None, tool_usage: Mapping[str, int] = _NO_TOOLS, *, opaque: bool = False
    ) -> Decimal | None:
        """USD for one answer, exact; None where any part of it has no known price. `tool_usage` is calls by tool.

        Without usage of tokens only a model whose tokens are free has a known cost; for an `opaque` answer, which may hold more
        than what is counted, only one that is billed by nothing else.
        """
        price = self.prices.get(model)
        usage = usage or Usage(0, 0, tokens_known=False)
        if price is None or (not usage.tokens_known and not price.tokens_are_free):
            return None
        if (opaque or usage.units) and price.beyond_tokens:
            return None
        tier = price.tier(usage.input_tokens)
        if tier is None:
            return None
        cached_price = tier.prompt if tier.input_cache_read is None else tier.input_cache_read
        parts: list[tuple[int, Decimal | None]] = [
            (usage.input_tokens - usage.cached_tokens, tier.prompt),
            (usage.cached_tokens, cached_price),
            (usage.output_tokens, tier.completion),
            (1, tier.request or Decimal(0)),
            *((calls, price.tools.get(tool)) for tool, calls in tool_usage.items()),
        ]
        return _total(parts)

    def output_bound(self, size: RequestSize) -> int | None:
        """The most output tokens that a request can be billed for: its own cap, else the model's for each choice.

        None where neither is known, and where the model may bill the answer by more than tokens: then no number bounds it.
        """
        price = self.prices.get(size.model)
        if size.opaque_output and price is not None and price.beyond_tokens:
            return None
        if size.output_cap_tokens is not None:
            return size.output_cap_tokens
        return None if price is None or price.max_output_tokens is None else price.max_output_tokens * size.choices

    def ceiling(self, model: str, input_tokens: int, output_bound_tokens: int | None) -> Decimal | None:
        """USD that one request may cost at most: nothing cached, and all the output that it may take.

        None where the price is not known, or no bound on an output that costs something.
        """
        if output_bound_tokens is None:
            price = self.prices.get(model)
            if price is None or not price.output_is_free:
                return None
        return self.cost(model, Usage(input_tokens, output_bound_tokens or 0))


def _total(parts: list[tuple[int, Decimal | None]]) -> Decimal | None:
    total = Decimal(0)
    for units, price in parts:
        if units:
            if price is None:
                return None
            total = EXACT.add(total, EXACT.multiply(price, Decimal(units)))
    return total


def json_number(amount: Decimal) -> str:
    """An amount as a JSON number: all its digits, no exponent, no zeros at the end. Raises: ValueError where it is not finite."""
    if not amount.is_finite():
        raise ValueError(f"{amount} is no amount")
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def catalog_entries(catalog: bytes | object) -> list[dict[str, Any]]:
    """The entries of an answer of `GET /v1/models`: its `data`, or the bare array; those without an id are left out.

    Numbers that are no integers come out as Decimal. Raises: AccountError where the answer is no catalog.
    """
    if isinstance(catalog, (bytes, bytearray, memoryview)):
        catalog = _decoded(catalog)
    entries = catalog.get("data", catalog.get("models")) if isinstance(catalog, dict) else catalog
    if not isinstance(entries, list):
        raise AccountError("the server's model catalog has no list of models; check --base-url, or try again later.")
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]]


def _decoded(catalog: bytes | bytearray | memoryview) -> Any:
    try:
        return msgspec.json.Decoder(float_hook=Decimal).decode(catalog)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, decimal.InvalidOperation) as error:
        raise AccountError("the server's model catalog is not JSON; check --base-url, or try again later.") from error


def _entry(model: str, pricing: object) -> dict[str, Any]:
    """A model of a map as a catalog has it: `pricing` is what it costs, or an entry that says so under that name."""
    return {"pricing": pricing} | (pricing if isinstance(pricing, dict) else {}) | {"id": model}


def model_price(entry: Mapping[str, Any]) -> ModelPrice:
    """What a catalog entry says about its price; without tiers where that cannot be understood."""
    pricing, rows = entry.get("pricing"), entry.get("pricing_rows")
    parts = pricing if isinstance(pricing, list) else [pricing]
    return ModelPrice(_tiers(parts), _tools(rows), token_count(entry.get("max_output_tokens")), _beyond_tokens(parts, rows))


def token_count(value: object) -> int | None:
    """A positive integer below any bound that makes sense, else None."""
    return value if type(value) is int and 0 < value <= 1_000_000_000 else None


def _tiers(entries: list[Any]) -> tuple[Tier, ...]:
    read = [_tier(entry) for entry in entries]
    tiers = [tier for tier in read if tier is not None]
    if not tiers or len(tiers) < len(read):
        return ()
    if len(tiers) == 1:
        return tuple(tiers)
    ends = _ends(entries)
    if ends is None:
        return ()
    bounded = [msgspec.structs.replace(tier, up_to=end) for tier, end in zip(tiers, ends, strict=True)]
    return tuple(sorted(bounded, key=lambda tier: (tier.up_to is None, tier.up_to or 0)))


def _tier(entry: object) -> Tier | None:
    """The prices of one pricing object; None where a part of it is no price, or is for what a reply does not show."""
    if (
        not isinstance(entry, dict)
        or entry.get("currency", "USD") != "USD"
        or str(entry.get("unit", "token")) not in _TOKEN_UNITS
    ):
        return None
    found: dict[str, Decimal] = {}
    for key, value in entry.items():
        amount = price_of(value)
        if key in _COMPONENTS:
            if value is None:
                continue
            if amount is None:
                return None
            found[key] = amount
        elif amount and not isinstance(value, int) and key not in _BESIDE and key not in _BOUNDS:
            return None  # an integer is a count of something: nobody asks a whole dollar for a token
        elif key.startswith("per") and value:
            return None  # it speaks of another unit, `per: 1M` or `per_million: true`
    if not found:
        return None
    if "request" in found and not found.keys() & {"prompt", "completion"}:  # billed by request: tokens are free
        found |= {"prompt": Decimal(0), "completion": Decimal(0)}
    return Tier(found.get("prompt"), found.get("completion"), found.get("input_cache_read"), found.get("request"))


def price_of(value: object) -> Decimal | None:
    """A price as the catalog writes it: a decimal string, or a number. None for everything else, and for what makes no sense."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    text = str(value).strip()  # a float's shortest spelling is the one that the catalog wrote
    if not _PRICE.fullmatch(text):
        return None
    amount = Decimal(text)
    return amount if amount <= _MAX_PRICE and len(format(amount, "f")) <= _MAX_DECIMALS else None


def _ends(entries: list[dict[str, Any]]) -> list[int | None] | None:
    """Each tier's last input token (None: without end), from upper or from lower bounds; None where neither explains all."""
    uppers = [_bound(entry, _UPPER) for entry in entries]
    given = [end for end in uppers if end is not None]
    if len(given) >= len(entries) - 1 and len(set(uppers)) == len(entries):
        return uppers
    starts = [_start(entry) for entry in entries]
    if starts.count(0) != 1 or len(set(starts)) < len(starts):
        return None
    in_order = sorted(starts)
    after = dict(itertools.pairwise(in_order))
    return [after[start] - 1 if start in after else None for start in starts]


def _start(entry: dict[str, Any]) -> int:
    """A tier's first input token; 0 where it names none, or one."""
    above = _bound(entry, _ABOVE)
    start = _bound(entry, _LOWER) or 0
    start = above + 1 if above is not None else start
    return 0 if start == 1 else start


def _bound(entry: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((bound for name in names if (bound := token_count(entry.get(name))) is not None), None)


def _beyond_tokens(parts: list[Any], rows: object) -> bool:
    """Whether a part or a row prices, at more than nothing, what is neither token, request nor tool."""
    prices = [part[key] for part in parts if isinstance(part, dict) for key in _BEYOND_TOKENS & part.keys()]
    prices += [
        next((row[key] for key in _ROW_PRICES if key in row), row)
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict) and str(row.get("unit")) not in _TOKEN_UNITS | _TOOL_UNITS
    ]
    return any(price is not None and price_of(price) != 0 for price in prices)


def _tools(rows: object) -> dict[str, Decimal]:
    """USD a call by tool, from rows such as {"unit": "tool-call", "name": "web_search", "price": "0.01"}."""
    tools: dict[str, Decimal] = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and str(row.get("unit")) in _TOOL_UNITS and row.get("currency", "USD") == "USD":
            name = next((row[key] for key in ("tool", "name", "id", "label") if isinstance(row.get(key), str)), None)
            amount = next((price for key in _ROW_PRICES if (price := price_of(row.get(key))) is not None), None)
            if name is not None and amount is not None:
                tools[name] = amount
    return tools
