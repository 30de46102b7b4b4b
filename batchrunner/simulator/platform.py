"""What the platform does with a request, free of sockets: who asks, what it costs, whether it may, how it ends."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from urllib.parse import parse_qsl, unquote

import msgspec
import trio

from batchrunner.simulator import replies
from batchrunner.simulator.answers import Answer, failure, refusal
from batchrunner.simulator.asks import Ask, Dialect, Refusal, read
from batchrunner.simulator.catalog import Catalog, entry
from batchrunner.simulator.counters import Counters
from batchrunner.simulator.draws import Draws
from batchrunner.simulator.faults import WHOLE, Content, Delivery, Fault
from batchrunner.simulator.ledger import Cost, Entry, Ledger, MemoryLedger, Tokens, exact_number
from batchrunner.simulator.plan import LATENCY, Plan, SeededPlan, draws_of, is_billed
from batchrunner.simulator.settings import Settings
from batchrunner.simulator.usage import Account
from batchrunner.simulator.windows import Accepted, Limits, Refused

NS_PER_SECOND = 1_000_000_000
_DIALECTS = {dialect.value: dialect for dialect in Dialect}
_READ_ONLY = {"/v1/models", "/v1/account/usage", "/simulator/statistics"}
# To name a member of an enum costs something, and each request comes this way.
_WHOLE, _COMPLETION = Delivery.WHOLE, Content.COMPLETION
_NOTHING = Tokens(0, 0, 0, 0)


class _Work(msgspec.Struct, frozen=True, gc=False):
    """A request that was let in."""

    arrival: int
    request_id: str
    ask: Ask
    fault: Fault
    key: bytes
    accepted: Accepted
    idempotency_key: str | None


class Platform:
    """A whole simulated platform with one account.

    `now_ns` gives Unix nanoseconds that never go back; by default trio's clock, so that a test's virtual time starts at
    1970-01-01 and on the edge of a minute. Latency is `trio.sleep`. `plan` replaces the faults that `settings` describe.

    Raises: ValueError where `settings` make no sense.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        catalog: Catalog | None = None,
        ledger: Ledger | None = None,
        plan: Plan | None = None,
        now_ns: Callable[[], int] | None = None,
    ) -> None:
        self.settings = settings
        self.catalog = catalog or Catalog()
        self.ledger: Ledger = MemoryLedger() if ledger is None else ledger
        self.counters = Counters()
        self.account = Account(settings.balance_usd)
        self._limits = Limits.of(settings)
        self._plan: Plan = SeededPlan(settings) if plan is None else plan
        self._now_ns = now_ns or trio_now_ns
        self._keys = {_digest(key) for key in settings.keys}
        self._replies = 0

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Deal with one request. `target` is path and query; header names are lower case."""
        self._replies += 1
        request_id = f"req_{self.settings.seed:x}_{self._replies:09d}"
        path, _, query = target.partition("?")
        dialect = _DIALECTS.get(path)
        try:
            if dialect is None:
                answer = Answer(200, self._read_only(method, path, query, headers), request_id)
            elif method != "POST":
                raise Refusal(405, "method_not_allowed", "Use POST.")
            else:
                answer = await self._model(dialect, headers, body, request_id)
        except Refusal as error:
            answer = refusal(dialect, error.status, error.code, error.message, request_id)
        if answer.delivery is _WHOLE or answer.delivery in WHOLE:
            self.counters.statuses[str(answer.status)] += 1
        return answer

    def _read_only(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> bytes:
        if path not in _READ_ONLY and not path.startswith("/v1/models/"):
            raise Refusal(404, "not_found", f"There is no {path[:100]} here.")
        if method != "GET":
            raise Refusal(405, "method_not_allowed", "Use GET.")
        if path == "/simulator/statistics":
            return msgspec.json.encode(self.counters.statistics())
        if path == "/v1/account/usage":
            self._authenticate(headers)
            return self.account.usage_body(dict(parse_qsl(query)))
        if path == "/v1/models":
            return self.catalog.list_body()
        model = self.catalog.get(unquote(path.removeprefix("/v1/models/")))
        if model is None:
            raise Refusal(404, "model_not_found", "There is no such model.")
        return msgspec.json.encode(entry(model))

    async def _model(self, dialect: Dialect, headers: Mapping[str, str], body: bytes, request_id: str) -> Answer:
        arrival = self.counters.arrive()
        key = self._authenticate(headers)
        ask = read(dialect, body, self.catalog)
        if self.account.balance_usd <= 0:
            raise Refusal(402, "insufficient_credits", "The account needs credits.")
        fault = self._plan.choose(arrival, ask)
        if fault.kind != "ok":
            self.counters.faults[fault.kind] += 1
        if fault.at_door:
            return failure(fault, dialect, request_id)
        now_ns = self._now_ns()
        admitted = self._limits.admit(now_ns, ask.estimate_tokens)
        if isinstance(admitted, Refused):
            return self._reject(dialect, admitted, request_id)
        work = _Work(arrival, request_id, ask, fault, key, admitted, headers.get("idempotency-key"))
        self.counters.start(now_ns)
        try:
            return await self._work(work, body)
        finally:
            self.counters.in_flight -= 1

    def _reject(self, dialect: Dialect, refused: Refused, request_id: str) -> Answer:
        self.counters.rejected_by[refused.resource] += 1
        answer = refusal(dialect, 429, "rate_limit_exceeded", f"Rate limit of {refused.resource} exceeded.", request_id)
        if not self.settings.retry_after:
            return answer
        seconds = -(-refused.retry_after_ns // NS_PER_SECOND)
        return msgspec.structs.replace(answer, headers=(("retry-after", str(seconds)),))

    async def _work(self, work: _Work, body: bytes) -> Answer:
        settings, fault, ask = self.settings, work.fault, work.ask
        completion = replies.complete(ask, Draws(settings.seed, b"reply", body), settings)
        seconds = self._latency_seconds(work.arrival) + settings.latency_per_token_seconds * completion.output_tokens
        if seconds:
            await trio.sleep(seconds * fault.latency_factor)
        now_ns = self._now_ns()
        self._settle(work, completion, now_ns)
        if fault.content is not _COMPLETION:
            return failure(fault, ask.dialect, work.request_id)
        reply_id = f"{settings.seed:x}{work.arrival:012d}"
        stamp = replies.Stamp(settings.seed, reply_id, work.request_id, now_ns // NS_PER_SECOND)
        return Answer(200, replies.body(ask, completion, stamp), work.request_id, delivery=fault.delivery)

    def _latency_seconds(self, arrival: int) -> float:
        median = self.settings.latency_median_seconds
        if not median or not self.settings.latency_sigma:
            return median
        return draws_of(self.settings.seed, arrival).lognormal(LATENCY, median, self.settings.latency_sigma)

    def _settle(self, work: _Work, completion: replies.Completion, now_ns: int) -> None:
        """Charge window, account and ledger for what was done: all of it before the answer's first byte."""
        model, fault, path = work.ask.model, work.fault, str(work.ask.dialect)
        if not is_billed(fault, self.settings.seed, work.arrival):
            self._limits.spend(now_ns, work.accepted, 0)
            if fault.content in (Content.ERROR, Content.HTML):
                self.account.record(now_ns, model.id, path, _NOTHING, Decimal(0), fault.status, fault.code or "upstream_error")
            return
        self._limits.spend(now_ns, work.accepted, completion.total_tokens)
        self.counters.tokens.add(now_ns, completion.total_tokens)
        tokens = Tokens(completion.input_tokens, completion.output_tokens, completion.cached_tokens, completion.total_tokens)
        cost_usd = model.cost(tokens.input, tokens.cached, tokens.output)
        self.counters.billed += 1
        self.counters.billed_usd += cost_usd
        self.account.record(now_ns, model.id, path, tokens, cost_usd, 200)
        self.ledger.append(
            Entry(
                seq=self.counters.billed,
                at_ns=now_ns,
                path=path,
                model=model.id,
                key_fingerprint=work.key.hex()[:8],
                tokens=tokens,
                cost=Cost(exact_number(cost_usd)),
                status=fault.status,
                fault=fault.kind,
                tag=work.ask.tag,
                custom_id=work.ask.custom_id,
                idempotency_key=work.idempotency_key,
            )
        )

    def _authenticate(self, headers: Mapping[str, str]) -> bytes:
        """The digest of the request's key. Raises: Refusal, 401."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not key:
            raise Refusal(401, "missing_api_key", "Send the API key as a bearer token or as x-api-key.")
        digest = _digest(key)
        if digest not in self._keys:
            raise Refusal(401, "invalid_api_key", "The API key is not valid.")
        return digest


def trio_now_ns() -> int:
    """Nanoseconds of trio's clock, whose zero is arbitrary in real time and the test's start in virtual time."""
    return round(trio.current_time() * NS_PER_SECOND)


@functools.lru_cache(256)
def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
