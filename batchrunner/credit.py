"""What an account has left to pay with: whether it may send at all, and whether it will do for what is left. Pure.

    has credits --refused--> waits --probe--> probing --refused, or ended without a word--> waits
         ^                                       |
         +--------------- accepted --------------+

An account without credits is probed by the next job's own request, one at a time, which costs nothing while it is refused:
1, 2, 4 ... 15 minutes after the last refusal. Asking for the balance is gentler still, and faster. A balance for which no probe
was refused yet admits a probe at once; one that no more than what was refused puts the next off to 15 minutes, and no further:
what servers say of balances is believed, but not for ever.
"""

from __future__ import annotations

from decimal import ROUND_UP, Decimal
from typing import Final

import msgspec

NS: Final = 1_000_000_000
FIRST_PROBE_NS: Final = 60 * NS
LONGEST_PROBE_NS: Final = 15 * 60 * NS
#: jobs whose mean cost says something of the others'
KNOWN_AFTER: Final = 20
#: what a forecast is rounded to, upwards
_FINEST: Final = Decimal("0.000001")
_NOTHING: Final = Decimal(0)


class Statistics(msgspec.Struct, frozen=True):
    """An account's credits as far as they are known."""

    #: refused for want of them, and not accepted since
    waits: bool
    #: USD as the server last told; None where it never did
    balance_usd: Decimal | None


class Credit:
    """Whether an account has credits. `now_ns` and `sent_ns` are monotonic; a request goes by a number of its own."""

    def __init__(self) -> None:
        self._balance_usd: Decimal | None = None
        #: when it was first refused; None while it has credits
        self._since_ns: int | None = None
        self._refusals = 0
        self._refused_ns = 0
        self._due_ns = 0
        self._probe: int | None = None
        #: the balance as told since then, also when the probe went out; what it was when one was refused
        self._told_usd = _NOTHING
        self._probe_usd = _NOTHING
        self._in_vain_usd = _NOTHING

    @property
    def waits(self) -> bool:
        """Whether it is known to have none."""
        return self._since_ns is not None

    def due_ns(self, now_ns: int) -> int | None:
        """When the next request may go: now, or when a probe is due; None while one is out."""
        if self._since_ns is None:
            return now_ns
        return None if self._probe is not None else max(now_ns, self._due_ns)

    def sent(self, request: int) -> None:
        """A request goes out: of an account that waits it is the probe."""
        if self.waits:
            self._probe = request
            self._probe_usd = self._told_usd

    def refused(self, now_ns: int, request: int) -> bool:
        """The server says that there are no credits. True where that is news: an echo of a request sent before is none."""
        news = self._since_ns is None
        if news:
            self._since_ns = now_ns
            self._refusals = 0
            self._told_usd = self._in_vain_usd = _NOTHING
        elif request == self._probe:
            self._refusals += 1
            self._in_vain_usd = max(self._in_vain_usd, self._probe_usd)
        else:
            return False
        self._probe = None
        self._refused_ns = now_ns
        self._due_ns = now_ns + min(LONGEST_PROBE_NS, FIRST_PROBE_NS << min(self._refusals, 10))
        return news

    def accepted(self, sent_ns: int) -> bool:
        """The server took a request that was sent at `sent_ns`. True where that shows that there are credits again."""
        if self._since_ns is None or sent_ns <= self._since_ns:
            return False
        self._since_ns = self._probe = None
        return True

    def ended(self, now_ns: int, request: int) -> None:
        """A request has ended without a word about credits; if it was the probe, another may go."""
        if request == self._probe:
            self._probe = None
            self._due_ns = now_ns

    def told(self, now_ns: int, balance_usd: Decimal) -> None:
        """What the server says is left."""
        self._balance_usd = self._told_usd = balance_usd
        if balance_usd > self._in_vain_usd:
            self._due_ns = min(self._due_ns, now_ns)
        else:
            self._in_vain_usd = max(_NOTHING, balance_usd)  # what is more than that will have been paid in
            self._due_ns = max(self._due_ns, self._refused_ns + LONGEST_PROBE_NS)

    def statistics(self) -> Statistics:
        return Statistics(self.waits, self._balance_usd)


def forecast_usd(billed_usd: Decimal, done: int, left: int) -> Decimal | None:
    """What `left` jobs will cost, where `done` of them have cost this. None as long as that says little."""
    if left == 0:
        return _NOTHING
    if done < KNOWN_AFTER:
        return None
    return (billed_usd * left / done).quantize(_FINEST, ROUND_UP)


class Forewarning:
    """Says once that what is left will not do, and again only if it had done meanwhile."""

    def __init__(self) -> None:
        self._told = False

    def look(self, forecast_usd: Decimal | None, balance_usd: Decimal | None, left: int) -> str | None:
        """What people should know, if it is news. `left`: jobs that are to be paid for still."""
        if forecast_usd is None or balance_usd is None:
            return None
        short, self._told = forecast_usd > balance_usd and not self._told, forecast_usd > balance_usd
        if not short:
            return None
        enough = int(max(_NOTHING, balance_usd) * left / forecast_usd)
        return (
            f"warning: by what jobs have cost so far, the {left:,} that are left cost about ${forecast_usd:f}, and the account "
            f"has ${balance_usd:f}: enough for about {enough:,}. Top it up in time."
        )
