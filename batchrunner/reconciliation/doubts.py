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
from batchrunner.exchange import FailureKind
from batchrunner.reconciliation.books import Books
from batchrunner.reconciliation.chance import TOLERATED, Chance, Habit
from batchrunner.reconciliation.explaining import Node
from batchrunner.reconciliation.kinds import SEEN, Delays, Kind, is_failed
from batchrunner.reconciliation.records import Attempt
from batchrunner.reconciliation.shelves import Counts, Wanted, counts_of

#: by how much the longest of the answers that were seen can be passed by one that is as usual
_SOON: Final = 2
#: that an answer takes longer still is left out of account where fewer than this share are expected to
_RARELY: Final = 0.001
#: an event is a stranger's where its being ours is so much less likely
_LIKELIER: Final = 0.01
#: a body takes the same tokens again so often that events with others are looked past, hours later
_REPEATS: Final = 0.9
#: strangers' events beyond those that are seen
_ASSUMED: Final = 0.2
#: an answer came whole, with a status of success
_ANSWERED: Final = "answered"
_WHOLE: Final = frozenset({"unreadable_reply", FailureKind.COMPRESSED, FailureKind.TOO_LARGE})


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
        return min(self._books.horizon_ns, _SOON * delays.longest_ns) if delays.count >= SEEN else self._books.horizon_ns

    def see(self, nodes: Sequence[Node]) -> None:
        """Learn from all that is not yet explained."""
        self._count_strangers(nodes)
        self._habits[_ANSWERED, False].note(True, self._books.delays.count)
        for node in nodes:
            if node.must:
                self._habits[_ANSWERED, False].note(bool(node.fits))
                continue
            outcomes = {is_failed(self._books.events[place]) for place in node.fits}
            for failed in (False, True):
                self._habits[self._ending(node.number), failed].note(failed in outcomes)
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
        _believe(weighed)

    def weigh_parts(self, nodes: Sequence[Node]) -> None:
        """Doubt answers that an event fits in a part of its tokens alone."""
        self._count_strangers(nodes)
        weighed = []
        for node in nodes:
            shelf, asked = node.wanted[False]
            assert asked.exact is not None
            weighed.append((self._chance.expected_in_part(shelf, asked.exact, asked.until_ns - asked.from_ns), node))
        _believe([(accidents, node) for accidents, node in weighed if node.fits])

    def is_too_late(self, node: Node, kind: Kind) -> bool:
        """Whether an attempt's own event hardly comes so late, and strangers' do. Whether those that we gave up because
        they took long are like others nobody knows.
        """
        longer = self._delays_of(kind).longer
        if longer > _RARELY or "timeout" in (self._books.attempts[node.number].why or ""):
            return False
        return longer <= _LIKELIER * sum(
            self._chance.expected(shelf, asked, asked.until_ns - asked.from_ns) for shelf, asked in node.wanted.values()
        )

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
            strangers = sum(shelf.strangers for shelf in shelves) + _ASSUMED
            events = max(1, sum(map(len, shelves)))
            for shelf in shelves:
                shelf.strangers = max(shelf.strangers, strangers * len(shelf) / events)

    def _accidents(self, node: Node, failed: bool, *, late: bool) -> float:  # noqa: FBT001 - an outcome
        """How many strangers' events of an outcome would pass for an attempt's, for each that is its own.

        Takes events with other tokens out of `node.fits` where the same body takes the same tokens.
        """
        shelf, asked = node.wanted[failed]
        attempt = self._books.attempts[node.number]
        own = 0.5 if late else self._own(node, failed)
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
        return self._chance.expected(shelf, asked, self._width_ns(attempt, asked, fits), known) * odds

    def _own(self, node: Node, failed: bool) -> float:  # noqa: FBT001 - an outcome
        """How many of the attempts that ended so have an event of that outcome. One that fails unseen is not to be expected."""
        habit = self._habits[self._ending(node.number), failed]
        maybe = self._books.attempts[node.number].billing is Billing.MAYBE
        return habit.others if failed and maybe else habit.share

    def _width_ns(self, attempt: Attempt, asked: Wanted, fits: Sequence[int]) -> float:
        """In how long a time a stranger's events, which come whenever they like, are as likely as ours are when these are dated.

        An attempt whose end we saw ended when the platform was done with it; else only its sending tells when that was.
        """
        width_ns = 0.0
        for place in fits:
            after_ns, before_ns = self._books.apart(attempt, self._books.events[place].at_ns or 0)
            delays = self._books.delays
            own = delays.after_width_ns(after_ns) if attempt.left else delays.before_width_ns(before_ns)
            width_ns = max(width_ns, own)
        return min(width_ns, asked.until_ns - asked.from_ns)

    def _ending(self, number: int) -> str | None:
        """What attempts are alike in. One whose answer came whole was charged as those are whose answers could be read."""
        why = self._books.attempts[number].why
        return _ANSWERED if why in _WHOLE else why

    def _counts(self, place: int) -> Counts | None:
        return counts_of(self._books.events[place].tokens)


def _believe(weighed: list[tuple[float, Node]]) -> None:
    """The surest, as many as leave no more to accident than is tolerated; doubt the others."""
    total = 0.0
    for accidents, node in sorted(weighed, key=lambda one: one[0]):
        total += accidents
        node.doubted = total > TOLERATED
