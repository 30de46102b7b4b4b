"""Drawn nights at a platform that charges ours and strangers' requests alike, and the judge of what is made of its events.

Who an event belongs to is known here and hidden from what is tested.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.reconciliation import Attempt, AttemptReason, EventReason, Settlement, Whose, reconcile
from batchrunner.usage_event import UsageEvent

SECOND: Final = 1_000_000_000
MODELS: Final = ("small", "large", "reasoner", "per-request")
ENDPOINTS: Final = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions", "/v1/embeddings", "/v1/reranks")
#: these write nothing: their tokens are those of the prompt alone
SILENT: Final = ENDPOINTS[4:]


class Odds(msgspec.Struct, frozen=True, kw_only=True):
    """How a night goes. Shares are of requests."""

    jobs: int = 1_000
    #: requests of strangers, by ours
    strangers: float = 0.3
    per_second: float = 50.0
    latency_seconds: float = 0.1
    #: nobody sees the end; of these half are billed
    unseen: float = 0.03
    #: answered with an error, which is an event of no cost
    errors: float = 0.03
    kills: int = 3
    #: of the platform's clock
    ahead_seconds: float = 0.0
    #: the same body takes the same tokens
    repeats: bool = True
    horizon_seconds: float = 10.0


class World(NamedTuple):
    attempts: list[Attempt]
    events: list[UsageEvent]
    #: the place of the attempt that each event is of; None for a stranger's
    owners: list[int | None]
    complete_until_ns: int
    horizon_ns: int

    def reconciled(self) -> Settlement:
        return reconcile(self.attempts, self.events, complete_until_ns=self.complete_until_ns, horizon_ns=self.horizon_ns)


class _Body(NamedTuple):
    request: str
    model: str
    endpoint: str
    guessed: int
    input_tokens: int
    cap: int | None


class _Night:
    def __init__(self, odds: Odds, seed: int) -> None:
        self.odds = odds
        self.rng = random.Random(seed)
        self.attempts: list[Attempt] = []
        self.charged: list[tuple[int, int | None, UsageEvent]] = []
        self.kills = sorted(self.rng.uniform(0.1, 0.9) * odds.jobs / odds.per_second for _ in range(odds.kills))

    def run(self) -> World:
        odds = self.odds
        seconds = odds.jobs / odds.per_second
        for number in range(odds.jobs):
            self._job(number, number / odds.per_second)
        for number in range(round(odds.jobs * odds.strangers)):
            self._stranger(number, self.rng.uniform(-1, seconds + 1))
        self.charged.sort(key=lambda charged: charged[0])
        events = [msgspec.structs.replace(event, id=f"ue_{place}") for place, (_, _, event) in enumerate(self.charged)]
        until_ns = max(attempt.ended_ns for attempt in self.attempts) + round(odds.horizon_seconds * SECOND) + 100 * SECOND
        owners = [owner for _, owner, _ in self.charged]
        return World(self.attempts, events, owners, until_ns, round(odds.horizon_seconds * SECOND))

    def _body(self, name: str) -> _Body:
        rng = self.rng
        endpoint = rng.choice(ENDPOINTS)
        guessed = rng.randint(1, 60) * 3 + rng.choice((0, 4))
        cap = 0 if endpoint in SILENT else rng.choice((None, 1, 40, 900))
        model = endpoint[4:] if endpoint in SILENT else rng.choice(MODELS)
        return _Body(name, model, endpoint, guessed, guessed + guessed // 7, cap)

    def _usage(self, body: _Body) -> Usage:
        rng = random.Random(body.request) if self.odds.repeats else self.rng
        wrote = max(1, round(20 * math.exp(rng.gauss(0, 0.6))))
        return Usage(body.input_tokens, wrote if body.cap is None else min(wrote, body.cap))

    def _job(self, number: int, at: float) -> None:
        body = self._body(f"job-{number}")
        for attempt in range(1, 6):
            took = self.odds.latency_seconds * math.exp(self.rng.gauss(0, 0.5))
            kill = next((kill for kill in self.kills if at < kill < at + took), None)
            chance = self.rng.random()
            if kill is not None:
                self._unseen(number, attempt, body, at, kill, took, why="the process ended")
                at = kill + 1
            elif chance < self.odds.unseen:
                why = self.rng.choice(("attempt_timeout", "read", "gateway_timeout"))
                self._unseen(number, attempt, body, at, at + (3 if why == "attempt_timeout" else took), took, why=why)
                at += took + 3
            elif chance < self.odds.unseen + self.odds.errors:
                place = self._attempt(number, attempt, body, at, at + took, Billing.NOT, why="upstream_error")
                self._charge(place, body, at + took, None)
                at += took + 0.5
            else:
                usage = self._usage(body)
                place = self._attempt(number, attempt, body, at, at + took, Billing.BILLED, usage=usage)
                self._charge(place, body, at + took, usage)
                return

    def _unseen(self, number: int, attempt: int, body: _Body, at: float, ended: float, took: float, *, why: str) -> None:
        place = self._attempt(number, attempt, body, at, ended, Billing.MAYBE, why=why, left=why != "gateway_timeout")
        if self.rng.random() < 0.5:
            self._charge(place, body, at + took, self._usage(body))

    def _attempt(
        self,
        number: int,
        attempt: int,
        body: _Body,
        at: float,
        ended: float,
        billing: Billing,
        *,
        why: str | None = None,
        left: bool = False,
        usage: Usage | None = None,
    ) -> int:
        self.attempts.append(
            Attempt(
                custom_id=f"job-{number}",
                number=attempt,
                request=body.request,
                model=body.model,
                endpoint=body.endpoint,
                sent_ns=_ns(at),
                ended_ns=_ns(ended + self.rng.uniform(0.0005, 0.01)),
                billing=billing,
                left=left,
                why=why,
                usage=usage,
                amount_usd=None if usage is None else price(usage),
                guessed_input_tokens=body.guessed,
                cap_tokens=body.cap,
            )
        )
        return len(self.attempts) - 1

    def _charge(self, owner: int | None, body: _Body, at: float, usage: Usage | None) -> None:
        at_ns = _ns(at + self.odds.ahead_seconds) // 1_000_000 * 1_000_000
        event = UsageEvent(
            id="",
            at_ns=at_ns,
            source="api",
            model=body.model,
            endpoint=body.endpoint,
            tokens=usage or Usage(0, 0),
            cost_usd=Decimal(0) if usage is None else price(usage),
            status_code=502 if usage is None else 200,
            error="upstream_error" if usage is None else None,
        )
        self.charged.append((at_ns, owner, event))

    def _stranger(self, number: int, at: float) -> None:
        body = self._body(f"stranger-{number}")
        failed = self.rng.random() < self.odds.errors
        self._charge(None, body, at + self.odds.latency_seconds, None if failed else self._usage(body))


def drawn(odds: Odds, seed: int) -> World:
    """The night of a seed."""
    return _Night(odds, seed).run()


def price(usage: Usage) -> Decimal:
    return usage.input_tokens * Decimal("0.00000015") + usage.output_tokens * Decimal("0.0000006")


def _ns(seconds: float) -> int:
    return 1_700_000_000 * SECOND + round(seconds * SECOND)


class Judged(NamedTuple):
    """What a settlement came to, by the hidden owners."""

    events: int
    undecided: int
    wrong_events: list[str]
    wrong_attempts: list[str]
    #: attempts left `maybe_billed`, and those of them whose event, or whose having none, nothing stands against
    left: int
    unsettled: list[str]

    @property
    def undecided_share(self) -> float:
        return self.undecided / max(1, self.events)


def judge(world: World, settlement: Settlement) -> Judged:
    """Hold each claim against the truth. Raises AssertionError where parts do not sum to the whole."""
    _prove_sums(world.events, settlement)
    wrong = []
    for place, (claim, owner) in enumerate(zip(settlement.events, world.owners, strict=True)):
        if claim.whose is Whose.UNDECIDED:
            continue
        if (claim.whose is Whose.OURS) != (owner is not None) or (owner is not None and owner not in claim.attempts):
            wrong.append(f"event {place} of {owner} is said to be {claim}")
    of_attempt = {owner: place for place, owner in enumerate(world.owners) if owner is not None}
    wrong_attempts, unsettled, left = [], [], 0
    for number, (attempt, said) in enumerate(zip(world.attempts, settlement.attempts, strict=True)):
        own = of_attempt.get(number)
        cost = None if own is None else world.events[own].cost_usd
        if said.billing is Billing.MAYBE:
            left += 1
            doubted = said.reason in (AttemptReason.TOO_MANY, AttemptReason.TOO_FEW, AttemptReason.COINCIDENCE)
            candidate = own is None or settlement.events[own].whose is Whose.UNDECIDED or said.reason is AttemptReason.TOO_FEW
            if not (doubted and candidate):
                unsettled.append(f"{attempt.custom_id}/{attempt.number} is left {said}, its event is {own}")
            continue
        claimed = None if said.event is None else world.events[said.event].cost_usd
        if said.billing is Billing.NOT and cost:
            wrong_attempts.append(f"{attempt} was charged {cost}, and is said not to be: {said}")
        elif said.billing is Billing.BILLED and own is None:
            wrong_attempts.append(f"{attempt} was not charged, and is said to be: {said}")
        elif said.event is not None and claimed != (cost or 0):
            wrong_attempts.append(f"{attempt} was charged {cost}, and {claimed} is said: {said}")
    undecided = sum(claim.whose is Whose.UNDECIDED for claim in settlement.events)
    return Judged(len(world.events), undecided, wrong, wrong_attempts, left, unsettled)


def _prove_sums(events: Sequence[UsageEvent], settlement: Settlement) -> None:
    parts = (settlement.ours, settlement.strangers, settlement.undecided)
    assert sum(part.count for part in parts) == settlement.theirs.count == len(events)
    theirs = sum((event.cost_usd for event in events if event.cost_usd is not None), Decimal(0))
    assert sum(part.amount_usd for part in parts) == settlement.theirs.amount_usd == theirs


__all__ = ["EventReason", "Judged", "Odds", "World", "drawn", "judge"]
