"""RPM and TPM as servers keep them: a sliding log, the calendar minute, a token bucket; and the gate that joins two.

Pure: `now_ns` is an argument that never goes back, amounts and times are integers. A window answers how long to wait
before an amount would fit, if nothing else were taken meanwhile. An amount may be taken that does not fit (tokens that
were only known after the fact): the window is then overdrawn until time has paid it back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from batchrunner.simulator.settings import Charging, Settings, WindowShape

WINDOW_NS = 60_000_000_000


class Charge:
    """What was taken from a window, and when; kept by the taker for as long as it may want to correct it."""

    __slots__ = ("amount", "at_ns")

    def __init__(self, at_ns: int, amount: int) -> None:
        self.at_ns = at_ns
        self.amount = amount


class Window(Protocol):
    """One limit of so many units a minute."""

    def wait_ns(self, now_ns: int, amount: int) -> int:
        """0 where `amount` (at least 1) fits now, else the wait; WINDOW_NS where it is more than ever fits."""
        ...

    def take(self, now_ns: int, amount: int) -> Charge:
        """Count `amount`, whether it fits or not."""
        ...

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        """Make an earlier charge `amount`; without effect where time has already paid it back."""
        ...


class SlidingLog:
    """At most `limit` in any 60 s: each charge counts from its own moment for exactly one window."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._log: deque[Charge] = deque()
        self._used = 0

    def wait_ns(self, now_ns: int, amount: int) -> int:
        self._expire(now_ns)
        excess = self._used + amount - self._limit
        if excess <= 0:
            return 0
        for charge in self._log:
            excess -= charge.amount
            if excess <= 0:
                return charge.at_ns + WINDOW_NS - now_ns
        return WINDOW_NS

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

    def _expire(self, now_ns: int) -> None:
        log = self._log
        while log and log[0].at_ns + WINDOW_NS <= now_ns:
            self._used -= log.popleft().amount


class CalendarMinute:
    """At most `limit` from one full minute of the clock to the next; at the edge all is forgotten, debts too."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._minute = -1
        self._used = 0

    def wait_ns(self, now_ns: int, amount: int) -> int:
        if amount > self._limit:
            return WINDOW_NS
        self._turn(now_ns)
        if self._used + amount <= self._limit:
            return 0
        return (self._minute + 1) * WINDOW_NS - now_ns

    def take(self, now_ns: int, amount: int) -> Charge:
        self._turn(now_ns)
        self._used += amount
        return Charge(now_ns, amount)

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        self._turn(now_ns)
        if charge.at_ns // WINDOW_NS == self._minute:
            self._used += amount - charge.amount
            charge.amount = amount

    def _turn(self, now_ns: int) -> None:
        minute = now_ns // WINDOW_NS
        if minute != self._minute:
            self._minute = minute
            self._used = 0


class TokenBucket:
    """Holds up to `capacity`, full at first, and flows in steadily at `limit` a minute.

    The level is counted in units of 1/WINDOW_NS, so that the inflow of one nanosecond is the integer `limit`: exact.
    """

    def __init__(self, limit: int, capacity: int) -> None:
        self._limit = limit
        self._capacity = capacity * WINDOW_NS
        self._level = self._capacity
        self._at_ns = 0

    def wait_ns(self, now_ns: int, amount: int) -> int:
        wanted = amount * WINDOW_NS
        if wanted > self._capacity:
            return WINDOW_NS
        self._flow(now_ns)
        return max(0, -((self._level - wanted) // self._limit))

    def take(self, now_ns: int, amount: int) -> Charge:
        self._flow(now_ns)
        self._level -= amount * WINDOW_NS
        return Charge(now_ns, amount)

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        self._flow(now_ns)
        self._level = min(self._capacity, self._level + (charge.amount - amount) * WINDOW_NS)
        charge.amount = amount

    def _flow(self, now_ns: int) -> None:
        self._level = min(self._capacity, self._level + (now_ns - self._at_ns) * self._limit)
        self._at_ns = now_ns


SHAPES: dict[WindowShape, Callable[[int, int], Window]] = {
    WindowShape.SLIDING: lambda limit, _burst: SlidingLog(limit),
    WindowShape.CALENDAR: lambda limit, _burst: CalendarMinute(limit),
    WindowShape.BUCKET: lambda limit, burst: TokenBucket(limit, burst or limit),
}


class Accepted(msgspec.Struct, frozen=True):
    """A request was let in; `tokens` is what the TPM window was charged for it, None where nothing yet."""

    tokens: Charge | None


class Refused(msgspec.Struct, frozen=True):
    """A request was turned away, and nothing was counted for it."""

    retry_after_ns: int
    #: "requests" or "tokens": the window that has to be waited for longest
    resource: str


class Limits:
    """An account's two windows as one gate; either may be missing."""

    def __init__(self, requests: Window | None, tokens: Window | None, charging: Charging) -> None:
        self._requests = requests
        self._tokens = tokens
        self._charging = charging

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        shape = SHAPES[settings.window]
        return cls(
            shape(settings.rpm, settings.burst) if settings.rpm else None,
            shape(settings.tpm, settings.burst_tokens) if settings.tpm else None,
            settings.charging,
        )

    def admit(self, now_ns: int, tokens: int) -> Accepted | Refused:
        """Let a request in that may take `tokens` (its prompt and its cap), or say when to come back."""
        asked = 1 if self._charging is Charging.ACTUAL else max(1, tokens)
        for_requests = self._requests.wait_ns(now_ns, 1) if self._requests else 0
        for_tokens = self._tokens.wait_ns(now_ns, asked) if self._tokens else 0
        if for_requests or for_tokens:
            return Refused(max(for_requests, for_tokens), "tokens" if for_tokens > for_requests else "requests")
        if self._requests:
            self._requests.take(now_ns, 1)
        if self._tokens and self._charging is not Charging.ACTUAL:
            return Accepted(self._tokens.take(now_ns, asked))
        return Accepted(None)

    def spend(self, now_ns: int, accepted: Accepted, tokens: int) -> None:
        """A request that was let in has ended and took `tokens`."""
        if self._tokens is None or self._charging is Charging.ESTIMATE:
            return
        if accepted.tokens is not None:
            self._tokens.correct(now_ns, accepted.tokens, tokens)
        elif tokens:
            self._tokens.take(now_ns, tokens)
