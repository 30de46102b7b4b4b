"""What has come of a run so far: sums over events, and so over what is on disk. Pure."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from statistics import median
from typing import Final

import msgspec

from batchrunner.events import AttemptResult, Billing, Event
from batchrunner.pricing import EXACT
from batchrunner.status import TokenSums

#: streamed answers that a median is of
FIRST_TOKENS: Final = 1000


class Tally(msgspec.Struct):
    """Sums of one run, earlier processes included: recovery fills in what they did, `add` counts on."""

    completed: int = 0
    failed: int = 0
    #: ended once, and not in the input any more; in none of these counts
    removed: int = 0
    attempts: int = 0
    rate_limited: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    billed_usd: Decimal = Decimal(0)
    maybe_billed_usd: Decimal = Decimal(0)
    #: billed or maybe billed at a price that is not known
    unpriced_attempts: int = 0
    finish_length: int = 0
    finish_refusal: int = 0
    finish_empty: int = 0
    #: of this process's newest streamed answers, from the send to the first words
    first_token_seconds: deque[float] = msgspec.field(default_factory=lambda: deque(maxlen=FIRST_TOKENS))

    def add(self, event: Event) -> None:
        """Count one event."""
        self.attempts += event.attempt > 0
        self.rate_limited += event.result is AttemptResult.RATE_LIMITED
        if event.final:
            self.completed += event.succeeded
            self.failed += not event.succeeded
        if event.usage is not None:
            self.input_tokens += event.usage.input_tokens
            self.cached_tokens += event.usage.cached_tokens
            self.output_tokens += event.usage.output_tokens
            self.reasoning_tokens += event.usage.reasoning_tokens
        if event.first_token_seconds is not None:
            self.first_token_seconds.append(event.first_token_seconds)
        self.count_finish(event.finish)
        if event.billing is not Billing.NOT:
            self._add_cost(event.billing, event.cost_usd)

    def count_finish(self, finish: str | None) -> None:
        """Count a success that people should look at."""
        self.finish_length += finish == "length"
        self.finish_refusal += finish == "refusal"
        self.finish_empty += finish == "empty"

    @property
    def first_token_seconds_p50(self) -> float | None:
        """None before the first streamed answer."""
        seconds = list(self.first_token_seconds)  # in one step: another thread may ask
        return median(seconds) if seconds else None

    @property
    def usage(self) -> TokenSums:
        return TokenSums(self.input_tokens, self.output_tokens, self.cached_tokens, self.reasoning_tokens)

    def _add_cost(self, billing: Billing, amount: Decimal | None) -> None:
        if amount is None:
            self.unpriced_attempts += 1
        elif billing is Billing.BILLED:
            self.billed_usd = EXACT.add(self.billed_usd, amount)
        else:
            self.maybe_billed_usd = EXACT.add(self.maybe_billed_usd, amount)
