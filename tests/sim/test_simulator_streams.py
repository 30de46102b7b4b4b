"""The simulated platform's streams: in each dialect's own events, which add up to the answer that comes without a stream."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.streaming import stream_for
from tests.sim.simulated import CHAT, MESSAGES, RESPONSES, ask, body, connected, entries_of, platform_of, request

COMPLETIONS = "/v1/completions"
INCLUDED = {"include_usage": True}


def asked(path: str, **fields: Any) -> bytes:
    plain = {"model": "simulated-small", "prompt": "How high is the moon?", "max_tokens": 50}
    fields = (plain if path == COMPLETIONS else msgspec.json.decode(body(path))) | fields
    return request(path, msgspec.json.encode(fields))


async def streamed(path: str, **fields: Any) -> tuple[bytes, bytes]:
    """The head and the body of a streamed answer, out of its chunks."""
    async with connected(platform_of()) as client:
        got, _ = await client.read(asked(path, stream=True, **fields), seconds=60)
    head, _, rest = got.partition(b"\r\n\r\n")
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert chunks[-1] == b""
    return head, b"".join(chunks)


def assembled(path: str, data: bytes) -> Any:
    stream = stream_for(path)
    assert stream is not None
    stream.feed(data)
    assert stream.end()
    return msgspec.json.decode(stream.body())


@pytest.mark.parametrize("model", ["simulated-small", "simulated-reasoner"])
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"stream_options": INCLUDED}),
        (CHAT, {"stream_options": INCLUDED, "n": 3}),
        (CHAT, {"stream_options": INCLUDED, "max_tokens": 1}),
        (COMPLETIONS, {"stream_options": INCLUDED}),
        (COMPLETIONS, {"stream_options": INCLUDED, "prompt": ["a", "b"], "n": 2}),
        (RESPONSES, {}),
        (RESPONSES, {"max_output_tokens": 1}),
        (MESSAGES, {}),
        (MESSAGES, {"max_tokens": 1}),
    ],
)
async def test_both_ways_give_the_same_object(path: str, fields: dict[str, Any], model: str, autojump_clock: MockClock) -> None:
    """The stream put together by the runner's own assembler is what the same request without a stream gets."""
    fields = fields | {"model": model}
    head, data = await streamed(path, **fields)
    assert b"content-type: text/event-stream" in head
    began = trio.current_time()
    plain = (await ask(platform_of(), asked(path, **{k: v for k, v in fields.items() if k != "stream_options"}))).json()
    whole = assembled(path, data)
    when = "created_at" if path == RESPONSES else "created"
    assert whole.get(when, 0) <= began
    # The platform's own number for an answer is drawn without regard to the body; the time is the clock's.
    same = {when: None, "request_id": None}
    assert whole | same == plain | same


async def test_usage_is_told_where_it_is_asked_for(autojump_clock: MockClock) -> None:
    """Without `stream_options.include_usage` no chunk of OpenAI's older shapes says what was taken; the ledger does."""
    _, data = await streamed(CHAT)
    assert b'"usage"' not in data
    _, data = await streamed(CHAT, stream_options=INCLUDED)
    assert data.count(b'"usage":null') == data.count(b"data: ") - 2


async def test_words_take_their_time_on_the_way(autojump_clock: MockClock) -> None:
    """The first come after the latency, the last as late as a whole answer would have; billed as one."""
    platform = platform_of(latency_sigma=0.0, latency_per_token_seconds=0.1, output_sigma=0.0, output_median_tokens=40)
    async with connected(platform) as client:
        await client.stream.send_all(asked(CHAT, stream=True))
        got = b""
        while b'"content":"' not in got.replace(b'"content":""', b""):
            got += await client.stream.receive_some(1 << 16)
        first_seconds = trio.current_time()
        while not got.endswith(b"0\r\n\r\n"):
            got += await client.stream.receive_some(1 << 16)
    assert 0.5 < first_seconds < 1.5
    assert trio.current_time() == pytest.approx(4.5)
    (entry,) = await entries_of(platform, 0, b"")
    assert entry.tokens.output == 40


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/search"])
async def test_what_writes_nothing_is_not_streamed(path: str, autojump_clock: MockClock) -> None:
    """It is refused, as the platform would."""
    payload = {"model": "simulated-embedding", "input": "a", "query": "a", "stream": True}
    got = await ask(platform_of(), request(path, msgspec.json.encode(payload)))
    assert (got.status, got.json()["error"]["message"]) == (400, "stream: only texts are streamed.")
