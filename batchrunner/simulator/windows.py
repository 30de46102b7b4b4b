"""A minute as servers count it: the window, and the three that all others are built on or measured by.

A sliding log, a calendar minute, a token bucket; `window_shapes` has the rest and a table of them all.

Pure: `now_ns` is an argument that never goes back, amounts and times are integers, no fraction is ever lost. An amount may
be taken that does not fit (tokens that were only known after the fact): the window is then overdrawn until time has paid it
back. Nothing here grows with the number of requests but the sliding log, and that in constant time a request.
"""

from __future__ import annotations

from typing import Protocol

WINDOW_NS = 60_000_000_000
SECOND_NS = 1_000_000_000
#: stands in for a limit where there is none for now: more than anybody can use up
UNLIMITED = 1 << 62
#: how many charges that no longer count a sliding log keeps before it lets go of them
_STALE_CHARGES = 1_024


class Charge:
    """What was taken from a window, and when; kept by the taker for as long as it may want to correct it."""

    __slots__ = ("amount", "at_ns")

    def __init__(self, at_ns: int, amount: int) -> None:
        self.at_ns = at_ns
        self.amount = amount


class Window(Protocol):
    """One limit of so many units a minute."""

    @property
    def limit(self) -> int:
        """Units a minute."""
        ...

    def wait_ns(self, now_ns: int, amount: int) -> int:
        """0 where `amount` (at least 1) fits now, else how long until it would if nothing were taken meanwhile.

        WINDOW_NS where it is more than ever fits.
        """
        ...

    def take(self, now_ns: int, amount: int) -> Charge:
        """Count `amount`, whether it fits or not."""
        ...

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        """Make an earlier charge `amount`; without effect where time has already paid it back."""
        ...

    def left(self, now_ns: int) -> int:
        """The most that would fit now; 0 where the window is overdrawn."""
        ...

    def refill_ns(self, now_ns: int) -> int:
        """How long until nothing counts any more of what was taken, if nothing else is."""
        ...

    def change(self, now_ns: int, /, limit: int) -> None:
        """Go by another limit from now on; what was taken stays taken."""
        ...


class SlidingLog:
    """At most `limit` in any 60 s: each charge counts from its own moment for exactly one window."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        #: in order of time; those before `_head` no longer count
        self._log: list[Charge] = []
        self._head = 0
        self._used = 0
        # The last answer of wait_ns, from which the next one is not far: the charges from _head up to _due, and their sum.
        # Looked for from the head each time, a storm of rejected requests that count would take the square of its length.
        self._due = 0
        self._before = 0

    def wait_ns(self, now_ns: int, amount: int) -> int:
        self._expire(now_ns)
        excess = self._used + amount - self.limit
        if excess <= 0:
            return 0
        if amount > self.limit:
            return WINDOW_NS
        log = self._log
        while self._before < excess:
            self._before += log[self._due].amount
            self._due += 1
        while self._before - log[self._due - 1].amount >= excess:
            self._due -= 1
            self._before -= log[self._due].amount
        return log[self._due - 1].at_ns + WINDOW_NS - now_ns

    def take(self, now_ns: int, amount: int) -> Charge:
        charge = Charge(now_ns, amount)
        self._log.append(charge)
        self._used += amount
        return charge

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        self._expire(now_ns)
        if charge.at_ns + WINDOW_NS > now_ns:
            self._used += amount - charge.amount
            charge.amount = amount
            self._due, self._before = self._head, 0

    def left(self, now_ns: int) -> int:
        self._expire(now_ns)
        return max(0, self.limit - self._used)

    def refill_ns(self, now_ns: int) -> int:
        self._expire(now_ns)
        newest = next((charge for charge in reversed(self._log) if charge.amount), None)
        return newest.at_ns + WINDOW_NS - now_ns if newest and self._used else 0

    def change(self, _now_ns: int, /, limit: int) -> None:
        self.limit = limit

    def _expire(self, now_ns: int) -> None:
        log, head = self._log, self._head
        while head < len(log) and log[head].at_ns + WINDOW_NS <= now_ns:
            self._used -= log[head].amount
            if head < self._due:
                self._before -= log[head].amount
            head += 1
        self._head = head
        self._due = max(self._due, head)
        if head > _STALE_CHARGES and 2 * head > len(log):
            del log[:head]
            self._due -= head
            self._head = 0


class Aligned:
    """At most `limit` from one edge of the clock to the next, each `span_ns`; at the edge all is forgotten, debts too."""

    def __init__(self, limit: int, span_ns: int) -> None:
        self.limit = limit
        self._span_ns = span_ns
        self._span = -1
        self._used = 0

    def wait_ns(self, now_ns: int, amount: int) -> int:
        if amount > self.limit:
            return WINDOW_NS
        self._turn(now_ns)
        return self._until_edge_ns(now_ns) if self._used + amount > self.limit else 0

    def take(self, now_ns: int, amount: int) -> Charge:
        self._turn(now_ns)
        self._used += amount
        return Charge(now_ns, amount)

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        if self.holds(now_ns, charge):
            self._used += amount - charge.amount
            charge.amount = amount

    def holds(self, now_ns: int, charge: Charge) -> bool:
        """Whether a charge still counts."""
        self._turn(now_ns)
        return charge.at_ns // self._span_ns == self._span

    def left(self, now_ns: int) -> int:
        self._turn(now_ns)
        return max(0, self.limit - self._used)

    def refill_ns(self, now_ns: int) -> int:
        self._turn(now_ns)
        return self._until_edge_ns(now_ns) if self._used else 0

    def change(self, _now_ns: int, /, limit: int) -> None:
        self.limit = limit

    def _until_edge_ns(self, now_ns: int) -> int:
        return (self._span + 1) * self._span_ns - now_ns

    def _turn(self, now_ns: int) -> None:
        span = now_ns // self._span_ns
        if span != self._span:
            self._span = span
            self._used = 0


class CalendarMinute(Aligned):
    """At most `limit` from one full minute of the clock to the next."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, WINDOW_NS)


class TokenBucket:
    """Holds up to `capacity`, full at first, and flows in steadily at `limit` a minute.

    The level is counted in units of 1/WINDOW_NS, so that the inflow of one nanosecond is the integer `limit`: exact.
    A bucket that holds a minute's worth goes on doing so when its limit changes; any other keeps its size.
    """

    def __init__(self, limit: int, capacity: int) -> None:
        self.limit = limit
        self._capacity = capacity * WINDOW_NS
        self._level = self._capacity
        self._at_ns = 0

    def wait_ns(self, now_ns: int, amount: int) -> int:
        wanted = amount * WINDOW_NS
        if wanted > self._capacity:
            return WINDOW_NS
        self._flow(now_ns)
        return max(0, -((self._level - wanted) // self.limit))

    def take(self, now_ns: int, amount: int) -> Charge:
        self._flow(now_ns)
        self._level -= amount * WINDOW_NS
        return Charge(now_ns, amount)

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        self._flow(now_ns)
        self._level = min(self._capacity, self._level + (charge.amount - amount) * WINDOW_NS)
        charge.amount = amount

    def left(self, now_ns: int) -> int:
        self._flow(now_ns)
        return max(0, self._level // WINDOW_NS)

    def refill_ns(self, now_ns: int) -> int:
        self._flow(now_ns)
        return -((self._level - self._capacity) // self.limit)

    def change(self, now_ns: int, limit: int) -> None:
        self._flow(now_ns)
        if self._capacity == self.limit * WINDOW_NS:
            self._capacity = limit * WINDOW_NS
            self._level = min(self._capacity, self._level)
        self.limit = limit

    def _flow(self, now_ns: int) -> None:
        self._level = min(self._capacity, self._level + (now_ns - self._at_ns) * self.limit)
        self._at_ns = now_ns
