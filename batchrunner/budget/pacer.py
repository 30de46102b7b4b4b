"""Even spacing, in integers: the generic cell rate algorithm for requests and for tokens."""

from __future__ import annotations

import msgspec

NS = 1_000_000_000
#: What a server's "minute" is.
WINDOW_NS = 60 * NS
#: Requests may reach the server this much closer together, or further apart, than they left.
JITTER_NS = NS // 4
#: The minute that we pace and guard by.
SAFE_WINDOW_NS = WINDOW_NS + JITTER_NS
#: A send that is late by up to this much does not delay those behind it. More would be a burst.
LATENESS_NS = NS // 20
#: A fast start begins this many times as fast as the pace, and has doubled its speed after this share of a minute's
#: requests: a whole minute's are sent in about four seconds, whatever the limit is.
FAST_START_SPEED = 5
FAST_START_DOUBLES_AFTER = (4, 25)
#: Sends that are known to be let through at once are this many times as fast as the pace.
BURST_DIVISOR = 50
#: of those that went through before a fast start was refused, so many are counted on the next time
BURST_KEPT = (3, 4)
#: Share of a minute's tokens that may be taken at once, and the time in which they flow in.
TOKEN_BURST_DIVISOR = 4
TOKEN_BURST_NS = SAFE_WINDOW_NS // TOKEN_BURST_DIVISOR


def interval_ns(rpm: int) -> int:
    """The pace: rounded up, so that it is never faster than the limit."""
    return SAFE_WINDOW_NS // rpm + 1


class RequestPacer(msgspec.Struct):
    """One request every (60 + J) / N seconds; a small file's as fast as the server lets them through.

    Invariant: `credit` is 0 but for a small file on a server that is known for what it lets through at once.
    `due_ns` is the earliest time for the next send: the theoretical arrival time of GCRA with a burst of one.
    """

    due_ns: int = 0
    #: sends left of a fast start, and made in it since it began, or since the full minute held it up
    fast_left: int = 0
    fast_made: int = 0
    #: minutes that have held it up
    fast_minutes: int = 0
    #: so many sends at once are known to be let through; `burst_ends`: and no more of them in a row
    burst: int = 0
    burst_ends: bool = False
    #: it flows in again with time, as a bucket does
    burst_flows: bool = False
    #: idle time is made up for by up to so many sends
    credit: int = 0
    #: what was sent up to then was of a fast start that came to its own end; a 429 to it may still come
    fast_until_ns: int = -1

    def advance(self, at_ns: int, rpm: int) -> None:
        """Account for a send planned at `at_ns`. Idle time is never banked beyond LATENESS_NS."""
        if self.fast_left == 0:
            self.due_ns = max(self.due_ns, at_ns - self._forgiven_ns(rpm)) + SAFE_WINDOW_NS // rpm + 1
            return
        if self.fast_made and at_ns > self.due_ns + interval_ns(rpm):
            self.fast_made = 0
            self.fast_minutes += 1
        self.due_ns = max(self.due_ns, at_ns - self._forgiven_ns(rpm)) + self.spacing_ns(rpm)
        self.fast_left -= 1
        self.fast_made += 1
        if self.fast_left == 0:
            self.fast_until_ns = at_ns + interval_ns(rpm)

    def spacing_ns(self, rpm: int) -> int:
        """How long after the next send the one behind it may follow."""
        interval = interval_ns(rpm)
        if self.fast_left == 0:
            return interval
        if self.fast_made < self.burst:
            return interval // BURST_DIVISOR
        # T / (5 (1 + k / 0.16 N)): the first ones slow enough that a server without burst refuses a few, not all.
        share, whole = FAST_START_DOUBLES_AFTER
        ease = max(1, rpm * share // whole)
        return interval * ease // (FAST_START_SPEED * (ease + self.fast_made))

    def delayed(self, now_ns: int, rpm: int) -> None:
        """A planned send went out at `now_ns`: what it was too late is not made up for by those behind it."""
        if self.fast_left == 0:
            self.due_ns = max(self.due_ns, now_ns - self._forgiven_ns(rpm) + interval_ns(rpm))

    def _forgiven_ns(self, rpm: int) -> int:
        # Time that passes before a fast start is made up for by that.
        return max(LATENESS_NS, self.credit * interval_ns(rpm)) if self.credit and not self.fast_left else LATENESS_NS

    def start_fast(self, sends: int) -> None:
        """Send so many faster than the pace, or as many as are known to be let through."""
        self.fast_left = min(sends, self.burst) if self.burst_ends else sends
        self.fast_made = self.fast_minutes = 0
        self.fast_until_ns = -1
        self.credit = max(0, self.burst - 1) if self.burst_flows else 0

    def is_fast(self, sent_ns: int) -> bool:
        """Whether what was sent then, and not refused before, is of a fast start."""
        return self.fast_left > 0 or sent_ns <= self.fast_until_ns

    def accepted(self) -> None:
        """A request was let in. Refusals come sooner than answers do: so were those of the fast start before it."""
        if not self.burst_ends:
            self.burst = max(self.burst, self.fast_made)

    def end_fast(self) -> None:
        """Go on at the pace, for another reason than a refusal."""
        self.fast_left = self.credit = 0
        self.fast_until_ns = -1

    def stop_fast(self, before: int) -> None:
        """A request of the fast start was refused, that had `before` it so many; negative: nobody knows any more."""
        self.fast_left = 0
        self.fast_until_ns = -1
        if before < 0:
            return
        self.burst_ends = True
        if not self.fast_minutes:
            self.burst_flows = True
            # What flowed in meanwhile was part of them.
            self.burst = before * BURST_KEPT[0] // BURST_KEPT[1]


class TokenPacer(msgspec.Struct):
    """Tokens flow in at L per 60 + J seconds, a quarter of a minute's worth at most at once.

    `empty_ns` is when everything taken so far will have been paid back.
    """

    empty_ns: int = 0

    def earliest(self, now_ns: int, tokens: int, tpm: int) -> int:
        """When `tokens` may be taken. A request larger than the burst waits for a full bucket, not for ever."""
        price = tokens * SAFE_WINDOW_NS // tpm
        due_ns = self.empty_ns + price - max(price, TOKEN_BURST_NS)
        return max(now_ns, due_ns)

    def take(self, now_ns: int, tokens: int, tpm: int) -> None:
        self.empty_ns = max(self.empty_ns, now_ns) + tokens * SAFE_WINDOW_NS // tpm

    def drain(self, now_ns: int, left: int, tpm: int) -> None:
        """Leave no more than `left` tokens to be taken at once."""
        self.empty_ns = max(self.empty_ns, now_ns + TOKEN_BURST_NS - left * SAFE_WINDOW_NS // tpm)

    def adopt(self, now_ns: int, before: int, tpm: int, used: int) -> None:
        """Another limit holds: what is still to be paid back are tokens, and takes another time. `used`: in the last minute,
        none of which is known to be paid back where there was no limit (`before` is 0).
        """
        owed = max(0, self.empty_ns - now_ns) * before // SAFE_WINDOW_NS if before else used
        self.empty_ns = now_ns + min(owed * SAFE_WINDOW_NS // tpm, SAFE_WINDOW_NS)

    def correct(self, now_ns: int, tokens: int, tpm: int) -> None:
        """Take more, or give back (negative), once the usage is known.

        More than a minute's worth is not paid back here: every server forgets it by then, and the log guards the minute.
        A figure that makes no sense must not stop an account for hours.
        """
        self.empty_ns = min(self.empty_ns + tokens * SAFE_WINDOW_NS // tpm, now_ns + SAFE_WINDOW_NS)
