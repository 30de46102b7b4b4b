"""The queue against a naive one: whatever happens in whichever order, the same job is shown, and none is lost or doubled."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batchrunner.fair import FairQueue
from batchrunner.lanes import Lane
from batchrunner.retries import NS, RetryBudget

NAMES = st.sampled_from(["a", "b", "", None])
#: from now on, or None
WAITS = st.none() | st.integers(0, 90 * NS)


class QueueMachine(RuleBasedStateMachine):
    """Drives a queue as admission does: looks, lets things happen, removes what was shown, and sends it back or not."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.pending = list(range(30))
        self.queue = FairQueue([Lane(iter(list(self.pending)))], retries=RetryBudget())
        self.retries = RetryBudget()
        self.refused: set[int] = set()
        self.released: set[int] = set()
        self.backoffs: set[tuple[int, int]] = set()
        self.repeats: set[tuple[int, int]] = set()
        self.held: dict[str | None, list[tuple[int, bool]]] = {}
        self.held_due: dict[str | None, int | None] = {}
        #: shown by the last look, and not removed since
        self.shown: int | None = None
        #: in flight
        self.out: dict[int, bool] = {}

    def expected(self) -> int | None:
        if self.refused:
            return min(self.refused)
        for name, jobs in self.held.items():
            due_ns = self.held_due[name]
            if due_ns is not None and due_ns <= self.now_ns:
                return jobs[0][0]
        for waiting, open_ in ((self.backoffs, True), (self.repeats, self.retries.left(self.now_ns) > 0)):
            if open_ and waiting and min(waiting)[0] <= self.now_ns:
                return min(waiting)[1]
        if self.released:
            return min(self.released)
        return self.pending[0] if self.pending else None

    @rule(seconds=st.floats(0, 70))
    def time_passes(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS)

    @rule()
    def look(self) -> None:
        self.shown = self.queue.peek(self.now_ns)
        assert self.shown == self.expected()

    @precondition(lambda self: self.shown is not None)
    @rule(sent=st.booleans())
    def remove(self, sent: bool) -> None:
        number = self.shown
        assert number is not None
        repeat = self.forget(number)
        assert self.queue.remove(number, self.now_ns, sent=sent) is repeat
        if repeat and sent:
            self.retries.retried(self.now_ns)
        self.out[number] = repeat
        self.shown = None

    def forget(self, number: int) -> bool:
        """Take a job out of the naive queue; whether it is a repeat."""
        for places in (self.refused, self.released):
            if number in places:
                places.remove(number)
                return False
        for waiting in (self.backoffs, self.repeats):
            for entry in waiting:
                if entry[1] == number:
                    waiting.remove(entry)
                    return waiting is self.repeats
        for name, jobs in self.held.items():
            if jobs[0][0] == number:
                _, repeat = jobs.pop(0)
                if not jobs:
                    del self.held[name]
                return repeat
        self.pending.remove(number)
        return False

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.out)))
        del self.out[number]
        self.queue.refused(number)
        self.refused.add(number)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), wait_ns=st.integers(0, 90 * NS), repeat=st.booleans())
    def back_off(self, data: st.DataObject, wait_ns: int, repeat: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.out)))
        del self.out[number]
        self.queue.again(number, self.now_ns + wait_ns, repeat=repeat)
        (self.repeats if repeat else self.backoffs).add((self.now_ns + wait_ns, number))

    @precondition(lambda self: self.out)
    @rule(data=st.data(), name=NAMES, wait_ns=WAITS)
    def hold(self, data: st.DataObject, name: str | None, wait_ns: int | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.out)))
        repeat = self.out.pop(number)
        due_ns = None if wait_ns is None else self.now_ns + wait_ns
        self.queue.hold(number, name, due_ns, repeat=repeat)
        self.held.setdefault(name, []).append((number, repeat))
        self.held_due[name] = due_ns

    @rule(name=NAMES, wait_ns=WAITS)
    def retime(self, name: str | None, wait_ns: int | None) -> None:
        due_ns = None if wait_ns is None else self.now_ns + wait_ns
        self.queue.retime(name, due_ns)
        self.held_due[name] = due_ns

    @rule(name=NAMES)
    def release(self, name: str | None) -> None:
        self.queue.release(name)
        for number, repeat in self.held.pop(name, []):
            if repeat:
                self.repeats.add((0, number))
            else:
                self.released.add(number)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        del self.out[data.draw(st.sampled_from(sorted(self.out)))]
        self.queue.succeeded(self.now_ns)
        self.retries.succeeded(self.now_ns)

    @invariant()
    def the_counts_agree(self) -> None:
        statistics = self.queue.statistics()
        assert statistics.backing_off == len(self.backoffs) + len(self.repeats)
        assert statistics.refused == len(self.refused)
        assert statistics.held == sum(map(len, self.held.values()))
        waiting = self.refused or self.released or self.backoffs or self.repeats or self.pending
        assert self.queue.only_held() is not bool(waiting)
        assert self.queue.empty() is not bool(waiting or self.held)
        assert self.queue.held_names() == list(self.held)

    @invariant()
    def whoever_sleeps_is_woken(self) -> None:
        """With nothing to show now there is something at the time that is named; none is named only where all is held."""
        if self.queue.peek(self.now_ns) is not None:
            return
        due_ns = self.queue.next_due_ns(self.now_ns)
        if due_ns is None:
            assert self.queue.only_held()
            assert all(self.held_due[name] is None for name in self.held)
        else:
            assert due_ns > self.now_ns
            assert self.queue.peek(due_ns) is not None

    def teardown(self) -> None:
        """Let go, and waited for, every job that is not in flight comes out once."""
        for name in self.queue.held_names():
            self.queue.release(name)
        out = []
        while not self.queue.empty():
            self.now_ns = max(self.now_ns, self.queue.next_due_ns(self.now_ns) or 0)
            while (number := self.queue.peek(self.now_ns)) is not None:
                self.queue.remove(number, self.now_ns)
                out.append(number)
        timed = [number for _, number in self.backoffs | self.repeats]
        held = [number for jobs in self.held.values() for number, _ in jobs]
        assert sorted(out) == sorted([*self.refused, *self.released, *timed, *held, *self.pending])


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
