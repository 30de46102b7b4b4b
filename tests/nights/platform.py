"""The simulated platform, which remembers for each numbered request what it answered and what it billed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import trio

from batchrunner.clock import NS_PER_SECOND
from batchrunner.simulator import replies, works
from batchrunner.simulator.answers import Answer, failure, refusal
from batchrunner.simulator.asks import Dialect
from batchrunner.simulator.faults import Delivery, kind_named
from batchrunner.simulator.ledger import Tokens
from batchrunner.simulator.plan import Plan
from batchrunner.simulator.settings import Settings
from tests.nights.clock import HORIZON_SECONDS
from tests.nights.network import SEND_HEADER
from tests.sim.nights import WatchedPlatform

#: of questions after work, how many are answered so, until the weather is over
QUESTIONS_IN_VAIN = 0.1
QUESTION_KINDS = ("error500", "rate_limited", "garbage", "missing")


class Bill(msgspec.Struct, frozen=True):
    """What one request was charged."""

    amount: Decimal
    tokens: Tokens


class NightPlatform(WatchedPlatform):
    """`on_answer` is told of each answer before it goes out, with its request's number; `fired` of what befalls it."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        now_ns: Callable[[], int],
        on_answer: Callable[[int, Answer], None],
        fired: Callable[[str], None],
    ) -> None:
        super().__init__(settings, plan, now_ns)
        self.bills: dict[int, Bill] = {}
        #: bodies of whole successes
        self.bodies: dict[int, bytes] = {}
        self._on_answer = on_answer
        self._fired = fired
        self._change = self.account.limits.change
        self.account.limits.change = self._changed  # type: ignore[method-assign]
        #: arrival -> request's number
        self._numbers: dict[int, int] = {}
        #: of answers that come as streams, what they add up to, by request's number
        self._wholes: dict[int, bytes] = {}
        #: name of a work -> the number of the request that it was taken on for
        self._works: dict[str, int] = {}
        self._chance = random.Random(f"questions {settings.seed}")
        #: works that were last said not to be known, though they are
        self._denied: set[str] = set()

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "GET":
            return await self._asked_after(target, headers)
        number = int(headers[SEND_HEADER])
        self._numbers[self.counters.requests] = number
        answer = await super().answer(method, target, headers, body)
        if answer.status == 200:
            self.bodies[number] = self._wholes.get(number, answer.body)
        self._on_answer(number, answer)
        return answer

    def said(self, number: int, body: bytes) -> bool:
        """Whether this is what a request was answered. What comes in pieces may be put together with other spaces."""
        told = self.bodies[number]
        return body == told or (number in self._wholes and msgspec.json.decode(body) == msgspec.json.decode(told))

    def knows(self, path: str) -> bool:
        """Whether somebody who asked for this work now would be told of it."""
        return self.works.status(path.removeprefix(works.PATH), self.account.name, self._now_ns()) is not None

    async def _asked_after(self, target: str, headers: Mapping[str, str]) -> Answer:
        """A question after work, now and then in vain. That it is not known, though it is, is not said twice."""
        name = target.removeprefix(works.PATH)
        if trio.current_time() < HORIZON_SECONDS and self._chance.random() < QUESTIONS_IN_VAIN:
            kind = self._chance.choice(QUESTION_KINDS)
            if kind != "missing" or name not in self._denied:
                self._fired(f"question: {kind}")
                if kind == "missing":
                    self._denied.add(name)
                    return refusal(None, 404, "job_not_found", "There is no such job.", "req")
                return failure(kind_named(kind), Dialect.VIDEOS, "req")
        answer = await super().answer("GET", target, headers, b"")
        if answer.status == 200:
            self._denied.discard(name)
            if msgspec.json.decode(answer.body)["status"] == "completed":
                self._fired("work: succeeded")
                self.bodies[self._works[name]] = answer.body
        return answer

    def _take_on(self, work: Any, now_ns: int) -> None:
        super()._take_on(work, now_ns)
        self._works[f"job_{self._reply_id(work)}"] = self._numbers[work.arrival]

    def _written(self, work: Any, completion: replies.Completion, now_ns: int, delivery: Delivery) -> Answer:
        answer = super()._written(work, completion, now_ns, delivery)
        if answer.events:
            stamp = replies.Stamp(self.settings.seed, self._reply_id(work), work.request_id, now_ns // NS_PER_SECOND)
            self._wholes[self._numbers[work.arrival]] = replies.body(work.ask, completion, stamp)
            self._fired(f"stream: {work.ask.dialect}")
        return answer

    def _record(self, asked: Any, now_ns: int, tokens: Tokens, cost_usd: Decimal, *args: Any, **kwargs: Any) -> None:
        super()._record(asked, now_ns, tokens, cost_usd, *args, **kwargs)
        number = self._numbers[asked.arrival]
        assert number not in self.bills
        self.bills[number] = Bill(cost_usd, tokens)

    def _changed(self, now_ns: int, *, rpm: int | None = None, tpm: int | None = None) -> None:
        self._fired("account: topped up" if rpm is None else "account: other limit")
        self._change(now_ns, rpm=rpm, tpm=tpm)
