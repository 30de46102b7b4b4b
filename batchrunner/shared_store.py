"""An account that several processes of this machine share, for a run: `SharedAccount` behind an await.

A thread of its own does all that can block, in transactions of whatever has come meanwhile, in the order in which it came.
Only who needs the answer waits for it. While the account is lent to this process it is stepped here and now.
"""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Final, Self

import trio

from batchrunner import budget, estimate
from batchrunner.budget import leases
from batchrunner.budget.holders import Shared
from batchrunner.clock import NS_PER_SECOND, Clock
from batchrunner.estimate import Estimator
from batchrunner.shared_account import SharedAccount

#: Events that somebody waits for to have been applied.
_AWAITED: Final = (budget.Open, budget.Reserve, budget.Take, budget.Change)
#: A process that has nothing to say is heard of this often all the same.
BEAT_SECONDS: Final = 20.0


class _Asked:
    """An event on its way to the account."""

    def __init__(self, event: budget.Event) -> None:
        self.event = event
        self.decision: budget.Decision = None
        self.answered: trio.Event | None = trio.Event() if isinstance(event, _AWAITED) else None


class SharedStore:
    """An `AccountStore` over a `SharedAccount`, for as long as its context lasts; at its end all has been written."""

    def __init__(self, account: SharedAccount, clock: Clock) -> None:
        self._account = account
        self._clock = clock
        self._queue: list[_Asked] = []
        self._lent: Shared | None = None
        #: what earlier runs have left, and what of this one is to be kept
        self._known: Estimator | None = None
        self._learned: bytes | None = None
        self._closing = False
        self._failure: BaseException | None = None
        #: guards all of the above; `_changed` tells the thread of changes
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._work, name="account", daemon=True)

    async def __aenter__(self) -> Self:
        self._trio = trio.lowlevel.current_trio_token()
        self._known = await trio.to_thread.run_sync(self._account.lengths)
        self._thread.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._closing = True
            self._changed.notify()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._thread.join)

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        with self._lock:
            lent = self._lent
            if lent is not None and not self._queue and leases.covers(lent, now_ns, event):
                return leases.step(lent, now_ns, event)
            if self._failure is not None:
                raise self._failure
            asked = _Asked(event)
            self._queue.append(asked)
            self._changed.notify()
        if asked.answered is not None:
            # Not to be abandoned: what was granted and not used would stay charged. It takes a few seconds at the very most.
            with trio.CancelScope(shield=True):
                await asked.answered.wait()
            if self._failure is not None:
                raise self._failure
        return asked.decision

    def statistics(self, now_ns: int) -> budget.Statistics:
        return budget.statistics(self._account.seen, now_ns)

    def lengths(self) -> Estimator | None:
        return self._known

    def keep_lengths(self, lengths: Estimator) -> None:
        """Encoded here and now, since it goes on changing; the thread writes it after its next transaction."""
        learned = estimate.encode(lengths)
        with self._lock:
            self._learned = learned

    # -------------------------------------------------------------------------------------------------------- the thread

    def _work(self) -> None:
        asked: list[_Asked] = []
        try:
            while self._transaction(asked):
                self._keep()
            self._keep(last=True)
            self._account.leave()
        except BaseException as failure:  # a defect: whoever waits is to know of it
            with self._lock:
                self._failure = failure
                self._answer(asked + self._queue)

    def _keep(self, *, last: bool = False) -> None:
        """Write what was learned, if there is anything new."""
        with self._lock:
            learned, self._learned = self._learned, None
        if learned is not None:
            self._account.keep_lengths(learned, last=last)

    def _transaction(self, asked: list[_Asked]) -> bool:
        """Apply what has come, `asked` (what is left from the last time) first. False once there is nothing left to come."""
        lent = self._wait(asked)
        if self._closing and lent is None and not asked:
            return False
        wanted = any(one.answered is not None for one in asked)
        batch = self._account.apply([one.event for one in asked], lent, lease=wanted and not self._closing)
        if batch.decisions is None:
            if lent is not None and lent.lease is not None:  # not written back in time: another has the account by now
                asked[:0] = map(_Asked, lent.lease.ends)
            seconds = max(0, batch.again_ns - self._clock.monotonic_ns()) / NS_PER_SECOND
            with self._lock:
                self._changed.wait_for(lambda: False, seconds)
            return True
        for one, decision in zip(asked, batch.decisions, strict=True):
            one.decision = decision
        with self._lock:
            if batch.lent is not None:
                self._lent = batch.lent
                asked += self._catch_up(batch.lent)
            self._answer(asked)
        asked.clear()
        return True

    def _catch_up(self, lent: Shared) -> list[_Asked]:
        """Apply what has come during the transaction, as far as the lease covers it."""
        now_ns = self._clock.monotonic_ns()
        done = 0
        for one in self._queue:
            if not leases.covers(lent, now_ns, one.event):
                break
            one.decision = leases.step(lent, now_ns, one.event)
            done += 1
        caught, self._queue = self._queue[:done], self._queue[done:]
        return caught

    def _wait(self, asked: list[_Asked]) -> Shared | None:
        """Until something is to be done: events, the end of a lease or of the store, or a sign of life. What was lent."""
        with self._lock:
            if not asked:
                seconds = BEAT_SECONDS
                if self._lent is not None:
                    seconds = max(0, leases.ends_ns(self._lent) - self._clock.monotonic_ns()) / NS_PER_SECOND
                self._changed.wait_for(lambda: self._queue or self._closing, seconds)
            asked += self._queue
            self._queue.clear()
            lent, self._lent = self._lent, None
            return lent

    def _answer(self, asked: list[_Asked]) -> None:
        answered = [one.answered for one in asked if one.answered is not None]
        if answered:
            with contextlib.suppress(trio.RunFinishedError):
                self._trio.run_sync_soon(_set, answered)


def _set(events: list[trio.Event]) -> None:
    for event in events:
        event.set()
