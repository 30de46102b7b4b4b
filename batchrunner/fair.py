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


#: A job that was refused this often, and is large, is sent with no other tokens in the window.
ALONE_AFTER = 3
#: What counts as large: a quarter of the minute's tokens.
LARGE_DIVISOR = 4
#: Refused this often while alone, with a smaller job accepted between: the server will never take it.
UNSATISFIABLE_AFTER = 5


class _Refusals(msgspec.Struct):
    tokens: int
    times: int = 0
    alone: int = 0
    smaller_accepted: bool = False


class RefusedJobs:
    """What 429s say about single jobs: which ones must go alone, and which the server will never take.

    A 429 speaks about the account. Only a job that is refused with the whole minute to itself, while smaller ones are
    accepted, is itself what is too large. Holds an entry for each job that was refused and has not ended since.
    """

    def __init__(self) -> None:
        self._jobs: dict[int, _Refusals] = {}

    def alone(self, number: int, tokens: int, tpm: int) -> bool:
        """Whether this job is to be sent with the window to itself."""
        known = self._jobs.get(number)
        return known is not None and known.times >= ALONE_AFTER and tokens * LARGE_DIVISOR > tpm > 0

    def refused(self, number: int, tokens: int, *, alone: bool) -> int:
        """Note a 429; how often the job was refused while alone."""
        known = self._jobs.setdefault(number, _Refusals(tokens))
        known.times += 1
        known.alone += alone
        return known.alone

    def accepted(self, number: int, tokens: int) -> None:
        """Note that the server took a job."""
        self._jobs.pop(number, None)
        for known in self._jobs.values():
            known.smaller_accepted |= tokens < known.tokens

    def unsatisfiable(self, number: int) -> bool:
        """Whether the evidence says that the server will never take this job."""
        known = self._jobs.get(number)
        return known is not None and known.alone >= UNSATISFIABLE_AFTER and known.smaller_accepted

    def forget(self, number: int) -> None:
        self._jobs.pop(number, None)
