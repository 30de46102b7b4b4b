"""Ours against theirs: which of an account's usage events are of which attempt, and what that settles. Pure.

Nothing links an event to the answer that it was charged for, and others use the account. So what is claimed is what must be so,
and it is claimed of as little as is known:

- *An attempt whose reply was read* was charged, once, and its event has the reply's tokens. Where as many such events as such
  attempts fall into the time in which these were under way, all of them are ours. Which is whose is said where there is one way
  only; else a claim names all attempts that it can be (`one_of_several`), and each is given one of them in the order of time:
  they are alike, so that it makes no difference.
- *Where more events fit than attempts*, some are strangers', and nothing tells which: they are undecided, all of them. That the
  attempt was charged is known all the same, and how much, where these events cost alike.
- *An attempt of which nobody saw the end* may have been charged or not. Its prompt's tokens are known where the same body was
  answered before or after; else the guess, corrected by how far guesses are off, bounds them, and its cap the rest. If no event
  fits, it was not charged. If one does, that may be an accident: a stranger's. `doubts` reckons how often there would be such
  accidents, from the strangers' events that are seen, and believes the surest matches, as many as leave all together to accident
  one event in 500 reconciliations. (In a thousand drawn nights on accounts as busy with strangers as can be it was one in 320.)
  The others stay `maybe_billed`, and what would fit them is undecided. That is not timidity:
  with a stranger who draws from the same requests as we do, and is as busy, an event in the window of an attempt that was never
  charged is there by accident once in some hundred times, and nobody could tell.
- *Time* is the platform's, whose clock is compared with ours by pairs that nothing else looks like (`clocks`). What we left (a
  timeout, a kill) the platform may go on with for as long as its own timeout. Events are looked for first in the time in which
  answers do come, then in all of it.
- *An attempt that has no event*, once its time is over, was never charged; unless nothing at all of the account's events is
  ours: then these are another account's, and nothing follows.

Costs: near linear. Attempts whose replies were read are matched by tokens and time without any graph; only what is left makes
groups, in which `matching` finds what all explanations share.

One call is about one account. Places are indices into what was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from batchrunner.reconciliation.answers import compare_clocks, match_answers
from batchrunner.reconciliation.books import Books
from batchrunner.reconciliation.doubts import Doubts
from batchrunner.reconciliation.records import (
    Attempt,
    AttemptClaim,
    AttemptReason,
    Clocks,
    EventClaim,
    EventReason,
    Settlement,
    Sum,
    Whose,
)
from batchrunner.reconciliation.rest import match_otherwise, match_rest
from batchrunner.usage_event import UsageEvent

#: the platform's own timeout: what we left may go on for so long
HORIZON_NS: Final = 900 * 1_000_000_000
_NO_IDS: Final[Mapping[int, int]] = {}


def reconcile(
    attempts: Sequence[Attempt],
    events: Sequence[UsageEvent],
    *,
    complete_until_ns: int,
    by_id: Mapping[int, int] = _NO_IDS,
    horizon_ns: int = HORIZON_NS,
) -> Settlement:
    """Whose each event is, and what each attempt was charged.

    `events` are all of the account up to `complete_until_ns`, by our clock. `by_id`: the attempt of each event that bears the id
    of its answer, both by place.
    """
    books = Books(attempts, events, by_id, horizon_ns)
    compare_clocks(books)
    match_answers(books)
    doubts = Doubts(books)
    match_rest(books, doubts)
    match_otherwise(books, doubts)
    return books.settlement(complete_until_ns)


__all__ = [
    "HORIZON_NS",
    "Attempt",
    "AttemptClaim",
    "AttemptReason",
    "Clocks",
    "EventClaim",
    "EventReason",
    "Settlement",
    "Sum",
    "Whose",
    "reconcile",
]
