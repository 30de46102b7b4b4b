"""Groups of attempts and events that have to do with each other, and the claims that all explanations of a group share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from batchrunner.reconciliation.books import Books
from batchrunner.reconciliation.matching import NONE, Decided, decide
from batchrunner.reconciliation.records import AttemptClaim, AttemptReason, EventClaim, EventReason, Whose
from batchrunner.reconciliation.shelves import Counts, Shelf, Wanted
from batchrunner.usage_event import UsageEvent


class Node(msgspec.Struct):
    """An attempt that is to be explained."""

    number: int
    #: it has an event wherever it can
    must: bool
    #: places of events that it fits
    fits: list[int]
    #: where its event can be, by whether that is a failed one
    wanted: dict[bool, tuple[Shelf, Wanted]] = {}
    #: what another attempt of the same body took
    twin: Counts | None = None
    #: an accident would explain a match too well
    doubted: bool = False


def explain(books: Books, nodes: Sequence[Node], reason: EventReason = EventReason.MATCHED) -> None:
    """Claim what all explanations share, one group at a time that has nothing to do with any other."""
    fitting: dict[int, list[int]] = defaultdict(list)
    for number, node in enumerate(nodes):
        for place in node.fits:
            fitting[place].append(number)
    seen = bytearray(len(nodes))
    for start, node in enumerate(nodes):
        if seen[start] or not node.fits:
            continue
        seen[start] = 1
        group, waiting = [], [start]
        while waiting:
            group.append(waiting.pop())
            for place in nodes[group[-1]].fits:
                for other in fitting.pop(place, ()):  # whoever fits it is of this group, and need not be found again
                    if not seen[other]:
                        seen[other] = 1
                        waiting.append(other)
        group.sort(key=lambda number: books.attempts[nodes[number].number].sent_ns)
        _Group(books, [nodes[number] for number in group]).claim(reason)


class _Group:
    """Nodes, earliest first, and all events that any of them fits."""

    def __init__(self, books: Books, nodes: Sequence[Node]) -> None:
        self._books = books
        self._nodes = nodes
        self._places = sorted({place for node in nodes for place in node.fits}, key=lambda place: books.events[place].at_ns or 0)
        local = {place: event for event, place in enumerate(self._places)}
        self._fits = fits = [[local[place] for place in node.fits] for node in nodes]
        self._decided: Decided = decide(fits, len(self._places), [node.must for node in nodes], [node.doubted for node in nodes])
        self._wanting: list[list[Node]] = [[] for _ in self._places]
        for node, events in zip(nodes, fits, strict=True):
            for event in events:
                self._wanting[event].append(node)
        #: attempts of one job: which of them was charged makes no difference
        self._one_job = len({books.attempts[node.number].request for node in nodes}) == 1

    def claim(self, reason: EventReason) -> None:
        books = self._books
        for event, place in enumerate(self._places):
            books.event_claims[place] = self._of_event(event, reason)
        for index, node in enumerate(self._nodes):
            claim = self._of_attempt(index, node)
            if claim is None or books.attempt_claims[node.number] is not None:
                continue
            if reason is EventReason.COUNTED_OTHERWISE and claim.reason is AttemptReason.MATCHED:
                claim = msgspec.structs.replace(claim, reason=AttemptReason.COUNTED_OTHERWISE)
            books.attempt_claims[node.number] = claim

    def _of_event(self, event: int, reason: EventReason) -> EventClaim:
        wanting = self._wanting[event]
        attempts = tuple(node.number for node in wanting)
        if self._decided.contested[event]:
            doubted = any(node.doubted for node in wanting)
            return EventClaim(Whose.UNDECIDED, EventReason.COINCIDENCE if doubted else EventReason.TOO_MANY, attempts)
        holder = self._decided.attempt_of[event]
        if self._decided.settled[holder]:
            return EventClaim(Whose.OURS, reason, (self._nodes[holder].number,))
        return EventClaim(Whose.OURS, EventReason.ONE_OF_SEVERAL, attempts)

    def _of_attempt(self, index: int, node: Node) -> AttemptClaim | None:
        """What an attempt was charged; None where it has no event in any explanation."""
        books, decided = self._books, self._decided
        billing = books.attempts[node.number].billing
        if node.doubted and decided.uncertain[index]:
            return AttemptClaim(billing, AttemptReason.COINCIDENCE)
        if decided.uncertain[index] and not self._one_job:
            return AttemptClaim(billing, AttemptReason.TOO_FEW)
        event = decided.event_of[index]
        if event == NONE:
            return None
        if decided.settled[index]:
            return books.charged(self._places[event], AttemptReason.MATCHED)
        if self._are_alike(index) or (self._one_job and not decided.contested[event]):
            return books.charged(self._places[event], AttemptReason.ALIKE)
        return AttemptClaim(billing, AttemptReason.TOO_MANY if decided.contested[event] else AttemptReason.MIXED)

    def _are_alike(self, index: int) -> bool:
        """Whether it makes no difference which of the events that it fits is an attempt's, but for those that are others'."""
        attempt_of, settled = self._decided.attempt_of, self._decided.settled
        open_events = (event for event in self._fits[index] if attempt_of[event] == NONE or not settled[attempt_of[event]])
        return are_alike([self._books.events[self._places[event]] for event in open_events])


def are_alike(events: Sequence[UsageEvent]) -> bool:
    """Whether events say the same of what was charged."""
    return all((event.tokens, event.cost_usd) == (events[0].tokens, events[0].cost_usd) for event in events)
