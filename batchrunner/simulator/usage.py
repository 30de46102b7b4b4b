"""An account: its limits, its balance, its usage events, and the page of GET /v1/account/usage that shows them, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from batchrunner.simulator.asks import Refusal
from batchrunner.simulator.counters import AccountCounts
from batchrunner.simulator.ledger import Cost, Tokens, exact_number
from batchrunner.simulator.limits import Limits

NS_PER_SECOND = 1_000_000_000
DEFAULT_LIMIT = 25
MAX_LIMIT = 1_000
#: when twice as many have come, the older half is forgotten
KEPT_EVENTS = 100_000
_ID_PREFIX = "ue_"
_NO_TOOLS: dict[str, int] = {}
#: more are no number that anybody means
_MAX_DIGITS = 15


class UsageEvent(msgspec.Struct, frozen=True, gc=False):
    """One request that the platform worked on: billed, or failed and free."""

    number: int
    at_ns: int
    model: str
    endpoint: str
    tokens: Tokens
    #: before the account's discount, and after it
    list_usd: Decimal
    cost_usd: Decimal
    status_code: int
    #: the code of the error that it ended with
    error: str | None = None
    #: `api` or `playground`
    source: str = "api"
    tool_usage: dict[str, int] = {}
    output_urls: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{_ID_PREFIX}{self.number:012d}"

    @property
    def status(self) -> str:
        return "failed" if self.error else "succeeded"

    def shown(self) -> dict[str, Any]:
        """The event in the platform's shape."""
        return {
            "id": self.id,
            "object": "usage_event",
            "created_at": datetime.fromtimestamp(self.at_ns / NS_PER_SECOND, UTC).isoformat(timespec="milliseconds"),
            "source": self.source,
            "model": self.model,
            "endpoint": self.endpoint,
            "tokens": self.tokens,
            "cost": Cost(exact_number(self.cost_usd)),
            "status": self.status,
            "status_code": self.status_code,
            "error": {"code": self.error} if self.error else None,
            "output_urls": self.output_urls,
            "metadata": self._details(),
        }

    def _details(self) -> dict[str, Any]:
        """Tools only where one fired, costs only where there is a discount."""
        details: dict[str, Any] = {"tool_usage": self.tool_usage} if self.tool_usage else {}
        if self.cost_usd != self.list_usd:
            details |= {
                "list_cost": exact_number(self.list_usd),
                "billed_cost": exact_number(self.cost_usd),
                "discount_amount": exact_number(self.list_usd - self.cost_usd),
            }
        return details


class Account:
    """What one customer has left, and what was done for it."""

    def __init__(
        self, name: str, balance_usd: Decimal, limits: Limits, counts: AccountCounts, *, discount: Decimal = Decimal(0)
    ) -> None:
        self.name = name
        self._payable = 1 - discount
        self.balance_usd = balance_usd
        self.limits = limits
        self.counts = counts
        #: consecutive numbers, oldest first
        self._events: list[UsageEvent] = []
        self._count = 0

    def record(
        self,
        at_ns: int,
        model: str,
        endpoint: str,
        tokens: Tokens,
        list_usd: Decimal,
        status_code: int,
        error: str | None = None,
        *,
        source: str = "api",
        tool_usage: dict[str, int] = _NO_TOOLS,
        output_urls: tuple[str, ...] = (),
    ) -> UsageEvent:
        """Charge the account what is left of a list price after its discount, and note the event."""
        cost_usd = list_usd * self._payable
        self.balance_usd -= cost_usd
        event = UsageEvent(
            self._count,
            at_ns,
            model,
            endpoint,
            tokens,
            list_usd,
            cost_usd,
            status_code,
            error,
            source,
            tool_usage,
            output_urls,
        )
        self._events.append(event)
        self._count += 1
        if len(self._events) >= 2 * KEPT_EVENTS:
            del self._events[:-KEPT_EVENTS]
        return event

    def usage_body(self, query: dict[str, str]) -> bytes:
        """The balance and one page of events that pass the query's filters. Raises: Refusal on a filter that is none."""
        limit = page_limit(query)
        shown: list[dict[str, Any]] = []
        has_more = False
        for event in self._matching(query):
            if len(shown) == limit:
                has_more = True
                break
            shown.append(event.shown())
        balance = Cost(exact_number(self.balance_usd))
        return msgspec.json.encode({"object": "list", "balance": balance, "data": shown, "has_more": has_more})

    def _matching(self, query: dict[str, str]) -> Iterator[UsageEvent]:
        from_ns = _time_ns(query, "from")
        to_ns = _time_ns(query, "to")
        before = query.get("before", "")
        before_number = self._count
        if before.startswith(_ID_PREFIX) and _is_number(before.removeprefix(_ID_PREFIX)):
            before_number = int(before.removeprefix(_ID_PREFIX))
        elif before:
            before_ns = _time_ns(query, "before")
            to_ns = before_ns if to_ns is None else min(to_ns, before_ns or to_ns)
        first = self._count - len(self._events)
        for index in range(min(before_number, self._count) - first - 1, -1, -1):
            event = self._events[index]
            if from_ns is not None and event.at_ns < from_ns:
                return
            if to_ns is not None and event.at_ns >= to_ns:
                continue
            if query.get("model", event.model) != event.model or query.get("status", event.status) != event.status:
                continue
            if query.get("source", event.source) == event.source:
                yield event


def page_limit(query: dict[str, str]) -> int:
    """How much a page is to hold at most. Raises: Refusal."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not _is_number(text) or not 1 <= int(text) <= MAX_LIMIT:
        raise Refusal(400, "invalid_request", f"limit: must be from 1 to {MAX_LIMIT}.")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _MAX_DIGITS


def _time_ns(query: dict[str, str], name: str) -> int | None:
    """A filter's time: Unix seconds, or a date or time in ISO 8601 (UTC where it names no zone)."""
    text = query.get(name)
    if not text:
        return None
    try:
        if _is_number(text):
            return int(text) * NS_PER_SECOND
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refusal(400, "invalid_request", f"{name}: neither Unix seconds nor an ISO 8601 time.") from error
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * NS_PER_SECOND)
