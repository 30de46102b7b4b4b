"""Requests on their way to the server and back, and the list of all that were sent."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from batchrunner import budget
from batchrunner.clock import NS_PER_SECOND
from batchrunner.simulator.limits import Accepted, Refused
from benchmarks.limiter.servers import Server
from benchmarks.limiter.timers import Timers
from benchmarks.limiter.workloads import Work

#: on the way there, and on the way back
DELAY_SECONDS = (0.010, 0.200)
#: how late a client's timers are
LATE_SECONDS = 0.005


class Send(msgspec.Struct):
    """One request, at the times when it left, reached the server, and was answered (-1: not yet)."""

    number: int
    sent_ns: int
    arrived_ns: int = -1
    accepted: bool = False
    replied_ns: int = -1


class Reply(msgspec.Struct, frozen=True):
    """What a client learns: accepted and done, or refused, perhaps with the wait that the server asks for.

    `hints`: what the headers of either say of the limits, as things stand when the answer leaves.
    """

    accepted: bool
    hint_ns: int | None = None
    hints: budget.Hints | None = None


OnReply = Callable[[Reply], None]


class Network:
    """Carries requests: each takes 10 to 200 ms to arrive, so that they overtake each other, and as long to be answered."""

    def __init__(self, timers: Timers, server: Server, jobs: Sequence[Work], rng: random.Random) -> None:
        self.jobs = jobs
        self.sends: list[Send] = []
        #: what the server's clock reads when the run begins
        self.phase_ns = server.phase_ns
        self._timers = timers
        self._server = server
        self._rng = rng

    def send(self, number: int, on_reply: OnReply) -> None:
        """Send a job's request now; `on_reply` is called with what comes back."""
        send = Send(number, self._timers.now_ns)
        self.sends.append(send)
        late_ns = round(self._rng.uniform(0, LATE_SECONDS) * NS_PER_SECOND)
        self._after(late_ns + self._delay_ns(), partial(self._arrive, send, on_reply))

    def _arrive(self, send: Send, on_reply: OnReply) -> None:
        send.arrived_ns = now_ns = self._timers.now_ns
        work = self.jobs[send.number]
        match self._server.arrive(now_ns, work.reserved):
            case Refused() as refused:
                reply = Reply(accepted=False, hint_ns=self._server.hint_ns(refused), hints=self._server.said(now_ns))
                self._after(self._delay_ns(), partial(self._reply, send, on_reply, reply))
            case accepted:
                send.accepted = True
                self._after(work.latency_ns, partial(self._end, send, on_reply, accepted))

    def _end(self, send: Send, on_reply: OnReply, accepted: Accepted) -> None:
        now_ns = self._timers.now_ns
        self._server.end(now_ns, accepted, self.jobs[send.number].used)
        reply = Reply(accepted=True, hints=self._server.said(now_ns))
        self._after(self._delay_ns(), partial(self._reply, send, on_reply, reply))

    def _reply(self, send: Send, on_reply: OnReply, reply: Reply) -> None:
        send.replied_ns = self._timers.now_ns
        on_reply(reply)

    def _after(self, delay_ns: int, call: Callable[[], None]) -> None:
        self._timers.at(self._timers.now_ns + delay_ns, call)

    def _delay_ns(self) -> int:
        return round(self._rng.uniform(*DELAY_SECONDS) * NS_PER_SECOND)
