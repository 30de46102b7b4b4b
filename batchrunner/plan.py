"""What a surveyed file will take: tokens, money and time, by model, account and in all, each as far as it is known. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec

from batchrunner.catalog_prices import ModelPrice
from batchrunner.duration import Duration, Limits, Work, shared, weighed
from batchrunner.estimate import Latency
from batchrunner.forecast import NOTHING, UNKNOWN, Interval, allotted, expanded, predicted
from batchrunner.moments import Moments, Rates
from batchrunner.pricing import PriceTable
from batchrunner.survey import WORST_INPUT, Drawn, Kind

#: jobs of a sample that tell how much those of a stratum differ
FEWEST: Final = 5

_INPUT: Final = Rates(1, 0, 0)
_OUTPUT: Final = Rates(0, 0, 1)

#: where a figure comes from: prices alone, what was learned from earlier answers, a sample, or nothing but caps
Basis = Literal["price", "profile", "sample", "guess", "unknown"]


class Forecast(msgspec.Struct, frozen=True):
    """What some of the jobs will take: tokens and USD, at 90 %."""

    jobs: int
    input_tokens: Interval
    output_tokens: Interval
    cost_usd: Interval
    #: of the cost; the weakest one
    basis: Basis


class Stratum(msgspec.Struct, frozen=True):
    """Jobs that a sample is drawn from together."""

    #: what they have in common, in words
    name: str
    jobs: int
    #: those that were drawn
    drawn: tuple[Drawn, ...]


class Measured(msgspec.Struct, frozen=True):
    """What one job of the sample took."""

    input_tokens: float
    output_tokens: float
    usd: float


def forecast(kinds: Iterable[Kind], prices: PriceTable) -> Forecast:
    """What jobs of these kinds will take, by what was learned of their like."""
    kinds = list(kinds)
    costs = [_cost(kind, prices) for kind in kinds]
    return Forecast(
        sum(kind.jobs for kind in kinds),
        _together(_tokens(kind, _INPUT, kind.guessed * WORST_INPUT, kind.input_tokens) for kind in kinds),
        _together(_tokens(kind, _OUTPUT, kind.cap_tokens, kind.output_tokens) for kind in kinds),
        _together(costs),
        max((cost.basis for cost in costs), key=_WEAKNESS.index, default="price"),
    )


class _Part(msgspec.Struct, frozen=True):
    """What one kind adds to a total: something learned, at these rates, or what it lies between; and what is certain."""

    basis: Basis
    between: Interval = NOTHING
    learned: Moments | None = None
    rates: Rates = Rates(0, 0, 0)
    jobs: int = 0
    guessed: int = 0


_WEAKNESS: Final[tuple[Basis, ...]] = ("sample", "price", "profile", "guess", "unknown")


def _cost(kind: Kind, prices: PriceTable) -> _Part:
    """What a kind will cost: by what was learned of it, else between nothing and what it can cost at the most."""
    price = prices.prices.get(kind.size.model, ModelPrice())
    beside = kind.units_usd
    if beside is None or not price.tiers or kind.key.tier >= len(price.tiers):
        return _Part("unknown", UNKNOWN)
    tier = price.tiers[kind.key.tier]
    beside += float(tier.request or 0) * kind.jobs
    certain = Interval(beside, beside, beside)
    if not any((tier.prompt, tier.completion, tier.input_cache_read)):
        return _Part("price", certain)
    if tier.prompt is None or (tier.completion is None and kind.cap_tokens != 0):
        return _Part("unknown", UNKNOWN)
    cached = 0.0 if tier.input_cache_read is None else float(tier.input_cache_read - tier.prompt)
    rates = Rates(float(tier.prompt), cached, float(tier.completion or 0))
    if kind.moments is not None:
        return _Part("profile", certain, kind.moments, rates, kind.jobs, kind.guessed)
    likely = rates.input * kind.input_tokens + rates.output * kind.output_tokens + beside
    return _Part("guess", Interval(beside, likely, kind.ceiling_usd))


def _tokens(kind: Kind, rates: Rates, most: float | None, likely: float) -> _Part:
    if kind.moments is not None:
        return _Part("profile", NOTHING, kind.moments, rates, kind.jobs, kind.guessed)
    return _Part("guess", Interval(0.0, likely, most))


def _together(parts: Iterable[_Part]) -> Interval:
    """The sum: what is learned by its variances, what is not by its bounds. What rests on the same answers errs together."""
    parts = list(parts)
    alike: dict[tuple[object, ...], tuple[Moments, Rates, int, int]] = {}
    for part in parts:
        if part.learned is not None:
            key = (part.rates, *msgspec.structs.astuple(part.learned))
            _, _, jobs, guessed = alike.get(key, (None, None, 0, 0))
            alike[key] = (part.learned, part.rates, jobs + part.jobs, guessed + part.guessed)
    known = predicted(moments.total(rates, jobs, guessed) for moments, rates, jobs, guessed in alike.values())
    return sum((part.between for part in parts), known)


# Samples -----------------------------------------------------------------------------------------------------------


def strata(kinds: Iterable[Kind], sample: int, rng: random.Random) -> list[Stratum]:
    """What a sample of this size is drawn from: kinds in order, together until FEWEST are drawn of each, and what was drawn.

    Within a stratum each set of jobs is as likely as any other.
    """
    ordered = sorted((kind for kind in kinds if kind.jobs), key=lambda kind: kind.key)
    whole = sum(kind.jobs for kind in ordered)
    groups: list[list[Kind]] = []
    for kind in ordered:
        if groups and not _is_enough(groups[-1], sample, whole):
            groups[-1].append(kind)
        else:
            groups.append([kind])
    if len(groups) > 1 and not _is_enough(groups[-1], sample, whole):
        last = groups.pop()
        groups[-1] += last
    given = allotted({str(place): _jobs(group) for place, group in enumerate(groups)}, sample)
    return [Stratum(_name(group), _jobs(group), _drawn(group, given[str(place)], rng)) for place, group in enumerate(groups)]


def _is_enough(group: list[Kind], sample: int, whole: int) -> bool:
    return _jobs(group) * sample >= FEWEST * whole


def _jobs(group: list[Kind]) -> int:
    return sum(kind.jobs for kind in group)


def _name(group: list[Kind]) -> str:
    names = dict.fromkeys(f"{kind.size.model} {kind.key.dialect}" for kind in group)
    return ", ".join(names)


def _drawn(group: list[Kind], count: int, rng: random.Random) -> tuple[Drawn, ...]:
    """So many of a stratum's jobs. Which kinds they are of is drawn first; of each kind there are enough to draw from."""
    ends: list[int] = []
    for kind in group:
        ends.append((ends[-1] if ends else 0) + kind.jobs)
    wanted = [0] * len(group)
    for place in rng.sample(range(ends[-1]), count):
        wanted[next(number for number, end in enumerate(ends) if place < end)] += 1
    return tuple(job for kind, many in zip(group, wanted, strict=True) for job in rng.sample(kind.drawn, many))


def measured_forecast(found: Sequence[tuple[Stratum, Sequence[Measured]]]) -> Forecast | None:
    """What all jobs will take, by what each job of the sample took; None where that is not known of all of them.

    Those that are missing were not missed by chance: they have no known price, or had not ended when the sample was stopped.
    """
    if not found or any(len(values) < len(stratum.drawn) for stratum, values in found):
        return None

    def total(of: Callable[[Measured], float]) -> Interval:
        return expanded((stratum.jobs, [of(value) for value in values]) for stratum, values in found)

    return Forecast(
        sum(stratum.jobs for stratum, _ in found),
        total(lambda value: value.input_tokens),
        total(lambda value: value.output_tokens),
        total(lambda value: value.usd),
        "sample",
    )


# Time --------------------------------------------------------------------------------------------------------------


class AccountTime(msgspec.Struct, frozen=True):
    """How long one account is at work, and what binds it."""

    account: str | None
    rpm: int
    tpm: int
    jobs_bound: int
    time: Duration


def times(kinds: Iterable[Kind], accounts: Mapping[str | None, Limits], *, tokens: float | None) -> list[AccountTime]:
    """Each account's part. `tokens`: of all jobs, where they were measured."""
    kinds = list(kinds)
    expected = sum(_expected_tokens(kind) for kind in kinds)
    scale = 1.0 if tokens is None or not expected else tokens / expected
    one = len(accounts) == 1
    bound = {name: kinds if one else [kind for kind in kinds if kind.key.account == name] for name in accounts}
    works = {name: _work(its, scale) for name, its in bound.items()}
    free = _work([] if one else [kind for kind in kinds if not kind.key.account], scale)
    found = shared(list(works.values()), free, list(accounts.values()))
    return [
        AccountTime(name, limits.rpm, limits.tpm, works[name].jobs, time)
        for (name, limits), time in zip(accounts.items(), found, strict=True)
    ]


def _expected_tokens(kind: Kind) -> float:
    if kind.moments is None:
        return kind.input_tokens + kind.output_tokens
    return kind.moments.total(Rates(1, 0, 1), kind.jobs, kind.guessed).mean


def _work(kinds: list[Kind], scale: float) -> Work:
    return Work(
        sum(kind.jobs for kind in kinds),
        math.fsum(map(_expected_tokens, kinds)) * scale,
        latency(kinds),
        sum(kind.oversize for kind in kinds),
    )


def latency(kinds: Iterable[Kind]) -> Latency | None:
    """Of the answers to jobs of these kinds, as far as it is known."""
    return weighed((kind.latency, kind.jobs) for kind in kinds)
