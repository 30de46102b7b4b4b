"""The tokens of a minute: when a request may take its share, and what answers and 429s say of how they are counted."""

from __future__ import annotations

import msgspec

from batchrunner.budget.charging import ACTUAL, ESTIMATE, SETTLE, Belief, Charging
from batchrunner.budget.effective import FULL, TokenCeiling
from batchrunner.budget.pacer import SAFE_WINDOW_NS, TOKEN_BURST_NS, TokenPacer
from batchrunner.budget.two_bucket import TwoBuckets
from batchrunner.budget.window import Window

#: A 429 that comes where the tokens of the minute are used up to this much, in hundredths, is taken for theirs; if a greater
#: share of the requests is, for theirs.
FULL_PERCENT = 90


class Offer(msgspec.Struct, frozen=True):
    """A request that could go out now."""

    #: what it is expected to use
    tokens: int
    #: what it may use at the most, as servers reckon that charge in advance: its input and its cap on output
    reserved_tokens: int


class Taking(msgspec.Struct, frozen=True):
    """What a request took when it was sent, and what it found, itself included."""

    offer: Offer
    way: Charging
    settle_load: int
    estimate_load: int
    bucket_load: int

    @property
    def paced(self) -> int:
        """What the pacer was charged."""
        return _paced(self.way, self.offer)


class Tokens(msgspec.Struct):
    """An account's tokens. All methods take the limit as it is configured; the window is the account's own log."""

    pacer: TokenPacer = msgspec.field(default_factory=TokenPacer)
    charging: Belief = msgspec.field(default_factory=Belief)
    ceiling: TokenCeiling = msgspec.field(default_factory=TokenCeiling)
    buckets: TwoBuckets = msgspec.field(default_factory=TwoBuckets)

    @property
    def strict(self) -> bool:
        """Whether less is taken than the limit and the laxest way of charging would allow."""
        return self.charging.way is not ACTUAL or self.ceiling.thousandths < FULL

    def pass_time(self, now_ns: int, window: Window, limit: int) -> None:
        """Try again what is due to be tried."""
        self.ceiling.probe(now_ns)
        if self.charging.relax(now_ns, limit):
            self.buckets.recount(now_ns, window, self.charging.way)

    def adopt(self, now_ns: int, window: Window, before: int, limit: int) -> None:
        """Another limit is configured. What was let in under a higher one says nothing of how this one is charged."""
        if limit:
            self.pacer.adopt(now_ns, before, limit, window.load(self.charging.way))
        if not before or 0 < limit < before:
            self.charging.settle_accepted = self.charging.estimate_accepted = 0
            self.buckets.forget(now_ns)

    def charge(self, offer: Offer) -> int:
        """How large a request is, as its tokens are charged."""
        return _paced(self.charging.way, offer)

    def due_ns(
        self, now_ns: int, window: Window, limit: int, offer: Offer, *, alone: bool = False, before: Offer | None = None
    ) -> int:
        """When there are tokens for a request; `now_ns` where there are. `alone`: only with no others in the window.

        `before`: as it would be if this one went first, now.
        """
        tpm = self.ceiling.tpm(limit)
        way = self.charging.way
        paced, asked = _paced(way, offer), _asked(way, offer)
        counted = max(asked, tpm) if alone else asked  # alone: as if it were the whole minute's
        pacer = self.pacer
        if before is not None:
            pacer = msgspec.structs.replace(pacer)
            pacer.take(now_ns, _paced(way, before), tpm)
            counted += _asked(way, before)
            if counted > tpm:  # not both in one minute
                return now_ns + SAFE_WINDOW_NS
        due_ns = max(pacer.earliest(now_ns, paced, tpm), window.room_for_tokens_ns(now_ns, way, counted, tpm))
        if self.buckets.believed:
            due_ns = max(due_ns, self.buckets.room_ns(now_ns, counted if before else asked, tpm))
        return due_ns

    def overflow_soon(self, now_ns: int) -> bool:
        """Whether so much of the burst is unused that what flows in may soon be lost: more than 60 % of it."""
        return (self.pacer.empty_ns - now_ns) * 5 < 2 * TOKEN_BURST_NS

    def take(self, now_ns: int, window: Window, limit: int, offer: Offer) -> Taking:
        """Charge a request that goes out and has just been entered into the window."""
        way = self.charging.way
        self.pacer.take(now_ns, _paced(way, offer), self.ceiling.tpm(limit))
        return Taking(offer, way, window.held, window.reserved, self.buckets.add(now_ns, _asked(way, offer)))

    def accept(self, now_ns: int, window: Window, taking: Taking, limit: int) -> None:
        """The server let a request in."""
        if self.charging.accept(now_ns, taking.settle_load, taking.estimate_load, limit):
            self.buckets.recount(now_ns, window, self.charging.way)
        self.buckets.accept(taking.bucket_load, limit)

    def settle(self, now_ns: int, sent_ns: int, taking: Taking, limit: int, used: int) -> None:
        """It has ended, and used so many."""
        if taking.way is not ESTIMATE:
            self.pacer.correct(now_ns, used - taking.paced, self.ceiling.tpm(limit))
        if self.charging.way is not ESTIMATE:
            self.buckets.correct(now_ns, sent_ns, used - _asked(self.charging.way, taking.offer))

    def refuse(self, now_ns: int, sent_ns: int, taking: Taking, limit: int) -> None:
        """It was not let in: it takes nothing."""
        self.pacer.correct(now_ns, -taking.paced, self.ceiling.tpm(limit))
        self.buckets.correct(now_ns, sent_ns, -_asked(self.charging.way, taking.offer))

    def explain(self, now_ns: int, window: Window, taking: Taking, limit: int, requests_percent: int | None) -> bool:
        """Whether a 429 is one for tokens; if so, they are reckoned more strictly from now on.

        `requests_percent`: the share of the limit of requests that was let through in the last minute, None where it is not
        known. Asked before the refused request is taken back.
        """
        tpm = self.ceiling.tpm(limit)
        loads = {
            ACTUAL: window.used,
            # Something may have left the window, or been settled, while the 429 was on its way.
            SETTLE: max(taking.settle_load, window.held),
            ESTIMATE: max(taking.estimate_load, window.reserved),
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


def _paced(way: Charging, offer: Offer) -> int:
    """What a request costs the pacer."""
    return offer.reserved_tokens if way is ESTIMATE else offer.tokens


def _asked(way: Charging, offer: Offer) -> int:
    """What a request takes of a minute when it is sent."""
    return offer.tokens if way is ACTUAL else offer.reserved_tokens
