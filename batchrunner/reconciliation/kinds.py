"""What one model at one endpoint was asked and charged for: our attempts, and the events among which theirs must be."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Container, Sequence
from decimal import Decimal
from typing import Final

from batchrunner.events import Billing
from batchrunner.reconciliation.records import Attempt, Clocks, EventReason
from batchrunner.reconciliation.shelves import Counts, Shelf, Wanted, counts_of
from batchrunner.usage_event import UsageEvent

#: answers from which on it is known when events are dated
SEEN: Final = 20
#: of these, how many nearest ones, and what share, tell how dense they are somewhere
_NEAREST: Final = 5
_NEAREST_SHARE: Final = 0.02
#: times are told in milliseconds
_FINEST_NS: Final = 1_000_000
#: answers from which on a model's own figures are relied on
_ENOUGH: Final = 20
#: how far beyond all that was seen a guess of input tokens may be off, as a share and in tokens
_MARGIN: Final = 0.1
_MARGIN_TOKENS: Final = 2
#: of answers whose tokens an event tells, those that cost as much by our prices as by some such event: from this share on the
#: platform reckons as we do
_AGREED: Final = 0.9


class Delays:
    """When answers' events are dated: so long after the sending, and so long before our end of it. By two clocks: all are off by
    as much as these are apart, which makes no difference to what is asked.
    """

    def __init__(self) -> None:
        self.count = 0
        self.longest_ns = 0
        self._after_ns: list[int] = []
        self._before_ns: list[int] = []

    def learn(self, after_ns: int, before_ns: int) -> None:
        self.count += 1
        self.longest_ns = max(self.longest_ns, after_ns)
        self._after_ns.append(after_ns)
        self._before_ns.append(before_ns)

    @property
    def longer(self) -> float:
        """The share of answers that take longer than the longest one so far, at the most to be expected."""
        return 1 / (self.count + 2)

    def sort(self) -> None:
        """What follows is asked once all is learned."""
        self._after_ns.sort()
        self._before_ns.sort()

    def after_width_ns(self, after_ns: int) -> float:
        """In how long a time events would come evenly as densely as ours do so long after the sending."""
        return _width_ns(self._after_ns, after_ns)

    def before_width_ns(self, before_ns: int) -> float:
        """As `after_width_ns`, so long before the end."""
        return _width_ns(self._before_ns, before_ns)


def _width_ns(seen: list[int], value: int) -> float:
    """The inverse of a density, by the distance to the nearest few of what was seen."""
    if len(seen) < SEEN:
        return math.inf
    nearest = max(_NEAREST, int(_NEAREST_SHARE * len(seen)))
    low = high = bisect_left(seen, value)
    for _ in range(nearest):  # the next one on whichever side is closer
        if low > 0 and (high == len(seen) or value - seen[low - 1] <= seen[high] - value):
            low -= 1
        else:
            high += 1
    reach = max(value - seen[low], seen[high - 1] - value, _FINEST_NS)
    return 2 * reach * len(seen) / nearest


class Kind:
    """Attempts and events of a model and endpoint, by their places in the account's lists."""

    def __init__(self, events: Sequence[UsageEvent], places: Sequence[int]) -> None:
        failed = [place for place in places if is_failed(events[place])]
        told = set(failed)
        self.succeeded = Shelf(events, (place for place in places if place not in told))
        self.failed = Shelf(events, failed)
        self.attempts: list[int] = []
        self.delays = Delays()
        #: an answer's event costs what the answer does by our prices
        self.is_priced = False
        self._ratios: tuple[float, float] | None = None
        self._busy: list[tuple[int, int]] = []

    def learn_guesses(self, attempts: Sequence[Attempt]) -> None:
        """How far guesses of input tokens are off, by the attempts whose replies tell."""
        ratios = [
            attempt.usage.input_tokens / attempt.guessed_input_tokens
            for attempt in (attempts[number] for number in self.attempts)
            if attempt.usage is not None and attempt.guessed_input_tokens
        ]
        self._ratios = (min(ratios), max(ratios)) if len(ratios) >= _ENOUGH else None

    def learn_prices(self, attempts: Sequence[Attempt]) -> None:
        """Whether amounts tell events apart: what is billed by pictures or seconds takes the same tokens at many prices."""
        bills = self.succeeded.bills()
        told = {None, *(counts for counts, _ in bills)}
        seen = agreed = 0
        for attempt in (attempts[number] for number in self.attempts):
            if attempt.billing is Billing.BILLED and attempt.amount_usd is not None:
                counts = counts_of(attempt.usage)
                seen += counts in told
                agreed += (counts, attempt.amount_usd) in bills
        self.is_priced = bool(agreed) and agreed >= _AGREED * seen

    def listed_usd(self, attempt: Attempt) -> Decimal | None:
        """What an answer's event costs before any discount; None where that is not known."""
        return attempt.amount_usd if self.is_priced and attempt.billing is Billing.BILLED else None

    def wanted(self, attempt: Attempt, window: tuple[int, int], twin: Counts | None) -> Wanted:
        """What an event must say to be an attempt's. `twin`: what another attempt of the same body took."""
        return self._counted(attempt, window, twin)._replace(amount_usd=self.listed_usd(attempt))

    def _counted(self, attempt: Attempt, window: tuple[int, int], twin: Counts | None) -> Wanted:
        if attempt.usage is not None:
            return Wanted(*window, exact=counts_of(attempt.usage))
        if twin is not None:
            return Wanted(*window, least_input=twin[0], most_input=twin[0], most_output=attempt.cap_tokens)
        if attempt.guessed_input_tokens is None or self._ratios is None:
            return Wanted(*window, most_output=attempt.cap_tokens)
        low, high = self._ratios
        least = int(attempt.guessed_input_tokens * low * (1 - _MARGIN)) - _MARGIN_TOKENS
        most = int(attempt.guessed_input_tokens * high * (1 + _MARGIN)) + _MARGIN_TOKENS
        return Wanted(*window, least_input=max(0, least), most_input=most, most_output=attempt.cap_tokens)

    def note_windows(self, windows: Sequence[tuple[int, int]]) -> None:
        """When anything of ours was under way."""
        self._busy = []
        for low, high in sorted(windows):
            if self._busy and low <= self._busy[-1][1]:
                self._busy[-1] = (self._busy[-1][0], max(high, self._busy[-1][1]))
            else:
                self._busy.append((low, high))

    def why_not(self, event: UsageEvent) -> EventReason:
        """Why an event that no attempt fits is nobody's of ours."""
        at_ns = event.at_ns or 0
        place = bisect_right(self._busy, at_ns, key=lambda window: window[0]) - 1
        if not self.attempts:
            return EventReason.OTHER_MODEL
        if place < 0 or self._busy[place][1] < at_ns:
            return EventReason.OTHER_TIME
        return EventReason.OTHER_OUTCOME if is_failed(event) else EventReason.OTHER_TOKENS


def agrees(attempt: Attempt, event: UsageEvent, codes: Container[str]) -> bool:
    """Whether a failed event can be about the error that an attempt was answered with. `codes`: those that events name: an answer
    with one of them, or with a bare status, can have no event with another; in other words servers say whatever they like.
    """
    if attempt.left or attempt.why is None or attempt.why == event.error:
        return True
    if event.status_code is not None and attempt.why.startswith("http_"):
        return attempt.why == f"http_{event.status_code}"
    return event.error is None or attempt.why not in codes


def is_failed(event: UsageEvent) -> bool:
    """Whether the platform says that nothing came of it."""
    return event.error is not None or (event.status_code is not None and event.status_code >= 400)


def window_of(attempt: Attempt, clocks: Clocks, until_ns: int | None = None) -> tuple[int, int]:
    """When an attempt's event can be dated, by the platform's clock: from its sending to its end, or until `until_ns` of ours."""
    end_ns = attempt.ended_ns if until_ns is None else until_ns
    return attempt.sent_ns + clocks.least_ns, max(attempt.sent_ns, end_ns) + clocks.most_ns
