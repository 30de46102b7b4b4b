"""Queues within the queue: the jobs of one file that have the same priority, in file order.

A lane looks for its jobs in the index as they are asked for, at the speed of a search for a byte: ten million of them cost no
memory.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from batchrunner.index import Index
from batchrunner.lifecycle import State

#: jobs that are looked at together where they come out one by one, doubled each time that none is found
SHORTEST_REACH: Final = 64
LONGEST_REACH: Final = 1 << 16


class Lane:
    """Jobs that were never in flight, by number. `pending` yields them once each, ascending, as far as they are looked at.

    `priority`: steps from 0, at most `job.MAX_STEPS`, each of which doubles the lane's share. `account`: the only one that may
    send them; None where any may. Several queues may draw from one lane; `watchers` are told when jobs come back.
    """

    def __init__(self, pending: Iterator[int], priority: int = 0, account: str | None = None) -> None:
        self.priority = priority
        self.account = account
        self.watchers: list[Callable[[], None]] = []
        self._pending: Iterator[int] | None = pending
        #: looked at and not removed, ascending
        self._drawn: deque[int] = deque()
        #: no job before this one is new: all others were looked at, and held aside
        self._new_from = -1

    def head(self) -> int | None:
        """The first job that is left; None where none is, for now."""
        if not self._drawn:
            self._draw(1)
        return self._drawn[0] if self._drawn else None

    def ahead(self, count: int) -> list[int]:
        """The first jobs that are left, up to `count`."""
        self._draw(count)
        return list(islice(self._drawn, count))

    def is_new(self, number: int) -> bool:
        """Whether a job that is left was never put back."""
        return number >= self._new_from

    def remove(self, number: int) -> bool:
        """Take out a job that `head` or `ahead` has shown. False where it is not here."""
        drawn = self._drawn
        if not drawn or not drawn[0] <= number <= drawn[-1]:
            return False
        if drawn[0] == number:
            drawn.popleft()
            return True
        try:
            drawn.remove(number)
        except ValueError:
            return False
        return True

    def put_back(self, numbers: Iterable[int]) -> None:
        """Take in jobs that were removed and not sent: they go before what follows them in the file."""
        back = list(numbers)
        self._new_from = max(self._new_from, max(back, default=-1) + 1)
        self._drawn = deque(sorted((*back, *self._drawn)))
        for tell in self.watchers:
            tell()

    def _draw(self, count: int) -> None:
        while self._pending is not None and len(self._drawn) < count:
            number = next(self._pending, None)
            if number is None:
                self._pending = None
            else:
                self._drawn.append(number)


class Lanes:
    """The lanes of a run, in the order of its files and of their first jobs: one for each file, priority and account."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._ends: list[int] = []
        self._place_of: dict[tuple[int, int], int] = {}
        self.all: list[Lane] = []
        for file, jobs in enumerate(index.files()):
            self._ends.append(jobs.stop)
            firsts = ((index.wish.find(wish, jobs.start, jobs.stop), wish) for wish in range(len(index.wishes)))
            for _, wish in sorted(first for first in firsts if first[0] >= 0):
                its = index.wishes[wish]
                self._place_of[file, wish] = len(self.all)
                self.all.append(Lane(_pending(index, wish, jobs), its.priority, its.account))

    def of(self, number: int) -> int:
        """The place in `all` of a job's lane."""
        return self._place_of[bisect.bisect_right(self._ends, number), self._index.wish[number]]


def _pending(index: Index, wish: int, jobs: range) -> Iterator[int]:
    """Numbers of the jobs with this wish that are to be sent, found as they are asked for."""
    number, reach = jobs.start, SHORTEST_REACH
    while True:
        # In turns: whichever of the two is rare lets the other skip.
        number = index.state.find(State.PENDING, number, jobs.stop)
        found = -1 if number < 0 else index.wish.find(wish, number, jobs.stop)
        if found < 0:
            return
        if found > number:
            # Where both are common, and never together, that would be a step for each job: a stretch is looked at at once.
            end = min(found + reach, jobs.stop)
            number = _first(index, wish, found, end)
            reach = min(2 * reach, LONGEST_REACH)
            if number == end:
                continue
        yield number
        number, reach = number + 1, SHORTEST_REACH


def _first(index: Index, wish: int, start: int, stop: int) -> int:
    """The first job of a stretch that has this wish and is to be sent; `stop` where none is. At about a nanosecond a job."""
    length = stop - start
    others = int.from_bytes(index.wish[start:stop]) ^ int.from_bytes(bytes((wish,)) * length)
    done = int.from_bytes(index.state[start:stop])  # pending is 0
    place = (others | done).to_bytes(length).find(0)
    return stop if place < 0 else start + place
