"""All the shapes that a minute takes on servers, by name.

| shape | at most the limit ... | counted by, for example |
| --- | --- | --- |
| sliding | in any 60 s | a log of time stamps |
| calendar | from one full minute of the clock to the next | a counter by minute |
| anchored | in 60 s that begin with the first charge after the last such 60 s | a counter that expires |
| two-bucket | in this minute, and of the last one what 60 s still cover, rounded down | a cheap sliding window |
| two-bucket-strict | the same, and a fraction of a request is one too many | the same, in real numbers |
| bucket | as much as has flowed in, steadily, up to what the bucket holds | a token bucket, GCRA |
| spacing | one request each 60 s / limit | GCRA that allows no burst |
| seconds | in a calendar minute, and in each second a sixtieth of it, rounded up | a limit that is spread over the minute |
| ten-seconds | in a calendar minute, and in each ten seconds a sixth of it, rounded down | the same, coarser |

A slice is rounded to what keeps a server usable: upwards where a slice is short (50 a minute are 0 a second, rounded down),
downwards else, though never to nothing. So 50 a minute are 1 a second and no more than 50, or 8 each ten seconds: 48.
"""

from __future__ import annotations

from collections.abc import Callable

from batchrunner.simulator.settings import WindowShape
from batchrunner.simulator.windows import SECOND_NS, WINDOW_NS, Aligned, CalendarMinute, Charge, SlidingLog, TokenBucket, Window


class Slices:
    """A calendar minute that cannot be used up at once: each of its slices has a limit too."""

    def __init__(self, limit: int, slice_ns: int, *, round_up: bool) -> None:
        self._slice_ns = slice_ns
        self._round_up = round_up
        self._minute = CalendarMinute(limit)
        self._slice = Aligned(self._slice_limit(limit), slice_ns)

    @property
    def limit(self) -> int:
        return self._minute.limit

    def wait_ns(self, now_ns: int, amount: int) -> int:
        # A minute ends where a slice does: when the longer of both waits is over, the other window has room as well.
        return max(self._minute.wait_ns(now_ns, amount), self._slice.wait_ns(now_ns, amount))

    def take(self, now_ns: int, amount: int) -> Charge:
        self._slice.take(now_ns, amount)
        return self._minute.take(now_ns, amount)

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        if self._slice.holds(now_ns, charge):
            self._slice.take(now_ns, amount - charge.amount)
        self._minute.correct(now_ns, charge, amount)

    def left(self, now_ns: int) -> int:
        return min(self._minute.left(now_ns), self._slice.left(now_ns))

    def refill_ns(self, now_ns: int) -> int:
        return self._minute.refill_ns(now_ns)

    def change(self, now_ns: int, limit: int) -> None:
        self._minute.change(now_ns, limit)
        self._slice.change(now_ns, self._slice_limit(limit))

    def _slice_limit(self, limit: int) -> int:
        share = limit * self._slice_ns
        return -(-share // WINDOW_NS) if self._round_up else max(1, share // WINDOW_NS)


class Anchored:
    """At most `limit` in 60 s that begin with a charge: the first one after the last such 60 s were over."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._began_ns = -WINDOW_NS
        self._used = 0

    def wait_ns(self, now_ns: int, amount: int) -> int:
        if amount > self.limit:
            return WINDOW_NS
        self._end(now_ns)
        return self._began_ns + WINDOW_NS - now_ns if self._used + amount > self.limit else 0

    def take(self, now_ns: int, amount: int) -> Charge:
        self._end(now_ns)
        if self._began_ns + WINDOW_NS <= now_ns:
            self._began_ns = now_ns
        self._used += amount
        return Charge(now_ns, amount)

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        self._end(now_ns)
        if self._began_ns <= charge.at_ns and now_ns < self._began_ns + WINDOW_NS:
            self._used += amount - charge.amount
            charge.amount = amount

    def left(self, now_ns: int) -> int:
        self._end(now_ns)
        return max(0, self.limit - self._used)

    def refill_ns(self, now_ns: int) -> int:
        self._end(now_ns)
        return self._began_ns + WINDOW_NS - now_ns if self._used else 0

    def change(self, _now_ns: int, /, limit: int) -> None:
        self.limit = limit

    def _end(self, now_ns: int) -> None:
        if self._began_ns + WINDOW_NS <= now_ns:
            self._used = 0


class TwoBuckets:
    """A sliding minute from two counters: this calendar minute's, and the last one's for the part that still overlaps.

    That part of the last one is rounded down to whole units, or, `strict`, taken as the fraction that it is.
    """

    def __init__(self, limit: int, *, strict: bool) -> None:
        self.limit = limit
        self._slack = 0 if strict else WINDOW_NS - 1  # what rounding down may throw away, in units of 1/WINDOW_NS
        self._minute = -2
        self._last = 0
        self._used = 0

    def wait_ns(self, now_ns: int, amount: int) -> int:
        if amount > self.limit:
            return WINDOW_NS
        self._turn(now_ns)
        elapsed_ns = now_ns - self._minute * WINDOW_NS
        room = self.limit - amount - self._used
        if room >= 0:
            return max(0, self._first_ns(self._last, room) - elapsed_ns)
        return WINDOW_NS - elapsed_ns + self._first_ns(self._used, self.limit - amount)

    def take(self, now_ns: int, amount: int) -> Charge:
        self._turn(now_ns)
        self._used += amount
        return Charge(now_ns, amount)

    def correct(self, now_ns: int, charge: Charge, amount: int) -> None:
        self._turn(now_ns)
        minute = charge.at_ns // WINDOW_NS
        if minute == self._minute:
            self._used += amount - charge.amount
        elif minute == self._minute - 1:
            self._last += amount - charge.amount
        charge.amount = amount

    def left(self, now_ns: int) -> int:
        self._turn(now_ns)
        weighted = self._last * ((self._minute + 1) * WINDOW_NS - now_ns)
        return max(0, ((self.limit - self._used) * WINDOW_NS - weighted + self._slack) // WINDOW_NS)

    def refill_ns(self, now_ns: int) -> int:
        self._turn(now_ns)
        until_edge_ns = (self._minute + 1) * WINDOW_NS - now_ns
        if self._used:
            return until_edge_ns + WINDOW_NS
        return until_edge_ns if self._last else 0

    def change(self, _now_ns: int, /, limit: int) -> None:
        self.limit = limit

    def _first_ns(self, last: int, room: int) -> int:
        """How far into a minute at most `room` (at least 0) is left of the `last` one."""
        return WINDOW_NS - min(WINDOW_NS, (room * WINDOW_NS + self._slack) // last) if last > 0 else 0

    def _turn(self, now_ns: int) -> None:
        minute = now_ns // WINDOW_NS
        if minute != self._minute:
            self._last = self._used if minute == self._minute + 1 else 0
            self._used = 0
            self._minute = minute


#: (limit, what a bucket holds; 0: a minute's worth) -> the window that counts requests
REQUESTS: dict[WindowShape, Callable[[int, int], Window]] = {
    WindowShape.SLIDING: lambda limit, _burst: SlidingLog(limit),
    WindowShape.CALENDAR: lambda limit, _burst: CalendarMinute(limit),
    WindowShape.ANCHORED: lambda limit, _burst: Anchored(limit),
    WindowShape.TWO_BUCKET: lambda limit, _burst: TwoBuckets(limit, strict=False),
    WindowShape.TWO_BUCKET_STRICT: lambda limit, _burst: TwoBuckets(limit, strict=True),
    WindowShape.BUCKET: lambda limit, burst: TokenBucket(limit, burst or limit),
    WindowShape.SPACING: lambda limit, _burst: TokenBucket(limit, 1),
    WindowShape.SECONDS: lambda limit, _burst: Slices(limit, SECOND_NS, round_up=True),
    WindowShape.TEN_SECONDS: lambda limit, _burst: Slices(limit, 10 * SECOND_NS, round_up=False),
}

#: The same for tokens. Nobody slices these, or lets one token through each 60 s / limit: a long prompt would never fit.
TOKENS: dict[WindowShape, Callable[[int, int], Window]] = REQUESTS | {
    WindowShape.SPACING: REQUESTS[WindowShape.BUCKET],
    WindowShape.SECONDS: REQUESTS[WindowShape.CALENDAR],
    WindowShape.TEN_SECONDS: REQUESTS[WindowShape.CALENDAR],
}
