"""The gate that a 429 closes: one reaction to a burst of them, a doubling backoff, one canary."""

from __future__ import annotations

import msgspec

from batchrunner.budget.pacer import NS

#: The server's hint is a lower bound, and read by its clock: a little more never hurts.
HINT_MARGIN_NS = NS // 20
#: Hints beyond this are not believed blindly: the account may be topped up, or its limit raised, any time.
LONGEST_HINT_NS = 15 * 60 * NS
SHORT_BACKOFF_MAX_NS = 10 * NS
#: Rejections in a row after which the account itself seems closed: canaries then go at 1, 2, 4 ... 15 minutes.
CLOSED_AFTER = 10
CLOSED_BACKOFF_NS = 60 * NS
CLOSED_BACKOFF_MAX_NS = 15 * 60 * NS
#: A refusal comes at once, an answer takes as long as the model writes. A canary that is not refused for as long as refusals
#: have taken lately is alive; after this long, in any case.
CANARY_GRACE_NS = 2 * NS


class Gate(msgspec.Struct):
    """Closed until `until_ns`; then one canary, and the others once it is accepted or its grace is over.

    `epoch_ns` is the time of the last reaction: a 429 to a request sent before it belongs to the same burst. `streak_ns` is
    that of the first reaction since all was well: answers take long, 429s do not, so that any request sent after it which
    the server takes shows that the account is not closed.
    """

    until_ns: int = 0
    epoch_ns: int = -1
    streak_ns: int = -1
    consecutive: int = 0
    wants_canary: bool = False
    canary: int | None = None
    #: canaries in a row that were refused: nothing at all is let through
    canaries_refused: int = 0
    #: how long a refusal takes to come back: the longest of late
    refusal_ns: int = 0

    def opens_ns(self, now_ns: int) -> int:
        return max(now_ns, self.until_ns)

    def planned_ns(self, now_ns: int) -> int:
        """What to plan a send for: a canary's answer may end its grace any time, and must not find everybody late."""
        return now_ns if self.canary is not None else self.opens_ns(now_ns)

    def taken(self, now_ns: int, entry: int) -> None:
        """A request goes out: the first one after a closure is the canary."""
        if self.wants_canary:
            self.wants_canary = False
            self.canary = entry
            self.until_ns = now_ns + min(CANARY_GRACE_NS, self.refusal_ns)

    def accepted(self, now_ns: int, entry: int, sent_ns: int) -> None:
        """The server took a request. One that was sent after the first reaction: all is well again."""
        if sent_ns > self.streak_ns:
            self.consecutive = 0
        if entry == self.canary:
            self.canary = None
            self.until_ns = min(self.until_ns, now_ns)

    def refused(self, now_ns: int, entry: int, sent_ns: int, interval_ns: int, hint_ns: int | None, random: float) -> bool:
        """A 429. True where this is the first of its burst, and so the one that is reacted to.

        `interval_ns`: the pace between sends, from which the backoff doubles. `random`: uniform in [0, 1).
        """
        # The longest one counts for less with each that follows.
        self.refusal_ns = max(now_ns - sent_ns, self.refusal_ns * 3 // 4)
        if hint_ns is not None:
            self.until_ns = max(self.until_ns, now_ns + min(hint_ns, LONGEST_HINT_NS) + HINT_MARGIN_NS)
        if sent_ns <= self.epoch_ns:
            return False
        self.epoch_ns = now_ns
        self.canaries_refused = self.canaries_refused + 1 if entry == self.canary else 0
        if self.consecutive == 0:
            self.streak_ns = now_ns
        self.consecutive += 1
        self.wants_canary = True
        self.canary = None
        self.until_ns = max(self.until_ns, now_ns + self._backoff_ns(interval_ns, random))
        return True

    def _backoff_ns(self, interval_ns: int, random: float) -> int:
        """U(1, 1.5) x the backoff: jitter never makes the wait shorter."""
        if self.consecutive > CLOSED_AFTER:
            backoff = min(CLOSED_BACKOFF_MAX_NS, CLOSED_BACKOFF_NS << min(self.consecutive - CLOSED_AFTER - 1, 10))
        else:
            backoff = min(SHORT_BACKOFF_MAX_NS, interval_ns << (self.consecutive - 1))
        return backoff + int(backoff * random) // 2
