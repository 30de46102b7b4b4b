"""Whatever its reply does not place: uncertain attempts, errors, and answers that several events fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.reconciliation.books import Books
from batchrunner.reconciliation.doubts import Doubts
from batchrunner.reconciliation.explaining import Node, explain
from batchrunner.reconciliation.kinds import Kind, agrees
from batchrunner.reconciliation.records import AttemptClaim, AttemptReason, EventClaim, EventReason, Whose
from batchrunner.reconciliation.shelves import Counts, Shelf, Wanted, counts_of
from batchrunner.usage_event import UsageEvent

#: of attempts and events of one model and endpoint: each takes some 100 bytes
MOST_PAIRS: Final = 1_000_000


def match_rest(books: Books, doubts: Doubts) -> None:
    """First answers that were errors, whose end was seen; then all others in the time in which answers come; then, what we
    left, in all the time that the platform may take with it.
    """
    for errors in (True, False):
        soon = [node for kind in books.kinds.values() for node in _few(books, _soon(books, kind, doubts.soon_ns(kind), errors))]
        doubts.see(soon)
        doubts.weigh(soon)
        explain(books, soon)
    late = [node for kind in books.kinds.values() for node in _few(books, _late(books, kind, doubts))]
    doubts.weigh(late, late=True)
    explain(books, late)


def match_otherwise(books: Books, doubts: Doubts) -> None:
    """Answers whose events count tokens otherwise: by time, and by a part of the tokens. Where that is no accident: an answer
    that was told a second time has no event at all.
    """
    nodes = []
    for kind in books.kinds.values():
        for number in kind.attempts:
            attempt = books.attempts[number]
            if attempt.billing is Billing.BILLED and attempt.usage is not None and books.attempt_claims[number] is None:
                fits = [
                    place
                    for place in kind.succeeded.fitting(Wanted(*books.window(number)))
                    if books.event_claims[place] is None and _is_partly(attempt.usage, books.events[place])
                ]
                wanted = {False: (kind.succeeded, Wanted(*books.window(number), exact=counts_of(attempt.usage)))}
                nodes.append(Node(number, must=False, fits=fits, wanted=wanted))
    doubts.weigh_parts(nodes)
    explain(books, nodes, EventReason.COUNTED_OTHERWISE)


def _soon(books: Books, kind: Kind, soon_ns: int, errors: bool) -> Iterator[Node]:  # noqa: FBT001 - an outcome
    for number in kind.attempts:
        attempt = books.attempts[number]
        if books.attempt_claims[number] is None and (attempt.billing is Billing.NOT) is errors:
            yield _node(books, kind, number, books.window(number, attempt.sent_ns + soon_ns if attempt.left else None))


def _late(books: Books, kind: Kind, doubts: Doubts) -> Iterator[Node]:
    for number in kind.attempts:
        attempt, claim = books.attempts[number], books.attempt_claims[number]
        if attempt.left and (claim is None or claim.event is None):
            window = books.window(number, books.over_ns(attempt))
            node = _node(books, kind, number, window, doubts.expected_twin(books.twins.get(attempt.request)))
            if not doubts.is_too_late(node, kind):
                yield node


def _few(books: Books, nodes: Iterable[Node]) -> list[Node]:
    """The attempts of a kind, which have to do with no other's; none where they fit so much that all of it stays undecided."""
    few: list[Node] = []
    crowd: list[Node] = []
    places: set[int] = set()
    pairs = 0
    for node in nodes:
        pairs += len(node.fits)
        few.append(node)
        if pairs > MOST_PAIRS:
            for one in few:
                places.update(one.fits)
            crowd += [msgspec.structs.replace(one, fits=[]) for one in few if one.fits]
            few = []
    if not crowd:
        return few
    for place in places:
        books.event_claims[place] = EventClaim(Whose.UNDECIDED, EventReason.TOO_MANY)
    for node in crowd:
        if books.attempt_claims[node.number] is None:
            billing = books.attempts[node.number].billing
            books.attempt_claims[node.number] = AttemptClaim(billing, AttemptReason.TOO_MANY)
    return []


def _node(books: Books, kind: Kind, number: int, window: tuple[int, int], exact: Counts | None = None) -> Node:
    """An attempt with the events of either outcome that it fits. `exact`: tokens that these must have."""
    attempt = books.attempts[number]
    twin = None if attempt.billing is Billing.BILLED else books.twins.get(attempt.request)
    asked = kind.wanted(attempt, window, twin)
    shelves: dict[bool, tuple[Shelf, Wanted]] = {}
    fits: list[int] = []
    for failed, shelf, wanted in (
        (False, kind.succeeded, asked if exact is None else asked._replace(exact=exact)),
        (True, kind.failed, Wanted(*window)),
    ):
        if attempt.billing is (Billing.BILLED if failed else Billing.NOT):
            continue
        found = [place for place in shelf.fitting(wanted) if books.event_claims[place] is None]
        if failed:
            found = [place for place in found if agrees(attempt, books.events[place], books.codes)]
        if found:
            shelves[failed] = shelf, wanted
            fits += found
    return Node(number, must=attempt.billing is Billing.BILLED, fits=fits, wanted=shelves, twin=twin)


def _is_partly(told: Usage, event: UsageEvent) -> bool:
    """Whether a part of the tokens is as the reply told. That both have none of a kind is no likeness, unless all are so."""
    found = event.tokens
    parts = ("input_tokens", "output_tokens", "total_tokens")
    same = found is not None and any(getattr(told, part) == getattr(found, part) != 0 for part in parts)
    return found is None or same or counts_of(told) == counts_of(found)
