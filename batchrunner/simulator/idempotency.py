"""Idempotency-Key, honoured as payment services do: what was asked once with a key is done once, and told again.

A key belongs to an account and to one request, path and body. While that request is being worked on, another one with its
key gets 409 and no queue is kept; a key that comes with another request gets 400; a day later it is forgotten. What is told
again is the platform's own answer, whole, also where the first time it broke on the way; errors of the platform are told
again as well. A request that was turned away before any work (401, 402, 409, 429 ...), and work that came to nothing and was not
billed (an outage), leave the key free.

Pure: `now_ns` is an argument that never goes back. What answers are is the caller's affair.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from batchrunner.simulator.asks import Refusal

KEPT_NS = 24 * 3_600 * 1_000_000_000
#: more than these, and the oldest is forgotten before its time
MAX_KEPT = 50_000

T = TypeVar("T")
#: account and Idempotency-Key
Key = tuple[str, str]


class _Kept(Generic[T]):
    __slots__ = ("answer", "at_ns", "fingerprint")

    def __init__(self, at_ns: int, fingerprint: int) -> None:
        self.at_ns = at_ns
        self.fingerprint = fingerprint
        #: None while it is being worked on
        self.answer: T | None = None


class Replays(Generic[T]):
    """The answers by account and key."""

    def __init__(self) -> None:
        #: oldest first
        self._kept: dict[Key, _Kept[T]] = {}

    def find(self, now_ns: int, key: Key, fingerprint: int) -> T | None:
        """The answer to tell again, if any.

        Raises: Refusal, 409 while the first request is being worked on, 400 where it was not the same (`fingerprint`).
        """
        self._forget_old(now_ns)
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.fingerprint != fingerprint:
            raise Refusal(400, "idempotency_error", "This Idempotency-Key was first used for another request.")
        if kept.answer is None:
            raise Refusal(409, "idempotency_key_in_use", "A request with this Idempotency-Key is being worked on.")
        return kept.answer

    def begin(self, now_ns: int, key: Key, fingerprint: int) -> None:
        """Work on a request that `find` knew nothing of has begun."""
        self._kept[key] = _Kept(now_ns, fingerprint)

    def keep(self, key: Key, answer: T) -> None:
        """It has come to an answer."""
        if key in self._kept:  # else a day has gone by meanwhile
            self._kept[key].answer = answer

    def end(self, key: Key) -> None:
        """It has ended: where no answer was kept, it may be tried again."""
        if key in self._kept and self._kept[key].answer is None:
            del self._kept[key]

    def _forget_old(self, now_ns: int) -> None:
        while self._kept:
            oldest, kept = next(iter(self._kept.items()))
            if kept.at_ns + KEPT_NS > now_ns and len(self._kept) <= MAX_KEPT:
                return
            del self._kept[oldest]
