"""What is offered to the budget beside the job whose turn it is, and what that one is promised.

Only where it can matter: while some job of late could take more than a hundredth of a minute's tokens. Else the order of a file
is as good as any, and no job is looked at before its turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from batchrunner import budget
from batchrunner.fair import FairQueue
from batchrunner.job import RequestSize, Usage

#: jobs that are looked at past the one whose turn it is
AHEAD: Final = 63
#: A job that can take more than this part of a minute's tokens is large.
LARGE_DIVISOR: Final = 100
#: Bodies are read for it: so many at a time, so that nobody waits for long.
SIZED_AT_ONCE: Final = 8
#: Other accounts send jobs that were looked at here, and nobody tells: beyond so many, all but what is in sight is forgotten.
MOST_KEPT: Final = 4 * AHEAD
#: What goes before a job can make it wait for so much longer, in all.
PROMISE_NS: Final = 5_000_000_000


def offer_of(size: RequestSize, predicted: Usage) -> budget.Offer:
    """A request as the budget sees it."""
    output = predicted.output_tokens if size.output_cap_tokens is None else size.output_cap_tokens
    return budget.Offer(predicted.total_tokens, predicted.input_tokens + output)


class _Promise(msgspec.Struct):
    """Of a job whose turn has come."""

    passed: int = 0
    spare_ns: int = PROMISE_NS


class Offered(msgspec.Struct, frozen=True):
    """Jobs that could go now, by number, and the question to the budget which of them does."""

    numbers: tuple[int, ...]
    take: budget.Take


class LookAhead:
    """Keeps the sizes of jobs that were looked at before their turn, and the promises to those whose turn has come.

    `size` reads and sizes up a job, or says (None) that it goes in its turn alone; it is asked once for each. `expect` says what
    a request of this size will take, or (None) that it may not be sent now.
    """

    def __init__(
        self,
        queue: FairQueue,
        size: Callable[[int], RequestSize | None],
        expect: Callable[[RequestSize], Usage | None],
        *,
        tpm: int,
    ) -> None:
        self._queue = queue
        self._size = size
        self._expect = expect
        self._tpm = tpm
        self._sizes: dict[int, RequestSize | None] = {}
        self._promises: dict[int, _Promise] = {}
        #: admissions for which there is still reason to look ahead
        self._reasons = 0

    def adopt(self, tpm: int) -> None:
        """Jobs are large or small beside another limit from now on."""
        self._tpm = tpm

    def offered(self, number: int, offer: budget.Offer, slot: int, *, alone: bool, only: bool = False) -> Offered:
        """The job whose turn it is, and what could go instead of it; with `only` nothing could."""
        if offer.reserved_tokens * LARGE_DIVISOR > self._tpm > 0:
            self._reasons = AHEAD + 1
        if only or not self._reasons:
            return Offered((number,), budget.Take(slot, (offer,), alone))
        behind, others = self._queue.beside(number, AHEAD)
        if len(self._sizes) > MOST_KEPT or len(self._promises) > MOST_KEPT:
            self._keep_only({number, *behind, *others})
        found = self._sized(behind)
        equals = 1 + len(found)
        found += self._sized(others)
        promise = self._promises.get(number) or _Promise()
        numbers, offers = zip((number, offer), *found, strict=True)
        return Offered(numbers, budget.Take(slot, offers, alone, equals, promise.passed, promise.spare_ns))

    def gone(self, number: int) -> None:
        """A job was sent, or is not in the queue's way any more."""
        if self._reasons:
            self._reasons -= 1
            self._sizes.pop(number, None)
            self._promises.pop(number, None)
            if not self._reasons:
                self._sizes.clear()
                self._promises.clear()

    def passed(self, number: int, delay_ns: int) -> None:
        """Another job went instead of this one, whose turn it was."""
        promise = self._promises.setdefault(number, _Promise())
        promise.passed += 1
        promise.spare_ns -= delay_ns

    def _keep_only(self, numbers: set[int]) -> None:
        self._sizes = {number: size for number, size in self._sizes.items() if number in numbers}
        self._promises = {number: promise for number, promise in self._promises.items() if number in numbers}

    def _sized(self, numbers: list[int]) -> list[tuple[int, budget.Offer]]:
        """Those that may be sent, as far as they were looked at."""
        found = []
        unread = SIZED_AT_ONCE
        for number in numbers:
            if number not in self._sizes:
                if not unread:
                    break
                unread -= 1
                self._sizes[number] = self._size(number)
            size = self._sizes[number]
            predicted = None if size is None else self._expect(size)
            if size is not None and predicted is not None:
                found.append((number, offer_of(size, predicted)))
        return found
