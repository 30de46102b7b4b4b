"""What a journal adds up to."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from batchrunner.costs import Charge
from batchrunner.events import Billing
from batchrunner.journal.records import Ended, What
from batchrunner.pricing import EXACT


class Sums(msgspec.Struct):
    """What the journal adds up to, in the words of `status.json`. Exact."""

    completed: int = 0
    #: jobs; lines that are no job are counted apart
    failed: int = 0
    attempts: int = 0
    rate_limited: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    billed_usd: Decimal = Decimal(0)
    maybe_billed_usd: Decimal = Decimal(0)
    unpriced_attempts: int = 0
    finish_length: int = 0
    finish_refusal: int = 0
    finish_empty: int = 0

    def count(self, ended: Ended) -> None:
        """Count how an attempt ended."""
        self.rate_limited += ended.what is What.REFUSED
        self.finish_length += ended.finish == "length"
        self.finish_refusal += ended.finish == "refusal"
        self.finish_empty += ended.finish == "empty"

    def add(self, charge: Charge | None, sign: int) -> None:
        """Count what an attempt cost; with -1, take that back."""
        if charge is None or charge.billing is Billing.NOT:
            return
        amount = EXACT.multiply(charge.amount or Decimal(0), Decimal(sign))
        self.unpriced_attempts += sign * (charge.amount is None)
        if charge.billing is Billing.MAYBE:
            self.maybe_billed_usd = EXACT.add(self.maybe_billed_usd, amount)
            return
        self.billed_usd = EXACT.add(self.billed_usd, amount)
        self.input_tokens += sign * (charge.input or 0)
        self.cached_tokens += sign * (charge.cached or 0)
        self.output_tokens += sign * (charge.output or 0)


def costs(charge: Charge | None) -> bool:
    """Whether an attempt was or may have been billed."""
    return charge is not None and charge.billing is not Billing.NOT
