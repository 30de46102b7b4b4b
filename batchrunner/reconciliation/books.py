"""What is known so far of one account's attempts and events: who can be whose, and what has been claimed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from batchrunner.events import Billing
from batchrunner.pricing import EXACT
from batchrunner.reconciliation import clocks
from batchrunner.reconciliation.kinds import Delays, Kind, is_failed, window_of
from batchrunner.reconciliation.records import (
    Attempt,
    AttemptClaim,
    AttemptReason,
    EventClaim,
    EventReason,
    Settlement,
    Sum,
    Whose,
)
from batchrunner.reconciliation.shelves import counts_of
from batchrunner.usage_event import UsageEvent


class Books:
    """Attempts and events by their places, put together by model and endpoint, with the claims that were made about them.

    `by_id`: events (by place) that bear the id of an attempt's answer. What is left without a claim is so by `settlement`.
    """

    def __init__(
        self, attempts: Sequence[Attempt], events: Sequence[UsageEvent], by_id: Mapping[int, int], horizon_ns: int
    ) -> None:
        self.attempts = attempts
        self.events = events
        #: how long the platform may go on with what we left
        self.horizon_ns = horizon_ns
        self.event_claims: list[EventClaim | None] = [None] * len(events)
        self.attempt_claims: list[AttemptClaim | None] = [None] * len(attempts)
        self.clocks = clocks.UNKNOWN
        #: of all answers
        self.delays = Delays()
        #: by body: what an attempt whose reply was read took
        self.twins = {attempt.request: counts_of(attempt.usage) for attempt in attempts if attempt.usage is not None}
        #: bodies whose answer may have been one that was told a second time, long after the event of the first
        self.repeated = {attempt.request for attempt in attempts if attempt.billing is Billing.MAYBE}
        #: of failures, as events name them
        self.codes = {event.error for event in events if event.error is not None}
        for place, number in by_id.items():
            self.claim(number, place, EventReason.BY_ID)
        self.kinds = self._sort()

    @property
    def span_ns(self) -> int:
        """From the first event to the last."""
        times = [at_ns for event in self.events if (at_ns := event.at_ns) is not None]
        return max(times) - min(times) if times else 0

    def claim(self, number: int, place: int, reason: EventReason) -> None:
        """One attempt has this one event."""
        self.event_claims[place] = EventClaim(Whose.OURS, reason, (number,))
        self.attempt_claims[number] = self.charged(place, AttemptReason.MATCHED)

    def charged(self, place: int, reason: AttemptReason) -> AttemptClaim:
        """What an event says of the attempt that has it."""
        if is_failed(self.events[place]) and not self.events[place].cost_usd:
            return AttemptClaim(Billing.NOT, AttemptReason.FAILED_EVENT, place)
        return AttemptClaim(Billing.BILLED, reason, place)

    def window(self, number: int, until_ns: int | None = None) -> tuple[int, int]:
        """When an attempt's event can be dated, see `window_of`."""
        return window_of(self.attempts[number], self.clocks, until_ns)

    def apart(self, attempt: Attempt, at_ns: int) -> tuple[int, int]:
        """How long after an attempt's sending, and how long before its end, an event is dated, by the platform's clock."""
        return at_ns - self.clocks.least_ns - attempt.sent_ns, attempt.ended_ns + self.clocks.most_ns - at_ns

    def over_ns(self, attempt: Attempt) -> int:
        """When the platform is done with an attempt, by our clock."""
        return max(attempt.ended_ns, attempt.sent_ns + self.horizon_ns) if attempt.left else attempt.ended_ns

    def settlement(self, complete_until_ns: int) -> Settlement:
        """All claims, with reasons for what is left. Events are known up to `complete_until_ns`, by our clock."""
        self._close_events()
        unknown = not any(claim and claim.event is not None for claim in self.attempt_claims)
        begins_ns = self._forgotten_until_ns()
        for number, attempt in enumerate(self.attempts):
            if self.attempt_claims[number] is not None:
                continue
            if unknown:
                self.attempt_claims[number] = _undecided(attempt, AttemptReason.NO_EVENTS_AT_ALL)
            elif self.window(number)[0] < begins_ns:
                self.attempt_claims[number] = _undecided(attempt, AttemptReason.FORGOTTEN)
            elif self.over_ns(attempt) + self.clocks.most_ns > complete_until_ns:
                self.attempt_claims[number] = _undecided(attempt, AttemptReason.NOT_OVER)
            else:
                self.attempt_claims[number] = AttemptClaim(Billing.NOT, AttemptReason.NO_EVENT)
        settlement = Settlement(
            [claim for claim in self.event_claims if claim is not None],
            [claim for claim in self.attempt_claims if claim is not None],
            *(Sum(), Sum(), Sum(), Sum()),
            clocks=self.clocks,
        )
        _add_up(settlement, self.events)
        return settlement

    def _sort(self) -> dict[tuple[str | None, str | None], Kind]:
        """Attempts and events by model and endpoint, as far as events tell these; what cannot be placed is claimed."""
        told_model = any(event.model is not None for event in self.events)
        told_endpoint = any(event.endpoint is not None for event in self.events)
        places: dict[tuple[str | None, str | None], list[int]] = defaultdict(list)
        for place, event in enumerate(self.events):
            if self.event_claims[place] is not None:
                continue
            untold = (told_model and event.model is None) or (told_endpoint and event.endpoint is None)
            if event.source is not None and event.source != "api":
                self.event_claims[place] = EventClaim(Whose.STRANGERS, EventReason.PLAYGROUND)
            elif untold or event.at_ns is None:
                self.event_claims[place] = EventClaim(Whose.UNDECIDED, EventReason.UNTOLD)
            else:
                places[event.model, event.endpoint].append(place)
        kinds = {key: Kind(self.events, own) for key, own in places.items()}
        for number, attempt in enumerate(self.attempts):
            key = (attempt.model if told_model else None, attempt.endpoint if told_endpoint else None)
            if key not in kinds:
                kinds[key] = Kind(self.events, ())
            kinds[key].attempts.append(number)
        for kind in kinds.values():
            kind.learn_guesses(self.attempts)
            kind.learn_prices(self.attempts)
        return kinds

    def _forgotten_until_ns(self) -> int:
        """When the list of events begins, where answers were read before; else 0.

        An answer that has no event because it was told a second time comes after one that has.
        """
        begins_ns = min((at_ns for event in self.events if (at_ns := event.at_ns) is not None), default=0)
        earlier = (
            claim is None and attempt.billing is Billing.BILLED and self.window(number)[1] < begins_ns
            for number, (attempt, claim) in enumerate(zip(self.attempts, self.attempt_claims, strict=True))
        )
        return begins_ns if any(earlier) else 0

    def _close_events(self) -> None:
        for kind in self.kinds.values():
            kind.note_windows([self.window(number, self.over_ns(self.attempts[number])) for number in kind.attempts])
            for shelf in (kind.succeeded, kind.failed):
                for place in shelf.places:
                    if self.event_claims[place] is None:
                        self.event_claims[place] = EventClaim(Whose.STRANGERS, kind.why_not(self.events[place]))


def _undecided(attempt: Attempt, reason: AttemptReason) -> AttemptClaim:
    """Of an attempt that no event fits, from which nothing follows. An error costs nothing all the same."""
    if attempt.billing is Billing.NOT:
        return AttemptClaim(Billing.NOT, AttemptReason.NO_EVENT)
    return AttemptClaim(attempt.billing, reason)


def _add_up(settlement: Settlement, events: Sequence[UsageEvent]) -> None:
    sums = {Whose.OURS: settlement.ours, Whose.STRANGERS: settlement.strangers, Whose.UNDECIDED: settlement.undecided}
    for event, claim in zip(events, settlement.events, strict=True):
        for into in (sums[claim.whose], settlement.theirs):
            into.count += 1
            if event.cost_usd is None:
                into.unpriced += 1
            else:
                into.amount_usd = EXACT.add(into.amount_usd, event.cost_usd)
