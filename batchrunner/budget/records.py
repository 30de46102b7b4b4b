"""The budget's state, the events that move it, and the decisions it answers with."""

from __future__ import annotations

import msgspec

from batchrunner.budget.effective import RequestCeiling
from batchrunner.budget.gate import Gate
from batchrunner.budget.pacer import RequestPacer
from batchrunner.budget.tokens import Offer, Taking, Tokens
from batchrunner.budget.window import Window


class Limits(msgspec.Struct, frozen=True):
    """Requests and tokens in 60 seconds; 0 means none. `auto`: they may be outgrown, see `growth`."""

    rpm: int
    tpm: int
    auto: bool = False


class InFlight(msgspec.Struct):
    """A request that was sent and not yet settled."""

    sent_ns: int
    #: where it stands in the window
    cell: int
    offer: Offer
    #: None where tokens are not limited
    taking: Taking | None


class State(msgspec.Struct):
    """All that is known of one account's budget. Encodable as it stands; times are monotonic nanoseconds."""

    limits: Limits
    pacer: RequestPacer = msgspec.field(default_factory=RequestPacer)
    requests: RequestCeiling = msgspec.field(default_factory=RequestCeiling)
    tokens: Tokens = msgspec.field(default_factory=Tokens)
    window: Window = msgspec.field(default_factory=Window)
    gate: Gate = msgspec.field(default_factory=Gate)
    #: when the first run that is known of began, and when anybody last asked for anything
    began_ns: int = -1
    seen_ns: int = 0
    #: when the limits were outgrown last
    grown_ns: int = 0
    #: slot -> its send time
    slots: dict[int, int] = {}
    #: entry -> what it holds
    in_flight: dict[int, InFlight] = {}
    next_slot: int = 1
    next_entry: int = 1


class PastSend(msgspec.Struct, frozen=True):
    """A send of the last minute that an earlier process made."""

    sent_ns: int
    tokens: int


# ---------------------------------------------------------------------------------------------------------------- events


class Open(msgspec.Struct, frozen=True, tag=True):
    """A run begins.

    `past`: this account's own sends of the last minute, oldest first, or None where they are not known: then they are
    taken to have been evenly spaced, and the run begins at its pace. `jobs`: how many it has, for the fast start.
    `wall_offset_ns`: wall clock less monotonic clock, None where nobody knows.
    """

    past: tuple[PastSend, ...] | None
    jobs: int
    wall_offset_ns: int | None = None


class Reserve(msgspec.Struct, frozen=True, tag=True):
    """Ask for a send time. Answered by Slot."""


class Return(msgspec.Struct, frozen=True, tag=True):
    """A slot will not be used. Its time is free again where no later one was given out; else it passes unused."""

    slot: int


class Take(msgspec.Struct, frozen=True, tag=True):
    """A slot is due: send one of these requests now. Answered by Taken, Later or Stale.

    `slot` 0: one that is due at once is taken. Where there is none, or it does not suffice, a slot is answered, as Reserve is.
    `offers`: at least one; the first is the one whose turn it is. `alone`: that one only with no other tokens in the window.
    """

    slot: int
    offers: tuple[Offer, ...]
    alone: bool = False
    #: so many of the offers, from the first on, may go in any order; the others only fill what the first one must leave
    equals: int = 1
    #: how often others went before the first one
    passed: int = 0
    #: how much later it may yet be made to go by those that go before it
    spare_ns: int = 0


class Hints(msgspec.Struct, frozen=True):
    """What an answer's headers say of the limits; None where they say nothing. Whose minute they speak of is not certain.

    Windows differ: a limit of requests may be one for a day or for a second. Resets count from when the answer came.
    """

    request_limit: int | None = None
    requests_left: int | None = None
    requests_reset_ns: int | None = None
    token_limit: int | None = None
    tokens_left: int | None = None
    tokens_reset_ns: int | None = None


class Settle(msgspec.Struct, frozen=True, tag=True):
    """The server accepted a request and has answered. `tokens` used, or None where it did not say."""

    entry: int
    tokens: int | None
    hints: Hints | None = None


class Refuse(msgspec.Struct, frozen=True, tag=True):
    """The server answered 429. `retry_after_ns`: when to come back. `random`: uniform in [0, 1), for the backoff's jitter."""

    entry: int
    retry_after_ns: int | None
    random: float
    hints: Hints | None = None


class Lost(msgspec.Struct, frozen=True, tag=True):
    """Nothing is known of the request's end: it stays charged, since the server may have counted it."""

    entry: int


class Change(msgspec.Struct, frozen=True, tag=True):
    """Other limits hold from now on. What was sent under the old ones counts under these; all slots are void."""

    limits: Limits


Event = Open | Reserve | Return | Take | Settle | Refuse | Lost | Change


# ------------------------------------------------------------------------------------------------------------- decisions


class Slot(msgspec.Struct, frozen=True, tag=True):
    slot: int
    at_ns: int


class Taken(msgspec.Struct, frozen=True, tag=True):
    """Go. `entry` names the request to Settle, Refuse or Lost; `offer` which of those offered it is, counted from 0.

    `alone`: no other tokens are in the window.
    """

    entry: int
    offer: int
    alone: bool
    #: by so much later the first of the offers can go because another went
    delay_ns: int = 0


class Later(msgspec.Struct, frozen=True, tag=True):
    """None of them yet; the slot is kept. Ask again at `at_ns`, or when something was settled.

    `tokens`: it is tokens that are short.
    """

    at_ns: int
    tokens: bool


class Stale(msgspec.Struct, frozen=True, tag=True):
    """The slot is no longer good (a 429 came, or it lapsed): reserve another."""


Decision = Slot | Taken | Later | Stale | None


class Statistics(msgspec.Struct, frozen=True):
    """The budget as it stands, for metrics and progress."""

    rpm_limit: int
    tpm_limit: int
    #: sends and tokens of the last 60 + J seconds
    requests: int
    tokens: int
    in_flight: int
    #: the gate is closed for this long
    closed_for_seconds: float
    #: rejections in a row, bursts counted once
    consecutive_rejections: int
    #: what the server is found to let through, at most the limits; 0 where there is none
    rpm_effective: int
    tpm_effective: int
    #: the way of charging that is believed, in lower case, and whether two buckets are
    charging: str
    two_buckets: bool
    #: so many sends at once are known to be let through
    burst: int
