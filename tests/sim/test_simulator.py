"""The simulated platform over in-memory streams, in virtual time."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.simulator.ledger import FileLedger
from batchrunner.simulator.platform import Platform
from batchrunner.simulator.settings import TEST_KEY, Charging, Settings
from tests.sim.asking import CHAT, MESSAGES, RESPONSES, ask, body, connected, entries_of, platform_of, request, tagged


async def test_chat_completions_answer_in_their_shape(autojump_clock: MockClock) -> None:
    """Usage adds up, details name cached and reasoning tokens, a capped answer says `length`."""
    got = await ask(platform_of(output_median_tokens=1_000, output_sigma=0.0, cached_share=1.0), request())
    reply = got.json()
    assert (got.status, reply["object"]) == (200, "chat.completion")
    assert reply["choices"][0]["finish_reason"] == "length"
    usage = reply["usage"]
    assert usage["completion_tokens"] == 50
    assert usage["total_tokens"] == usage["prompt_tokens"] + 50
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_responses_answer_in_their_shape(autojump_clock: MockClock) -> None:
    """A reasoning model's answer is complete, has an output_text, and counts its reasoning tokens within output."""
    payload = body(RESPONSES, model="simulated-reasoner", cap=5_000)
    reply = (await ask(platform_of(output_sigma=0.0), request(RESPONSES, payload))).json()
    assert (reply["object"], reply["status"], reply["incomplete_details"]) == ("response", "completed", None)
    assert reply["output"][-1]["content"][0]["type"] == "output_text"
    usage = reply["usage"]
    assert 0 < usage["output_tokens_details"]["reasoning_tokens"] < usage["output_tokens"] == 150


async def test_messages_count_cached_tokens_apart(autojump_clock: MockClock) -> None:
    """Anthropic's usage leaves cached tokens out of input_tokens; the ledger counts them in."""
    platform = platform_of(cached_share=1.0)
    reply = (await ask(platform, request(MESSAGES))).json()
    assert (reply["type"], reply["content"][0]["type"]) == ("message", "text")
    (entry,) = await entries_of(platform, 0, b"")
    assert reply["usage"]["cache_read_input_tokens"] == entry.tokens.cached > 0
    assert reply["usage"]["input_tokens"] == entry.tokens.input - entry.tokens.cached


async def test_the_same_request_gets_the_same_text_and_usage(autojump_clock: MockClock) -> None:
    """A reply depends on seed and body alone; another seed gives another one."""

    async def choices_and_usage(seed: int, before: int) -> tuple[Any, Any]:
        platform = platform_of(seed=seed)
        for number in range(before):
            await ask(platform, request(payload=body(text=f"another {number}")))
        reply = (await ask(platform, request())).json()
        return reply["choices"], reply["usage"]

    assert await choices_and_usage(1, before=0) == await choices_and_usage(1, before=3)
    assert await choices_and_usage(1, before=0) != await choices_and_usage(2, before=0)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (request(authorization=""), 401, "missing_api_key"),
        (request(authorization="Bearer sk-empiriolabs-test-other"), 401, "invalid_api_key"),
        (request(authorization="", x_api_key="sk-empiriolabs-test-other"), 401, "invalid_api_key"),
        (request(payload=b'{"model":'), 400, "invalid_json"),
        (request(payload=b'{"model":"simulated-small","messages":' + b"[" * 100_000), 400, "invalid_json"),
        (request(payload=b'{"model":7}'), 400, "invalid_request"),
        (request(payload=body(model="nobody")), 404, "model_not_found"),
        (request(payload=body(cap=0)), 400, "invalid_request"),
        (request(payload=body(text="long " * 200_000)), 400, "context_length_exceeded"),
        (request("/v1/nowhere"), 404, "not_found"),
        (request("//[", method="GET"), 404, "not_found"),
        (request("/v1/models/nobody", method="GET"), 404, "model_not_found"),
        (request("/v1/account/usage?limit=0", method="GET"), 400, "invalid_request"),
        (request("/v1/account/usage?from=yesterday", method="GET"), 400, "invalid_request"),
        (request("/v1/account/usage", method="GET", authorization=""), 401, "missing_api_key"),
        (request(method="GET"), 405, "method_not_allowed"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_what_cannot_be_served_is_refused_with_a_code(
    data: bytes, status: int, code: str, autojump_clock: MockClock
) -> None:
    """Each refusal has its status and code, costs nothing, and leaves the connection usable."""
    platform = platform_of()
    async with connected(platform) as client:
        got = await client.send(data)
        assert (got.status, got.json()["error"]["code"]) == (status, code)
        assert platform.counters.billed == platform.counters.accepted_count == 0
        assert (await client.send(request(authorization="", x_api_key=TEST_KEY))).status == 200


async def test_errors_on_messages_have_anthropics_shape(autojump_clock: MockClock) -> None:
    """On /v1/messages an error has a type within and without, and no code."""
    error = (await ask(platform_of(), request(MESSAGES, body(model="nobody")))).json()
    assert (error["type"], error["error"]["type"]) == ("error", "not_found_error")
    assert "code" not in error["error"]


async def test_an_empty_balance_refuses(autojump_clock: MockClock) -> None:
    """Once the balance is spent, requests get 402 insufficient_credits."""
    platform = platform_of(balance_usd=Decimal("0.000001"))
    statuses = [(await ask(platform, request())).status for _ in range(2)]
    assert statuses == [200, 402]


async def test_over_the_limit_is_a_429_that_says_when_only_if_asked_to(autojump_clock: MockClock) -> None:
    """The third request of a minute with rpm=2 is rejected; waiting for Retry-After is enough."""
    silent, telling = platform_of(rpm=2), platform_of(rpm=2, retry_after=True)
    for platform in (silent, telling):
        await entries_of(platform, 2, request())
    assert "retry-after" not in (await ask(silent, request())).headers
    got = await ask(telling, request())
    assert (got.status, got.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    await trio.sleep(float(got.headers["retry-after"]))
    assert (await ask(telling, request())).status == 200


async def test_tokens_are_charged_once_they_are_known(autojump_clock: MockClock) -> None:
    """Under `actual` a request enters an empty window whatever its size, and fills it when it ends."""
    platform = platform_of(tpm=30, charging=Charging.ACTUAL, output_median_tokens=100)
    assert (await ask(platform, request())).status == 200
    assert (await ask(platform, request())).status == 429
    assert platform.counters.statistics().rejected_by == {"tokens": 1}


async def test_the_ledger_is_on_file_before_the_answers_first_byte(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An entry names path, model, tag and exact cost, and never the key; the reply's usage gives the same sum."""
    path = tmp_path / "ledger.jsonl"
    ledger = FileLedger(str(path))
    platform = Platform(Settings(cached_share=1.0), ledger=ledger)
    async with connected(platform) as client:
        await client.stream.send_all(request(payload=tagged("job-1"), idempotency_key="run/1"))
        first_byte = await client.stream.receive_some(1)
        text = path.read_text()
    ledger.close()
    entry = msgspec.json.decode(text)
    assert first_byte == b"H"
    assert (entry["seq"], entry["path"], entry["tag"], entry["idempotency_key"]) == (1, CHAT, "job-1", "run/1")
    assert TEST_KEY not in text
    tokens = entry["tokens"]
    uncached = tokens["input"] - tokens["cached"]
    cost = Decimal("0.00000015") * uncached + Decimal("0.000000075") * tokens["cached"] + Decimal("0.0000006") * tokens["output"]
    assert f'"amount":{cost:f},' in text


@pytest.mark.parametrize(("words", "rate"), [(1_000, "0.00000125"), (250_000, "0.0000025")])
async def test_the_context_tier_goes_by_input(words: int, rate: str, autojump_clock: MockClock) -> None:
    """A prompt from 200,000 tokens on is billed at the second tier."""
    platform = platform_of(cached_share=0.0, output_median_tokens=1, output_sigma=0.0)
    (entry,) = await entries_of(platform, 1, request(payload=body(text="moon" * words, model="simulated-large")))
    output_rate = Decimal("0.00001") if words == 1_000 else Decimal("0.000015")
    assert Decimal(bytes(entry.cost.amount).decode()) == entry.tokens.input * Decimal(rate) + output_rate


async def test_usage_shows_the_balance_and_the_newest_events_first(autojump_clock: MockClock) -> None:
    """Pages go backwards by event id; costs add up to what is missing from the balance; a failure is an event for nothing."""
    platform = platform_of(script=("ok", "ok", "upstream_error"))
    await entries_of(platform, 4, request())
    page = (await ask(platform, request("/v1/account/usage?limit=3", method="GET"))).json()
    rest = (await ask(platform, request(f"/v1/account/usage?before={page['data'][-1]['id']}", method="GET"))).json()
    failed = (await ask(platform, request("/v1/account/usage?status=failed", method="GET"))).json()
    events = page["data"] + rest["data"]
    assert [event["id"] for event in events] == sorted((event["id"] for event in events), reverse=True)
    assert (len(events), page["has_more"], rest["has_more"]) == (4, True, False)
    assert [event["cost"]["amount"] for event in failed["data"]] == [0]
    assert page["balance"]["amount"] == pytest.approx(10_000 - sum(event["cost"]["amount"] for event in events))


async def test_the_catalog_is_public_and_prices_are_decimal_strings(autojump_clock: MockClock) -> None:
    """One price object, an array of tiers and a price per request all occur; one model can be had alone."""
    platform = platform_of()
    listed = (await ask(platform, request("/v1/models", method="GET", authorization=""))).json()["data"]
    pricing = {model["id"]: model["pricing"] for model in listed}
    assert pricing["simulated-small"] == {"prompt": "0.00000015", "completion": "0.0000006", "input_cache_read": "0.000000075"}
    assert [tier["min_context"] for tier in pricing["simulated-large"]] == [0, 200_000]
    assert pricing["simulated-per-request"] == {"request": "0.005"}
    one = await ask(platform, request("/v1/models/simulated-large", method="GET", authorization=""))
    assert one.json() == next(model for model in listed if model["id"] == "simulated-large")


async def test_connections_are_kept_and_closed_as_asked(autojump_clock: MockClock) -> None:
    """Pipelined requests are answered in order on one connection; `connection: close` ends it."""
    platform = platform_of(latency_sigma=0.0)
    async with connected(platform) as client:
        await client.stream.send_all(request() + request("/v1/models", method="GET", connection="close"))
        data = b""
        while more := await client.stream.receive_some():
            data += more
    assert data.index(b"chat.completion") < data.index(b"connection: close") < data.index(b'"object":"list"')
    assert platform.counters.connections_opened == 1


async def test_what_is_no_http_is_refused(autojump_clock: MockClock) -> None:
    """Bytes that are no request get a 400 and the end of the connection."""
    async with connected(platform_of()) as client:
        assert (await client.send(b"\x16\x03\x01\x02\x00\r\n\r\n")).status == 400
        assert await client.stream.receive_some() == b""


async def test_statistics_tell_the_peaks(autojump_clock: MockClock) -> None:
    """Requests in flight together and accepted within one minute are counted at their highest."""
    platform = platform_of(latency_sigma=0.0)
    for at_once in (3, 2):
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(ask, platform, request())
        await trio.sleep(60)
    got = (await ask(platform, request("/simulator/statistics", method="GET", authorization=""))).json()
    assert (got["requests"], got["accepted"], got["billed"], got["in_flight"]) == (5, 5, 5, 0)
    assert (got["peak_in_flight"], got["peak_accepted_per_minute"]) == (3, 3)


def test_settings_show_no_key() -> None:
    """Printed settings say how many keys there are, and none of them."""
    shown = repr(Settings(keys=("sk-empiriolabs-test-one", "sk-empiriolabs-test-two"), rpm=7))
    assert "sk-empiriolabs" not in shown
    assert "rpm=7" in shown
    assert "keys=<2>" in shown
