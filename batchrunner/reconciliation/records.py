"""What is reconciled, and what comes of it: attempts, claims about events and attempts, sums."""

from __future__ import annotations

import enum
from decimal import Decimal

import msgspec

from batchrunner.events import Billing
from batchrunner.job import Usage


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt, as our own books have it. Times are Unix time of our clock."""

    custom_id: str
    #: ordinal among the job's sends
    number: int
    #: the same for all attempts of the same body: what one of them is told of its prompt is true of the others
    request: str
    model: str
    endpoint: str
    sent_ns: int
    ended_ns: int
    #: `billed`: its reply was read. `maybe_billed`: nobody knows. `not_billed`: it was answered with an error
    billing: Billing
    #: we stopped waiting, or the connection broke: the platform may have gone on with it
    left: bool = False
    #: what it came to, in the journal's words
    why: str | None = None
    #: of a billed one, as its reply tells; None where that says nothing
    usage: Usage | None = None
    #: USD, exact; None where the price is unknown
    amount_usd: Decimal | None = None
    #: input tokens guessed from the body's bytes, and the most that may be written
    guessed_input_tokens: int | None = None
    cap_tokens: int | None = None


class Whose(enum.StrEnum):
    """To whom an event belongs."""

    OURS = "ours"
    STRANGERS = "strangers"
    UNDECIDED = "undecided"


class EventReason(enum.StrEnum):
    """Why an event is thought to be somebody's."""

    BY_ID = "by_id"  # an answer of ours bears its id
    MATCHED = "matched"  # it fits one attempt, and nothing else explains both
    ONE_OF_SEVERAL = "one_of_several"  # ours, of one of several attempts that fit alike
    COUNTED_OTHERWISE = "counted_otherwise"  # ours by time and by a part of its tokens; the rest differs
    PLAYGROUND = "playground"  # not made through the API
    OTHER_MODEL = "other_model"  # no attempt asked for this model at this endpoint
    OTHER_TIME = "other_time"  # no attempt that asked for it was under way
    OTHER_TOKENS = "other_tokens"  # those under way cannot have taken these tokens, or have their event
    OTHER_OUTCOME = "other_outcome"  # those under way did not end so, or have their event
    TOO_MANY = "too_many"  # more events fit alike than there are attempts
    COINCIDENCE = "coincidence"  # a stranger's would look like this too often
    UNTOLD = "untold"  # it does not say when it was, or for which model


class AttemptReason(enum.StrEnum):
    """Why an attempt is thought to be billed, or not."""

    MATCHED = "matched"
    ALIKE = "alike"  # which of several events is its own cannot be told, and makes no difference
    COUNTED_OTHERWISE = "counted_otherwise"
    NO_EVENT = "no_event"  # nothing was charged for it
    FAILED_EVENT = "failed_event"  # the platform says that it failed
    TOO_MANY = "too_many"
    TOO_FEW = "too_few"  # fewer events than attempts that they fit alike
    COINCIDENCE = "coincidence"
    NOT_OVER = "not_over"  # its event may still come
    NO_EVENTS_AT_ALL = "no_events_at_all"  # nothing of this account's is among the events: they are not its


class EventClaim(msgspec.Struct, frozen=True, gc=False):
    """Whose an event is. `attempts` (by place in what was given) are all that it can be of; exactly one of them, where ours."""

    whose: Whose
    reason: EventReason
    attempts: tuple[int, ...] = ()


class AttemptClaim(msgspec.Struct, frozen=True, gc=False):
    """What the platform charged an attempt. `billing` stays `maybe_billed` where that is undecided."""

    billing: Billing
    reason: AttemptReason
    #: by place in what was given. Of events that are alike, each that of its books, else in the order of time; None for none
    event: int | None = None


class Sum(msgspec.Struct):
    """Of events."""

    count: int = 0
    #: USD, exact
    amount_usd: Decimal = Decimal(0)
    #: that name no amount
    unpriced: int = 0


class Clocks(msgspec.Struct, frozen=True):
    """By how much events' times can be ahead of ours, in nanoseconds, and from how many exact matches that is known."""

    least_ns: int
    most_ns: int
    anchors: int


class Settlement(msgspec.Struct):
    """What comes of it all. `events` and `attempts` go by the places of what was given."""

    events: list[EventClaim]
    attempts: list[AttemptClaim]
    ours: Sum
    strangers: Sum
    undecided: Sum
    theirs: Sum
    clocks: Clocks
