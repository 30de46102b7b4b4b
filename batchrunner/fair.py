"""Which job next: refused ones keep their place, then backoffs that are over, then the file in its order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import msgspec


class Statistics(msgspec.Struct, frozen=True):
    """The queue as it stands."""

    #: jobs waiting out a backoff, due or not
    backing_off: int
    #: jobs that a 429 sent back
    refused: int


class FairQueue:
    """Jobs that wait to be sent, by number.

    `pending` yields the numbers of jobs that were never in flight, in file order, and is drawn from only when nothing
    else is due: ten million of them cost no memory. Pure: `now_ns` is an argument.
    """

    def __init__(self, pending: Iterator[int]) -> None:
        self._pending = pending
        self._drawn: int | None = None
        self._exhausted = False
        self._refused: list[int] = []
        self._backoffs: list[tuple[int, int]] = []

    def peek(self, now_ns: int) -> int | None:
        """The job whose turn it is, or None where nothing can be sent now."""
        if self._refused:
            return self._refused[0]
        if self._backoffs and self._backoffs[0][0] <= now_ns:
            return self._backoffs[0][1]
        return self._draw()

    def remove(self, number: int) -> None:
        """Take out a job that `peek` has shown; others may have come before it since.

        Raises: LookupError where it is not in the queue.
        """
        if number == self._drawn:
            self._drawn = None
        elif number in self._refused:
            _remove(self._refused, self._refused.index(number))
        else:
            place = next((place for place, (_, waiting) in enumerate(self._backoffs) if waiting == number), None)
            if place is None:
                raise LookupError(f"job {number} is not in the queue")
            _remove(self._backoffs, place)

    def refused(self, number: int) -> None:
        """Back to its place before all that was not sent: the wait after a 429 is the account's, not the job's."""
        heapq.heappush(self._refused, number)

    def again(self, number: int, due_ns: int) -> None:
        """Back once `due_ns` has come."""
        heapq.heappush(self._backoffs, (due_ns, number))

    def next_due_ns(self) -> int | None:
        """When the first backoff is over; None where no job waits one out."""
        return self._backoffs[0][0] if self._backoffs else None

    def empty(self) -> bool:
        """Nothing waits, due or not."""
        return not self._refused and not self._backoffs and self._draw() is None

    def statistics(self) -> Statistics:
        return Statistics(backing_off=len(self._backoffs), refused=len(self._refused))

    def _draw(self) -> int | None:
        if self._drawn is None and not self._exhausted:
            self._drawn = next(self._pending, None)
            self._exhausted = self._drawn is None
        return self._drawn


def _remove(heap: list[Any], place: int) -> None:
    """Take one entry out of a heap: its first, as a rule."""
    if place == 0:
        heapq.heappop(heap)
    else:
        del heap[place]
        heapq.heapify(heap)


#: A job that was refused this often lets others pass, and if it is large it is sent with no other tokens in the window.
YIELDS_AFTER = 3
#: What counts as large: a quarter of the minute's tokens.
LARGE_DIVISOR = 4
#: Refused this often while alone, with another job accepted meanwhile: the server will never take it.
UNSATISFIABLE_AFTER = 5
#: How long it lets others pass, doubled each time.
FIRST_YIELD_NS = 5_000_000_000
LONGEST_YIELD_NS = 15 * 60 * 1_000_000_000


class _Refusals(msgspec.Struct):
    #: jobs that had been accepted before the first refusal
    since: int
    times: int = 0
    alone: int = 0


class RefusedJobs:
    """What 429s say about single jobs: which ones let others pass or go alone, and which the server will never take.

    A 429 speaks about the account, and a refused job keeps its place, twice. From then on it lets others pass: else one
    that the server never takes would be the canary for ever, and nobody would ever learn that others are taken. It is
    found to be such a one when it is refused again and again with the whole window to itself, while others are accepted.
    If nothing is accepted it is the account that is refused, and no job fails.

    Holds an entry for each job that was refused and has not ended since; every method costs the same for any number.
    """

    def __init__(self) -> None:
        self._jobs: dict[int, _Refusals] = {}
        self._accepted = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def alone(self, number: int, tokens: int, tpm: int) -> bool:
        """Whether this job is to be sent with the window to itself."""
        known = self._jobs.get(number)
        return known is not None and known.times >= YIELDS_AFTER and tokens * LARGE_DIVISOR > tpm > 0

    def refused(self, number: int, *, alone: bool) -> int | None:
        """Note a 429. How long the job lets others pass, in ns; 0 where it keeps its place; None where it will never be taken.

        `alone`: it had the window to itself.
        """
        known = self._jobs.setdefault(number, _Refusals(self._accepted))
        known.times += 1
        if known.times < YIELDS_AFTER:
            return 0
        known.alone += alone
        if known.alone >= UNSATISFIABLE_AFTER and self._accepted > known.since:
            del self._jobs[number]
            return None
        return min(LONGEST_YIELD_NS, FIRST_YIELD_NS << min(known.times - YIELDS_AFTER, 10))

    def accepted(self, number: int) -> None:
        """Note that the server took a job."""
        self._accepted += 1
        self._jobs.pop(number, None)

    def forget(self, number: int) -> None:
        """The job has ended in another way."""
        self._jobs.pop(number, None)
