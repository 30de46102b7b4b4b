"""Others who use the account as we do: each of their requests is drawn from those that the account has lately made.

Whoever looks at the usage events cannot tell theirs from ours by anything but what was asked when; the ledger can, by `owner`.
They take from the same limits and are paid from the same balance. (`foreign` has programs that only use up the limits.)
"""

from __future__ import annotations

import heapq
from collections import deque
from decimal import Decimal
from typing import NamedTuple

import msgspec

from batchrunner.simulator import hosted
from batchrunner.simulator.asks import Ask
from batchrunner.simulator.counters import Counters
from batchrunner.simulator.draws import Draws
from batchrunner.simulator.faults import Content, Fault
from batchrunner.simulator.ledger import NO_TOKENS, Cost, Entry, Ledger, Tokens, exact_number
from batchrunner.simulator.limits import Refused
from batchrunner.simulator.plan import SeededPlan, is_billed
from batchrunner.simulator.replies import complete
from batchrunner.simulator.settings import Settings
from batchrunner.simulator.usage import NS_PER_SECOND, Account, UsageEvent

#: requests of the account that a stranger's is drawn from
REMEMBERED = 1_000
#: it ends within this time after the request that it was drawn at
WITHIN_NS = 30 * NS_PER_SECOND
#: whose events they are, as the ledger has it
STRANGER, PLAYGROUND = "stranger", "playground"

# What the numbers that are drawn for a request are used for; see `draws`.
_COMES, _WHEN, _WHICH, _WHOSE = range(4)


class _Visit(NamedTuple):
    """A stranger's request, at the moment at which it is let in, done and billed."""

    at_ns: int
    #: from 0; no two have the same one
    number: int
    account: Account
    ask: Ask
    owner: str


class Strangers:
    """Draws strangers' requests, and deals with those that are due. The same requests of ours draw the same of theirs."""

    def __init__(self, settings: Settings, counters: Counters, ledger: Ledger) -> None:
        self._settings = settings
        self._counters = counters
        self._ledger = ledger
        self._seed = settings.seed + 1
        # Their faults are chance alone: scripts and rules are about requests that somebody wrote.
        self._plan = SeededPlan(msgspec.structs.replace(settings, seed=self._seed, script=(), rules=()))
        self._lately: dict[str, deque[Ask]] = {}
        #: a heap
        self._due: list[_Visit] = []

    def see(self, now_ns: int, arrival: int, account: Account, ask: Ask) -> None:
        """A request of the account was let in: as many strangers' come of it as the rate says."""
        rate = self._settings.strangers
        if not rate:
            return
        lately = self._lately.setdefault(account.name, deque(maxlen=REMEMBERED))
        lately.append(ask)
        sure = int(rate)
        for one in range(sure + 1):
            number = arrival * (sure + 1) + one
            draws = Draws(self._seed, b"stranger", number.to_bytes(8, "big"))
            if one == sure and draws.uniform(_COMES) >= rate - sure:
                return
            at_ns = now_ns + int(draws.uniform(_WHEN) * WITHIN_NS)
            owner = PLAYGROUND if draws.uniform(_WHOSE) < self._settings.playground_share else STRANGER
            alike = lately[int(draws.uniform(_WHICH) * len(lately))]
            heapq.heappush(self._due, _Visit(at_ns, number, account, alike, owner))

    def advance(self, now_ns: int) -> None:
        """Deal with all that was asked by now. Whoever records an event at `now_ns` must have called this first."""
        while self._due and self._due[0].at_ns <= now_ns:
            self._visit(heapq.heappop(self._due), now_ns)

    def _visit(self, visit: _Visit, now_ns: int) -> None:
        account, ask = visit.account, visit.ask
        admitted = account.limits.admit(now_ns, ask.estimate_tokens)
        fault = self._plan.choose(visit.number, ask)
        if isinstance(admitted, Refused) or fault.at_door or account.balance_usd <= 0:
            account.counts.foreign_rejected += 1
            return
        account.counts.foreign_accepted += 1
        billed = is_billed(fault, self._seed, visit.number)
        tokens, list_usd, tool_usage = self._work(visit) if billed else (NO_TOKENS, Decimal(0), {})
        account.limits.spend(now_ns, admitted, tokens.total, succeeded=fault.status < 400)
        if billed or fault.content in (Content.ERROR, Content.HTML):
            status, code = (200, None) if billed else (fault.status, fault.code or "upstream_error")
            source = "playground" if visit.owner is PLAYGROUND else "api"
            event = account.record(
                visit.at_ns,
                ask.model.id,
                str(ask.dialect),
                tokens,
                list_usd,
                status,
                code,
                source=source,
                tool_usage=tool_usage,
                output_urls=hosted.output_urls(ask, f"{self._seed:x}{visit.number:012d}") if billed else (),
            )
            self._note(visit, event, fault)

    def _work(self, visit: _Visit) -> tuple[Tokens, Decimal, dict[str, int]]:
        """What a request takes: as long an answer as any other may have got."""
        written = complete(visit.ask, Draws(self._seed, b"visit", visit.number.to_bytes(8, "big")), self._settings)
        tokens = written.tokens
        cost_usd = visit.ask.model.cost(tokens.input, tokens.cached, tokens.output, written.tool_usage, visit.ask.units)
        return tokens, cost_usd, written.tool_usage

    def _note(self, visit: _Visit, event: UsageEvent, fault: Fault) -> None:
        self._counters.entries += 1
        self._ledger.append(
            Entry(
                seq=self._counters.entries,
                at_ns=event.at_ns,
                path=event.endpoint,
                model=event.model,
                account=visit.account.name,
                key_fingerprint="",
                tokens=event.tokens,
                cost=Cost(exact_number(event.cost_usd)),
                status=fault.status,
                fault=fault.kind,
                event=event.id,
                owner=visit.owner,
            )
        )
