"""Prices as people say them: USD per million tokens, per picture, per second. Exact, and unknown where they are unknown."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

import msgspec

from batchrunner.catalog_prices import ModelPrice, Tier
from batchrunner.pricing import EXACT, json_number

_PER: Final = Decimal(1_000_000)
UNKNOWN: Final = "unknown"


class Rate(msgspec.Struct, frozen=True):
    """One price in the unit that people use."""

    #: what is paid for: input, cached input, output, request, image, video-second, audio-second, a tool's name ...
    what: str
    #: 1M tokens, request, image, second, call
    per: str
    #: None: not known
    usd: Decimal | None
    #: input tokens of the requests that it is for, both inclusive; 0 and None where it is for all
    from_tokens: int = 0
    to_tokens: int | None = None


def rates(price: ModelPrice) -> list[Rate]:
    """All that a model is billed by; nothing where its price is not known."""
    if not price.tiers:
        return []
    found = list(_of_tiers(price))
    found += [Rate(unit, unit.removeprefix("video-").removeprefix("audio-"), usd) for unit, usd in price.units.items()]
    return found + [Rate(tool, "call", usd) for tool, usd in price.tools.items()]


def price_text(price: ModelPrice) -> str:
    """A model's price on one line: `$0.15 in, $0.60 out, $0.075 cached per 1M tokens`."""
    found = rates(price)
    if not found:
        return UNKNOWN
    tiers = []
    for start, end in dict.fromkeys((rate.from_tokens, rate.to_tokens) for rate in found):
        of_tier = [rate for rate in found if (rate.from_tokens, rate.to_tokens) == (start, end)]
        reach = f" from {start:,} input tokens" if start else f" up to {end:,} input tokens" if end is not None else ""
        tiers.append(_line(of_tier) + reach)
    return "; ".join(tiers)


def highest(price: ModelPrice) -> Decimal | None:
    """The highest of a model's rates, in USD; None where one of them, or all, are not known."""
    found = [rate.usd for rate in rates(price)]
    known = [usd for usd in found if usd is not None]
    return max(known) if known and len(known) == len(found) else None


def dollars(amount: Decimal | None) -> str:
    """`$0.60`: at least two places and all digits that there are; `unknown` for None."""
    if amount is None:
        return UNKNOWN
    whole, _, rest = json_number(amount).partition(".")
    return f"${int(whole):,}.{rest:0<2}" if rest or amount % 1 else f"${int(whole):,}"


def _of_tiers(price: ModelPrice) -> Iterator[Rate]:
    start = 0
    for tier in price.tiers:
        yield from _of_tier(tier, start, says_nothing=price.by_unit_alone)
        start = 0 if tier.up_to is None else tier.up_to + 1


def _of_tier(tier: Tier, start: int, *, says_nothing: bool) -> Iterator[Rate]:
    span = (start, tier.up_to)
    tokens = {"input": tier.prompt, "output": tier.completion, "cached input": tier.input_cache_read}
    is_by_request = tier.request is not None and not any(tokens.values())
    for what, usd in tokens.items():
        if usd is not None and not says_nothing and not is_by_request:
            yield Rate(what, "1M tokens", EXACT.multiply(usd, _PER), *span)
    if tier.request is not None:
        yield Rate("request", "request", tier.request, *span)


_SHORT: Final = {"input": " in", "output": " out", "cached input": " cached"}


def _line(found: list[Rate]) -> str:
    tokens = [f"{dollars(rate.usd)}{_SHORT[rate.what]}" for rate in found if rate.per == "1M tokens"]
    parts = [f"{', '.join(tokens)} per 1M tokens"] if tokens else []
    for rate in found:
        if rate.per == "call":
            parts.append(f"{dollars(rate.usd)} a call of {rate.what}")
        elif rate.per == "second":
            parts.append(f"{dollars(rate.usd)} per second of {rate.what.removesuffix('-second')}")
        elif rate.per != "1M tokens":
            parts.append(f"{dollars(rate.usd)} per {rate.per}")
    return ", ".join(parts)
