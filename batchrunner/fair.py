"""Which job next: refused ones keep their place, then questions and backoffs that are due, then new ones by fair shares.

New jobs stand in lanes, one for each file and priority. Whose turn it is, is told by start-time fair queueing: each lane has a
virtual time, which a job that is sent moves on by what it takes of the account, divided by the lane's weight; the lane that is
least far goes next. What a job takes is its dominant share, of requests or of tokens, whichever is larger: a file of long
documents cannot take all tokens, nor one of short questions all requests, and what one of them leaves the other may have.
A lane that had nothing to send begins again where the others are: time that was not used is not saved up.

Sources: start-time fair queueing (Goyal et al., 1996); dominant resource fairness (Ghodsi et al., 2011).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final, Literal, TypeAlias

import msgspec

from batchrunner.budget import Limits
from batchrunner.job import MAX_STEPS
from batchrunner.lanes import Lane
from batchrunner.retries import RetryBudget

#: Jobs that may be held aside at the same time: so far the queue looks past a model that is offline for work of others.
MOST_HELD = 100_000
NO_LIMITS: Final = Limits(0, 0)
_MINUTE_NS: Final = 60_000_000_000


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


class _Turn(msgspec.Struct, eq=False):
    """A lane's place in the order of turns."""

    lane: Lane
    place: int
    #: virtual time at which its next job starts
    start: int = 0
    #: has jobs, as far as is known; only then it is in the heap, at this very start
    waits: bool = True


class FairQueue:
    """Jobs that wait to be sent, by number.

    `lanes` hold the jobs that were never in flight, and are looked into only when nothing else is due; `lane_of` tells a job's
    place among them. `limits` are those of the account, which jobs take shares of. `retries` says when a repeat may go.
    `foreign`: other accounts of the run, whose own lanes are not looked into. `most_held`: jobs that may be aside at the same
    time. `asks`: whether a job that comes back is with the server by now and is only asked for, which nobody else can do.
    Pure: `now_ns` is an argument.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        lane_of: Callable[[int], int] = lambda _number: 0,
        *,
        limits: Limits = NO_LIMITS,
        retries: RetryBudget | None = None,
        foreign: Collection[str] = (),
        most_held: int = MOST_HELD,
        asks: Callable[[int], bool] = lambda _number: False,
    ) -> None:
        self._most_held = most_held
        self._asks = asks
        self._turns = [_Turn(lane, place, waits=lane.account not in foreign) for place, lane in enumerate(lanes)]
        #: those that this account may send from
        self._own = [turn for turn in self._turns if turn.waits]
        for turn in self._own:
            turn.lane.watchers.append(partial(self._is_back, turn))
        #: by start, then in the order of the lanes; an entry that is not the turn's own any more is passed over
        self._order = [(turn.start, turn.place) for turn in self._own]
        #: told when jobs come back into a lane
        self.on_return: Callable[[], None] = lambda: None
        self._head: int | None = None
        self._lane_of = lane_of
        #: of the account's time; without any limit a request is a request
        self._request_ns = self._tpm = 0
        self.adopt(limits)
        #: virtual time: where the lane that is least far stands
        self._virtual = 0
        self._retries = retries or RetryBudget()
        self._refused: _Heap = []
        #: asked for now and then
        self._questions: _Heap = []
        #: sent back through no fault of their own
        self._backoffs: _Heap = []
        #: of what failed
        self._repeats: _Heap = []
        #: by name; None for what waits for the server itself
        self._held: dict[str | None, _Aside] = {}
        self._held_count = 0

    def adopt(self, limits: Limits) -> None:
        """Shares are of other limits from now on."""
        self._request_ns = max(1, _MINUTE_NS // limits.rpm if limits.rpm else 0)
        self._tpm = limits.tpm

    def peek(self, now_ns: int) -> int | None:
        """The job whose turn it is, or None where nothing can be sent now."""
        if self._refused or self._questions or self._held or self._backoffs or self._repeats:
            number = self._before_lanes(now_ns)
            if number is not None:
                return number
        return None if self._next_turn() is None else self._head

    def question(self, now_ns: int) -> int | None:
        """A job that is due to be asked for, whatever else stands before it; None where none is."""
        return self._questions[0][1] if self._questions and self._questions[0][0] <= now_ns else None

    def next_question_ns(self) -> int | None:
        """When the next job is due to be asked for; None where none waits for that."""
        return self._questions[0][0] if self._questions else None

    def beside(self, number: int, count: int) -> tuple[list[int], list[int]]:
        """New jobs that could go instead of the one that `peek` has shown, up to `count` of each kind: those that follow it in
        its lane, where it is new itself; and others, of whose lanes it is not the turn, in the order in which it will be.
        """
        turn = self._next_turn()
        if turn is None:
            return [], []
        first = turn.lane.ahead(count + 1)
        others = sorted((one.start, one.place) for one in self._own if one is not turn and one.waits)
        heads = [head for _, place in others[:count] if (head := self._turns[place].lane.head()) is not None]
        return (first[1:], heads) if first[0] == number else ([], [*first[:count], *heads])

    def remove(self, number: int, now_ns: int, *, sent: bool = True, tokens: int = 0) -> bool:
        """Take out a job that `peek` or `beside` has shown; others may have come before it since. Whether it is a repeat.

        `sent`: it goes out now, with so many tokens. Raises: LookupError where it is not in the queue.
        """
        turn = self._turns[self._lane_of(number)]
        repeat = not turn.lane.remove(number) and self._take_out(number)
        if sent:
            self._charge(turn, tokens)
            if repeat:
                self._retries.retried(now_ns)
        return repeat

    def refused(self, number: int) -> None:
        """Back to its place before all that was not sent: the wait after a 429 is the account's, not the job's."""
        heapq.heappush(self._questions if self._asks(number) else self._refused, (_AT_ONCE, number))

    def again(self, number: int, due_ns: int, *, repeat: bool = False) -> None:
        """Back once `due_ns` has come; a `repeat` of what failed also waits for the retry budget."""
        heap = self._questions if self._asks(number) else self._repeats if repeat else self._backoffs
        heapq.heappush(heap, (due_ns, number))

    def succeeded(self, now_ns: int) -> None:
        """A job has succeeded: more repeats may go."""
        self._retries.succeeded(now_ns)

    @property
    def full(self) -> bool:
        """Whether so many jobs are held aside that the files are not looked at any further."""
        return self._held_count >= self._most_held

    def has_room_for(self, number: int) -> bool:
        """Whether a job that `peek` has shown may be held aside. Only new ones may not: all others are few, or were held."""
        return not self.full or not self._is_new(number)

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
        """Let all go that were held under this name: repeats as repeats, the others in their lanes, before what follows them.
        Which they were.
        """
        aside = self._held.pop(name, None)
        if aside is None:
            return []
        self._held_count -= len(aside.jobs)
        for number, repeat in aside.jobs:
            if repeat:
                heapq.heappush(self._repeats, (_AT_ONCE, number))
        self._put_back(number for number, repeat in aside.jobs if not repeat)
        return [number for number, _ in aside.jobs]

    def surrender(self) -> None:
        """Put all that came back from a request, or is held, into its lane again, where others may find it. Questions stay."""
        waiting = [number for heap in (self._refused, self._backoffs, self._repeats) for _, number in heap]
        waiting += [number for aside in self._held.values() for number, _ in aside.jobs]
        for jobs in (self._refused, self._backoffs, self._repeats, self._held):
            jobs.clear()
        self._held_count = 0
        self._put_back(waiting)

    def held_names(self) -> list[str | None]:
        return list(self._held)

    def next_due_ns(self, now_ns: int) -> int | None:
        """When the next job is due of those that wait for a time; None where none does."""
        due = [aside.due_ns for aside in self._held.values() if aside.due_ns is not None]
        due += [heap[0][0] for heap in (self._questions, self._backoffs) if heap]
        if self._repeats:
            due.append(max(self._repeats[0][0], self._retries.due_ns(now_ns)))
        return min(due, default=None)

    def empty(self) -> bool:
        """Nothing waits, due or not."""
        return not self._held and self.only_held()

    def only_held(self) -> bool:
        """Nothing waits but what is held aside, as far as the files are looked at."""
        if self._refused or self._questions or self._backoffs or self._repeats:
            return False
        turn = self._next_turn()
        return turn is None or (self.full and all(self._only_new(one.lane) for one in self._own))

    @property
    def idle_cause(self) -> Literal["retries", "submitted", "models", "work"]:
        """What is waited for where nothing can be sent now."""
        if self._backoffs or self._repeats:
            return "retries"
        if self._questions:
            return "submitted"
        return "models" if self._held else "work"

    def statistics(self) -> Statistics:
        backing_off = len(self._questions) + len(self._backoffs) + len(self._repeats)
        return Statistics(backing_off=backing_off, refused=len(self._refused), held=self._held_count)

    # What was in flight, or is held --------------------------------------------------------------------------------

    def _before_lanes(self, now_ns: int) -> int | None:
        """The job that goes before all that is new."""
        if self._refused:
            return self._refused[0][1]
        if (number := self.question(now_ns)) is not None:
            return number
        for aside in self._held.values():
            if aside.due_ns is not None and aside.due_ns <= now_ns:
                return aside.jobs[0][0]
        if self._backoffs and self._backoffs[0][0] <= now_ns:
            return self._backoffs[0][1]
        if self._repeats and self._repeats[0][0] <= now_ns and self._retries.due_ns(now_ns) <= now_ns:
            return self._repeats[0][1]
        return None

    def _take_out(self, number: int) -> bool:
        """Find a job where `peek` has seen it, else where it has gone since. Whether it is a repeat."""
        heaps = (self._refused, self._questions, self._backoffs, self._repeats)
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

    # Turns ----------------------------------------------------------------------------------------------------------

    def _next_turn(self) -> _Turn | None:
        """The turn of the lane that is least far, of those that have jobs, with its first job in `_head`.

        Virtual time is where it stands.
        """
        order, turns = self._order, self._turns
        while order:
            start, place = order[0]
            turn = turns[place]
            if start == turn.start and turn.waits:
                self._head = turn.lane.head()
                if self._head is not None:
                    self._virtual = start
                    return turn
                turn.waits = False
            heapq.heappop(order)
        return None

    def _charge(self, turn: _Turn, tokens: int) -> None:
        """A lane's job goes out: its next one starts so much later as the job takes of what the lane may have."""
        cost_ns = max(self._request_ns, tokens * _MINUTE_NS // self._tpm if self._tpm else 0)
        turn.start = max(turn.start, self._virtual) + (cost_ns << MAX_STEPS - turn.lane.priority)
        if turn.waits:
            order, entry = self._order, (turn.start, turn.place)
            if order[0][1] == turn.place:
                heapq.heapreplace(order, entry)  # its own last entry, or one that is passed over anyway
            else:
                heapq.heappush(order, entry)

    def _put_back(self, numbers: Iterable[int]) -> None:
        by_lane: dict[int, list[int]] = {}
        for number in numbers:
            by_lane.setdefault(self._lane_of(number), []).append(number)
        for place, jobs in by_lane.items():
            self._turns[place].lane.put_back(jobs)

    def _is_back(self, turn: _Turn) -> None:
        """Jobs have come back into a lane. If it had none its turn is that of a lane that begins."""
        if not turn.waits:
            turn.waits = True
            turn.start = max(turn.start, self._virtual)
            heapq.heappush(self._order, (turn.start, turn.place))
        self.on_return()

    def _is_new(self, number: int) -> bool:
        lane = self._turns[self._lane_of(number)].lane
        return lane.head() == number and lane.is_new(number)

    @staticmethod
    def _only_new(lane: Lane) -> bool:
        head = lane.head()
        return head is None or lane.is_new(head)
