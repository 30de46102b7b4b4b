"""The lines of costs.jsonl, and exact sums of what they say.

A line per attempt that was or may have been billed; the last line of a (custom_id, attempt) is the valid one. The file is
for people and for `reconcile`: a resume sums the journal, whose records carry the same `Charge`, so that the file can be
written again from them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import msgspec

from batchrunner.clock import NS_PER_SECOND
from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.pricing import EXACT, json_number

_NOTHING: Final = Decimal(0)
_NO_UNITS: Final[Mapping[str, Decimal]] = {}


class Source(enum.StrEnum):
    """Where an amount comes from."""

    CATALOG = "catalog"  # our computation from tokens and the price table
    USAGE_EVENT = "usage_event"  # the platform's own figure
    UNKNOWN = "unknown"  # no price is known


class Charge(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one attempt took, or may have taken."""

    #: as the request named it: usage events do too
    model: str
    #: the job's url
    endpoint: str
    billing: Billing
    #: tokens; input includes cached. Where the bill is uncertain: the estimate, and the output cap. None is unknown.
    input: int | None = None
    cached: int | None = None
    output: int | None = None
    #: exact; None where it is unknown
    amount: Decimal | None = None
    currency: str = "USD"
    #: where the amount is unknown: the most that it can be, if that is known. A spend cap counts it; nobody is shown it.
    bound: Decimal | None = None
    #: part of output
    reasoning: int = 0
    #: where the bill is uncertain: what was asked for beside tokens, by the catalog's units, as far as the request said it
    units: dict[str, Decimal] = {}

    @classmethod
    def billed(
        cls, model: str, endpoint: str, usage: Usage | None, amount: Decimal | None, bound: Decimal | None = None
    ) -> Charge:
        """An attempt whose reply came whole. Usage is None where the reply names none."""
        charge = cls(model, endpoint, Billing.BILLED, amount=amount, bound=bound if amount is None else None)
        if usage is None or not usage.tokens_known:
            return charge
        return msgspec.structs.replace(
            charge,
            input=usage.input_tokens,
            cached=usage.cached_tokens,
            output=usage.output_tokens,
            reasoning=usage.reasoning_tokens,
        )

    @classmethod
    def maybe(
        cls,
        model: str,
        endpoint: str,
        input_tokens: int,
        cap_tokens: int | None,
        amount: Decimal | None,
        units: Mapping[str, Decimal] = _NO_UNITS,
    ) -> Charge:
        """An attempt whose reply was not seen: the most that it can have taken."""
        return cls(model, endpoint, Billing.MAYBE, input=input_tokens, output=cap_tokens, amount=amount, units=dict(units))

    @property
    def total(self) -> int | None:
        """Input and output tokens together; None where one of them is unknown."""
        return None if self.input is None or self.output is None else self.input + self.output


class CostTokens(msgspec.Struct, frozen=True):
    input: int | None
    cached: int | None
    output: int | None
    total: int | None


class CostAmount(msgspec.Struct, frozen=True):
    #: written as an exact JSON number, never as a float
    amount: Decimal | None
    currency: str


class CostLine(msgspec.Struct, frozen=True):
    """A line of costs.jsonl as it is read."""

    custom_id: str
    attempt: int
    model: str
    endpoint: str
    tokens: CostTokens
    cost: CostAmount
    source: Source
    state: Billing
    at: str
    units: dict[str, Decimal] = {}

    @property
    def charge(self) -> Charge:
        tokens = (self.tokens.input, self.tokens.cached, self.tokens.output)
        return Charge(self.model, self.endpoint, self.state, *tokens, self.cost.amount, self.cost.currency, units=self.units)


class _RawAmount(msgspec.Struct):
    amount: msgspec.Raw
    currency: str


class _WrittenLine(msgspec.Struct, omit_defaults=True):
    custom_id: str
    attempt: int
    model: str
    endpoint: str
    tokens: CostTokens
    cost: _RawAmount
    source: Source
    state: Billing
    at: str
    units: dict[str, msgspec.Raw] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(CostLine)


def cost_line(custom_id: str, attempt: int, charge: Charge, wall_ns: int, source: Source | None = None) -> bytes:
    """One line, with its end. `source` defaults to what the charge says of itself: catalog, or unknown without an amount."""
    if source is None:
        source = Source.UNKNOWN if charge.amount is None else Source.CATALOG
    amount = b"null" if charge.amount is None else json_number(charge.amount).encode()
    line = _WrittenLine(
        custom_id=custom_id,
        attempt=attempt,
        model=charge.model,
        endpoint=charge.endpoint,
        tokens=CostTokens(charge.input, charge.cached, charge.output, charge.total),
        cost=_RawAmount(msgspec.Raw(amount), charge.currency),
        source=source,
        state=charge.billing,
        at=timestamp(wall_ns),
        units={unit: msgspec.Raw(json_number(quantity).encode()) for unit, quantity in charge.units.items()},
    )
    return _encoder.encode(line) + b"\n"


def read_cost_line(line: bytes) -> CostLine | None:
    """What a line says, or None where it is none of ours."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def timestamp(wall_ns: int) -> str:
    """A UTC time as RFC 3339 with milliseconds: `2026-11-21T23:11:38.123Z`."""
    seconds, rest_ns = divmod(wall_ns, NS_PER_SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns // 1_000_000:03}Z"


class Totals(msgspec.Struct):
    """Running sums over a run's attempts, in this process and all before it. Exact."""

    #: requests sent, whatever came of them
    attempts: int = 0
    #: attempts that were answered 429
    rate_limited: int = 0
    #: tokens of billed attempts
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    #: part of output
    reasoning_tokens: int = 0
    billed: Decimal = _NOTHING
    maybe_billed: Decimal = _NOTHING
    #: attempts that were or may have been billed, at a price that is not known
    unpriced: int = 0
    #: the most that these can have cost, as far as that is known
    unpriced_bound: Decimal = _NOTHING
    #: successful answers by how they ended, in the words of `dialect.Finish`
    finishes: dict[str, int] = {}

    def add(self, charge: Charge | None) -> None:
        """Count one attempt's charge; None and `not_billed` add nothing."""
        self._count(charge, 1)

    def take_back(self, charge: Charge | None) -> None:
        """Undo `add`: the attempt was counted as lost, and its real charge has turned up."""
        self._count(charge, -1)

    def _count(self, charge: Charge | None, sign: int) -> None:
        if charge is None or charge.billing is Billing.NOT:
            return
        amount = EXACT.multiply(charge.amount or _NOTHING, Decimal(sign))
        if charge.amount is None:
            self.unpriced += sign
            self.unpriced_bound = EXACT.add(self.unpriced_bound, EXACT.multiply(charge.bound or _NOTHING, Decimal(sign)))
        if charge.billing is Billing.MAYBE:
            self.maybe_billed = EXACT.add(self.maybe_billed, amount)
            return
        self.billed = EXACT.add(self.billed, amount)
        self.input_tokens += sign * (charge.input or 0)
        self.cached_tokens += sign * (charge.cached or 0)
        self.output_tokens += sign * (charge.output or 0)
        self.reasoning_tokens += sign * charge.reasoning

    def add_finish(self, finish: str | None) -> None:
        """Count how a success ended; None adds nothing."""
        if finish is not None:
            self.finishes[finish] = self.finishes.get(finish, 0) + 1
