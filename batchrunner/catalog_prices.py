"""What an entry of the catalog says about its price: amounts that are understood for sure, and no price where one is not.

Prices are decimal strings in USD per unit. `pricing` is one object or an array of context tiers, with a key for each part;
`pricing_rows` are objects with a `unit` and a price each. Both are read, and where they differ `pricing` counts.

    token                     `prompt`, `completion`, `input_cache_read`; rows are told apart by their label
    request                   `request`, where it costs anything; tokens without a price of their own are free then
    image, video-second,      a key or a row of that name
    audio-second
    tool-call                 a row with the tool's name
    custom, any other unit    nobody can count it: the model has no known price, unless it costs nothing

How a tier says where it holds is not documented; assumed here, and tried in this order:

    an upper bound    `max_context`, `up_to`, `max_input_tokens`, `context_length`, ...   holds to so many input tokens, inclusive
    a lower bound     `min_context`, `from`, `min_input_tokens`                           holds from so many on
                      `above`, `over`, `threshold`                                        holds from one more on

All tiers of an array must be bounded in the same way, save one: the last without an upper bound, the first without a lower
one. Whatever does not fit makes the price unknown: a wrong amount is worse than none.
"""

from __future__ import annotations

import decimal
import itertools
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import msgspec

#: billing units that an answer is counted in beside tokens and requests
MEDIA_UNITS: Final = ("image", "video-second", "audio-second")

_PRICE: Final = re.compile(r"[0-9]{1,7}(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,2})?")
_MAX_PRICE: Final = 1_000_000
_MAX_DECIMALS: Final = 60
_MAX_TOKENS: Final = 1_000_000_000
_WIDE: Final = decimal.Context(prec=80)

#: parts of a price that every answer is billed by
_COMPONENTS: Final = ("prompt", "completion", "input_cache_read", "request")
#: parts for what an answer may hold, in a quantity that it does not say
_UNCOUNTED: Final = frozenset({"image-output", "audio", "video"})
_TOOL_UNITS: Final = frozenset({"tool-call", "call", "tool"})
#: tools are priced by row, and only count where one fired
_TOOL_KEYS: Final = frozenset({"tool-call", "web-search"})
_ROW_PRICES: Final = ("price", "amount", "usd")
_ROW_LABELS: Final = ("tool", "name", "id", "label", "type", "kind")
#: tokens in the unit of a row, by what stands before the word
_TOKENS: Final = {"": 1} | dict.fromkeys(("1k", "k", "1000"), 1_000) | dict.fromkeys(("1m", "m", "million", "1000000"), 1_000_000)
_TOKEN_LABELS: Final = (
    dict.fromkeys(("prompt", "input", "input-token", "prompt-token"), "prompt")
    | dict.fromkeys(("completion", "output", "output-token", "completion-token"), "completion")
    | dict.fromkeys(("input-cache-read", "cached-input", "input-cached", "cache-read", "cached"), "input_cache_read")
)

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
    #: these prices, as far as they are known: USD each, by unit; None where an answer does not say how many it holds
    units: dict[str, Decimal | None] = {}
    #: nothing is said of tokens or requests: an answer in which nothing was counted has no known price
    by_unit_alone: bool = False

    @property
    def tokens_are_free(self) -> bool:
        """Whether a request costs the same, however long it is."""
        return len(self.tiers) == 1 and not any((self.tiers[0].prompt, self.tiers[0].completion, self.tiers[0].input_cache_read))

    @property
    def written_is_free(self) -> bool:
        """Whether no token that is written costs anything."""
        return bool(self.tiers) and all(tier.completion == 0 for tier in self.tiers)

    def tier(self, input_tokens: int) -> Tier | None:
        """The tier for a request of so many input tokens; None past the last one's end."""
        for tier in self.tiers:
            if tier.up_to is None or input_tokens <= tier.up_to:
                return tier
        return None


def model_price(entry: Mapping[str, Any]) -> ModelPrice:
    """What a catalog entry says about its price; without tiers where that cannot be understood."""
    pricing, given = entry.get("pricing"), entry.get("pricing_rows")
    parts = pricing if isinstance(pricing, list) else [pricing]
    rows = [row for row in (*(given if isinstance(given, list) else ()), *filter(_is_row, parts)) if isinstance(row, dict)]
    parts = [part for part in parts if not _is_row(part)] or [None]
    units, tools, cap = _units(parts, rows), _tools(rows), token_count(entry.get("max_output_tokens"))
    if units is None:
        return ModelPrice((), tools, cap, beyond_tokens=True)
    # Of several tiers, what a row says of tokens could be any one's; a request costs what it says in each of them.
    for_all = rows if len(parts) == 1 else [row for row in rows if _per_tokens(row.get("unit")) == 0]
    parts = [_with_rows(part, for_all) for part in parts]
    alone = bool(units or tools) and not any(part.keys() & {*_COMPONENTS} for part in parts if isinstance(part, dict))
    return ModelPrice(_tiers(parts, by_unit=alone), tools, cap, bool(units), units, alone)


def token_count(value: object) -> int | None:
    """A positive integer below any bound that makes sense, else None."""
    return value if type(value) is int and 0 < value <= _MAX_TOKENS else None


def price_of(value: object) -> Decimal | None:
    """A price as the catalog writes it: a decimal string, or a number. None for everything else, and for what makes no sense."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    text = str(value).strip()  # a float's shortest spelling is the one that the catalog wrote
    if not _PRICE.fullmatch(text):
        return None
    amount = Decimal(text)
    return amount if amount <= _MAX_PRICE and len(format(amount, "f")) <= _MAX_DECIMALS else None


# Tiers -------------------------------------------------------------------------------------------------------------


def _tiers(parts: list[Any], *, by_unit: bool) -> tuple[Tier, ...]:
    read = [_tier(part, by_unit=by_unit) for part in parts]
    tiers = [tier for tier in read if tier is not None]
    if not tiers or len(tiers) < len(read):
        return ()
    if len(tiers) == 1:
        return tuple(tiers)
    ends = _ends(parts)
    if ends is None:
        return ()
    bounded = [msgspec.structs.replace(tier, up_to=end) for tier, end in zip(tiers, ends, strict=True)]
    return tuple(sorted(bounded, key=lambda tier: (tier.up_to is None, tier.up_to or 0)))


def _tier(part: object, *, by_unit: bool) -> Tier | None:
    """The prices of one pricing object; None where a part of it is no price, or is for what nobody counts."""
    if not isinstance(part, dict) or not _is_usd(part) or _per_tokens(part.get("unit", "token")) not in (0, 1):
        return None
    found: dict[str, Decimal] = {}
    for key, value in part.items():
        amount = price_of(value)
        if key in _COMPONENTS:
            if amount is None:
                return None
            found[key] = amount
        elif amount and not isinstance(value, int) and not _is_beside(key) and key not in _BOUNDS:
            return None  # an integer is a count of something: nobody asks a whole dollar for a token
        elif key.startswith("per") and value:
            return None  # it speaks of another unit, `per: 1M` or `per_million: true`
        elif not _is_beside(key) and _holds_price(value):
            return None  # of a longer context, of sound: nobody knows when it holds
    if not found and not by_unit:
        return None
    if found.keys() <= {"request"}:  # billed by request, picture or second: tokens are free
        found |= {"prompt": Decimal(0), "completion": Decimal(0)}
    return Tier(found.get("prompt"), found.get("completion"), found.get("input_cache_read"), found.get("request"))


def _holds_price(value: object) -> bool:
    """Whether a list or an object has a price above 0 in it, however deep."""
    inside = [value]
    while inside:
        one = inside.pop()
        if isinstance(one, (dict, list)):
            inside += one.values() if isinstance(one, dict) else one
        elif one is not value and not isinstance(one, int) and price_of(one):
            return True
    return False


def _is_beside(key: str) -> bool:
    """Whether a part's price is for what is read elsewhere, or only counts where an answer holds it."""
    return _spelt(key) in _UNCOUNTED or _spelt(key) in _TOOL_KEYS or _spelt(key) in MEDIA_UNITS


def _ends(parts: list[dict[str, Any]]) -> list[int | None] | None:
    """Each tier's last input token (None: without end), from upper or from lower bounds; None where neither explains all."""
    uppers = [_bound(part, _UPPER) for part in parts]
    given = [end for end in uppers if end is not None]
    if len(given) >= len(parts) - 1 and len(set(uppers)) == len(parts):
        return uppers
    starts = [_start(part) for part in parts]
    if starts.count(0) != 1 or len(set(starts)) < len(starts):
        return None
    in_order = sorted(starts)
    after = dict(itertools.pairwise(in_order))
    return [after[start] - 1 if start in after else None for start in starts]


def _start(part: dict[str, Any]) -> int:
    """A tier's first input token; 0 where it names none, or one."""
    above = _bound(part, _ABOVE)
    start = _bound(part, _LOWER) or 0
    start = above + 1 if above is not None else start
    return 0 if start == 1 else start


def _bound(part: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((bound for name in names if (bound := token_count(part.get(name))) is not None), None)


# Rows --------------------------------------------------------------------------------------------------------------


def _is_row(part: object) -> bool:
    """Whether an object prices one unit, as a row does, and not the parts of a request."""
    if not isinstance(part, dict) or "unit" not in part:
        return False
    return not part.keys().isdisjoint(_ROW_PRICES) and part.keys().isdisjoint(_COMPONENTS)


def _row_price(row: dict[str, Any]) -> Decimal | None:
    """USD per unit; None where a row names none, several, or another currency's."""
    amounts = {price_of(row[name]) for name in _ROW_PRICES if name in row}
    return amounts.pop() if len(amounts) == 1 and _is_usd(row) else None


def _with_rows(part: object, rows: list[dict[str, Any]]) -> object:
    """A pricing object, its missing parts taken from rows; None where it has none of tokens, and a row of them cannot be told."""
    if not isinstance(part, dict | None):
        return part
    part = {key: value for key, value in (part or {}).items() if not _says_nothing(key, value)}
    found: dict[str, str] = {}
    for row in rows:
        tokens, amount = _per_tokens(row.get("unit")), _row_price(row)
        labels = [_spelt(row[name]) for name in _ROW_LABELS if isinstance(row.get(name), str)]
        if tokens is None:
            continue
        component = "request" if not tokens else next((_TOKEN_LABELS[label] for label in labels if label in _TOKEN_LABELS), None)
        if component in part:
            continue
        if component is None or amount is None or row.keys() & _BOUNDS or component in found:
            if component != "request" and part.keys() & {"prompt", "completion"}:
                continue  # the object says what tokens cost
            return None
        found[component] = format(_WIDE.divide(amount, Decimal(max(1, tokens))), "f")
    return part | found


def _says_nothing(key: str, value: object) -> bool:
    """Whether a part of a price is as good as left out. That requests cost nothing does not make tokens free."""
    return key in _COMPONENTS and (value is None or (key == "request" and price_of(value) == 0))


def _units(parts: list[Any], rows: list[dict[str, Any]]) -> dict[str, Decimal | None] | None:
    """USD by unit for what answers may hold beside tokens, of what costs anything; None where something cannot be counted."""
    found: dict[str, Decimal | None] = {}

    def add(unit: str, amount: Decimal | None) -> None:
        if amount != 0:
            found[unit] = amount if found.get(unit, amount) == amount else None  # two prices: which one holds is not said

    for part in parts:
        for key, value in part.items() if isinstance(part, dict) else ():
            if value is None:
                continue
            if _spelt(key) in MEDIA_UNITS:
                add(_spelt(key), price_of(value) if _is_usd(part) else None)
            elif _spelt(key) in _UNCOUNTED:
                add(_spelt(key), None if price_of(value) != 0 else Decimal(0))
    in_parts = set(found)
    for row in rows:
        unit, amount = _spelt(row.get("unit")), _row_price(row)
        if unit in _TOOL_UNITS or _per_tokens(row.get("unit")) is not None or unit in in_parts:
            continue
        if unit in MEDIA_UNITS:
            add(unit, amount)
        elif amount != 0:
            return None
    return found


def _tools(rows: list[dict[str, Any]]) -> dict[str, Decimal]:
    """USD a call by tool, from rows such as {"unit": "tool-call", "name": "web_search", "price": "0.01"}."""
    tools: dict[str, Decimal] = {}
    for row in rows:
        if _spelt(row.get("unit")) in _TOOL_UNITS:
            name = next((row[key] for key in _ROW_LABELS if isinstance(row.get(key), str)), None)
            amount = _row_price(row)
            if name is not None and amount is not None:
                tools[name] = amount
    return tools


def _per_tokens(unit: object) -> int | None:
    """How many tokens a price is for: 0 where it is for a request, None where it is for neither."""
    spelt = _spelt(unit)
    if spelt == "request":
        return 0
    if spelt != "token" and not spelt.endswith("-token"):
        return None
    return _TOKENS.get(spelt.removesuffix("token").removesuffix("-"))


def _is_usd(record: dict[str, Any]) -> bool:
    return bool(record.get("currency", "USD") == "USD")


def _spelt(name: object) -> str:
    """A unit or a label in the documentation's spelling: `per_video_second` and `Video seconds` are `video-second`."""
    spelt = re.sub(r"[\s_-]+", "-", str(name).lower()).removeprefix("per-")
    return spelt.removesuffix("s")
