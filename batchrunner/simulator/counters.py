"""What a test wants to know about a simulated platform afterwards."""

from __future__ import annotations

from collections import Counter, deque
from decimal import Decimal

import msgspec

from batchrunner.simulator.ledger import exact_number
from batchrunner.simulator.settings import WindowShape
from batchrunner.simulator.windows import SECOND_NS, WINDOW_NS

#: of how many billed requests an account remembers what they were, to notice one that is billed again
KEPT_IDENTITIES = 1_000_000


class AccountStatistics(msgspec.Struct, frozen=True):
    """What one account's requests came to: all counts are since the start."""

    #: let in by the windows
    accepted: int
    #: turned away by the windows, by the one that was full: "requests", "tokens"
    rejected_by: dict[str, int]
    #: the most that was ever accepted within any 60 s (sliding), and within a minute, ten seconds, a second of the clock
    peak_requests: dict[str, int]
    #: the same of the tokens that accepted requests turned out to take, each counted when it ended
    peak_tokens: dict[str, int]
    billed: int
    billed_usd: msgspec.Raw
    #: bills for what had been billed before: for a job that names itself (`metadata.custom_id`, tag), else for the same body
    doubles: int
    #: answers that were sent again for an Idempotency-Key, at no cost
    replays: int
    #: requests of other programs on this account, which no other count contains
    foreign_accepted: int
    foreign_rejected: int


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
    doubles: int
    replays: int
    #: by kind; "ok" is left out
    faults: dict[str, int]
    #: of answers that were meant to be whole
    statuses: dict[str, int]
    connections_open: int
    connections_opened: int
    #: by name
    accounts: dict[str, AccountStatistics]


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


class Peaks:
    """The highest sums in windows of each kind: any 60 s, and a minute, ten seconds, a second of the clock."""

    def __init__(self) -> None:
        self.sliding = SlidingSum()
        self._second = -1
        #: since the last edge of a minute, of ten seconds, of a second; and the highest of those that are over
        self._sums = [0, 0, 0]
        self._peaks = [0, 0, 0]

    def add(self, now_ns: int, amount: int) -> None:
        self.sliding.add(now_ns, amount)
        second = now_ns // SECOND_NS
        if second != self._second:
            self._turn(second)
        sums = self._sums
        sums[0] += amount
        sums[1] += amount
        sums[2] += amount

    def shown(self) -> dict[str, int]:
        minute, ten_seconds, second = map(max, self._peaks, self._sums)
        return {
            WindowShape.SLIDING.value: self.sliding.peak,
            WindowShape.CALENDAR.value: minute,
            WindowShape.TEN_SECONDS.value: ten_seconds,
            WindowShape.SECONDS.value: second,
        }

    def _turn(self, second: int) -> None:
        for place, span_seconds in enumerate((60, 10, 1)):
            if second // span_seconds != self._second // span_seconds:
                self._peaks[place] = max(self._peaks[place], self._sums[place])
                self._sums[place] = 0
        self._second = second


class AccountCounts:
    """Counts as an account's requests pass."""

    def __init__(self) -> None:
        self.accepted = 0
        self.rejected_by: Counter[str] = Counter()
        self.requests = Peaks()
        self.tokens = Peaks()
        self.billed = 0
        self.billed_usd = Decimal(0)
        self.doubles = 0
        self.replays = 0
        self.foreign_accepted = 0
        self.foreign_rejected = 0
        #: in the order in which they were first billed; the older half goes where there are too many
        self._identities: dict[int, None] = {}

    def bill(self, identity: str | bytes, cost_usd: Decimal) -> None:
        """Count a bill; `identity` is what two bills for the same thing have in common."""
        self.billed += 1
        self.billed_usd += cost_usd
        mark = hash(identity)  # eight bytes of the string's: that two of a million agree is a matter of 1 in 10 million
        if mark in self._identities:
            self.doubles += 1
        elif len(self._identities) >= KEPT_IDENTITIES:
            self._identities = dict.fromkeys(list(self._identities)[KEPT_IDENTITIES // 2 :])
        self._identities[mark] = None

    def statistics(self) -> AccountStatistics:
        return AccountStatistics(
            accepted=self.accepted,
            rejected_by=dict(self.rejected_by),
            peak_requests=self.requests.shown(),
            peak_tokens=self.tokens.shown(),
            billed=self.billed,
            billed_usd=exact_number(self.billed_usd),
            doubles=self.doubles,
            replays=self.replays,
            foreign_accepted=self.foreign_accepted,
            foreign_rejected=self.foreign_rejected,
        )


class Counters:
    """Counts as requests pass."""

    def __init__(self) -> None:
        self.requests = 0
        self.accepted = SlidingSum()
        self.tokens = SlidingSum()
        self.in_flight = 0
        self.peak_in_flight = 0
        #: lines of the ledger
        self.entries = 0
        self.faults: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.connections_open = 0
        self.connections_opened = 0
        self._accounts: dict[str, AccountCounts] = {}

    def account(self, name: str) -> AccountCounts:
        """The counts of an account, which are part of these."""
        counts = self._accounts.setdefault(name, AccountCounts())
        if len(self._accounts) == 1:
            # What is the same need not be summed twice.
            self.accepted, self.tokens = counts.requests.sliding, counts.tokens.sliding
        else:
            self.accepted, self.tokens = SlidingSum(), SlidingSum()
        return counts

    @property
    def accepted_count(self) -> int:
        return sum(counts.accepted for counts in self._accounts.values())

    @property
    def billed(self) -> int:
        return sum(counts.billed for counts in self._accounts.values())

    @property
    def billed_usd(self) -> Decimal:
        return sum((counts.billed_usd for counts in self._accounts.values()), Decimal(0))

    def arrive(self) -> int:
        """The number of this arrival, from 0."""
        self.requests += 1
        return self.requests - 1

    def start(self, now_ns: int, account: AccountCounts) -> None:
        """A request was let in."""
        account.accepted += 1
        account.requests.add(now_ns, 1)
        if len(self._accounts) > 1:
            self.accepted.add(now_ns, 1)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def spend(self, now_ns: int, account: AccountCounts, tokens: int) -> None:
        """A request that was let in has taken `tokens`."""
        account.tokens.add(now_ns, tokens)
        if len(self._accounts) > 1:
            self.tokens.add(now_ns, tokens)

    def statistics(self) -> Statistics:
        counts = self._accounts.values()
        rejected_by = sum((account.rejected_by for account in counts), Counter[str]())
        return Statistics(
            requests=self.requests,
            accepted=self.accepted_count,
            rejected=rejected_by.total(),
            rejected_by=dict(rejected_by),
            peak_accepted_per_minute=self.accepted.peak,
            peak_tokens_per_minute=self.tokens.peak,
            in_flight=self.in_flight,
            peak_in_flight=self.peak_in_flight,
            billed=self.billed,
            billed_usd=exact_number(self.billed_usd),
            doubles=sum(account.doubles for account in counts),
            replays=sum(account.replays for account in counts),
            faults=dict(self.faults),
            statuses=dict(self.statuses),
            connections_open=self.connections_open,
            connections_opened=self.connections_opened,
            accounts={name: account.statistics() for name, account in self._accounts.items()},
        )
