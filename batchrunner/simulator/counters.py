"""What a test wants to know about a simulated platform afterwards."""

from __future__ import annotations

from collections import Counter, deque
from decimal import Decimal

import msgspec

from batchrunner.simulator.ledger import exact_number
from batchrunner.simulator.windows import WINDOW_NS


class Statistics(msgspec.Struct, frozen=True):
    """A snapshot: all counts are since the start."""

    #: POSTs to a model's endpoint
    requests: int
    #: of these, let in by the windows
    accepted: int
    #: turned away by the windows; spurious 429s are under `faults`
    rejected: int
    #: of the rejected, by the window that was full: "requests", "tokens"
    rejected_by: dict[str, int]
    #: the most that was ever accepted within any 60 s
    peak_accepted_per_minute: int
    #: the most tokens that accepted requests turned out to take within any 60 s, each counted when it ended
    peak_tokens_per_minute: int
    #: being worked on
    in_flight: int
    peak_in_flight: int
    billed: int
    billed_usd: msgspec.Raw
    #: by kind; "ok" is left out
    faults: dict[str, int]
    #: of answers that were meant to be whole
    statuses: dict[str, int]
    connections_open: int
    connections_opened: int


class SlidingSum:
    """The sum of what came within the last 60 s, and the highest that it ever was."""

    def __init__(self) -> None:
        self.peak = 0
        self._sum = 0
        self._log: deque[tuple[int, int]] = deque()

    def add(self, now_ns: int, amount: int) -> None:
        log = self._log
        while log and log[0][0] + WINDOW_NS <= now_ns:
            self._sum -= log.popleft()[1]
        log.append((now_ns, amount))
        self._sum += amount
        self.peak = max(self.peak, self._sum)


class Counters:
    """Counts as requests pass."""

    def __init__(self) -> None:
        self.requests = 0
        self.accepted = SlidingSum()
        self.accepted_count = 0
        self.tokens = SlidingSum()
        self.rejected_by: Counter[str] = Counter()
        self.in_flight = 0
        self.peak_in_flight = 0
        self.billed = 0
        self.billed_usd = Decimal(0)
        self.faults: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.connections_open = 0
        self.connections_opened = 0

    def arrive(self) -> int:
        """The number of this arrival, from 0."""
        self.requests += 1
        return self.requests - 1

    def start(self, now_ns: int) -> None:
        """A request was let in."""
        self.accepted_count += 1
        self.accepted.add(now_ns, 1)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def statistics(self) -> Statistics:
        return Statistics(
            requests=self.requests,
            accepted=self.accepted_count,
            rejected=self.rejected_by.total(),
            rejected_by=dict(self.rejected_by),
            peak_accepted_per_minute=self.accepted.peak,
            peak_tokens_per_minute=self.tokens.peak,
            in_flight=self.in_flight,
            peak_in_flight=self.peak_in_flight,
            billed=self.billed,
            billed_usd=exact_number(self.billed_usd),
            faults=dict(self.faults),
            statuses=dict(self.statuses),
            connections_open=self.connections_open,
            connections_opened=self.connections_opened,
        )
