"""The greedy client that knows all of a server's state and has no network in between: what the others are measured by."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import msgspec

from batchrunner.simulator.limits import Accepted, Refused
from batchrunner.simulator.windows import SlidingLog
from benchmarks.limiter.network import Send
from benchmarks.limiter.servers import Server
from benchmarks.limiter.workloads import Work

#: it looks for a job that fits among so many
LOOK_AHEAD = 64


class Passage(msgspec.Struct, frozen=True):
    """When the last job was let in, and when the last one ended."""

    admitted_ns: int
    finished_ns: int


def left_of(server: Server, accepted: Sequence[Send], rpm: int, begins_ns: int, ends_ns: int) -> int:
    """How many requests are let in between two moments of who asks whenever there is room, at `rpm` from the first of them on,
    once those that were accepted before are counted. They are small, so that tokens do not matter.
    """
    for send in accepted:
        if send.arrived_ns < begins_ns:
            server.arrive(send.arrived_ns, 1)
    server.change(begins_ns, rpm)
    now_ns, count = begins_ns, 0
    while now_ns < ends_ns:
        match server.arrive(now_ns, 1):
            case Refused(retry_after_ns):
                now_ns += retry_after_ns
            case _:
                count += 1
    return count


def passage(server: Server, jobs: Sequence[Work], *, look_ahead: int = 1, own_rpm: int = 0) -> Passage:
    """Send each job the moment that the server lets one of the first `look_ahead` in.

    `own_rpm`: never more sends than this in any 60 s, whatever the server would take (0: no such promise).
    """
    own = SlidingLog(own_rpm) if own_rpm else None
    waiting = list(reversed(jobs))
    ends: list[tuple[int, int, Accepted, Work]] = []
    now_ns = admitted_ns = finished_ns = 0
    while waiting:
        while ends and ends[0][0] <= now_ns:
            end_ns, _, accepted, work = heapq.heappop(ends)
            server.end(end_ns, accepted, work.used)
        wait_ns = own.wait_ns(now_ns, 1) if own else 0
        if wait_ns == 0:
            found = _let_in(server, waiting, now_ns, look_ahead)
            if isinstance(found, int):
                wait_ns = found
            else:
                accepted, work = found
                if own:
                    own.take(now_ns, 1)
                admitted_ns = now_ns
                finished_ns = max(finished_ns, now_ns + work.latency_ns)
                heapq.heappush(ends, (now_ns + work.latency_ns, len(waiting), accepted, work))
                continue
        # What ends may give something back.
        now_ns = min(now_ns + wait_ns, ends[0][0]) if ends else now_ns + wait_ns
    return Passage(admitted_ns, finished_ns)


def _let_in(server: Server, waiting: list[Work], now_ns: int, look_ahead: int) -> tuple[Accepted, Work] | int:
    """The first job that fits, taken out of the list; else how long until one will."""
    wait_ns: int | None = None
    asked: set[int] = set()
    for place in range(len(waiting) - 1, max(-1, len(waiting) - 1 - look_ahead), -1):
        work = waiting[place]
        if work.reserved in asked:
            continue
        asked.add(work.reserved)
        match server.arrive(now_ns, work.reserved):
            case Refused(retry_after_ns):
                wait_ns = retry_after_ns if wait_ns is None else min(wait_ns, retry_after_ns)
            case accepted:
                del waiting[place]
                return accepted, work
    assert wait_ns is not None
    return wait_ns
