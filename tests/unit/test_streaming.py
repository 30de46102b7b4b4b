"""Streams put together: the object that the same request without `stream` has, and what became of it in mid-stream."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner import dialect
from batchrunner.exchange import Reply
from batchrunner.outcome import Again, Failed, Tries, classify
from batchrunner.streaming import STREAMED_URLS, Stream, stream_for

UNEXPLAINED = "the server broke the stream off, and did not say why"
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"


def chunk(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": list(choices)} | more


def delta(index: int = 0, finish: str | None = None, **fragment: Any) -> dict[str, Any]:
    return {"index": index, "delta": fragment, "logprobs": None, "finish_reason": finish}


def wire(*events: dict[str, Any] | str) -> bytes:
    """Events as servers send them: those with a type name it twice."""
    lines = []
    for event in events:
        if isinstance(event, dict) and "type" in event:
            lines.append(f"event: {event['type']}\n")
        lines.append(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n")
    return "".join(lines).encode()


def fed(url: str, body: bytes, size: int = 1 << 20) -> Stream:
    stream = stream_for(url)
    assert stream is not None
    for start in range(0, len(body), size):
        stream.feed(body[start : start + size])
    return stream


def whole(url: str, body: bytes, size: int = 1 << 20) -> Any:
    stream = fed(url, body, size)
    assert stream.end()
    return json.loads(stream.body())


def message(finish: str, **fields: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant"} | fields, "logprobs": None, "finish_reason": finish}


CALLS = wire(
    chunk(delta(role="assistant", content=None)),
    chunk(delta(tool_calls=[{"index": 1, "id": "b", "type": "function", "function": {"name": "moon", "arguments": ""}}])),
    chunk(delta(tool_calls=[{"index": 0, "id": "a", "type": "function", "function": {"name": "sun", "arguments": '{"x"'}}])),
    chunk(delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}, {"index": 1, "function": {"arguments": "{}"}}])),
    chunk(delta(finish="tool_calls")),
    "[DONE]",
)
SEVERAL = wire(
    chunk(delta(1, role="assistant", content="Ki")),
    chunk(delta(0, role="assistant", content="Mo"), delta(1, content="ng"), obfuscation="x7"),
    chunk(delta(0, "stop", content="on"), delta(1, "length")),
    chunk(usage={"prompt_tokens": 9, "completion_tokens": 4}),
    "[DONE]",
)


def test_fragments_of_several_choices_are_sorted_out() -> None:
    """Whatever their order; usage comes with the last chunk, and padding is dropped."""
    assert whole(CHAT, SEVERAL) == {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [message("stop", content="Moon"), message("length", content="King") | {"index": 1}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4},
    }


def test_fragments_of_calls_are_put_together() -> None:
    """By their index, which they have in a stream alone."""
    (choice,) = whole(CHAT, CALLS)["choices"]
    calls = [
        {"id": "a", "type": "function", "function": {"name": "sun", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "moon", "arguments": "{}"}},
    ]
    assert choice == message("tool_calls", content=None, tool_calls=calls)


def test_usage_is_not_made_up() -> None:
    """Where the request does not ask for it, no chunk has any, and neither has the whole."""
    assert "usage" not in whole(CHAT, CALLS)
    asked = wire(chunk(delta(content="a"), usage=None), chunk(usage={"prompt_tokens": 1}), chunk(usage=None), "[DONE]")
    assert whole(CHAT, asked)["usage"] == {"prompt_tokens": 1}


def test_refusals_thoughts_sounds_and_probabilities_are_kept() -> None:
    """Texts are joined, lists go on, nulls stand until something is said."""
    one, two = ({"token": token, "logprob": -0.5} for token in "ab")
    body = wire(
        chunk(delta(role="assistant", content=None, refusal="I ", reasoning_content="Hm", audio={"id": "x", "data": "aG"})),
        chunk(delta(refusal="can", reasoning_content="m.", audio={"data": "k=", "transcript": "hi"})),
        chunk({"index": 0, "delta": {}, "logprobs": {"content": [one], "refusal": None}, "finish_reason": None}),
        chunk({"index": 0, "delta": {}, "logprobs": {"content": [two]}, "finish_reason": "stop"}),
        "[DONE]",
    )
    (choice,) = whole(CHAT, body)["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": "I can",
        "reasoning_content": "Hmm.",
        "audio": {"id": "x", "data": "aGk=", "transcript": "hi"},
    }
    assert choice["logprobs"] == {"content": [one, two], "refusal": None}


def test_older_completions_are_put_together() -> None:
    """Their text stands in the choice itself, and their chunks have the object's own name."""
    parts = [{"index": 0, "text": text, "logprobs": None, "finish_reason": end} for text, end in (("Mo", None), ("on", "stop"))]
    body = wire(*(chunk(part, object="text_completion") for part in parts), "[DONE]")
    found = whole(COMPLETIONS, body)
    assert (found["object"], found["choices"]) == ("text_completion", [parts[1] | {"text": "Moon"}])


BEGUN = {"id": "m-1", "type": "message", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}
BLOCKS = wire(
    {"type": "message_start", "message": BEGUN},
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "m."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Moon"}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "citations_delta", "citation": {"cited_text": "x"}}},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t", "name": "sun", "input": {}}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"x": 1.50'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "}"}},
    {"type": "content_block_start", "index": 3, "content_block": {"type": "tool_use", "id": "u", "name": "now", "input": {}}},
    {"type": "content_block_stop", "index": 3},
    {"type": "whatever_comes_next", "index": 3},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": {"output_tokens": 40}},
    {"type": "message_stop"},
)  # fmt: skip


def test_blocks_of_a_message_are_put_together() -> None:
    """Thoughts with their signature, texts with their sources, calls with their input as it was written; usage as it ends."""
    stream = fed(MESSAGES, BLOCKS)
    assert stream.complete
    assert b'"input":{"x": 1.50}' in stream.body()
    assert json.loads(stream.body()) == {
        "id": "m-1",
        "type": "message",
        "usage": {"input_tokens": 9, "output_tokens": 40},
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "content": [
            {"type": "thinking", "thinking": "Hmm.", "signature": "c2ln"},
            {"type": "text", "text": "Moon", "citations": [{"cited_text": "x"}]},
            {"type": "tool_use", "id": "t", "name": "sun", "input": {"x": 1.5}},
            {"type": "tool_use", "id": "u", "name": "now", "input": {}},
        ],
    }


def test_an_input_that_was_cut_off_stays_as_it_was_written() -> None:
    """By the output cap, as a rule: what there is was paid for."""
    body = BLOCKS.replace(b'"partial_json": "}"', b'"partial_json": ","')
    assert whole(MESSAGES, body)["content"][2]["input"] == '{"x": 1.50,'


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_a_response_is_what_its_last_event_holds(kind: str) -> None:
    """Byte for byte, and nothing of what came before is kept."""
    begun = {"type": "response.created", "response": {"id": "r", "output": []}}
    words = {"type": "response.output_text.delta", "delta": "Moon " * 1000}
    stream = fed(RESPONSES, wire(begun, words))
    assert (stream.began, stream.complete, stream.held_bytes) == (True, False, 0)
    stream.feed(b'data: {"type":"%b","response":{"id": "r",  "cost":1.50}}\n\n' % kind.encode())
    assert stream.end()
    assert stream.body() == b'{"id": "r",  "cost":1.50}'


@pytest.mark.parametrize(
    ("url", "event", "error"),
    [
        (CHAT, {"error": {"code": "upstream_error", "message": "m"}}, {"code": "upstream_error", "message": "m"}),
        (CHAT, {"error": "it broke"}, {"message": "it broke"}),
        (CHAT, {"type": "error", "error": {}}, {"type": "error", "error": {}}),
        (CHAT, {"error": {"why": 7}}, {"why": 7, "message": UNEXPLAINED}),
        (COMPLETIONS, {"error": {"code": 502}}, {"code": 502}),
        (RESPONSES, {"type": "error", "code": "x", "message": "m"}, {"type": "error", "code": "x", "message": "m"}),
        (RESPONSES, {"type": "error", "error": {"code": "x"}}, {"code": "x"}),
        (RESPONSES, {"type": "error", "error": "it broke"}, {"message": "it broke"}),
        (MESSAGES, {"type": "error", "error": {"type": "overloaded_error"}}, {"type": "overloaded_error"}),
        (MESSAGES, {"type": "error", "error": "it broke"}, {"message": "it broke"}),
        (MESSAGES, {"type": "error", "message": "it broke"}, {"type": "error", "message": "it broke"}),
    ],
)
def test_an_error_in_mid_stream_takes_the_answers_place(url: str, event: dict[str, Any], error: object) -> None:
    """As the envelope that the same server begins with where it fails sooner; what follows is not looked at."""
    begun = {CHAT: CALLS, COMPLETIONS: CALLS, MESSAGES: BLOCKS, RESPONSES: wire({"type": "response.created"})}[url]
    half = begun[: begun.index(b"\n\n") + 2]
    stream = fed(url, half + wire(event) + begun)
    assert stream.complete
    assert json.loads(stream.body())["error"] == error
    verdict = classify(Reply(200, (), stream.body()), dialect.for_url(url), Tries(1, 5), random.Random(7), 0)
    assert isinstance(verdict, Failed | Again)


@pytest.mark.parametrize(("url", "body"), [(CHAT, CALLS), (MESSAGES, BLOCKS)])
def test_an_event_without_data_says_nothing(url: str, body: bytes) -> None:
    """Some servers and proxies keep a connection alive so: an answer that is being paid for goes on."""
    assert whole(url, body.replace(b"\n\n", b"\n\ndata:\n\ndata:  \n\n", 2)) == whole(url, body)


@pytest.mark.parametrize(
    ("url", "body", "reasons"),
    [(CHAT, CALLS, 4), (CHAT, SEVERAL, 2), (MESSAGES, BLOCKS, -2)],
    ids=["calls", "several choices", "blocks"],
)
def test_a_stream_is_whole_once_all_of_it_says_why_it_ended(url: str, body: bytes, reasons: int) -> None:
    """Some servers leave the terminator out: what they said was paid for, and a repeat would be too. Cut before, it is not."""
    ends = [at for at in range(len(body)) if body.startswith(b"\n\n", at)]
    for end in (0, *ends[:reasons]):
        assert not fed(url, body[: end + 2]).end()
    for end in ends[reasons:]:
        assert not fed(url, body[: end + 2]).complete or end == ends[-1], "more may come"
        assert fed(url, body[: end + 2]).end()
    assert whole(url, body[: ends[-2] + 2]) == whole(url, body)
    assert fed(url, body[: ends[-1]]).end()  # a terminator that only the end delimits is one


@pytest.mark.parametrize("url", STREAMED_URLS)
@pytest.mark.parametrize("odd", [b"data: {broken\n\n", b'data: {"type":"\xff"}\n\n', b"data: " + b"[" * 100_000 + b"\n\n"])
def test_an_event_that_is_no_json_makes_the_answer_unreadable(url: str, odd: bytes) -> None:
    """It ends the answer, and its words are kept to be shown, as much of them as fits on a page."""
    stream = fed(url, odd + b"data: [DONE]\n\n")
    assert stream.end()
    assert stream.body() == odd[6:-2][: 1 << 16]


@pytest.mark.parametrize("url", STREAMED_URLS)
@pytest.mark.parametrize("event", [b"[]", b"7", b'"x"', b"null", b"{}", b'{"choices":7,"type":7,"response":7}', b'{"type":[]}'])
def test_an_event_of_another_shape_is_passed_over(url: str, event: bytes) -> None:
    """It neither raises nor ends the answer."""
    assert not fed(url, b"data: " + event + b"\n\n").end()


@pytest.mark.parametrize("url", STREAMED_URLS)
def test_json_that_is_called_a_stream_is_kept_as_it_is(url: str) -> None:
    """Some proxies give an error the type of what was asked for."""
    stream = fed(url, b'{"error": {"code": "upstream_error"}}', 3)
    assert stream.held_bytes == 37
    assert stream.end()
    assert stream.body() == b'{"error": {"code": "upstream_error"}}'


def test_halves_of_a_character_are_joined() -> None:
    """Two chunks may bring one half each; a half that stays alone is escaped, as a server without a stream does it."""
    parts = [rb'data: {"choices":[{"delta":{"content":"%b"}}]}' % half for half in (rb"\ud83d", rb"\ude00", rb"\ud83d")]
    stream = fed(CHAT, b"\n\n".join((*parts, b"data: [DONE]")))
    assert stream.end()
    assert rb'"content": "\ud83d\ude00\ud83d"' in stream.body()


def test_a_half_of_a_character_in_a_message_spoils_nothing() -> None:
    """Nor one in the input of a call, which then stays a text: what was paid for is kept as well as JSON can."""
    text = BLOCKS.replace(b'"text": "Moon"', rb'"text": "\ud83d"')
    assert whole(MESSAGES, text)["content"][1:3] == [
        {"type": "text", "text": "\ud83d", "citations": [{"cited_text": "x"}]},
        {"type": "tool_use", "id": "t", "name": "sun", "input": {"x": 1.5}},
    ]
    call = BLOCKS.replace(rb'"partial_json": "}"', rb'"partial_json": "\ud83d"')
    assert whole(MESSAGES, call)["content"][2]["input"] == '{"x": 1.50\ud83d'


def test_content_may_come_in_parts() -> None:
    """Some servers write lists of them, and words that are not texts."""
    body = wire(chunk(delta(content=[{"type": "text", "text": "Mo"}])), chunk(delta(content=["on", 7])), "[DONE]")
    (choice,) = whole(CHAT, body)["choices"]
    assert choice["message"]["content"] == [{"type": "text", "text": "Mo"}, "on", 7]


def test_what_a_message_came_to_may_lack_figures() -> None:
    """Those that it began with stand then."""
    body = BLOCKS.replace(b'"usage": {"output_tokens": 40}', b'"usage": {"output_tokens": null}')
    assert whole(MESSAGES, body)["usage"] == {"input_tokens": 9, "output_tokens": 1}


def test_a_response_is_not_ended_by_another_shapes_terminator() -> None:
    """Some servers write it behind every stream."""
    done = wire("[DONE]")
    assert not fed(RESPONSES, wire({"type": "response.created"}) + done).end()
    assert whole(RESPONSES, wire({"type": "response.completed", "response": {"id": "r"}}) + done) == {"id": "r"}


def test_an_object_that_nests_too_deeply_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could just be read may be too deep to be written: nothing raises, and nothing is made up."""

    def too_deep(_: object) -> bytes:
        raise RecursionError

    monkeypatch.setattr("batchrunner.streaming.messages.Messages.body", too_deep)
    stream = fed(MESSAGES, BLOCKS)
    assert stream.end()
    assert stream.body() == b""


def test_first_words_are_told_from_what_comes_before_them() -> None:
    """A role, an empty text, the beginning of a block are no words yet."""
    assert not fed(CHAT, wire(chunk(delta(role="assistant", content="")))).began
    assert fed(CHAT, wire(chunk(delta(role="assistant", content="M")))).began
    assert fed(CHAT, wire(chunk(delta(reasoning_content="Hm")))).began
    assert fed(COMPLETIONS, wire(chunk({"index": 0, "text": "M"}))).began
    first, second = BLOCKS.split(b"event: content_block_delta", 1)
    assert not fed(MESSAGES, first).began
    assert fed(MESSAGES, first + b"event: content_block_delta" + second).began


PIECES = st.lists(st.integers(1, 60), min_size=1)
BODIES = st.sampled_from([(CHAT, SEVERAL), (CHAT, CALLS), (MESSAGES, BLOCKS), (COMPLETIONS, SEVERAL)])


@given(BODIES, PIECES, st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_split_gives_the_same_object(asked: tuple[str, bytes], sizes: list[int], end: bytes) -> None:
    """However the network cuts the bytes, and whichever of its line ends the server uses."""
    url, body = asked
    expected = whole(url, body)
    body = body.replace(b"\n", end)
    stream = stream_for(url)
    assert stream is not None
    at = 0
    while at < len(body):
        size = sizes[at % len(sizes)]
        stream.feed(body[at : at + size])
        at += size
    assert stream.end()
    assert json.loads(stream.body()) == expected


@given(st.lists(st.text(min_size=1), max_size=20))
def test_what_is_held_is_about_what_is_kept(texts: list[str]) -> None:
    """A bound on it is a bound on memory: each word counts once, the envelope around it does not."""
    stream = fed(CHAT, wire(*(chunk(delta(content=text)) for text in texts)))
    kept = sum(map(len, texts))
    assert kept <= stream.held_bytes <= kept + 2_000


def test_items_without_end_are_counted() -> None:
    """A server that makes up new choices, calls or fields fills no memory that nobody counts."""
    for fragment in ('"choices":[{"index":%d,"delta":{}}]', '"x%d":1', '"choices":[{"delta":{"tool_calls":[{"index":%d}]}}]'):
        stream = fed(CHAT, b"".join(b"data: {%b}\n\n" % (fragment % number).encode() for number in range(5000)))
        assert stream.held_bytes > 5000 * 30


LONG = "x" * 10_000


@pytest.mark.parametrize(
    "event",
    [
        lambda number: chunk({"delta": {f"{LONG}{number}": None}}),
        lambda number: chunk({"delta": {f"{LONG}{number}": 7}}),
        lambda number: chunk({"delta": {f"{LONG}{number}": {}}}),
        lambda number: chunk({"delta": {f"{LONG}{number}": []}}),
        lambda number: chunk({"delta": {f"x{number}": {"id": LONG}}}),
        lambda number: chunk(**{f"x{number % 50}": LONG if number >= 50 else 7}),
    ],
)
def test_names_and_words_that_come_whole_are_counted(event: Any) -> None:
    """As much as fragments of text: a server that makes them up fills no memory that nobody counts."""
    body = wire(*(event(number) for number in range(100)))
    assert fed(CHAT, body).held_bytes > 50 * len(LONG)


def test_what_is_said_again_is_counted_once() -> None:
    """Every chunk repeats what it is a chunk of: a long answer in small pieces is no large one."""
    body = wire(*(chunk(delta(content="a"), system_fingerprint="fp", usage={"prompt_tokens": n}) for n in range(1000)))
    assert fed(CHAT, body).held_bytes < 5_000
