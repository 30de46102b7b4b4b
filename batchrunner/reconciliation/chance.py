"""How often a stranger's event looks like one of ours.

That an event fits an attempt of which nobody knows whether it was billed proves nothing by itself: somebody else's may fit
by accident. How many of those are to be expected is told by the strangers' events that are seen: how many of that model and
endpoint come a second, and what share of all events there has tokens that would fit. It counts against what it has to
explain away: attempts that ended so and have no event.
"""

from __future__ import annotations

from typing import Final

from batchrunner.reconciliation.shelves import Counts, Shelf, Wanted

#: So many events may be taken for ours by accident, in one account's reconciliation: one in so many of these.
TOLERATED: Final = 1 / 500
#: of what was never seen
_ODD: Final = 1e-9


class Chance:
    """Strangers' events to be expected. `span_ns`: that of all events."""

    def __init__(self, span_ns: int) -> None:
        self._span_ns = max(1, span_ns)

    def expected(self, shelf: Shelf, wanted: Wanted, width_ns: float, known: int = 0) -> float:
        """How many strangers' events of such tokens come in so long a time; `known` events with these are ours."""
        return shelf.strangers * shelf.share(wanted, known) * min(1.0, width_ns / self._span_ns)

    def expected_in_part(self, shelf: Shelf, counts: Counts, width_ns: float) -> float:
        """How many strangers' events come in so long a time that have this input or this output."""
        return shelf.strangers * shelf.share_in_part(counts) * min(1.0, width_ns / self._span_ns)


class Habit:
    """How often something was so, of all that was seen."""

    def __init__(self) -> None:
        self._yes = 0
        self._no = 0

    def note(self, happened: bool, times: int = 1) -> None:  # noqa: FBT001 - what is noted is one bit
        self._yes += happened * times
        self._no += (not happened) * times

    @property
    def share(self) -> float:
        """One of each is assumed to begin with."""
        return (self._yes + 1) / (self._yes + self._no + 2)

    @property
    def others(self) -> float:
        """The share without one of those for which it was so, if nothing is assumed: for what would be odd. Never quite 0."""
        return max(_ODD, (self._yes - 1) / (self._yes + self._no + 1))
