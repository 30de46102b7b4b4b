"""How far the platform's clock is ahead of ours, told by events that fit one attempt exactly.

Each such pair says that the event's time lies between the attempt's sending and its end, by some difference of clocks: an
interval. Where most of these intervals overlap, the difference lies. Pairs that disagree by little (a clock that was set, a
stamp that came late) widen it; those that disagree by much are pairs by accident.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from batchrunner.reconciliation.records import Clocks

_NS_PER_SECOND: Final = 1_000_000_000
#: assumed where nothing is known: clocks that are kept by NTP are never so far apart
UNKNOWN: Final = Clocks(-60 * _NS_PER_SECOND, 60 * _NS_PER_SECOND, 0)
#: what a clock is set by, or a stamp comes late, without being another event
_SLIP_NS: Final = 5 * _NS_PER_SECOND
#: fewer pairs than this may all be accidents
_ENOUGH: Final = 5
#: times are told in milliseconds as a rule, and ours are taken a moment late; where all are whole seconds it is one
_LEAST_SLACK_NS: Final = 2_000_000


def compare(pairs: Sequence[tuple[int, int, int]]) -> Clocks:
    """The difference of the clocks by pairs of (sent, ended, event's time), in nanoseconds."""
    if len(pairs) < _ENOUGH:
        return UNKNOWN
    slack_ns = _LEAST_SLACK_NS if any(at % _NS_PER_SECOND for *_, at in pairs) else _NS_PER_SECOND
    intervals = [(at - ended - slack_ns, at - sent + slack_ns) for sent, ended, at in pairs]
    least, most = _most_agreed(intervals)
    near = [(low, high) for low, high in intervals if low <= most + _SLIP_NS and high >= least - _SLIP_NS]
    least = min(least, *(high for _, high in near))
    most = max(most, *(low for low, _ in near))
    return Clocks(least - slack_ns, most + slack_ns, len(near))


def _most_agreed(intervals: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The stretch that lies in the most of them; the first, where there are several."""
    ends = sorted([(low, 0) for low, _ in intervals] + [(high, 1) for _, high in intervals])
    depth = deepest = 0
    least = most = 0
    for place, (at, is_end) in enumerate(ends):
        depth += -1 if is_end else 1
        if depth > deepest:
            deepest, least, most = depth, at, ends[place + 1][0]
    return least, most
