"""Attempts whose replies tell their tokens: nearly all, and nearly all at once.

The ones that took the same tokens at the same model and endpoint are looked at together, in stretches of time in which any of
them was under way. Where there are as many events as attempts, all of these are ours; who has which is told where it can be.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from batchrunner.events import Billing
from batchrunner.reconciliation import clocks
from batchrunner.reconciliation.books import Books
from batchrunner.reconciliation.kinds import Kind
from batchrunner.reconciliation.matching import NONE, decide
from batchrunner.reconciliation.records import AttemptClaim, AttemptReason, EventClaim, EventReason, Whose
from batchrunner.reconciliation.shelves import Counts, counts_of

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
        for counts, numbers in _by_counts(books, kind).items():
            found = kind.succeeded.of_counts(counts)
            if len(found) == len(numbers) == 1:
                attempt = books.attempts[numbers[0]]
                if attempt.request not in books.repeated:
                    pairs.append((attempt.sent_ns, attempt.ended_ns, found[0][0]))
    books.clocks = clocks.compare(pairs)


def match_answers(books: Books) -> None:
    """Claim what can be claimed by tokens and time alone. What does not come out even is left."""
    for kind in books.kinds.values():
        for counts, numbers in _by_counts(books, kind).items():
            found = kind.succeeded.of_counts(counts)
            for members, inside in _together(books, numbers, found):
                _match(books, kind, members, inside)
        kind.delays.sort()
    books.delays.sort()


def _by_counts(books: Books, kind: Kind) -> dict[Counts, list[int]]:
    found: dict[Counts, list[int]] = defaultdict(list)
    for number in kind.attempts:
        attempt = books.attempts[number]
        counts = counts_of(attempt.usage)
        if counts is not None and attempt.billing is Billing.BILLED and books.attempt_claims[number] is None:
            found[counts].append(number)
    return found


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
    pairs = _as_booked(books, members, pairs)
    for member, event in pairs:
        _learn(books, kind, members[member], event)
        number, place = members[member][2], event[1]
        if settled[member]:
            books.claim(number, place, EventReason.MATCHED)
            continue
        books.event_claims[place] = EventClaim(Whose.OURS, EventReason.ONE_OF_SEVERAL, crowd)
        books.attempt_claims[number] = AttemptClaim(Billing.BILLED, AttemptReason.ALIKE, place)


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


def _as_booked(books: Books, members: Sequence[_Member], pairs: Sequence[tuple[int, _Dated]]) -> list[tuple[int, _Dated]]:
    """The pairs, events exchanged where an answer gets the one that says what its books say, and no other loses its own.

    What was cached tells nobody apart, and yet is part of an amount that is known.
    """
    held = dict(pairs)

    def is_own(member: int, event: _Dated) -> bool:
        attempt, said = books.attempts[members[member][2]], books.events[event[1]]
        assert attempt.usage is not None  # they are here by their tokens
        assert said.tokens is not None
        return (said.tokens.cached_tokens, said.cost_usd) == (attempt.usage.cached_tokens, attempt.amount_usd)

    def may_have(member: int, event: _Dated) -> bool:
        low, high, _ = members[member]
        return low <= event[0] <= high

    others = [member for member, event in pairs if not is_own(member, event)]
    for member in others[:CROWD]:
        for other in others[:CROWD]:
            mine, its = held[member], held[other]
            if is_own(member, its) and not is_own(other, its) and may_have(member, its) and may_have(other, mine):
                held[member], held[other] = its, mine
                break
    return list(held.items())


def _learn(books: Books, kind: Kind, member: _Member, event: _Dated) -> None:
    """When an answer's event is dated."""
    attempt = books.attempts[member[2]]
    after_ns, before_ns = books.apart(attempt, event[0])
    kind.delays.learn(after_ns, before_ns)
    books.delays.learn(after_ns, before_ns)
