"""The AWS SDK's adaptive retry mode: a bucket whose rate follows a cubic of the time since the last 429.

After botocore's `retries` package: nothing is held back before the first 429; then each request waits for the bucket, whose
rate the last throttle sets to 0.7 of what was measured, and which grows past that as TCP CUBIC does, up to twice the measured
rate and never below one in two seconds. Three tries, and a purse of 500 for retries, at 5 each.
"""

from __future__ import annotations

import math
import random

from benchmarks.limiter.peers import Peer

BETA = 0.7
SCALE = 0.4
SMOOTHING = 0.8
LEAST_RATE = 0.5
PURSE = 500
RETRY_COST = 5
LONGEST_BACKOFF_SECONDS = 20


class Adaptive(Peer):
    """As many threads as keep the limit busy, one client."""

    attempts = 3
    holds_place = True

    def __init__(self, rpm: int, _tpm: int, rng: random.Random) -> None:
        self.places = 2 * rpm
        self._rng = rng
        self._purse = PURSE
        self._enabled = False
        # the bucket
        self._rate, self._capacity, self._level, self._flowed_at = 1.0, 1.0, 0.0, 0.0
        # the cubic
        self._peak, self._zero_point, self._last_fail = 0.0, 0.0, 0.0
        # the measured rate, by half seconds
        self._measured, self._half_second, self._count = 0.0, 0.0, 0

    def earliest(self, now: float, tokens: int) -> float:  # noqa: ARG002
        if not self._enabled:
            return now
        self._flow(now)
        return now if self._level >= 1 - 1e-9 else now + (1 - self._level) / self._rate + 1e-6

    def sent(self, now: float, tokens: int) -> None:  # noqa: ARG002
        if self._enabled:
            self._flow(now)
            self._level -= 1

    def accepted(self, now: float, reserved: int, used: int, tries: int) -> None:  # noqa: ARG002
        self._purse = min(PURSE, self._purse + (RETRY_COST if tries else 1))
        self._measure(now)
        self._set_rate(now, SCALE * (now - self._last_fail - self._zero_point) ** 3 + self._peak)

    def refused(self, now: float, sent: float, tries: int, hint: float | None) -> float | None:  # noqa: ARG002
        self._measure(now)
        self._peak = min(self._measured, self._rate) if self._enabled else self._measured
        self._zero_point = (self._peak * (1 - BETA) / SCALE) ** (1 / 3)
        self._last_fail = now
        self._enabled = True
        self._set_rate(now, self._peak * BETA)
        if self._purse < RETRY_COST:
            return None
        self._purse -= RETRY_COST
        return now + min(self._rng.random() * 2.0 ** (tries - 1), LONGEST_BACKOFF_SECONDS)

    def _set_rate(self, now: float, rate: float) -> None:
        self._flow(now)
        rate = min(rate, 2 * self._measured)
        self._rate = max(rate, LEAST_RATE)
        self._capacity = max(rate, 1.0)
        self._level = min(self._level, self._capacity)

    def _flow(self, now: float) -> None:
        self._level = min(self._capacity, self._level + (now - self._flowed_at) * self._rate)
        self._flowed_at = now

    def _measure(self, now: float) -> None:
        half_second = math.floor(now * 2) / 2
        self._count += 1
        if half_second > self._half_second:
            rate = self._count / (half_second - self._half_second)
            self._measured = rate * SMOOTHING + self._measured * (1 - SMOOTHING)
            self._count = 0
            self._half_second = half_second
