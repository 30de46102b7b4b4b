"""Attempts whose replies tell their tokens: nearly all, and nearly all at once.

The ones that took the same tokens at the same model and endpoint, for the same price, are looked at together, in stretches of
time in which any of them was under way. Where there are as many events as attempts, all of these are ours; who has which is
told where it can be.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from batchrunner.events import Billing
from batchrunner.reconciliation import clocks
from batchrunner.reconciliation.books import Books
from batchrunner.reconciliation.explaining import are_alike
from batchrunner.reconciliation.kinds import Kind
from batchrunner.reconciliation.matching import NONE, decide
from batchrunner.reconciliation.records import AttemptClaim, AttemptReason, EventClaim, EventReason, Whose
from batchrunner.reconciliation.shelves import Counts, counts_of
from batchrunner.usage_sums import listed_usd

#: attempts that are alike and under way together, from which on it is not asked which pairs are the only ones possible
CROWD: Final = 200

#: when an attempt's event can be dated, from and until; and its number
_Member = tuple[int, int, int]
#: when an event is dated, and its place
_Dated = tuple[int, int]


def compare_clocks(books: Books) -> None:
    """Learn the difference of the clocks from pairs that nothing else looks like."""
    pairs = []
    for kind in books.kinds.values():
        for numbers, found in _alike(books, kind):
            if len(found) == len(numbers) == 1:
                attempt = books.attempts[numbers[0]]
                if attempt.request not in books.repeated:
                    pairs.append((attempt.sent_ns, attempt.ended_ns, found[0][0]))
    books.clocks = clocks.compare(pairs)


def match_answers(books: Books) -> None:
    """Claim what can be claimed by tokens and time alone. What does not come out even is left."""
    for kind in books.kinds.values():
        for numbers, found in _alike(books, kind):
            for members, inside in _together(books, numbers, found):
                _match(books, kind, members, inside)
        kind.delays.sort()
    books.delays.sort()


def _alike(books: Books, kind: Kind) -> Iterator[tuple[list[int], list[_Dated]]]:
    """Attempts by what their replies say that they took, and the events that say the same."""
    alike: dict[Counts, list[int]] = defaultdict(list)
    for number in kind.attempts:
        attempt = books.attempts[number]
        counts = counts_of(attempt.usage)
        if counts is not None and attempt.billing is Billing.BILLED and books.attempt_claims[number] is None:
            alike[counts].append(number)
    for counts, numbers in alike.items():
        found = [event for event in kind.succeeded.of_counts(counts) if books.event_claims[event[1]] is None]
        if not kind.is_priced:
            yield numbers, found
            continue
        events: dict[Decimal | None, list[_Dated]] = defaultdict(list)
        for event in found:
            events[listed_usd(books.events[event[1]])].append(event)
        priced: dict[Decimal, list[int]] = defaultdict(list)
        for number in numbers:  # one without a price is left: any of them could be its own
            amount_usd = books.attempts[number].amount_usd
            if amount_usd is not None:
                priced[amount_usd].append(number)
        for amount_usd, same in priced.items():
            yield same, events.get(amount_usd, [])


def _together(books: Books, numbers: Sequence[int], found: Sequence[_Dated]) -> Iterator[tuple[list[_Member], Sequence[_Dated]]]:
    """Attempts whose windows overlap, and the events in their time, one group after the other."""
    if not found:
        return
    group: list[_Member] = []
    until_ns = 0
    for window in (*sorted((*books.window(number), number) for number in numbers), None):
        if group and (window is None or window[0] > until_ns):
            first = bisect_left(found, (group[0][0], -1))
            last = bisect_right(found, (until_ns, len(books.events)))
            yield group, found[first:last]
            group = []
        if window is not None:
            until_ns = max(until_ns, window[1]) if group else window[1]
            group.append(window)


def _match(books: Books, kind: Kind, members: list[_Member], inside: Sequence[_Dated]) -> None:
    if len(members) != len(inside):
        return
    if len(members) == 1:
        _learn(books, kind, members[0], inside[0])
        books.claim(members[0][2], inside[0][1], EventReason.MATCHED)
        return
    pairs, settled = _in_turn(members, inside) if len(members) > CROWD else _in_pairs(members, inside)
    if len(pairs) != len(members):
        return
    crowd = tuple(number for _, _, number in members)
    same = are_alike([books.events[place] for _, place in inside])
    for member, event in pairs:
        _learn(books, kind, members[member], event)
        number, place = members[member][2], event[1]
        if settled[member]:
            books.claim(number, place, EventReason.MATCHED)
            continue
        books.event_claims[place] = EventClaim(Whose.OURS, EventReason.ONE_OF_SEVERAL, crowd)
        alike = AttemptClaim(Billing.BILLED, AttemptReason.ALIKE, place)
        books.attempt_claims[number] = alike if same else AttemptClaim(Billing.BILLED, AttemptReason.MIXED)


def _in_pairs(members: Sequence[_Member], inside: Sequence[_Dated]) -> tuple[list[tuple[int, _Dated]], list[bool]]:
    """Events by member, and whether there is no other way."""
    fits = [[event for event, (at, _) in enumerate(inside) if low <= at <= high] for low, high, _ in members]
    decided = decide(fits, len(inside), [True] * len(members), [False] * len(members))
    pairs = [(member, inside[event]) for member, event in enumerate(decided.event_of) if event != NONE]
    return pairs, decided.settled


def _in_turn(members: Sequence[_Member], inside: Sequence[_Dated]) -> tuple[list[tuple[int, _Dated]], list[bool]]:
    """Events in the order of time to whichever member's time ends first; fewer pairs where that does not come out even."""
    pairs = []
    waiting: list[tuple[int, int]] = []
    begun = 0
    for event in inside:
        while begun < len(members) and members[begun][0] <= event[0]:
            heapq.heappush(waiting, (members[begun][1], begun))
            begun += 1
        while waiting and waiting[0][0] < event[0]:
            heapq.heappop(waiting)
        if waiting:
            pairs.append((heapq.heappop(waiting)[1], event))
    return pairs, [False] * len(members)


def _learn(books: Books, kind: Kind, member: _Member, event: _Dated) -> None:
    """When an answer's event is dated."""
    attempt = books.attempts[member[2]]
    after_ns, before_ns = books.apart(attempt, event[0])
    kind.delays.learn(after_ns, before_ns)
    books.delays.learn(after_ns, before_ns)
