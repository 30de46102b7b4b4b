"""Where a match may be an accident.

Nobody knows whether an uncertain attempt was charged at all, so that an event which fits it proves nothing by itself: a
stranger's may fit by accident. How often, `chance` says; how often such attempts do have events of their own, those say that
ended alike; and a body that was answered before as a rule takes the same tokens again, where the platform is of that kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from batchrunner.events import Billing
from batchrunner.reconciliation.books import Books
from batchrunner.reconciliation.chance import TOLERATED, Chance, Habit
from batchrunner.reconciliation.explaining import Node
from batchrunner.reconciliation.kinds import Delays, Kind, is_failed
from batchrunner.reconciliation.records import Attempt
from batchrunner.reconciliation.shelves import Counts, Wanted, counts_of

#: by how much the longest of the answers that were seen can be passed by one that is as usual
_SOON: Final = 2
#: answers from which on that says something
_SEEN: Final = 20
#: that an answer takes longer still is left out of account where fewer than this share are expected to
_RARELY: Final = 0.001
#: an event is a stranger's where its being ours is so much less likely
_LIKELIER: Final = 0.01
#: a body takes the same tokens again so often that events with others are looked past, hours later
_REPEATS: Final = 0.9


class Doubts:
    """What is known of accidents on one account. `see` comes first."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._chance = Chance(books.span_ns)
        #: the same body takes the same tokens
        self._repeats = Habit()
        #: by how attempts ended, and whether it is about failed events: they have one soon
        self._habits: dict[tuple[str | None, bool], Habit] = defaultdict(Habit)

    def soon_ns(self, kind: Kind) -> int:
        """How long after its sending an attempt's event is to be expected at the latest."""
        delays = self._delays_of(kind)
        return min(self._books.horizon_ns, _SOON * delays.longest_ns) if delays.count >= _SEEN else self._books.horizon_ns

    def see(self, nodes: Sequence[Node]) -> None:
        """Learn from all that is not yet explained."""
        self._count_strangers(nodes)
        for node in nodes:
            if node.must:
                continue
            outcomes = {is_failed(self._books.events[place]) for place in node.fits}
            for failed in (False, True):
                self._habits[self._books.attempts[node.number].why, failed].note(failed in outcomes)
            if node.twin is not None and len(node.fits) == 1 and outcomes == {False}:
                self._repeats.note(self._counts(node.fits[0]) == node.twin)

    def expected_twin(self, twin: Counts | None) -> Counts | None:
        """Tokens that an attempt's event has, whenever it comes, where another attempt of the same body took these."""
        return twin if self._repeats.share >= _REPEATS else None

    def weigh(self, nodes: Sequence[Node], *, late: bool = False) -> None:
        """Doubt attempts whose match an accident would explain too well, and those that were doubted before.

        The surest are believed, as many as all together leave no more to accident than is tolerated.
        """
        weighed = []
        for node in nodes:
            if node.fits and not node.must:
                accidents = sum(self._accidents(node, failed, late=late) for failed in sorted(node.wanted))
                node.doubted = self._books.attempt_claims[node.number] is not None
                if not node.doubted:
                    weighed.append((accidents, node))
        total = 0.0
        for accidents, node in sorted(weighed, key=lambda one: one[0]):
            total += accidents
            node.doubted = total > TOLERATED

    def is_too_late(self, node: Node, kind: Kind) -> bool:
        """Whether an attempt's own event hardly comes so late, and strangers' do. Whether those that we gave up because
        they took long are like others nobody knows.
        """
        longer = self._delays_of(kind).longer
        if longer > _RARELY or "timeout" in (self._books.attempts[node.number].why or ""):
            return False
        return longer <= _LIKELIER * sum(self._chance.expected(shelf, asked) for shelf, asked in node.wanted.values())

    def _delays_of(self, kind: Kind) -> Delays:
        return kind.delays if kind.delays.longer <= _RARELY else self._books.delays

    def _count_strangers(self, nodes: Sequence[Node]) -> None:
        """Events that no attempt fits; where a model has few of them, what all models together would lead to expect."""
        fitting = {place for node in nodes for place in node.fits}
        claims = self._books.event_claims
        for failed in (False, True):
            shelves = [kind.failed if failed else kind.succeeded for kind in self._books.kinds.values()]
            for shelf in shelves:
                shelf.strangers = sum(claims[place] is None and place not in fitting for place in shelf.places)
            strangers = sum(shelf.strangers for shelf in shelves) + 1
            events = max(1, sum(map(len, shelves)))
            for shelf in shelves:
                shelf.strangers = max(shelf.strangers, strangers * len(shelf) / events)

    def _accidents(self, node: Node, failed: bool, *, late: bool) -> float:  # noqa: FBT001 - an outcome
        """How many strangers' events of an outcome would pass for an attempt's, for each that is its own.

        Takes events with other tokens out of `node.fits` where the same body takes the same tokens.
        """
        shelf, asked = node.wanted[failed]
        attempt = self._books.attempts[node.number]
        own = 0.5 if late else self._own(attempt, failed)
        fits = [place for place in node.fits if is_failed(self._books.events[place]) is failed]
        odds, known = (1 - own) / own, 1
        if node.twin is not None and not failed:
            repeats = self._repeats.share
            alike = [place for place in fits if self._counts(place) == node.twin]
            if alike and repeats > 0.5:
                node.fits = alike + [place for place in node.fits if is_failed(self._books.events[place])]
                asked, fits, known = asked._replace(exact=node.twin), alike, 2
                odds /= repeats
            elif not alike:
                odds /= 1 - repeats
        return self._chance.expected(shelf, self._as_close(attempt, asked, fits), known) * odds

    def _own(self, attempt: Attempt, failed: bool) -> float:  # noqa: FBT001 - an outcome
        """How many of the attempts that ended so have an event of that outcome. One that fails unseen is not to be expected."""
        habit = self._habits[attempt.why, failed]
        return habit.others if failed and attempt.billing is Billing.MAYBE else habit.share

    def _as_close(self, attempt: Attempt, asked: Wanted, fits: Sequence[int]) -> Wanted:
        """The part of a window that is no further from where ours are dated than these: a stranger's can be anywhere."""
        times = [self._books.events[place].at_ns or 0 for place in fits]
        if attempt.left or not self._books.delays.dated_at_end:
            return asked._replace(until_ns=max(times))
        return asked._replace(from_ns=min(times))

    def _counts(self, place: int) -> Counts | None:
        return counts_of(self._books.events[place].tokens)
