"""Several processes on one account in virtual time: real `SharedAccount`s over one row, without threads, files or sleeps."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from batchrunner import budget
from batchrunner.account_file import AccountFile, Row, Unusable
from batchrunner.budget import leases
from batchrunner.budget.holders import Shared
from batchrunner.budget.pacer import SAFE_WINDOW_NS, WINDOW_NS
from batchrunner.clock import NS_PER_SECOND, VirtualClock
from batchrunner.shared_account import SharedAccount

NS = NS_PER_SECOND
_T = TypeVar("_T")


class MemoryFile(AccountFile):
    """The double of a file: its row is encoded and decoded at every transaction."""

    def __init__(self) -> None:
        super().__init__(Path("memory"))
        self.row: bytes | None = None
        self.broken = False

    def transact(self, change: Callable[[Row | None], tuple[Row | None, _T]], *, busy_seconds: float = 0) -> _T:
        if self.broken:
            raise Unusable("memory: cannot be used. Mend it.")
        row, answer = change(self.read())
        if row is not None:
            self.row = msgspec.msgpack.encode(row)
        return answer

    def read(self) -> Row | None:
        return None if self.row is None else msgspec.msgpack.decode(self.row, type=Row)


class Crowd:
    """An event queue, a row, and what was sent by whom."""

    def __init__(self, file: AccountFile | None = None, *, start_ns: int = 0, boot_id: str = "boot") -> None:
        self.now_ns = start_ns
        self.file = file if file is not None else MemoryFile()
        self.clock = VirtualClock(lambda: (self.now_ns - start_ns) / NS, start_ns=start_ns, boot_id=boot_id)
        #: when, who, tokens that were used
        self.sends: list[tuple[int, str, int]] = []
        self.said: list[str] = []
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._asked = itertools.count()

    def at(self, at_ns: int, call: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (max(at_ns, self.now_ns), next(self._asked), call))

    def run(self, until_ns: int) -> None:
        while self._calls and self._calls[0][0] <= until_ns:
            at_ns, _, call = heapq.heappop(self._calls)
            self.now_ns = max(self.now_ns, at_ns)
            call()
        self.now_ns = max(self.now_ns, until_ns)

    def sleep(self, seconds: float) -> None:
        """The machine stands still: what was due meanwhile happens when it wakes."""
        self.now_ns += round(seconds * NS)

    def process(self, name: str, rpm: int, tpm: int = 0, **wishes: Any) -> Process:
        return Process(self, name, budget.Limits(rpm, tpm), **wishes)

    def most_sends(self) -> int:
        """In any minute of the budget's, which is a little longer than the clock's."""
        return most_in_a_window(((at_ns, 1) for at_ns, _, _ in self.sends), SAFE_WINDOW_NS)

    def most_tokens(self) -> int:
        """In any minute; those of refused requests do not count."""
        return most_in_a_window(((at_ns, tokens) for at_ns, _, tokens in self.sends), WINDOW_NS)

    def counts(self, from_ns: int = 0, to_ns: int = 1 << 62) -> Counter[str]:
        return Counter(name for at_ns, name, _ in self.sends if from_ns <= at_ns < to_ns)


class Process:
    """A run's dispatcher at its simplest: reserve, wait, take, and settle a while later. It has jobs as long as `jobs` does."""

    def __init__(
        self,
        crowd: Crowd,
        name: str,
        limits: budget.Limits,
        *,
        jobs: Iterable[int] | None = None,
        file_size: int = 1_000_000,
        latency_ns: int = 2 * NS,
        refuse: Callable[[int], bool] = lambda _sent_ns: False,
        late_ns: Callable[[], int] = lambda: 0,
        file: AccountFile | None = None,
    ) -> None:
        self.crowd = crowd
        self.name = name
        self.alive = True
        self.account = SharedAccount(file or crowd.file, limits, crowd.clock, name=name, say=crowd.said.append)
        self._jobs: Iterator[int] = iter(itertools.repeat(10) if jobs is None else jobs)
        self._job: int | None = None
        self._idle = False
        self._latency_ns = latency_ns
        self._refuse = refuse
        self._late_ns = late_ns
        self._lent: Shared | None = None
        self._waiting: list[tuple[budget.Event, Callable[[budget.Decision], None]]] = []
        self.ask(budget.Open((), file_size), lambda _: self.next())

    def ask(self, event: budget.Event, then: Callable[[budget.Decision], None] = lambda _: None) -> None:
        if not self.alive:
            return
        now_ns = self.crowd.now_ns
        if self._lent is not None and not self._waiting and leases.covers(self._lent, now_ns, event):
            then(leases.step(self._lent, now_ns, event))
            return
        self._waiting.append((event, then))
        if len(self._waiting) == 1:
            self._transact()

    def next(self) -> None:
        """Go on with the next job."""
        self._job = next(self._jobs, None) if self._job is None else self._job
        if self._job is not None:
            self.ask(budget.Reserve(), self._come)

    def idle(self, seconds: float) -> None:
        """Nothing to send from now on, for so long; not twice at a time."""
        if self._idle:
            return
        self._idle = True
        jobs, self._jobs = self._jobs, iter(())
        self._job = None

        def back() -> None:
            self._idle = False
            self._jobs = jobs
            self.next()

        self.crowd.at(self.crowd.now_ns + round(seconds * NS), back)

    def kill(self) -> None:
        self.alive = False

    def end(self) -> None:
        """In order: all is written, and the others are told."""
        if self._lent is not None:
            self.account.apply([], self._lent)
        self.alive = False
        self.account.leave()

    def _come(self, decision: budget.Decision) -> None:
        assert isinstance(decision, budget.Slot)
        self._take_at(decision.at_ns, decision.slot)

    def _take_at(self, at_ns: int, slot: int) -> None:
        late_ns = self._late_ns() if at_ns > self.crowd.now_ns else 0
        self.crowd.at(at_ns + late_ns, lambda: self._take(slot))

    def _take(self, slot: int) -> None:
        if self._job is None:
            self.ask(budget.Return(slot))
            return
        offer = budget.Offer(self._job, self._job)
        self.ask(budget.Take(slot, (offer,)), lambda decision: self._taken(decision, slot))

    def _taken(self, decision: budget.Decision, slot: int) -> None:
        match decision:
            case budget.Taken(entry):
                assert self._job is not None
                now_ns, tokens = self.crowd.now_ns, self._job
                self._job = None
                refused = self._refuse(now_ns)
                self.crowd.sends.append((now_ns, self.name, 0 if refused else tokens))
                end = budget.Refuse(entry, None, 0.5) if refused else budget.Settle(entry, tokens)
                self.crowd.at(now_ns + (NS // 10 if refused else self._latency_ns), lambda: self.ask(end))
                self.crowd.at(now_ns, self.next)
            case budget.Later(at_ns):
                assert at_ns > self.crowd.now_ns, "told to ask again at once: it would never end"
                self._take_at(at_ns, slot)
            case _:
                self.crowd.at(self.crowd.now_ns, self.next)

    def _transact(self) -> None:
        """What a store's thread does."""
        if not self.alive:
            return
        lent, self._lent = self._lent, None
        waiting = list(self._waiting)
        wanted = any(isinstance(event, budget.Reserve | budget.Take) for event, _ in waiting)
        batch = self.account.apply([event for event, _ in waiting], lent, lease=wanted)
        if batch.decisions is None:
            if lent is not None and lent.lease is not None:
                self._waiting[:0] = [(event, lambda _: None) for event in lent.lease.ends]
            self.crowd.at(batch.again_ns, self._transact)
            return
        self._waiting.clear()
        if batch.lent is not None:
            self._lent = batch.lent
            self.crowd.at(leases.ends_ns(batch.lent), self._write_back(batch.lent))
        for (_, then), decision in zip(waiting, batch.decisions, strict=True):
            then(decision)

    def _write_back(self, lent: Shared) -> Callable[[], None]:
        def write_back() -> None:
            if self._lent is lent:
                self._transact()

        return write_back


def most_in_a_window(sends: Iterable[tuple[int, int]], window_ns: int) -> int:
    """The largest sum in any window of this length, of (moment, amount) in order."""
    inside: deque[tuple[int, int]] = deque()
    most = total = 0
    for at_ns, amount in sends:
        while inside and inside[0][0] + window_ns <= at_ns:
            total -= inside.popleft()[1]
        inside.append((at_ns, amount))
        total += amount
        most = max(most, total)
    return most
