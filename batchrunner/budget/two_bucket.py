"""A server that counts tokens in two buckets: those of this minute of the clock, and what 60 s still cover of the last one.

Such a server weighs the last minute's tokens evenly, whenever in it they were sent: it can refuse what an exact log lets
through, and the other way round. Our even requests never meet it; tokens do, since jobs differ in size.

It is believed in where a 429 finds the buckets full, and never again once a request was let in above them. Its minutes are
taken to be those of our wall clock.
"""

from __future__ import annotations

import msgspec

from batchrunner.budget.charging import Charging
from batchrunner.budget.pacer import JITTER_NS, NS, WINDOW_NS
from batchrunner.budget.window import Window

#: A minute that is this full by these buckets explains a 429, in hundredths of the limit.
FULL_PERCENT = 97
#: A request that is let in at this load shows that there are no such buckets.
REFUTED_PERCENT = 103
#: What is filled at most, in thousandths.
FILLED_THOUSANDTHS = 995
#: Our clock and the server's differ by about this. A request that is sent so close to a minute's edge that it may be counted
#: on either side of it would make all our reckoning wrong for two minutes.
CLOCKS_DIFFER_NS = NS // 10


class TwoBuckets(msgspec.Struct):
    """Tokens sent in this minute of the wall clock and in the one before, by the way of charging that is believed."""

    #: wall clock less monotonic clock; None where it is not known
    wall_offset_ns: int | None = None
    believed: bool = False
    refuted: bool = False
    #: when this minute began, on the monotonic clock
    began_ns: int = -2 * WINDOW_NS
    used: int = 0
    last: int = 0
    #: what was sent before is not in them: the log did not know of it any more when they were counted again
    since_ns: int = -WINDOW_NS

    def set_clock(self, now_ns: int, wall_offset_ns: int | None) -> None:
        """Go by this wall clock, as it is less the monotonic one."""
        self.wall_offset_ns = wall_offset_ns
        self._begin(now_ns)

    def add(self, now_ns: int, tokens: int) -> int:
        """Enter what a request takes; what these buckets hold with it."""
        into_ns = self._turn(now_ns)
        self.used += tokens
        return self.used + self.last * (WINDOW_NS - into_ns) // WINDOW_NS

    def load(self, now_ns: int) -> int:
        """Tokens that these buckets hold."""
        return self.add(now_ns, 0)

    def correct(self, now_ns: int, sent_ns: int, tokens: int) -> None:
        """Change what a request that was sent at `sent_ns` takes, by a difference."""
        self._turn(now_ns)
        # Where a clock was set, a request may be taken for one of the other minute: nothing goes below zero for that.
        if sent_ns < self.since_ns:
            return
        if sent_ns >= self.began_ns:
            self.used = max(0, self.used + tokens)
        elif sent_ns >= self.began_ns - WINDOW_NS:
            self.last = max(0, self.last + tokens)

    def recount(self, now_ns: int, window: Window, way: Charging) -> None:
        """Another way of charging is believed: count again what the log still knows of."""
        self._turn(now_ns)
        self.used = window.load(way, self.began_ns)
        self.last = window.load(way) - self.used
        self.since_ns = window.cells[0].first_ns if window.cells else now_ns

    def forget(self, now_ns: int) -> None:
        """Another limit holds: requests that are let in beside what an earlier one allowed prove nothing."""
        self._turn(now_ns)
        self.used = self.last = 0
        self.since_ns = now_ns

    def room_ns(self, now_ns: int, tokens: int, tpm: int) -> int:
        """When `tokens` more fit. What never fits beside anything is asked of the exact log, not here."""
        room = tpm * FILLED_THOUSANDTHS // 1000 - tokens
        if not self.believed or room < 0:
            return now_ns
        into_ns = self._turn(now_ns)
        began_ns, last, used = self.began_ns, self.last, self.used
        if used > room:  # not in this minute any more
            began_ns, last, used, into_ns = began_ns + WINDOW_NS, used, 0, 0
        fits_ns = max(into_ns, WINDOW_NS - (room - used) * WINDOW_NS // last) if last > room - used else into_ns
        if fits_ns > WINDOW_NS - JITTER_NS - CLOCKS_DIFFER_NS:
            fits_ns = WINDOW_NS + CLOCKS_DIFFER_NS
        return began_ns + max(fits_ns, CLOCKS_DIFFER_NS)

    def explain(self, load: int, tpm: int) -> bool:
        """Whether a 429 that came at this load shows such buckets for the first time; they are believed in from now on."""
        if self.believed or self.refuted or self.wall_offset_ns is None or load * 100 <= FULL_PERCENT * tpm:
            return False
        self.believed = True
        return True

    def accept(self, load: int, tpm: int) -> None:
        """A request was let in that had found this load, itself included."""
        if load * 100 > REFUTED_PERCENT * tpm:
            self.believed, self.refuted = False, True

    def _turn(self, now_ns: int) -> int:
        """Begin a new minute where it is time to; how far into it we are."""
        into_ns = now_ns - self.began_ns
        return into_ns if into_ns < WINDOW_NS else self._begin(now_ns)

    def _begin(self, now_ns: int) -> int:
        """Find the minute that this is by the wall clock; how far into it we are."""
        into_ns = (now_ns + (self.wall_offset_ns or 0)) % WINDOW_NS
        # Whole minutes but for what the wall clock was set by since: a step of a millisecond back is no minute that has passed.
        passed = (now_ns - into_ns - self.began_ns + WINDOW_NS // 2) // WINDOW_NS
        if passed > 0:
            self.last = self.used if passed == 1 else 0
            self.used = 0
        self.began_ns = now_ns - into_ns
        return into_ns
