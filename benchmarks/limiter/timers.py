"""Virtual time for callbacks: what is to happen, in the order of its moment."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol


class Timers(Protocol):
    """Calls back at a moment of virtual time, which begins at 0."""

    @property
    def now_ns(self) -> int: ...

    def at(self, at_ns: int, call: Callable[[], None]) -> None:
        """Call at `at_ns`, or as soon as may be where that has passed."""
        ...


class HeapTimers:
    """A heap of calls: nothing takes time but waiting. Calls of the same moment are made in the order they were asked for."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._asked = 0

    def at(self, at_ns: int, call: Callable[[], None]) -> None:
        self._asked += 1
        heapq.heappush(self._calls, (max(at_ns, self.now_ns), self._asked, call))

    def run(self, until_ns: int) -> None:
        """Make all calls up to `until_ns`, those included that are asked for meanwhile."""
        calls = self._calls
        while calls and calls[0][0] <= until_ns:
            self.now_ns, _, call = heapq.heappop(calls)
            call()
