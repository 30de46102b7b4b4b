"""The simulated platform, which remembers for each numbered request what it answered and what it billed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from batchrunner.simulator.answers import Answer
from batchrunner.simulator.ledger import Tokens
from batchrunner.simulator.plan import Plan
from batchrunner.simulator.settings import Settings
from tests.nights.network import SEND_HEADER
from tests.sim.nights import WatchedPlatform


class Bill(msgspec.Struct, frozen=True):
    """What one request was charged."""

    amount: Decimal
    tokens: Tokens


class NightPlatform(WatchedPlatform):
    """`on_answer` is told of each answer before it goes out, with its request's number; `fired` of each change of a limit."""

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

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        number = int(headers[SEND_HEADER])
        self._numbers[self.counters.requests] = number
        answer = await super().answer(method, target, headers, body)
        if answer.status == 200:
            self.bodies[number] = answer.body
        self._on_answer(number, answer)
        return answer

    def _record(self, asked: Any, now_ns: int, tokens: Tokens, cost_usd: Decimal, *args: Any, **kwargs: Any) -> None:
        super()._record(asked, now_ns, tokens, cost_usd, *args, **kwargs)
        number = self._numbers[asked.arrival]
        assert number not in self.bills
        self.bills[number] = Bill(cost_usd, tokens)

    def _changed(self, now_ns: int, *, rpm: int | None = None, tpm: int | None = None) -> None:
        self._fired("account: topped up" if rpm is None else "account: other limit")
        self._change(now_ns, rpm=rpm, tpm=tpm)
