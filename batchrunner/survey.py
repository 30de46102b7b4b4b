"""A job file looked through, line by line: what speaks against its jobs, how many there are of which kind, a few of each. Pure.

Memory grows by the kinds of jobs, by the kinds of problems, and by the size of a sample: never by the jobs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

import msgspec

from batchrunner import checks, dialect
from batchrunner.catalog import Model
from batchrunner.checks import Looked, Problem
from batchrunner.dialect import media, units
from batchrunner.estimate import OTHER, Estimator, Latency, size_class
from batchrunner.job import RequestSize, Usage
from batchrunner.jobfile import ParsedLine
from batchrunner.moments import Moments
from batchrunner.pricing import PriceTable

#: places that are kept of a problem; all are counted
PLACES_KEPT: Final = 10
#: problems and kinds of jobs that are told apart; those past the bound count as one of the last, and as jobs of no known model
MOST_KINDS: Final = 2_000
#: tokens of a prompt of which nothing is known, at the most, to those that its bytes are taken for
WORST_INPUT: Final = 2

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Place(msgspec.Struct, frozen=True):
    """Where a job stands."""

    file: str | None
    line: int
    custom_id: str | None


class Found(msgspec.Struct):
    """A problem, with the places where it was found first."""

    problem: Problem
    count: int
    places: list[Place]


class KindKey(msgspec.Struct, frozen=True, order=True):
    """What makes jobs alike enough to be forecast together."""

    account: str
    model: str
    dialect: str
    #: -1: none
    cap_class: int
    size_class: int
    #: context tier of the price
    tier: int
    opaque: bool


class Drawn(msgspec.Struct, frozen=True):
    """A job that may be in a sample."""

    number: int
    custom_id: str


class Kind(msgspec.Struct):
    """Jobs that are alike, summed up."""

    key: KindKey
    #: one of them
    size: RequestSize
    #: what is known of answers to their like
    moments: Moments | None
    latency: Latency | None
    jobs: int = 0
    #: input tokens by their bytes
    guessed: int = 0
    #: as the run will expect them
    input_tokens: int = 0
    output_tokens: int = 0
    #: the most that they can write; None where nothing bounds it
    cap_tokens: int | None = 0
    #: the most that they can cost, in USD, but for prompts that are much longer than they look; None where nothing bounds it
    ceiling_usd: float | None = 0.0
    #: what they cost beside tokens: pictures, seconds; None where that is not known
    units_usd: float | None = 0.0
    oversize: int = 0
    #: some of them, each as likely as any other
    drawn: list[Drawn] = []


class Survey:
    """Takes jobs one by one. `catalog`: by id, None where it cannot be had; `accounts`: the names of the run's.

    `sample`: so many of each kind are kept to be drawn from, by `rng`.
    """

    def __init__(
        self,
        catalog: Mapping[str, Model] | None,
        prices: PriceTable,
        lengths: Estimator,
        *,
        rpm: int,
        tpm: int,
        accounts: frozenset[str] = frozenset(),
        sample: int = 0,
        rng: random.Random | None = None,
    ) -> None:
        self.kinds: dict[KindKey, Kind] = {}
        self.found: dict[tuple[str, str, str | None], Found] = {}
        self.jobs = 0
        self._catalog = catalog
        self._prices = prices
        self._lengths = lengths
        self._rpm = rpm
        self._tpm = tpm
        self._accounts = accounts
        self._sample = sample
        self._rng = rng or random.Random(0)

    def add(self, number: int, line: ParsedLine, place: Place) -> None:
        """Look at a job."""
        self.jobs += 1
        shape = dialect.for_url(line.url)
        size = shape.size(line.body)
        predicted = self._lengths.predict(size)
        looked = Looked(line.url, size, _fields(line.body), predicted, self._lengths.outputs_of(size))
        account, failing = line.extras.account, False
        if account is not None and account not in self._accounts:
            self._note(_foreign(size, account, self._accounts), place)
            failing = True
        for problem in checks.problems(looked, self._catalog, rpm=self._rpm, tpm=self._tpm):
            self._note(problem, place)
            failing |= problem.level == "error"
        if failing:
            return
        # Where there is but one account, a job that names it goes where all others go.
        bound_to = account or "" if len(self._accounts) > 1 else ""
        kind = self._kind(bound_to, shape.name, size, predicted)
        asked = self._completed(looked)
        units_usd = self._prices.units_usd(asked)
        if units_usd is None or not self._is_priced(size):
            self._note(_unpriced(size), place)
        self._sum_up(kind, asked, predicted, None if units_usd is None else float(units_usd))
        self._draw(kind, Drawn(number, line.custom_id))

    def learn(self, lengths: Estimator) -> None:
        """Go by what is known by now."""
        for kind in self.kinds.values():
            kind.moments = lengths.moments_of(kind.size) or kind.moments
            kind.latency = lengths.latency_of(kind.size) or kind.latency

    def _note(self, problem: Problem, place: Place) -> None:
        key: tuple[str, str, str | None] = (problem.code, problem.model, problem.parameter)
        if key not in self.found and len(self.found) >= MOST_KINDS:
            key = next(reversed(self.found))
        found = self.found.setdefault(key, Found(problem, 0, []))
        found.count += 1
        if len(found.places) < PLACES_KEPT:
            found.places.append(place)

    def _kind(self, account: str, shape: str, size: RequestSize, predicted: Usage) -> Kind:
        cap = size.output_cap_tokens
        key = KindKey(
            account,
            size.model,
            shape,
            -1 if cap is None else cap.bit_length(),
            size_class(size),
            self._tier(size.model, predicted.input_tokens),
            size.opaque_parts,
        )
        if key not in self.kinds and len(self.kinds) >= MOST_KINDS:
            size = msgspec.structs.replace(size, model=OTHER)
            key = KindKey(account, OTHER, "", -1, 0, 0, opaque=False)
        kind = self.kinds.get(key)
        if kind is None:
            kind = Kind(key, size, self._lengths.moments_of(size), self._lengths.latency_of(size))
            self.kinds[key] = kind
        return kind

    def _sum_up(self, kind: Kind, size: RequestSize, predicted: Usage, units_usd: float | None) -> None:
        bound = self._prices.output_bound(size)
        cap = size.output_cap_tokens if bound is None else bound
        ceiling = self._prices.ceiling(size.model, size.guessed_tokens * WORST_INPUT, cap, size.units)
        kind.jobs += 1
        kind.guessed += size.input_tokens
        kind.input_tokens += predicted.input_tokens
        kind.output_tokens += predicted.output_tokens
        kind.cap_tokens = None if kind.cap_tokens is None or cap is None else kind.cap_tokens + cap
        kind.units_usd = None if kind.units_usd is None or units_usd is None else kind.units_usd + units_usd
        known = kind.ceiling_usd is not None and ceiling is not None
        kind.ceiling_usd = (kind.ceiling_usd or 0.0) + float(ceiling or 0) if known else None
        kind.oversize += 0 < self._tpm < predicted.total_tokens

    def _draw(self, kind: Kind, job: Drawn) -> None:
        """Vitter's algorithm R: after each job, each of those that came is kept with the same chance."""
        if len(kind.drawn) < self._sample:
            kind.drawn.append(job)
        elif self._sample and (place := self._rng.randrange(kind.jobs)) < self._sample:
            kind.drawn[place] = job

    def _tier(self, model: str, input_tokens: int) -> int:
        price = self._prices.prices.get(model)
        tiers = () if price is None else price.tiers
        return next((place for place, tier in enumerate(tiers) if tier.up_to is None or input_tokens <= tier.up_to), len(tiers))

    def _is_priced(self, size: RequestSize) -> bool:
        price = self._prices.prices.get(size.model)
        return price is not None and bool(price.tiers)

    def _completed(self, job: Looked) -> RequestSize:
        """A request with the length that the catalog gives a film which names none: good for a forecast, and for no spend cap."""
        model = None if self._catalog is None else self._catalog.get(job.size.model)
        is_film = dialect.for_url(job.url) is media.VIDEOS
        if model is None or not is_film or any(name in job.fields for name in units.SECONDS):
            return job.size
        listed = [parameter.default for name in units.SECONDS if (parameter := model.parameter(name)) is not None]
        seconds = units.asked(units.VIDEO_SECOND, job.size.choices, listed)
        return job.size if seconds is None else msgspec.structs.replace(job.size, units={units.VIDEO_SECOND: seconds})


def _foreign(size: RequestSize, account: str, accounts: frozenset[str]) -> Problem:
    names = " and ".join(map(repr, sorted(accounts))) or "without a name"
    message = f"asks for account {account!r}, and the run's is {names} (--account): it fails, unsent."
    return Problem("error", "unknown_account", size.model, account, message)


def _unpriced(size: RequestSize) -> Problem:
    message = "its cost cannot be told in advance: no price is known, or the answer alone says how much it holds."
    return Problem("warning", "price_unknown", size.model, None, message)
