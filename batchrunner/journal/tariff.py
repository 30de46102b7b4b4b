"""What attempts cost that nobody was there to charge: recovery's own bills, by the run's own rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Protocol

import msgspec

from batchrunner.costs import Charge
from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.journal.records import Sent
from batchrunner.results import FinalLine


class Facts(Protocol):
    """What a reply says of itself, as `dialect.ReplyFacts` does."""

    @property
    def usage(self) -> Usage | None: ...

    @property
    def finish(self) -> str: ...

    @property
    def tool_usage(self) -> Mapping[str, int]: ...

    @property
    def opaque(self) -> bool: ...


class Tariff(msgspec.Struct, frozen=True):
    """How the run tells what an attempt cost."""

    #: a job's endpoint and the model that it asks, by its number
    request: Callable[[int], tuple[str, str]]
    #: (endpoint, body) of a success -> what it says, or None
    facts: Callable[[str, bytes], Facts | None]
    #: (model, what a success says) -> exact amount, or None where the price is unknown
    price: Callable[[str, Facts], Decimal | None]
    #: (model, input tokens, output cap or None, units asked for) -> the most that an attempt can have cost, or None
    ceiling: Callable[[str, int, int | None, Mapping[str, Decimal]], Decimal | None]

    def success(self, number: int, sent: Sent | None, line: FinalLine) -> tuple[Charge, str | None]:
        """The charge and the finish of a job's whole result line. `sent` is None where no record tells of its sending."""
        endpoint, model = self.request(number) if sent is None else (sent.endpoint, sent.model)
        facts = self.facts(endpoint, line.answer() or b"")
        bound = None if sent is None else self.ceiling(sent.model, sent.input, sent.cap, sent.units)
        if facts is None:
            return Charge.billed(model, endpoint, None, None, bound), None
        return Charge.billed(model, endpoint, facts.usage, self.price(model, facts), bound), str(facts.finish)

    def failure(self, number: int, sent: Sent | None, line: FinalLine) -> Charge | None:
        """The charge of a job's whole error line: an answer that was not seen or not readable may have been billed, others not.

        Where no record tells of its sending, only an answer proves that there was one; what it may have cost is then unknown.
        """
        status = line.status_code()
        if status is not None and status not in (408, 504) and not 200 <= status < 300:
            return None
        if sent is not None:
            return self.worst(sent)
        if status is None:
            return None
        endpoint, model = self.request(number)
        return Charge(model, endpoint, Billing.MAYBE)

    def worst(self, sent: Sent) -> Charge:
        """The most that an attempt can have cost of which nothing is known but that it was sent."""
        amount = self.ceiling(sent.model, sent.input, sent.cap, sent.units)
        return Charge.maybe(sent.model, sent.endpoint, sent.input, sent.cap, amount, sent.units)
