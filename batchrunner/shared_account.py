"""One process's part in an account that several share: through its file, or apart where the file cannot be used. Blocking.

`SharedStore` calls it from a thread of its own; tests call it as it is.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from batchrunner import budget, estimate
from batchrunner.account_file import BUSY_SECONDS, LENGTHS_MAX_BYTES, AccountFile, Row, Unusable
from batchrunner.budget import holders, leases, survival
from batchrunner.budget.holders import Shared
from batchrunner.budget.pacer import SAFE_WINDOW_NS
from batchrunner.clock import NS_PER_SECOND, Clock
from batchrunner.estimate import Estimator

#: How often a file that could not be used is looked at again; it must not be waited for then.
RETRY_NS: Final = 5 * NS_PER_SECOND
RETRY_BUSY_SECONDS: Final = 0.05


#: A row whose clock is so far ahead of ours was written by another clock, whatever its boot id says.
CLOCKS_DIFFER_NS: Final = 5 * NS_PER_SECOND


class Batch(msgspec.Struct, frozen=True):
    """What a transaction came to."""

    #: one for each event; None: another has the account for itself, and all are to be asked again at `again_ns`
    decisions: list[budget.Decision] | None
    again_ns: int = 0
    #: lent to this process, which is to step it by `leases.step` as far as `leases.covers` goes, and to give it back
    lent: Shared | None = None


class SharedAccount:
    """Applies this process's events to the account, in their order and each exactly once.

    `say` is called with warnings, once for each cause. Whatever is wrong with the file, nothing is raised for it.
    """

    def __init__(self, file: AccountFile, limits: budget.Limits, clock: Clock, *, name: str, say: Callable[[str], None]) -> None:
        self._file = file
        self._limits = limits
        self._clock = clock
        self._name = name
        self._say = say
        self._last: Shared | None = None
        self._apart: _Apart | None = None
        self._told_limits = limits

    @property
    def seen(self) -> budget.State:
        """The budget as last seen."""
        if self._apart is not None:
            return self._apart.shared.state
        return budget.State(self._limits) if self._last is None else self._last.state

    def apply(self, events: Sequence[budget.Event], back: Shared | None = None, *, lease: bool = False) -> Batch:
        """Apply events. An account that was lent is given `back` first. `lease`: have it lent, if that may be."""
        for event in events:
            if isinstance(event, budget.Change):
                self._limits = self._told_limits = event.limits
        apart = self._apart
        now_ns = self._clock.monotonic_ns()
        try:
            if apart is None:
                return self._together(events, back, BUSY_SECONDS, lease=lease)
            if now_ns >= apart.retry_ns:
                apart.retry_ns = now_ns + RETRY_NS
                return self._together(events, back, RETRY_BUSY_SECONDS, lease=lease)
        except Unusable as error:
            if apart is None:
                apart = self._part(back, str(error))
        now_ns = self._clock.monotonic_ns()
        return Batch([apart.step(self._name, now_ns, event) for event in events])

    def lengths(self) -> Estimator | None:
        """What earlier runs have learned; None where there is nothing that can be read. Of the file the first step will tell."""
        try:
            learned = self._file.lengths()
        except Unusable:
            return None
        lengths = None if learned is None else estimate.decode(learned)
        if learned is not None and lengths is None:
            self._say(f"warning: {self._file.path}: what it says of lengths cannot be read; they are learned anew.")
        return lengths

    def keep_lengths(self, learned: bytes, *, last: bool) -> None:
        """Keep what was learned, where that is possible now. `last`: there will be no other time, so that failing is told of."""
        if self._apart is not None or len(learned) > LENGTHS_MAX_BYTES:
            return
        try:
            self._file.write_lengths(learned, busy_seconds=BUSY_SECONDS if last else RETRY_BUSY_SECONDS)
        except Unusable as error:
            if last:
                self._say(f"warning: {error} The next run does not know what this one has learned of lengths.")

    def leave(self) -> None:
        """The run has ended, and all its events have been applied: others need not wait for it any more."""

        def change(row: Row | None) -> tuple[Row | None, None]:
            now_ns = self._clock.monotonic_ns()
            row, shared = self._arrive(row, None, now_ns)
            if shared is None:
                return None, None
            holders.leave(shared, self._name, now_ns)
            return row, None

        with contextlib.suppress(Unusable):  # the others notice after a minute
            if self._apart is None and self._last is not None:
                self._file.transact(change)
        self._file.close()

    # --------------------------------------------------------------------------------------------------------- together

    def _together(self, events: Sequence[budget.Event], back: Shared | None, busy_seconds: float, *, lease: bool) -> Batch:
        def change(row: Row | None) -> tuple[Row, tuple[Shared, Batch]]:
            return self._change(row, events, back, lease=lease)

        shared, batch = self._file.transact(change, busy_seconds=busy_seconds)
        if batch.decisions is None:
            return batch
        self._last = shared
        if self._apart is not None:
            self._apart = None
            self._say(f"{self._file.path}: can be used again. The account is shared with other runs as before.")
        self._tell_of_limits(holders.tightest(shared))
        return batch

    def _change(
        self, row: Row | None, events: Sequence[budget.Event], back: Shared | None, *, lease: bool
    ) -> tuple[Row, tuple[Shared, Batch]]:
        """What this process does in one transaction."""
        now_ns = self._clock.monotonic_ns()
        opening = self._opening(row)
        row, shared = self._arrive(row, back, now_ns)
        if shared is None:
            assert row.shared.lease is not None
            leases.knock(row.knocks, self._name, now_ns)
            return row, (row.shared, Batch(None, again_ns=leases.comes_ns(row.shared.lease, now_ns)))
        if self._apart is not None:
            self._apart.rejoin(shared, self._name, now_ns)
        decisions = [holders.step(shared, self._name, now_ns, opening(event)) for event in events]
        lent = lease and leases.grant(shared, self._name, now_ns, row.knocks)
        row.wall_ns = self._clock.wall_ns()
        return row, (shared, Batch(decisions, lent=shared if lent else None))

    def _arrive(self, row: Row | None, back: Shared | None, now_ns: int) -> tuple[Row, Shared | None]:
        """The row, and the account in it as it is to be stepped; None while another has it for itself."""
        boot = self._clock.boot_id
        if row is None:  # nothing was ever sent, or the file was removed under us
            row = Row(boot, self._last or Shared(budget.State(self._limits)), [], 0)
        elif self._is_foreign(row, now_ns):
            if self._last is not None:  # no reboot, then: two would make each other forget 429s and the last minute
                raise Unusable(
                    f"{self._file.path}: another machine, or a program with another clock, uses it too. Give each a directory of "
                    "its own with --state-dir."
                )
            row = Row(boot, Shared(budget.after_reboot(row.shared.state, now_ns)), [], 0)
        held = row.shared.lease
        ends: Sequence[budget.Event] = ()
        if back is not None and back.lease is not None:
            if held is not None and (held.holder, held.until_ns) == (self._name, back.lease.until_ns):
                row.shared, held = back, None
                leases.end(back, now_ns)
            else:
                ends = back.lease.ends
        if held is not None:
            if held.holder != self._name and not leases.is_lost(held, now_ns):
                return row, None
            leases.reclaim(row.shared)
        holders.meet(row.shared, self._name, self._limits, now_ns)
        for event in ends:
            holders.step(row.shared, self._name, now_ns, event)
        return row, row.shared

    def _is_foreign(self, row: Row, now_ns: int) -> bool:
        return row.boot != self._clock.boot_id or row.shared.clock_ns > now_ns + CLOCKS_DIFFER_NS

    def _opening(self, row: Row | None) -> Callable[[budget.Event], budget.Event]:
        """A run that begins: of the last minute the row knows more than the run, unless it is another boot's."""
        if row is None:
            return lambda event: event
        past = None if self._is_foreign(row, self._clock.monotonic_ns()) else ()
        return lambda event: msgspec.structs.replace(event, past=past) if isinstance(event, budget.Open) else event

    def _tell_of_limits(self, limits: budget.Limits) -> None:
        if (limits.rpm, limits.tpm) == (self._told_limits.rpm, self._told_limits.tpm):
            return
        self._told_limits = limits
        if (limits.rpm, limits.tpm) == (self._limits.rpm, self._limits.tpm):
            self._say(f"nobody else limits this account any further: its limits are those of this run ({_shown(limits)}).")
        else:
            self._say(
                f"warning: another run gives this account smaller limits: {_shown(limits)}, not {_shown(self._limits)}. The "
                "smaller ones hold while both are at work. Give both the same --rpm and --tpm."
            )

    # ------------------------------------------------------------------------------------------------------------ apart

    def _part(self, back: Shared | None, why: str) -> _Apart:
        now_ns = self._clock.monotonic_ns()
        last = back or self._last
        shared = survival.apart(last, self._name, self._limits, now_ns)
        ends = back.lease.ends if back is not None and back.lease is not None else ()
        self._apart = _Apart(
            shared,
            shared.holders[self._name].entries.copy(),
            now_ns + RETRY_NS,
            ends,
            holders=len(last.holders) if last is not None else 1,
        )
        part = "its limits, without a fast start" if last is None else f"its share of the limits, {_shown(shared.state.limits)}"
        self._say(f"warning: {why} Until then this run keeps to {part}, and knows nothing of other runs on the account.")
        return self._apart


class _Apart:
    """The account while its file cannot be used, and what the others have to be told of afterwards."""

    def __init__(self, shared: Shared, before: set[int], retry_ns: int, ends: Sequence[budget.Event], *, holders: int) -> None:
        self.shared = shared
        self._holders = max(1, holders)
        self.retry_ns = retry_ns
        #: requests that the others know of
        self._before = before
        #: of the last minute
        self._sends: deque[budget.PastSend] = deque()
        #: their ends, the first of them under a lease that was not given back
        self._owed = list(ends)

    def step(self, name: str, now_ns: int, event: budget.Event) -> budget.Decision:
        if isinstance(event, budget.Open):
            event = msgspec.structs.replace(event, past=None)
        if isinstance(event, budget.Change):
            event = budget.Change(survival.part_of(event.limits, self._holders))
        if isinstance(event, (budget.Settle, budget.Refuse, budget.Lost)) and event.entry in self._before:
            # Its hint counts from now on: the gate that hears of it here comes along.
            self._owed.append(msgspec.structs.replace(event, retry_after_ns=None) if isinstance(event, budget.Refuse) else event)
        decision = holders.step(self.shared, name, now_ns, event)
        if isinstance(event, budget.Take) and isinstance(decision, budget.Taken):
            self._sends.append(budget.PastSend(now_ns, event.offers[decision.offer].tokens))
            while self._sends[0].sent_ns + SAFE_WINDOW_NS <= now_ns:
                self._sends.popleft()
        return decision

    def rejoin(self, shared: Shared, name: str, now_ns: int) -> None:
        survival.together(shared, name, self.shared, self._sends, now_ns)
        for event in self._owed:
            holders.step(shared, name, now_ns, event)


def _shown(limits: budget.Limits) -> str:
    named = ((limits.rpm, "requests"), (limits.tpm, "tokens"))
    return " and ".join(f"{limit:,} {what} a minute" if limit else f"no limit of {what}" for limit, what in named)
