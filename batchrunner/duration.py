"""How long jobs will take, and what makes them take so long, where nothing is refused and the server answers.

The pace is the budget's own (`budget/pacer`): one request every (60 + J) / N seconds, a small file as fast as it may, tokens
with a quarter of a minute's at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from batchrunner.budget.pacer import (
    FAST_START_DOUBLES_AFTER,
    FAST_START_SPEED,
    NS,
    SAFE_WINDOW_NS,
    TOKEN_BURST_DIVISOR,
)
from batchrunner.budget.steps import FAST_START_MINUTES
from batchrunner.estimate import Latency

_MINUTE_SECONDS: Final = SAFE_WINDOW_NS / NS

Binding = Literal["requests", "tokens", "in_flight", "latency"]


class Work(msgspec.Struct, frozen=True):
    """What is to be done under one account."""

    jobs: int
    #: input and output together, as expected
    tokens: float
    #: of answers; None where nothing is known of them
    latency: Latency | None = None
    #: jobs that take more than a minute's tokens, and go alone
    oversize: int = 0


class Limits(msgspec.Struct, frozen=True):
    """Requests and tokens a minute, and requests in flight; 0 is no limit."""

    rpm: int
    tpm: int
    max_in_flight: int


class Duration(msgspec.Struct, frozen=True):
    seconds: float
    #: what binds; `latency`: nothing but the time of an answer
    binding: Binding


def duration(work: Work, limits: Limits) -> Duration:
    """From the first request to the last answer."""
    latency = work.latency.mean if work.latency is not None else 0.0
    if not work.jobs:
        return Duration(0.0, "latency")
    starts: dict[Binding, float] = {
        "latency": 0.0,
        "requests": _by_requests(work.jobs, limits.rpm),
        "tokens": _by_tokens(work, limits.tpm),
        "in_flight": max(0, work.jobs - limits.max_in_flight) / limits.max_in_flight * latency if limits.max_in_flight else 0.0,
    }
    binding = max(starts, key=lambda name: starts[name])
    return Duration(starts[binding] + _last_answer(work, starts[binding]), binding)


def shared(bound: Sequence[Work], free: Work, limits: Sequence[Limits]) -> list[Duration]:
    """The same for several accounts: each has work that is bound to it, and `free` goes to whichever can take it.

    Free work fills the accounts up as water does, so that they end together as far as that is possible.
    """
    longest = max([0.0, *(duration(_and(work, free, 1.0), limit).seconds for work, limit in zip(bound, limits, strict=True))])
    low, high = 0.0, longest
    for _ in range(50):
        middle = (low + high) / 2
        if sum(_room(work, free, limit, middle) for work, limit in zip(bound, limits, strict=True)) >= 1:
            high = middle
        else:
            low = middle
    rooms = [_room(work, free, limit, high) for work, limit in zip(bound, limits, strict=True)]
    whole = sum(rooms) or 1.0
    return [duration(_and(work, free, room / whole), limit) for work, limit, room in zip(bound, limits, rooms, strict=True)]


def _last_answer(work: Work, last_start: float) -> float:
    """How long after the last start the last answer comes: the more are under way by then, the slower is the slowest of them.

    The longest of k waits grows about as ln k, for the tails that latencies have.
    """
    if work.latency is None:
        return 0.0
    mean, slowest, known = work.latency.mean, work.latency.slowest, work.latency.answers
    # Those that began within the last answer's time, of which half have had half of theirs.
    under_way = work.jobs * min(1.0, mean / last_start if last_start else 1.0) / 2
    if under_way <= 1 or known < 2:
        return mean
    return mean + max(0.0, slowest - mean) * min(1.0, math.log(under_way) / math.log(known))


def _by_requests(jobs: int, rpm: int) -> float:
    """When the last of so many requests may start."""
    if not rpm:
        return 0.0
    interval = _MINUTE_SECONDS / rpm
    if jobs > FAST_START_MINUTES * rpm:
        return (jobs - 1) * interval
    minutes, rest = divmod(jobs - 1, rpm)
    # The sum of T / (5 (1 + k / 0.16 N)) over k.
    ease = max(1.0, rpm * FAST_START_DOUBLES_AFTER[0] / FAST_START_DOUBLES_AFTER[1])
    return minutes * _MINUTE_SECONDS + interval * ease / FAST_START_SPEED * math.log1p(rest / ease)


def _by_tokens(work: Work, tpm: int) -> float:
    """When the tokens of the last request are there."""
    if not tpm:
        return 0.0
    at_once = tpm / TOKEN_BURST_DIVISOR
    return max(0.0, work.tokens - at_once) / tpm * _MINUTE_SECONDS + work.oversize * _MINUTE_SECONDS


def _room(bound: Work, free: Work, limits: Limits, seconds: float) -> float:
    """The share of the free work that an account can take and still be done by then."""
    low, high = 0.0, 1.0
    if duration(_and(bound, free, high), limits).seconds <= seconds:
        return high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if duration(_and(bound, free, middle), limits).seconds <= seconds else (low, middle)
    return low


def _and(bound: Work, free: Work, share: float) -> Work:
    """What is bound, and a share of what is free. Latencies are weighed by jobs."""
    jobs = bound.jobs + round(free.jobs * share)
    latency = weighed((work.latency, work.jobs) for work in (bound, free))
    return Work(jobs, bound.tokens + free.tokens * share, latency, bound.oversize + round(free.oversize * share))


def weighed(latencies: Iterable[tuple[Latency | None, int]]) -> Latency | None:
    """Latencies of several kinds of jobs taken together, each with the number of its jobs; None where none is known."""
    known = [(latency, jobs) for latency, jobs in latencies if latency is not None and jobs]
    jobs = sum(count for _, count in known)
    if not jobs:
        return None
    mean = math.fsum(latency.mean * count for latency, count in known) / jobs
    slowest = max((latency for latency, _ in known), key=lambda latency: latency.slowest)
    return Latency(mean, slowest.slowest, slowest.answers)
