"""What goes wrong for a quarter of an hour: the limit is halved, or somebody else takes half of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from batchrunner.clock import NS_PER_SECOND
from batchrunner.simulator.limits import Refused
from benchmarks.limiter.servers import Server
from benchmarks.limiter.timers import Timers

#: `stranger-gives-up`: its refused requests are not sent again. Where rejects count, nobody gets by one that insists.
Strain = Literal["halved", "stranger", "stranger-gives-up"]

STRAIN_BEGINS_NS = 600 * NS_PER_SECOND
STRAIN_ENDS_NS = 1_500 * NS_PER_SECOND
#: how soon a stranger asks again for what it was refused
RETRY_NS = NS_PER_SECOND
STRANGERS_TOKENS = 1_000


def halved(timers: Timers, server: Server, rpm: int) -> None:
    """Half of the limit, then all of it again."""
    timers.at(STRAIN_BEGINS_NS, lambda: server.change(timers.now_ns, rpm // 2))
    timers.at(STRAIN_ENDS_NS, lambda: server.change(timers.now_ns, rpm))


class Stranger:
    """Another program on the account: evenly spaced requests for half of the limit, the refused ones first in line again."""

    def __init__(self, timers: Timers, server: Server, rpm: int, *, insists: bool) -> None:
        self._timers = timers
        self._server = server
        self._interval_ns = 60 * NS_PER_SECOND * 2 // rpm
        self._insists = insists
        self._due_ns = STRAIN_BEGINS_NS
        timers.at(self._due_ns, self._turn)

    def _turn(self) -> None:
        now_ns = self._timers.now_ns
        while self._due_ns <= now_ns < STRAIN_ENDS_NS:
            answer = self._server.arrive(now_ns, STRANGERS_TOKENS)
            if isinstance(answer, Refused) and self._insists:
                self._timers.at(now_ns + RETRY_NS, self._turn)
                return
            self._due_ns += self._interval_ns
        if now_ns < STRAIN_ENDS_NS:
            self._timers.at(self._due_ns, self._turn)


def _stranger(timers: Timers, server: Server, rpm: int, *, insists: bool) -> None:
    Stranger(timers, server, rpm, insists=insists)


STRAINS: dict[Strain, Callable[[Timers, Server, int], None]] = {
    "halved": halved,
    "stranger": partial(_stranger, insists=True),
    "stranger-gives-up": partial(_stranger, insists=False),
}
