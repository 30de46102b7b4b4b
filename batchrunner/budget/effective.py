"""The limits that a server seems to go by: lowered by 429s that nothing else explains, raised again by trying.

A limit may be less than what was configured: somebody else uses the account, the provider has cut it, it counts in slices that
round down, or wants its requests strictly apart. What is never done is to go above the configured limit.
"""

from __future__ import annotations

import msgspec

from batchrunner.budget.pacer import NS, WINDOW_NS

#: The first wait until more is tried again, where half of a limit of 50 is missing. Less missing, the longer: there is less to
#: gain; the higher the limit, the shorter, down to a quarter: a try costs fewer 429s of each 1,000. It doubles with each try
#: that fails, within bounds: where more than a fifth is missing, the full rate is to be back within five minutes.
PROBE_AFTER_NS = 45 * NS
PROBE_AFTER_RPM = 50
MOST_DOUBLINGS = 4
MUCH_MISSING_WAIT_NS = 180 * NS
LONGEST_PROBE_WAIT_NS = 3600 * NS
#: How often more is added in a try that goes well, twice as much each time, a fifth of the limit at most.
PROBE_STEP_NS = 20 * NS
PROBE_STEP_DIVISOR = 5
#: Where less than a tenth is missing, a thirtieth of the limit is added at a time, and has to prove itself for a whole window;
#: where it does not, half of it stays, and so the edge is closed in on.
NEAR_DIVISOR = 10
NEAR_STEP_DIVISOR = 30
#: A 429 this soon after a raise is its doing.
PROBE_ECHO_NS = WINDOW_NS + 15 * NS
#: A refusal that comes again lowers the limit to what was let through in the last minute, but by no more than a tenth, then two
#: tenths, and so on: some of those refused were only too close to each other.
STEEPEST_TENTHS = 5

#: Tries that failed, after which a rate is taken for the server's own.
LASTING_FAILURES = 2
#: Answers that say that so much of the limit is left ask for a try at once; those that say nothing is, put it off.
MUCH_LEFT_DIVISOR = 7
NOTHING_LEFT_WAIT_NS = 10 * NS


class RequestCeiling(msgspec.Struct):
    """How many requests a minute the server lets through; at most the configured limit.

    Invariant: `missing` is at least 0 and less than that limit.
    """

    #: requests a minute below the configured limit
    missing: int = 0
    #: the limit that they are missing from; 0: not known
    limit: int = 0
    #: of those in a row that failed
    failures: int = 0
    #: while more is being tried: what was missing before; -1: it is not
    tried_from: int = -1
    step: int = 1
    next_ns: int = 0
    #: the limit that answers spoke of last; 0: none
    said: int = 0
    raised_ns: int = -PROBE_ECHO_NS
    lowered_ns: int = -PROBE_ECHO_NS
    #: for a while nothing at all was let through
    closed: bool = False

    def rpm(self, limit: int) -> int:
        return max(1, limit - self.missing)

    def lower(self, now_ns: int, limit: int, accepted: int | None, *, times: int, closed: bool) -> None:
        """A 429 that nothing else explains. `accepted`: requests let through in the last minute, None before that is known.

        `times`: so many since all was well; `closed`: not even single requests are let through, so that what was is all there
        is.
        """
        rpm = self.rpm(limit)
        lowered = rpm - 1
        if times > 1 and accepted is not None:
            lowered = min(lowered, accepted if closed else max(accepted, rpm - rpm * min(times - 1, STEEPEST_TENTHS) // 10))
        if now_ns - self.raised_ns >= PROBE_ECHO_NS:
            if now_ns - self.lowered_ns >= 2 * WINDOW_NS:
                self.failures = 0
        elif self.tried_from >= 0:
            self.failures += 1
            before = limit - self.tried_from
            if self.tried_from * NEAR_DIVISOR <= limit:
                before = (before + rpm) // 2
            lowered = min(lowered, accepted if accepted is not None and accepted * 10 > before * 11 else before)
        if self.said and accepted is not None and accepted * 5 <= self.said * 6:
            lowered = min(lowered, self.said)
        self.missing = limit - max(1, lowered)
        self.lowered_ns = now_ns
        self.tried_from = -1
        self.step = 1
        self.closed = closed or (self.closed and now_ns - self.raised_ns < PROBE_ECHO_NS)
        if self.missing:
            self.next_ns = now_ns + self._wait_ns(limit)

    def tries(self, now_ns: int, limit: int, more: int) -> None:
        """The limit itself was raised by so many: a 429 that comes soon is its doing."""
        self.limit = limit
        self.tried_from = more
        self.raised_ns = now_ns

    def expire(self, now_ns: int, limit: int) -> None:
        """Nobody has asked for long: strangers have gone, cuts are over. What remains is a server that was tried more than once,
        let single requests through all the time, and so wants them further apart than its limit says.
        """
        if self.closed or self.failures < LASTING_FAILURES:
            self.missing = 0
        elif self.missing:
            self.next_ns = now_ns + self._wait_ns(limit)
        self.tried_from = -1

    def hear(self, now_ns: int, limit: int, said: int | None, left: int | None, *, refused: bool = False) -> None:
        """What an answer says: the limit of requests, and how many of them are left after what we sent since.

        Whose minute it speaks of is not certain, so that nothing is lowered for it: a 429 has to come first. What is lowered
        already is raised at once where the said limit rises, and tried where much is left; but not because a 429 says so, which
        speaks of the contrary, nor soon after one: what was true of more is still said then.
        """
        if refused or now_ns - self.lowered_ns < NOTHING_LEFT_WAIT_NS:
            said = min(said, self.said) if said and self.said else said
            left = left if left is not None and left < 1 else None
        before, self.said = self.said, said or self.said
        if not self.missing:
            return
        if said is not None and 0 < before < said and said > self.rpm(limit):
            self.tried_from = self.missing
            self.missing = max(0, limit - said)
            self.raised_ns = now_ns
        if left is not None and left * MUCH_LEFT_DIVISOR >= limit:
            self.next_ns = min(self.next_ns, now_ns)
        elif left is not None and left < 1:
            self.next_ns = max(self.next_ns, now_ns + NOTHING_LEFT_WAIT_NS)

    def _wait_ns(self, limit: int) -> int:
        """How long until more is tried: what it could gain is weighed against the 429s that it may cost, of each 1,000."""
        half_ns = max(PROBE_AFTER_NS * PROBE_AFTER_RPM // max(limit, PROBE_AFTER_RPM), PROBE_AFTER_NS // 4)
        wait_ns = (half_ns * limit // (2 * self.missing)) << min(self.failures, MOST_DOUBLINGS)
        return min(wait_ns, MUCH_MISSING_WAIT_NS if 5 * self.missing > limit else LONGEST_PROBE_WAIT_NS)

    def adopt(self, limit: int) -> None:
        """Another limit is configured. What the server seemed to let through is still all there is, if that is less."""
        if limit != self.limit:
            if self.limit:
                self.missing = max(0, min(self.missing, limit - self.rpm(self.limit)))
                self.tried_from = -1
            self.limit = limit

    def probe(self, now_ns: int, limit: int) -> None:
        """Ask for more again, if it is time to."""
        while self.missing and now_ns >= self.next_ns:
            near = self.missing * NEAR_DIVISOR <= limit
            if near or self.tried_from < 0:
                self.tried_from = self.missing
            self.missing = max(0, self.missing - (max(1, limit // NEAR_STEP_DIVISOR) if near else self.step))
            self.step = min(2 * self.step, max(1, limit // PROBE_STEP_DIVISOR))
            self.raised_ns = now_ns
            self.next_ns += WINDOW_NS if near else PROBE_STEP_NS


#: all of the limit, in thousandths
FULL = 1000
#: in hundredths
TOKENS_LOWERED_BY = 97
TOKENS_RAISED_AFTER_NS = 10 * 60 * NS


class TokenCeiling(msgspec.Struct):
    """How many tokens a minute the server lets through, in thousandths of the configured limit."""

    thousandths: int = FULL
    raised_ns: int = 0

    def tpm(self, limit: int) -> int:
        return limit if self.thousandths == FULL else max(1, limit * self.thousandths // FULL)

    def lower(self, now_ns: int) -> None:
        """A 429 that came where the tokens were nearly used up."""
        self.thousandths = max(1, self.thousandths * TOKENS_LOWERED_BY // 100)
        self.raised_ns = now_ns

    def expire(self) -> None:
        """Nobody has asked for long."""
        self.thousandths = FULL

    def probe(self, now_ns: int) -> None:
        """Try more again, if it is time to."""
        while self.thousandths < FULL and now_ns >= self.raised_ns + TOKENS_RAISED_AFTER_NS:
            self.thousandths = min(FULL, self.thousandths * 100 // TOKENS_LOWERED_BY + 1)
            self.raised_ns += TOKENS_RAISED_AFTER_NS
