"""What the platform does with a request, free of sockets: who asks, what it costs, whether it may, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from urllib.parse import parse_qsl, unquote

import msgspec
import trio

from batchrunner.simulator import chats, files, hosted, replies, streams, works
from batchrunner.simulator.accounts import Accounts, digest
from batchrunner.simulator.answers import Answer, failure, refusal
from batchrunner.simulator.asks import POINTERS, WORKS, Ask, Dialect, Refusal, read
from batchrunner.simulator.catalog import Catalog, entry
from batchrunner.simulator.counters import Counters
from batchrunner.simulator.draws import Draws
from batchrunner.simulator.faults import WHOLE, Bill, Content, Delivery, Fault
from batchrunner.simulator.idempotency import Key, Replays
from batchrunner.simulator.ledger import NO_TOKENS, Cost, Entry, Ledger, MemoryLedger, Tokens, exact_number
from batchrunner.simulator.limits import Accepted, Refused
from batchrunner.simulator.plan import LATENCY, Plan, SeededPlan, draws_of, is_billed
from batchrunner.simulator.rate_headers import rate_headers, retry_after
from batchrunner.simulator.settings import RateHeaders, Settings
from batchrunner.simulator.strangers import Strangers
from batchrunner.simulator.usage import NS_PER_SECOND, Account
from batchrunner.simulator.works import Works

_DIALECTS = {dialect.value: dialect for dialect in Dialect}
_READ_ONLY = {"/v1/models", "/v1/account/usage", "/simulator/statistics", chats.PATH}
# To name a member of an enum costs something, and each request comes this way.
_WHOLE, _COMPLETION = Delivery.WHOLE, Content.COMPLETION
#: from this status on an answer is an error
FIRST_ERROR_STATUS = 400


class _Asked(msgspec.Struct, frozen=True, gc=False):
    """A request that makes sense."""

    arrival: int
    request_id: str
    ask: Ask
    account: Account
    key: bytes
    idempotency_key: str | None


class _Work(_Asked, frozen=True, gc=False):
    """A request that was let in."""

    fault: Fault
    accepted: Accepted
    #: under which its answer is kept for those who ask again
    repeat: Key | None


class _Stored(msgspec.Struct, frozen=True):
    """What is told again for an Idempotency-Key."""

    answer: Answer
    tokens: Tokens


class Platform:
    """A whole simulated platform.

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
        self.accounts = Accounts(settings, self.counters)
        #: the first one, which is often the only one
        self.account = self.accounts.all[0]
        self._stored: Replays[_Stored] = Replays()
        self._strangers = Strangers(settings, self.counters, self.ledger)
        self._plan: Plan = SeededPlan(settings) if plan is None else plan
        self._now_ns = now_ns or trio_now_ns
        self._replies = 0
        #: where it is served: addresses of files lead there, and else nowhere
        self.url: str | None = None
        self.works = Works(settings.seed, settings.work_seconds)

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Deal with one request. `target` is path and query; header names are lower case."""
        self._replies += 1
        request_id = f"req_{self.settings.seed:x}_{self._replies:09d}"
        path, _, query = target.partition("?")
        dialect = _DIALECTS.get(path)
        try:
            if path.startswith(files.PATH):
                answer = files.answer(path.removeprefix(files.PATH), request_id)
            elif path.startswith(works.PATH):
                answer = self._asked_for(method, path.removeprefix(works.PATH), headers, request_id)
            elif dialect is None:
                answer = Answer(200, self._read_only(method, path, query, headers), request_id)
            elif method != "POST":
                raise Refusal(405, "method_not_allowed", "Use POST.")
            else:
                answer = await self._model(dialect, headers, body, request_id)
        except Refusal as error:
            answer = refusal(dialect, error.status, error.code, error.message, request_id)
        if self.url is not None and (dialect in POINTERS or path.startswith(works.PATH)):
            answer = msgspec.structs.replace(answer, body=files.hosted_at(answer.body, self.url))
        if answer.delivery is _WHOLE or answer.delivery in WHOLE:
            self.counters.statuses[str(answer.status)] += 1
        return answer

    def _read_only(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> bytes:
        if path not in _READ_ONLY and not path.startswith(("/v1/models/", f"{chats.PATH}/")):
            raise Refusal(404, "not_found", f"There is no {path[:100]} here.")
        if method != "GET":
            raise Refusal(405, "method_not_allowed", "Use GET.")
        self._time_ns()
        if path == "/simulator/statistics":
            return msgspec.json.encode(self.counters.statistics())
        if path == "/v1/account/usage":
            _, account = self._authenticate(headers)
            return account.usage_body(dict(parse_qsl(query)))
        if path.startswith(chats.PATH):
            _, account = self._authenticate(headers)
            settings = self.settings
            return chats.answer(path, dict(parse_qsl(query)), seed=settings.seed, account=account.name, count=settings.chats)
        if path == "/v1/models":
            return self.catalog.list_body()
        model = self.catalog.get(unquote(path.removeprefix("/v1/models/")))
        if model is None:
            raise Refusal(404, "model_not_found", "There is no such model.")
        return msgspec.json.encode(entry(model))

    def _asked_for(self, method: str, name: str, headers: Mapping[str, str], request_id: str) -> Answer:
        """How work stands. A question counts among its account's requests."""
        if method != "GET":
            raise Refusal(405, "method_not_allowed", "Use GET.")
        now_ns = self._time_ns()
        _, account = self._authenticate(headers)
        admitted = account.limits.admit(now_ns, 0)
        if isinstance(admitted, Refused):
            account.counts.rejected_by[admitted.resource] += 1
            return refusal(None, 429, "rate_limit_exceeded", f"Rate limit of {admitted.resource} exceeded.", request_id)
        account.limits.spend(now_ns, admitted, 0, succeeded=True)
        found = self.works.status(unquote(name), account.name, now_ns)
        if found is None:
            raise Refusal(404, "job_not_found", "There is no such job, or not any more.")
        return Answer(200, msgspec.json.encode(found), request_id)

    async def _model(self, dialect: Dialect, headers: Mapping[str, str], body: bytes, request_id: str) -> Answer:
        arrival = self.counters.arrive()
        now_ns = self._now_ns()
        self.accounts.arrive(now_ns, arrival + 1)
        self._strangers.advance(now_ns)
        if self.settings.jitter_seconds[1] > 0:
            await self._travel(arrival)
            now_ns = self._time_ns()
        key, account = self._authenticate(headers)
        asked = _Asked(arrival, request_id, read(dialect, body, self.catalog), account, key, headers.get("idempotency-key"))
        repeat, fingerprint = self._repeat(asked, body)
        if repeat is not None and (stored := self._stored.find(now_ns, repeat, fingerprint)) is not None:
            return self._replay(asked, stored, now_ns)
        if account.balance_usd <= 0:
            raise Refusal(402, "insufficient_credits", "The account needs credits.")
        fault = self._plan.choose(arrival, asked.ask)
        if fault.kind != "ok":
            self.counters.faults[fault.kind] += 1
        if fault.at_door:
            return failure(fault, dialect, request_id)
        admitted = account.limits.admit(now_ns, asked.ask.estimate_tokens)
        if isinstance(admitted, Refused):
            return self._reject(asked, admitted, now_ns)
        self.counters.start(now_ns, account.counts)
        self._strangers.see(now_ns, arrival, account, asked.ask)
        if repeat is not None:
            self._stored.begin(now_ns, repeat, fingerprint)
        work = _Work(arrival, request_id, asked.ask, account, key, asked.idempotency_key, fault, admitted, repeat)
        try:
            return await self._work(work, body)
        finally:
            self.counters.in_flight -= 1
            if repeat is not None:
                self._stored.end(repeat)

    async def _travel(self, arrival: int) -> None:
        """Take the way from the server's door to its limits, which differs from request to request."""
        low, high = self.settings.jitter_seconds
        point = Draws(self.settings.seed, b"jitter", arrival.to_bytes(8, "big")).uniform(0)
        await trio.sleep(low + (high - low) * point)

    def _repeat(self, asked: _Asked, body: bytes) -> tuple[Key | None, int]:
        """Under what a request's answer is kept, if at all, and what a request with the same key must have in common with it."""
        if not self.settings.idempotency or asked.idempotency_key is None:
            return None, 0
        return (asked.account.name, asked.idempotency_key), hash((asked.ask.dialect, body))

    def _replay(self, asked: _Asked, stored: _Stored, now_ns: int) -> Answer:
        """Tell an answer again: no window counts it, and it costs nothing."""
        asked.account.counts.replays += 1
        self._record(asked, now_ns, stored.tokens, Decimal(0), stored.answer.status, "ok", replay=True)
        headers = (("idempotent-replayed", "true"),)
        return msgspec.structs.replace(stored.answer, request_id=asked.request_id, headers=headers)

    def _reject(self, asked: _Asked, refused: Refused, now_ns: int) -> Answer:
        asked.account.counts.rejected_by[refused.resource] += 1
        message = f"Rate limit of {refused.resource} exceeded."
        answer = refusal(asked.ask.dialect, 429, "rate_limit_exceeded", message, asked.request_id)
        settings = self.settings
        again = retry_after(settings.retry_after, settings.rate_headers, now_ns, refused.retry_after_ns)
        return self._with_rates(asked, msgspec.structs.replace(answer, headers=again), asked.ask.estimate_tokens, now_ns)

    def _with_rates(self, asked: _Asked, answer: Answer, cost_tokens: int, now_ns: int) -> Answer:
        style = self.settings.rate_headers
        if style is RateHeaders.NONE:
            return answer
        rates = rate_headers(style, asked.account.limits, now_ns, cost_tokens)
        return msgspec.structs.replace(answer, headers=answer.headers + rates)

    async def _work(self, work: _Work, body: bytes) -> Answer:
        settings, fault = self.settings, work.fault
        completion = replies.complete(work.ask, Draws(settings.seed, b"reply", _said(work.ask, body)), settings)
        seconds = self._latency_seconds(work.arrival)
        if not work.ask.stream:  # else its words take their time on the way
            seconds += settings.latency_per_token_seconds * completion.output_tokens
        if seconds:
            await trio.sleep(seconds * fault.latency_factor)
        now_ns = self._time_ns()
        billed = is_billed(fault, settings.seed, work.arrival)
        if billed:
            self._bill(work, completion, body, now_ns)
            if work.ask.dialect in WORKS:
                self._take_on(work, now_ns)
        else:
            self._let_off(work, now_ns)
        if work.repeat is not None:
            self._keep(work, work.repeat, completion, now_ns, billed=billed)
        answer = self._answer(work, completion, now_ns)
        return self._with_rates(work, answer, completion.total_tokens, now_ns)

    def _latency_seconds(self, arrival: int) -> float:
        median = self.settings.latency_median_seconds
        if not median or not self.settings.latency_sigma:
            return median
        return draws_of(self.settings.seed, arrival).lognormal(LATENCY, median, self.settings.latency_sigma)

    def _answer(self, work: _Work, completion: replies.Completion, now_ns: int) -> Answer:
        if work.fault.content is not _COMPLETION:
            return failure(work.fault, work.ask.dialect, work.request_id)
        return self._written(work, completion, now_ns, work.fault.delivery)

    def _written(self, work: _Work, completion: replies.Completion, now_ns: int, delivery: Delivery) -> Answer:
        reply_id = self._reply_id(work)
        stamp = replies.Stamp(self.settings.seed, reply_id, work.request_id, now_ns // NS_PER_SECOND)
        if work.ask.dialect in WORKS:
            said = msgspec.json.encode(works.submission(_name(reply_id)))
            return Answer(200, said, work.request_id, delivery=delivery)
        if not work.ask.stream:
            return Answer(200, replies.body(work.ask, completion, stamp), work.request_id, delivery=delivery)
        events = streams.events(work.ask, completion, stamp)
        seconds = self.settings.latency_per_token_seconds * completion.output_tokens * work.fault.latency_factor
        return Answer(
            200,
            b"".join(events),
            work.request_id,
            content_type="text/event-stream",
            delivery=delivery,
            events=events,
            pause_seconds=seconds / len(events),
            error_event=streams.error_event(work.ask.dialect, 502, "upstream_error", "The provider failed.", work.request_id),
        )

    def _reply_id(self, work: _Work) -> str:
        return f"{self.settings.seed:x}{work.arrival:012d}"

    def _take_on(self, work: _Work, now_ns: int) -> None:
        """Begin what will be asked for: paid for by now, as far as anybody has heard of it or not."""
        reply_id = self._reply_id(work)
        found = hosted.reply(work.ask, self.settings.seed, reply_id, now_ns // NS_PER_SECOND)
        usage = found.pop("usage")
        self.works.begin(_name(reply_id), work.account.name, now_ns, found, usage, work.ask.model.id, work.fault.fate)

    def _keep(self, work: _Work, repeat: Key, completion: replies.Completion, now_ns: int, *, billed: bool) -> None:
        """Keep what the platform has made of a request: what a proxy or the network did to it on the way is not its affair."""
        if billed:
            self._stored.keep(repeat, _Stored(self._written(work, completion, now_ns, _WHOLE), completion.tokens))
        elif work.fault.content is Content.ERROR and work.fault.bill is Bill.NEVER:
            self._stored.keep(repeat, _Stored(self._answer(work, completion, now_ns), NO_TOKENS))

    def _bill(self, work: _Work, completion: replies.Completion, body: bytes, now_ns: int) -> None:
        """Charge windows, account and ledger for what was done: all of it before the answer's first byte."""
        account, model, tokens = work.account, work.ask.model, completion.tokens
        account.limits.spend(now_ns, work.accepted, tokens.total, succeeded=work.fault.status < FIRST_ERROR_STATUS)
        self.counters.spend(now_ns, account.counts, tokens.total)
        event = account.record(
            now_ns,
            model.id,
            str(work.ask.dialect),
            tokens,
            model.cost(tokens.input, tokens.cached, tokens.output, completion.tool_usage, work.ask.units),
            200,
            tool_usage=completion.tool_usage,
            output_urls=hosted.output_urls(work.ask, self._reply_id(work)),
        )
        account.counts.bill(work.ask.custom_id or work.ask.tag or body, event.cost_usd)
        self._record(work, now_ns, tokens, event.cost_usd, work.fault.status, work.fault.kind, event=event.id)

    def _let_off(self, work: _Work, now_ns: int) -> None:
        """Charge nothing for a request; one that was answered with an error is noted among the account's events."""
        account, fault = work.account, work.fault
        account.limits.spend(now_ns, work.accepted, 0, succeeded=fault.status < FIRST_ERROR_STATUS)
        if fault.content in (Content.ERROR, Content.HTML):
            path, code = str(work.ask.dialect), fault.code or "upstream_error"
            account.record(now_ns, work.ask.model.id, path, NO_TOKENS, Decimal(0), fault.status, code)

    def _record(
        self,
        asked: _Asked,
        now_ns: int,
        tokens: Tokens,
        cost_usd: Decimal,
        status: int,
        fault: str,
        *,
        replay: bool = False,
        event: str | None = None,
    ) -> None:
        self.counters.entries += 1
        self.ledger.append(
            Entry(
                seq=self.counters.entries,
                at_ns=now_ns,
                path=str(asked.ask.dialect),
                model=asked.ask.model.id,
                account=asked.account.name,
                key_fingerprint=asked.key.hex()[:8],
                tokens=tokens,
                cost=Cost(exact_number(cost_usd)),
                status=status,
                fault=fault,
                tag=asked.ask.tag,
                custom_id=asked.ask.custom_id,
                idempotency_key=asked.idempotency_key,
                replay=replay,
                event=event,
            )
        )

    def _time_ns(self) -> int:
        """The time, with all accounts where they stand by then."""
        now_ns = self._now_ns()
        self.accounts.advance(now_ns)
        self._strangers.advance(now_ns)
        return now_ns

    def _authenticate(self, headers: Mapping[str, str]) -> tuple[bytes, Account]:
        """The digest of the request's key, and whose it is. Raises: Refusal, 401."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not key:
            raise Refusal(401, "missing_api_key", "Send the API key as a bearer token or as x-api-key.")
        key_digest = digest(key)
        account = self.accounts.owner(key_digest)
        if account is None:
            raise Refusal(401, "invalid_api_key", "The API key is not valid.")
        return key_digest, account


def trio_now_ns() -> int:
    """Nanoseconds of trio's clock, whose zero is arbitrary in real time and the test's start in virtual time."""
    return round(trio.current_time() * NS_PER_SECOND)


def _name(reply_id: str) -> str:
    """What work is called."""
    return f"job_{reply_id}"


def _said(ask: Ask, body: bytes) -> bytes:
    """A body without its wish to be streamed, which changes nothing of what is said. (Then as compact JSON is written.)"""
    if not ask.stream:
        return body
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({name: value for name, value in fields.items() if name not in ("stream", "stream_options")})
