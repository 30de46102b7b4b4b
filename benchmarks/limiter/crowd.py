"""Sends a file of jobs by a peer's rules."""

from __future__ import annotations

import heapq
import math
from functools import partial

from batchrunner.clock import NS_PER_SECOND
from benchmarks.limiter.network import Network, Reply
from benchmarks.limiter.peers import Peer
from benchmarks.limiter.timers import Timers


class Crowd:
    """A queue of jobs: what was refused goes first, once its wait is over, then the file. `lost`: jobs that were given up."""

    def __init__(self, timers: Timers, network: Network, peer: Peer) -> None:
        self.lost = 0
        self._timers = timers
        self._network = network
        self._peer = peer
        self._fresh = iter(range(len(network.jobs)))
        self._next: int | None = next(self._fresh, None)
        self._again: list[tuple[int, int]] = []
        self._tries = [0] * len(network.jobs)
        self._busy = 0
        self._turns = 0

    def turn(self) -> None:
        """Send all that may go now, and come back when the next may."""
        self._turns += 1
        while True:
            now = self._timers.now_ns / NS_PER_SECOND
            free = self._busy + (len(self._again) if self._peer.holds_place else 0) < self._peer.places
            if self._again and self._again[0][0] <= self._timers.now_ns and self._busy < self._peer.places:
                number = self._again[0][1]
            elif self._next is not None and free:
                number = self._next
            else:
                break
            work = self._network.jobs[number]
            due_ns = math.floor(self._peer.earliest(now, work.reserved) * NS_PER_SECOND)
            if due_ns > self._timers.now_ns:
                self._come_back(due_ns)
                return
            self._send(number, now)
        if self._again and self._busy < self._peer.places:
            self._come_back(self._again[0][0])

    def _send(self, number: int, now: float) -> None:
        if number == self._next:
            self._next = next(self._fresh, None)
        else:
            heapq.heappop(self._again)
        self._busy += 1
        self._peer.sent(now, self._network.jobs[number].reserved)
        self._network.send(number, partial(self._replied, number, now))

    def _replied(self, number: int, sent: float, reply: Reply) -> None:
        now = self._timers.now_ns / NS_PER_SECOND
        self._busy -= 1
        if reply.accepted:
            work = self._network.jobs[number]
            self._peer.accepted(now, work.reserved, work.used, self._tries[number])
        else:
            self._tries[number] += 1
            hint = None if reply.hint_ns is None else reply.hint_ns / NS_PER_SECOND
            due = self._peer.refused(now, sent, self._tries[number], hint)
            if due is None or self._tries[number] == self._peer.attempts:
                self.lost += 1
            else:
                heapq.heappush(self._again, (math.ceil(due * NS_PER_SECOND), number))
        self.turn()

    def _come_back(self, at_ns: int) -> None:
        self._timers.at(at_ns, partial(self._turn_if, self._turns))

    def _turn_if(self, turns: int) -> None:
        """Only where nothing has made another turn meanwhile: that one knows better when to come back."""
        if turns == self._turns:
            self.turn()
