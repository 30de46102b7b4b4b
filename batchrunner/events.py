"""The one record that metrics, progress and log are fed with."""

from __future__ import annotations

import enum
from collections.abc import Callable
from decimal import Decimal

import msgspec

from batchrunner.job import Usage


class AttemptResult(enum.StrEnum):
    """What one attempt came to: a closed set, fit for a label."""

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    NETWORK = "network"
    INVALID = "invalid"  # the server refused the request for good, or answered what no client can read
    ACCOUNT = "account"  # key or credits refused
    INTERRUPTED = "interrupted"  # cut off by us, or by the end of an earlier process


class Billing(enum.StrEnum):
    """What is known of an attempt's bill."""

    BILLED = "billed"
    MAYBE = "maybe_billed"
    NOT = "not_billed"


class Event(msgspec.Struct, frozen=True):
    """One attempt, or one job that needed none, has ended and its record is on disk."""

    custom_id: str
    line: int
    #: 1 for the first time that the job was sent; 0 where the job ended while it was not in flight
    attempt: int
    model: str
    endpoint: str
    result: AttemptResult
    #: set where this ended the job
    final: bool = False
    succeeded: bool = False
    status_code: int | None = None
    #: from the first byte written to the last byte read
    seconds: float = 0.0
    #: of a streamed answer: from the send to the first of its words
    first_token_seconds: float | None = None
    #: from the slot's being asked for to the send
    admission_wait_seconds: float = 0.0
    usage: Usage | None = None
    billing: Billing = Billing.NOT
    #: USD; None where the price is unknown
    cost_usd: Decimal | None = None
    #: stop | length | refusal | empty ..., in the words of `dialect.Finish`
    finish: str | None = None
    #: why, for people and the log; never a body
    message: str | None = None


Sink = Callable[[Event], None]


class OnlookersStatistics(msgspec.Struct, frozen=True):
    """What went wrong among onlookers."""

    #: events that one of them raised over
    errors: int


class Onlookers:
    """Sinks that only look on: what one of them raises is counted and told once, and ends nothing."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._sinks: list[Sink] = []
        self._errors = 0

    def add(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def on_event(self, event: Event) -> None:
        """Hand the event to all of them."""
        for sink in self._sinks:
            try:
                sink(event)
            except Exception as error:  # a defect in a display must not cost a paid run
                self._errors += 1
                if self._errors == 1:
                    self._say(
                        f"a defect of batchrun: {type(error).__name__} in a display or a metric, whose figures are no longer "
                        "to be relied on. The run goes on, and its files are not touched by it."
                    )

    def statistics(self) -> OnlookersStatistics:
        return OnlookersStatistics(self._errors)
