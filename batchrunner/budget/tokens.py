"""The tokens of a minute: when a request may take its share, and what answers and 429s say of how they are counted."""

from __future__ import annotations

import msgspec

from batchrunner.budget.charging import Belief, Charging
from batchrunner.budget.effective import TokenCeiling
from batchrunner.budget.pacer import TokenPacer
from batchrunner.budget.two_bucket import TwoBuckets
from batchrunner.budget.window import Window

#: A 429 that comes where the tokens of the minute are used up to this much, in hundredths, is taken for theirs; if a greater
#: share of the requests is, for theirs.
FULL_PERCENT = 90


class Taking(msgspec.Struct, frozen=True):
    """What a request took when it was sent, and what it found, itself included."""

    used: int
    reserved: int
    way: Charging
    settle_load: int
    estimate_load: int
    bucket_load: int

    @property
    def paced(self) -> int:
        """What the pacer was charged."""
        return self.reserved if self.way is Charging.ESTIMATE else self.used


class Tokens(msgspec.Struct):
    """An account's tokens. All methods take the limit as it is configured; the window is the account's own log."""

    pacer: TokenPacer = msgspec.field(default_factory=TokenPacer)
    charging: Belief = msgspec.field(default_factory=Belief)
    ceiling: TokenCeiling = msgspec.field(default_factory=TokenCeiling)
    buckets: TwoBuckets = msgspec.field(default_factory=TwoBuckets)

    def pass_time(self, now_ns: int, window: Window) -> None:
        """Try again what is due to be tried."""
        self.ceiling.probe(now_ns)
        if self.charging.relax(now_ns):
            self.buckets.recount(now_ns, window, self.charging.way)

    def room_ns(self, now_ns: int, window: Window, limit: int, used: int, reserved: int, *, alone: bool) -> int:
        """When there are tokens for a request that is expected to use so many, of so many that it may use at the most."""
        tpm = self.ceiling.tpm(limit)
        way = self.charging.way
        paced = reserved if way is Charging.ESTIMATE else used
        asked = self._asked(used, reserved)
        # What goes alone is asked for as the whole minute's tokens: then there is room only in an empty window.
        return max(
            self.pacer.earliest(now_ns, paced, tpm),
            window.room_for_tokens_ns(now_ns, way, max(asked, tpm) if alone else asked, tpm),
            self.buckets.room_ns(now_ns, asked, tpm),
        )

    def take(self, now_ns: int, window: Window, limit: int, used: int, reserved: int) -> Taking:
        """Charge a request that goes out and has just been entered into the window."""
        way = self.charging.way
        self.pacer.take(now_ns, reserved if way is Charging.ESTIMATE else used, self.ceiling.tpm(limit))
        bucket_load = self.buckets.add(now_ns, self._asked(used, reserved))
        return Taking(used, reserved, way, window.held, window.reserved, bucket_load)

    def accept(self, taking: Taking, limit: int) -> None:
        """The server let a request in."""
        self.charging.accept(taking.settle_load, taking.estimate_load)
        self.buckets.accept(taking.bucket_load, limit)

    def settle(self, now_ns: int, sent_ns: int, taking: Taking, limit: int, used: int) -> None:
        """It has ended, and used so many."""
        if taking.way is not Charging.ESTIMATE:
            self.pacer.correct(now_ns, used - taking.paced, self.ceiling.tpm(limit))
        if self.charging.way is not Charging.ESTIMATE:
            self.buckets.correct(now_ns, sent_ns, used - self._asked(taking.used, taking.reserved))

    def refuse(self, now_ns: int, sent_ns: int, taking: Taking, limit: int) -> None:
        """It was not let in: it takes nothing."""
        self.pacer.correct(now_ns, -taking.paced, self.ceiling.tpm(limit))
        self.buckets.correct(now_ns, sent_ns, -self._asked(taking.used, taking.reserved))

    def _asked(self, used: int, reserved: int) -> int:
        """What a request is charged when it is sent, by the way that is believed."""
        return used if self.charging.way is Charging.ACTUAL else reserved

    def explain(self, now_ns: int, window: Window, taking: Taking, limit: int, requests_percent: int | None) -> bool:
        """Whether a 429 is one for tokens; if so, they are reckoned more strictly from now on.

        `requests_percent`: the share of the limit of requests that was let through in the last minute, None where it is not
        known. Asked before the refused request is taken back.
        """
        tpm = self.ceiling.tpm(limit)
        loads = {
            Charging.ACTUAL: window.used,
            # Something may have left the window, or been settled, while the 429 was on its way.
            Charging.SETTLE: max(taking.settle_load, window.held),
            Charging.ESTIMATE: max(taking.estimate_load, window.reserved),
        }
        bucket_load = max(taking.bucket_load, self.buckets.load(now_ns))
        if self.charging.explain(now_ns, loads, tpm):
            load = loads[self.charging.way]
            self.pacer.drain(now_ns, max(0, tpm - load), tpm)
            self.buckets.recount(now_ns, window, self.charging.way)
            return True
        if self.buckets.explain(bucket_load, tpm):
            return True
        load = max(loads[self.charging.way], bucket_load if self.buckets.believed else 0)
        if load * 100 <= FULL_PERCENT * tpm or load * 100 <= ((requests_percent or 0) + 2) * tpm:
            return False
        self.ceiling.lower(now_ns)
        return True
