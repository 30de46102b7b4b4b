"""What others do about a rate limit, as the least that decides when each of their requests goes.

| client | modelled on |
| --- | --- |
| cookbook | the script for parallel requests of the OpenAI cookbook, kinder than written: its pause tests for a code of no 429 |
| full-bucket | buckets of a whole minute, full at first, and a shared pause of 10 s after a 429 (lm-deluge, curator) |
| full-bucket-refund | the same, and what a reply did not use goes back (curator, token-throttle) |
| aimd | even spacing, halved by a 429, and back in a minute |
| semaphore | so many requests at once and exponential backoff, six tries (what tutorials show, with tenacity) |

`adaptive` has the AWS SDK's, `aio` aiolimiter itself. Times are seconds, in floats, as theirs are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable


class Peer:
    """When a request may go. `attempts`: after so many a job is lost; None: never.

    `places`: requests at once. `holds_place`: a job that waits out its backoff keeps its place.
    """

    attempts: int | None = None
    places = 100_000
    holds_place = False

    def earliest(self, now: float, tokens: int) -> float:  # noqa: ARG002 - the contract's
        """When the next request may go, which may take so many tokens."""
        return now

    def sent(self, now: float, tokens: int) -> None:
        """A request goes out."""

    def accepted(self, now: float, reserved: int, used: int, tries: int) -> None:
        """An answer has come; `tries` were refused before it."""

    def refused(self, now: float, sent: float, tries: int, hint: float | None) -> float | None:  # noqa: ARG002
        """The `tries`th 429 of a job has come. When it may be sent again; None: it is given up."""
        return now


class Bucket:
    """A float that fills up, as clients write it."""

    def __init__(self, capacity: float) -> None:
        self.capacity = self.level = capacity
        self._rate = capacity / 60
        self._at = 0.0

    def earliest(self, now: float, amount: float) -> float:
        """When `amount` is there; what is more than the bucket holds waits for a full one, where the original hangs."""
        self._flow(now)
        missing = min(amount, self.capacity) - self.level
        # A microsecond more: what a float loses must not be asked for again and again.
        return now + missing / self._rate + 1e-6 if missing > 1e-9 * self.capacity else now

    def take(self, now: float, amount: float) -> None:
        self._flow(now)
        self.level = min(self.capacity, self.level - amount)

    def _flow(self, now: float) -> None:
        self.level = min(self.capacity, self.level + (now - self._at) * self._rate)
        self._at = now


class Cookbook(Peer):
    """One loop that sends one request a turn where both buckets have room, and sleeps until 15 s after the last 429."""

    attempts = 5
    PAUSE_SECONDS = 15.0
    TURN_SECONDS = 0.001

    def __init__(self, rpm: int, tpm: int) -> None:
        self._requests, self._tokens = Bucket(rpm), Bucket(tpm)
        self._last_refused = -math.inf
        self._awake = 0.0

    def earliest(self, now: float, tokens: int) -> float:
        ready = max(self._requests.earliest(now, 1), self._tokens.earliest(now, tokens))
        if ready > now:
            ready = math.ceil(ready / self.TURN_SECONDS) * self.TURN_SECONDS
        return max(ready, self._awake)

    def sent(self, now: float, tokens: int) -> None:
        self._requests.take(now, 1)
        self._tokens.take(now, tokens)
        # One request goes out between two sleeps, also while 429s come in.
        self._awake = max(now + self.TURN_SECONDS, self._last_refused + self.PAUSE_SECONDS)

    def refused(self, now: float, sent: float, tries: int, hint: float | None) -> float:  # noqa: ARG002
        self._last_refused = now
        if now >= self._awake:
            self._awake = now + self.PAUSE_SECONDS
        return now


class FullBucket(Peer):
    """Exact waits for two buckets of a minute each; a 429 stops everybody for as long as it says, or for 10 s."""

    attempts = 5
    places = 1_000
    PAUSE_SECONDS = 10.0
    LONGEST_PAUSE_SECONDS = 120.0

    def __init__(self, rpm: int, tpm: int, *, refunds: bool = False) -> None:
        self._requests, self._tokens = Bucket(rpm), Bucket(tpm)
        self._refunds = refunds
        self._awake = 0.0

    def earliest(self, now: float, tokens: int) -> float:
        return max(self._awake, self._requests.earliest(now, 1), self._tokens.earliest(now, tokens))

    def sent(self, now: float, tokens: int) -> None:
        self._requests.take(now, 1)
        self._tokens.take(now, tokens)

    def accepted(self, now: float, reserved: int, used: int, tries: int) -> None:  # noqa: ARG002
        if self._refunds:
            self._tokens.take(now, used - reserved)

    def refused(self, now: float, sent: float, tries: int, hint: float | None) -> float:  # noqa: ARG002
        pause = self.PAUSE_SECONDS if hint is None else min(hint, self.LONGEST_PAUSE_SECONDS)
        self._awake = max(self._awake, now + pause)
        return self._awake


class Aimd(Peer):
    """Even spacing at a rate that halves once for each flight of 429s and grows by half the limit a minute."""

    def __init__(self, rpm: int, tpm: int) -> None:
        self._most = self._rate = rpm / 60
        self._tokens_per_second = tpm / 60
        self._grown_at = 0.0
        self._cut_at = -1.0
        self._due = 0.0

    def earliest(self, now: float, tokens: int) -> float:  # noqa: ARG002
        return max(now, self._due)

    def sent(self, now: float, tokens: int) -> None:
        self._rate = min(self._most, self._rate + (now - self._grown_at) * self._most / 120)
        self._grown_at = now
        self._due = max(self._due, now - 0.05) + max(1 / self._rate, tokens / self._tokens_per_second)

    def refused(self, now: float, sent: float, tries: int, hint: float | None) -> float:  # noqa: ARG002
        if sent > self._cut_at:
            self._cut_at = now
            self._rate = max(self._most / 50, self._rate / 2)
            self._due = max(self._due, now + 1 / self._rate)
        return now if hint is None else now + hint


class Semaphore(Peer):
    """Twice as many requests at once as the limit needs; each backs off alone, from a second to a minute, six tries in all."""

    attempts = 6
    holds_place = True
    MEAN_LATENCY_SECONDS = 15.5

    def __init__(self, rpm: int, _tpm: int, rng: random.Random) -> None:
        self.places = round(2 * rpm / 60 * self.MEAN_LATENCY_SECONDS)
        self._rng = rng

    def refused(self, now: float, sent: float, tries: int, hint: float | None) -> float:  # noqa: ARG002
        return now + max(hint or 0.0, self._rng.uniform(1, min(60, 2**tries)))


#: (requests a minute, tokens a minute, randomness) -> a peer
MakePeer = Callable[[int, int, random.Random], Peer]
PEERS: dict[str, MakePeer] = {
    "cookbook": lambda rpm, tpm, _: Cookbook(rpm, tpm),
    "full-bucket": lambda rpm, tpm, _: FullBucket(rpm, tpm),
    "full-bucket-refund": lambda rpm, tpm, _: FullBucket(rpm, tpm, refunds=True),
    "aimd": lambda rpm, tpm, _: Aimd(rpm, tpm),
    "semaphore": Semaphore,
}
