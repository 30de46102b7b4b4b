"""What an attempt costs, may have cost and will cost, and whether the spend cap still allows it."""

from __future__ import annotations

import functools
from decimal import Decimal
from typing import Literal

from batchrunner.costs import Charge, Totals
from batchrunner.dialect import ReplyFacts
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.pricing import EXACT, PriceTable
from batchrunner.tickets import Candidate

_NOTHING = Decimal(0)

Verdict = Literal["allowed", "wait", "cap_reached", "price_unknown"]


class Spending:
    """Prices attempts, and keeps the spend cap.

    The cap counts what was billed (at its bound where the reply did not say), what may have been billed, and what is in
    flight at its prediction: it is never passed by more than what was in flight. `totals` are the journal's, counted as
    soon as written.
    """

    def __init__(self, prices: PriceTable, totals: Totals, max_cost_usd: Decimal | None) -> None:
        self._prices = prices
        self._totals = totals
        self._max_cost_usd = max_cost_usd
        #: by their jobs' numbers; without the jobs, whose bodies nobody needs while a server works on them
        self._in_flight: dict[int, tuple[RequestSize, Usage]] = {}
        self._in_flight_usd = _NOTHING

    @property
    def max_cost_usd(self) -> Decimal | None:
        """The cap; None where there is none."""
        return self._max_cost_usd

    @property
    def why_no_cap(self) -> str | None:
        """Why no cap can be kept, in words; None where one can."""
        if not self._prices.prices:  # it would let nothing through
            return "this run has none"
        return f"this run's, of {self._prices.fetched_at}, were more than a day old as it began" if self._prices.stale else None

    def adopt(self, max_cost_usd: Decimal | None) -> None:
        """Keep another cap, or none, from now on. What is in flight counts from the beginning."""
        self._max_cost_usd = max_cost_usd
        predictions = (self._prediction(size, predicted) for size, predicted in self._in_flight.values())
        self._in_flight_usd = functools.reduce(EXACT.add, predictions, _NOTHING)

    def verdict(self, size: RequestSize, predicted: Usage) -> Verdict:
        """Whether a job may be sent. Under a cap, one whose bill could not be bounded may not.

        `wait`: what is in flight stands in its way, and may turn out cheaper than predicted.
        """
        if self._max_cost_usd is None:
            return "allowed"
        if self._ceiling(size) is None:
            return "price_unknown"
        totals = self._totals
        parts = (
            totals.billed,
            totals.maybe_billed,
            totals.unpriced_bound,
            self._in_flight_usd,
            self._prediction(size, predicted),
        )
        if functools.reduce(EXACT.add, parts) <= self._max_cost_usd:
            return "allowed"
        return "wait" if self._in_flight else "cap_reached"

    def sent(self, candidate: Candidate) -> None:
        """Count an attempt that goes out."""
        self._in_flight[candidate.job.number] = candidate.size, candidate.predicted
        self._in_flight_usd = EXACT.add(self._in_flight_usd, self._prediction(candidate.size, candidate.predicted))

    def ended(self, candidate: Candidate) -> None:
        """Take an attempt's prediction off again, as its charge enters the totals."""
        del self._in_flight[candidate.job.number]
        self._in_flight_usd = EXACT.subtract(self._in_flight_usd, self._prediction(candidate.size, candidate.predicted))

    def billed(self, job: Job, size: RequestSize, facts: ReplyFacts) -> Charge:
        """The charge of an attempt whose reply came whole."""
        amount = self._prices.cost(size.model, facts.usage, facts.tool_usage, opaque=facts.opaque)
        return Charge.billed(size.model, job.url, facts.usage, amount, bound=self._ceiling(size))

    def maybe(self, job: Job, size: RequestSize) -> Charge:
        """The charge of an attempt whose reply was not seen: the most that it can have taken."""
        amount = self._ceiling(size)
        return Charge.maybe(size.model, job.url, size.guessed_tokens, self.output_bound(size), amount, size.units)

    def output_bound(self, size: RequestSize) -> int | None:
        """The most output tokens that a request can be billed for, or None."""
        return self._prices.output_bound(size)

    def _ceiling(self, size: RequestSize) -> Decimal | None:
        return self._prices.ceiling(size.model, size.guessed_tokens, self.output_bound(size), size.units)

    def _prediction(self, size: RequestSize, predicted: Usage) -> Decimal:
        """Unknown counts as nothing here: under a cap such a job is not sent. Without a cap nobody asks."""
        if self._max_cost_usd is None:
            return _NOTHING
        return self._prices.prediction(size, predicted) or _NOTHING
