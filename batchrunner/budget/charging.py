"""How a server may charge tokens, and which way is believed: three ledgers, chosen by explanation, refuted by acceptance.

Providers differ in what they count against the tokens of a minute, and hardly say so:

| | while a request is under way | once it has ended |
| --- | --- | --- |
| ACTUAL | nothing, or little | what it used |
| SETTLE | its input and its cap on output | what it used |
| ESTIMATE | its input and its cap on output | the same still |

A client that reckons too strictly gets a third of the limit where caps are generous; one too lax is refused all day. So the
laxest is believed at first. A 429 is evidence: it selects the laxest of the stricter ways by which the minute was full. An
accepted request is proof: a way by which the minute had been filled twice over (no window of 60 s lets more through) can not
be the server's. And since a belief may have been wrong, the next laxer way is tried again now and then, ever more rarely.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from batchrunner.budget.pacer import NS


class Charging(enum.IntEnum):
    """From the laxest to the strictest."""

    ACTUAL = 0
    SETTLE = 1
    ESTIMATE = 2


#: By name: to get at a member through its class takes longer than most of what is done with it.
ACTUAL, SETTLE, ESTIMATE = Charging


#: A minute that is this full by some reckoning explains a 429, in hundredths of the limit.
FULL_PERCENT = 92
#: A request let in at this load by some reckoning refutes it: a bucket lets two minutes' worth through in 60 s, nothing more.
REFUTED_PERCENT = 210
#: When a laxer way is tried again: 15 minutes, and four times as long after each time that it proved wrong, 16 hours at most.
LAXER_AFTER_NS = 15 * 60 * NS
MOST_QUADRUPLINGS = 3


class Belief(msgspec.Struct):
    """Which way of charging is gone by.

    Invariant: it is never one that an accepted request has refuted.
    """

    way: Charging = ACTUAL
    #: the greatest load, by each of the stricter ways, at which a request was let in
    settle_accepted: int = 0
    estimate_accepted: int = 0
    #: when the next laxer way is tried
    laxer_ns: int = 0
    #: how often a stricter way had to be gone back to
    returns: int = 0

    def explain(self, now_ns: int, loads: Mapping[Charging, int], tpm: int) -> bool:
        """Whether a stricter way than the one believed explains a 429 at these loads; if so, it is believed from now on."""
        for way in Charging:
            if way > self.way and loads[way] * 100 > FULL_PERCENT * tpm and not self.refuted(way, tpm):
                self.way = way
                self.returns += 1
                self.wait(now_ns)
                return True
        return False

    def wait(self, now_ns: int) -> None:
        """Put off trying a laxer way, for as long as it is worth by what earlier tries have come to."""
        self.laxer_ns = now_ns + (LAXER_AFTER_NS << 2 * min(max(0, self.returns - 1), MOST_QUADRUPLINGS))

    def accept(self, now_ns: int, settle_load: int, estimate_load: int, tpm: int) -> bool:
        """A request was let in that had found, itself included, these loads. Whether that refutes what was believed."""
        self.settle_accepted = max(self.settle_accepted, settle_load)
        self.estimate_accepted = max(self.estimate_accepted, estimate_load)
        return self.way is not ACTUAL and self.refuted(self.way, tpm) and self._laxer(now_ns, tpm)

    def refuted(self, way: Charging, tpm: int) -> bool:
        """Whether more was let in than a server could that charges in this way. Nothing refutes the laxest."""
        if way is ACTUAL:
            return False
        most = self.settle_accepted if way is SETTLE else self.estimate_accepted
        return most * 100 >= REFUTED_PERCENT * tpm

    def relax(self, now_ns: int, tpm: int) -> bool:
        """Go back to a laxer way, if it is time to try one. Whether it was."""
        return self.way is not ACTUAL and now_ns >= self.laxer_ns and self._laxer(now_ns, tpm)

    def _laxer(self, now_ns: int, tpm: int) -> bool:
        """Go by the next laxer way that is not refuted."""
        self.way = next(way for way in reversed(Charging) if way < self.way and not self.refuted(way, tpm))
        self.laxer_ns = now_ns + LAXER_AFTER_NS
        return True
