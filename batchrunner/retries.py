"""The retry budget of a run: in any minute, ten repeats and one for every five successes. Pure.

It delays and never fails anything. Without it the repeats of a server that stumbles crowd out what has not been tried yet,
and keep it stumbling. Source: the retry budgets of Finagle and of gRPC's retry throttling, over an exact sliding minute.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

NS: Final = 1_000_000_000
WINDOW_NS: Final = 60 * NS
#: repeats a minute that need no success
FLOOR: Final = 10
SUCCESSES_PER_RETRY: Final = 5
#: successes and repeats within so much of each other share an entry, so that a fast run's minute stays small
CELL_NS: Final = NS // 4


class Statistics(msgspec.Struct, frozen=True):
    """The retry budget as it stands."""

    #: repeats that may go at once
    left: int


class _Minute:
    """How many of something came within the last minute."""

    def __init__(self) -> None:
        self.count = 0
        #: [when its first one came, how many]; the oldest first
        self._cells: deque[list[int]] = deque()

    def add(self, now_ns: int) -> None:
        if self._cells and now_ns - self._cells[-1][0] < CELL_NS:
            self._cells[-1][1] += 1
        else:
            self._cells.append([now_ns, 1])
        self.count += 1

    def expire(self, now_ns: int) -> None:
        while self._cells and self._cells[0][0] + WINDOW_NS <= now_ns:
            self.count -= self._cells.popleft()[1]

    def count_at(self, now_ns: int) -> int:
        """How many there are, without expiring any: for whoever looks on from another thread."""
        return sum(count for first_ns, count in tuple(self._cells) if first_ns + WINDOW_NS > now_ns)

    def first_expires_ns(self) -> int:
        return self._cells[0][0] + WINDOW_NS


class RetryBudget:
    """Says when the next repeat may go."""

    def __init__(self) -> None:
        self._retries = _Minute()
        self._successes = _Minute()

    def due_ns(self, now_ns: int) -> int:
        """When another repeat may go: now, or when the oldest one has left the minute. A success may make it sooner."""
        return now_ns if self.left(now_ns) > 0 else self._retries.first_expires_ns()

    def left(self, now_ns: int) -> int:
        """How many repeats may go at once; less than nothing where successes have left the minute since."""
        self._retries.expire(now_ns)
        self._successes.expire(now_ns)
        return _left(self._successes.count, self._retries.count)

    def statistics(self, now_ns: int) -> Statistics:
        return Statistics(max(0, _left(self._successes.count_at(now_ns), self._retries.count_at(now_ns))))

    def retried(self, now_ns: int) -> None:
        self._retries.add(now_ns)

    def succeeded(self, now_ns: int) -> None:
        self._successes.add(now_ns)


def _left(successes: int, retries: int) -> int:
    return FLOOR + successes // SUCCESSES_PER_RETRY - retries
