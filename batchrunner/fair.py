"""Which job next: refused ones keep their place, then backoffs that are over, then the file in its order."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec

from batchrunner.retries import RetryBudget

#: Jobs that may be held aside at the same time: so far the queue looks past a model that is offline for work of others.
MOST_HELD = 100_000


class Statistics(msgspec.Struct, frozen=True):
    """The queue as it stands."""

    #: jobs waiting out a backoff, due or not
    backing_off: int
    #: jobs that a 429 sent back
    refused: int
    #: jobs held aside
    held: int


#: jobs by the time from which they may go
_Heap: TypeAlias = list[tuple[int, int]]
#: of those that need not wait
_AT_ONCE: Final = 0


class _Aside(msgspec.Struct):
    """Jobs held aside together, each with whether it is a repeat; one may go at `due_ns`, none where that is None."""

    jobs: deque[tuple[int, bool]]
    due_ns: int | None


class FairQueue:
    """Jobs that wait to be sent, by number.

    `pending` yields the numbers of jobs that were never in flight, in file order, and is drawn from only when nothing
    else is due: ten million of them cost no memory. `retries` says when a repeat may go. Pure: `now_ns` is an argument.
    """

    def __init__(self, pending: Iterator[int], retries: RetryBudget | None = None) -> None:
        self._pending: Iterator[int] | None = pending
        self._drawn: int | None = None
        self._retries = retries or RetryBudget()
        self._refused: _Heap = []
        #: sent back through no fault of their own
        self._backoffs: _Heap = []
        #: of what failed
        self._repeats: _Heap = []
        #: were held aside, and never sent
        self._released: _Heap = []
        #: by name; None for what waits for the server itself
        self._held: dict[str | None, _Aside] = {}
        self._held_count = 0

    def peek(self, now_ns: int) -> int | None:
        """The job whose turn it is, or None where nothing can be sent now."""
        if self._refused:
            return self._refused[0][1]
        for aside in self._held.values():
            if aside.due_ns is not None and aside.due_ns <= now_ns:
                return aside.jobs[0][0]
        if self._backoffs and self._backoffs[0][0] <= now_ns:
            return self._backoffs[0][1]
        if self._repeats and self._repeats[0][0] <= now_ns and self._retries.due_ns(now_ns) <= now_ns:
            return self._repeats[0][1]
        return self._released[0][1] if self._released else self._draw()

    def remove(self, number: int, now_ns: int, *, sent: bool = True) -> bool:
        """Take out a job that `peek` has shown; others may have come before it since. Whether it is a repeat.

        `sent`: it goes out now. Raises: LookupError where it is not in the queue.
        """
        repeat = self._take_out(number)
        if repeat and sent:
            self._retries.retried(now_ns)
        return repeat

    def refused(self, number: int) -> None:
        """Back to its place before all that was not sent: the wait after a 429 is the account's, not the job's."""
        heapq.heappush(self._refused, (_AT_ONCE, number))

    def again(self, number: int, due_ns: int, *, repeat: bool = False) -> None:
        """Back once `due_ns` has come; a `repeat` of what failed also waits for the retry budget."""
        heapq.heappush(self._repeats if repeat else self._backoffs, (due_ns, number))

    def succeeded(self, now_ns: int) -> None:
        """A job has succeeded: more repeats may go."""
        self._retries.succeeded(now_ns)

    @property
    def full(self) -> bool:
        """Whether so many jobs are held aside that the file is not looked at any further."""
        return self._held_count >= MOST_HELD

    def has_room_for(self, number: int) -> bool:
        """Whether a job that `peek` has shown may be held aside. Only new ones may not: all others are few, or were held."""
        return number != self._drawn or not self.full

    def hold(self, number: int, name: str | None, due_ns: int | None, *, repeat: bool = False) -> None:
        """Keep a job aside, behind the others of this name.

        One of them is shown once `due_ns` has come; None: not before `retime` or `release` are called.
        """
        aside = self._held.setdefault(name, _Aside(deque(), None))
        aside.jobs.append((number, repeat))
        aside.due_ns = due_ns
        self._held_count += 1

    def retime(self, name: str | None, due_ns: int | None) -> None:
        """When one of the jobs held under this name may go."""
        if name in self._held:
            self._held[name].due_ns = due_ns

    def release(self, name: str | None) -> list[int]:
        """Let all go that were held under this name: repeats as repeats, the others before what follows them in the file. Which
        they were.
        """
        aside = self._held.pop(name, None)
        if aside is None:
            return []
        self._held_count -= len(aside.jobs)
        for number, repeat in aside.jobs:
            heapq.heappush(self._repeats if repeat else self._released, (_AT_ONCE, number))
        return [number for number, _ in aside.jobs]

    def held_names(self) -> list[str | None]:
        return list(self._held)

    def next_due_ns(self, now_ns: int) -> int | None:
        """When the next job is due of those that wait for a time; None where none does."""
        due = [aside.due_ns for aside in self._held.values() if aside.due_ns is not None]
        if self._backoffs:
            due.append(self._backoffs[0][0])
        if self._repeats:
            due.append(max(self._repeats[0][0], self._retries.due_ns(now_ns)))
        return min(due, default=None)

    def empty(self) -> bool:
        """Nothing waits, due or not."""
        return not self._held and self.only_held()

    def only_held(self) -> bool:
        """Nothing waits but what is held aside, as far as the file is looked at."""
        waiting = self._refused or self._backoffs or self._repeats or self._released
        return not waiting and (self.full or self._draw() is None)

    def statistics(self) -> Statistics:
        backing_off = len(self._backoffs) + len(self._repeats)
        return Statistics(backing_off=backing_off, refused=len(self._refused), held=self._held_count)

    def _take_out(self, number: int) -> bool:
        """Find a job where `peek` has seen it, else where it has gone since. Whether it is a repeat."""
        if number == self._drawn:
            self._drawn = None
            return False
        heaps = (self._refused, self._backoffs, self._repeats, self._released)
        for heap in heaps:
            if heap and heap[0][1] == number:
                heapq.heappop(heap)
                return heap is self._repeats
        for name, aside in self._held.items():
            if aside.jobs[0][0] == number:
                return self._take_from_aside(name, aside)
        for heap in heaps:
            for place, (_, job) in enumerate(heap):
                if job == number:
                    del heap[place]
                    heapq.heapify(heap)
                    return heap is self._repeats
        raise LookupError(f"job {number} is not in the queue")

    def _take_from_aside(self, name: str | None, aside: _Aside) -> bool:
        _, repeat = aside.jobs.popleft()
        self._held_count -= 1
        if not aside.jobs:
            del self._held[name]
        return repeat

    def _draw(self) -> int | None:
        if self._drawn is None and self._pending is not None:
            self._drawn = next(self._pending, None)
            if self._drawn is None:
                self._pending = None
        return self._drawn


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
