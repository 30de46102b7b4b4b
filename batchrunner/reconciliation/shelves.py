"""Events of one model at one endpoint that ended alike, put so that those which fit an attempt are found at once."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from batchrunner.job import Usage
from batchrunner.usage_event import UsageEvent
from batchrunner.usage_sums import listed_usd

#: tokens of input and of output. What was cached is left out: the same request can be cached the second time
Counts = tuple[int, int]


class Wanted(NamedTuple):
    """What an event must say to be an attempt's: times are the platform's, ends included; tokens where they are known."""

    from_ns: int
    until_ns: int
    #: whole, as a reply told them
    exact: Counts | None = None
    least_input: int = 0
    most_input: int | None = None
    most_output: int | None = None
    #: USD by the list, where the platform reckons as we do
    amount_usd: Decimal | None = None

    def admits(self, counts: Counts | None) -> bool:
        """Whether an event with these tokens can be the attempt's. What an event does not tell speaks against nothing."""
        if counts is None:
            return True
        if self.exact is not None:
            return counts == self.exact
        above = self.most_input is not None and counts[0] > self.most_input
        return not (above or counts[0] < self.least_input or (self.most_output is not None and counts[1] > self.most_output))


class Shelf:
    """Events by time. `places` are theirs in the account's list, in the order of time."""

    def __init__(self, events: Sequence[UsageEvent], places: Iterable[int]) -> None:
        dated = sorted((at_ns, place) for place in places if (at_ns := events[place].at_ns) is not None)
        self.times = array("q", [at_ns for at_ns, _ in dated])
        self.places: Final = array("q", [place for _, place in dated])
        self._counts = [counts_of(events[place].tokens) for place in self.places]
        self._amounts = [listed_usd(events[place]) for place in self.places]
        self._by_counts: dict[Counts | None, array[int]] = {}
        self._by_input: dict[int | None, array[int]] = {}
        self._outputs = Counter(counts[1] for counts in self._counts if counts is not None)
        for position, counts in enumerate(self._counts):
            self._by_counts.setdefault(counts, array("q")).append(position)
            self._by_input.setdefault(None if counts is None else counts[0], array("q")).append(position)
        #: strangers' events to be expected in all the time, see `chance`
        self.strangers = 0.0

    def __len__(self) -> int:
        return len(self.places)

    def of_counts(self, counts: Counts) -> list[tuple[int, int]]:
        """Time and place of each event with exactly these tokens."""
        return [(self.times[position], self.places[position]) for position in self._by_counts.get(counts, ())]

    def bills(self) -> set[tuple[Counts | None, Decimal | None]]:
        """Tokens and list prices that there are together, and list prices by themselves."""
        return {*zip(self._counts, self._amounts, strict=True), *((None, amount) for amount in self._amounts)}

    def fitting(self, wanted: Wanted) -> list[int]:
        """Places of the events that can be an attempt's, in the order of time."""
        found: list[int] = []
        for positions in self._lists(wanted):
            first = bisect_left(positions, wanted.from_ns, key=self.times.__getitem__)
            last = bisect_right(positions, wanted.until_ns, key=self.times.__getitem__)
            found += [position for position in positions[first:last] if wanted.admits(self._counts[position])]
        if wanted.amount_usd is not None:
            found = [position for position in found if self._amounts[position] in (None, wanted.amount_usd)]
        return [self.places[position] for position in sorted(found)]

    def share(self, wanted: Wanted, known: int = 0) -> float:
        """The share of its events, whenever they were, that have tokens as asked for; `known` of those that do are ours.

        No less than what input and output by themselves would lead to expect: few have quite the same tokens. And one at least
        is assumed of each.
        """
        told = max(1, len(self.places))
        exact = wanted.exact
        if exact is not None:
            inputs, outputs = len(self._by_input.get(exact[0], ())), self._outputs[exact[1]]
            apart = max(1, inputs - known) * max(1, outputs - known) / told
            return max(len(self._by_counts.get(exact, ())) - known, apart) / told
        if wanted.least_input == wanted.most_input:
            found = sum(wanted.admits(self._counts[position]) for position in self._by_input.get(wanted.least_input, ()))
        else:
            found = sum(len(positions) for counts, positions in self._by_counts.items() if wanted.admits(counts))
        return max(1, found - known) / told

    def share_in_part(self, counts: Counts) -> float:
        """The share of its events that have this input or this output, at the most."""
        return min(1.0, (len(self._by_input.get(counts[0], ())) + self._outputs[counts[1]]) / max(1, len(self.places)))

    def _lists(self, wanted: Wanted) -> list[array[int] | range]:
        """Positions, each list in the order of time, among which all that fit are."""
        untold = self._by_input.get(None)
        if wanted.exact is not None:
            lists = [self._by_counts.get(wanted.exact), untold]
        elif wanted.least_input == wanted.most_input:
            lists = [self._by_input.get(wanted.least_input), untold]
        else:
            return [range(len(self.places))]
        return [positions for positions in lists if positions is not None]


def counts_of(usage: Usage | None) -> Counts | None:
    """Input and output of what was used."""
    return None if usage is None else (usage.input_tokens, usage.output_tokens)
