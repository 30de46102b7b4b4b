from __future__ import annotations

import json
from typing import Any

import pytest

from batchrunner import dialect
from batchrunner.dialect import Finish, ReplyFacts
from batchrunner.dialect.generic import Generic
from batchrunner.job import Usage

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
URLS = (*dialect.URLS, "/v1/any/thing")


def read(url: str, reply: object) -> ReplyFacts:
    facts = dialect.for_url(url).read(json.dumps(reply).encode())
    assert facts is not None
    return facts


def choice(reason: object = "stop", **message: Any) -> dict[str, Any]:
    return {"finish_reason": reason, "message": {"role": "assistant", **message}}


@pytest.mark.parametrize(
    ("choices", "finish", "reason"),
    [
        ([choice(content="hi")], "stop", "stop"),
        ([choice("length", content="")], "length", "length"),
        ([choice("MAX_TOKENS", content="x")], "length", "MAX_TOKENS"),
        ([choice("content_filter", content="")], "refusal", "content_filter"),
        ([choice(content=None, refusal="I cannot")], "refusal", "stop"),
        ([choice("tool_calls", content=None, tool_calls=[{}])], "tool", "tool_calls"),
        ([choice("function_call")], "tool", "function_call"),
        ([choice(content=None, tool_calls=[{}])], "tool", "stop"),
        ([choice(content="", function_call={"name": "f"})], "tool", "stop"),
        ([choice(content="")], "empty", "stop"),
        ([choice(content=" \n")], "empty", "stop"),
        ([choice(content=None)], "empty", "stop"),
        ([choice(content=None, audio={"id": "a"})], "stop", "stop"),
        ([choice(content=[{"type": "text", "text": "hi"}])], "stop", "stop"),
        ([choice(content=[{"type": "text", "text": ""}])], "empty", "stop"),
        ([choice(None, content="hi")], "other", None),
        ([choice("weird", content="hi")], "other", "weird"),
        ([choice(7, content="hi")], "other", None),
        ([], "empty", None),
        (None, "empty", None),
        (["x", 3], "empty", None),
        ([choice(content="hi"), choice("length", content="x")], "length", "length"),
        ([choice("length", content="x"), choice("content_filter")], "refusal", "content_filter"),
    ],
)
def test_chat_finishes(choices: object, finish: str, reason: str | None) -> None:
    """Chat Completions: by finish_reason, refusal, text and calls; of several choices the most telling."""
    facts = read(CHAT, {"choices": choices, "model": "m-1"})
    assert (facts.finish, facts.finish_reason, facts.model) == (Finish(finish), reason, "m-1")


@pytest.mark.parametrize(
    ("url", "reply", "opaque"),
    [
        (CHAT, {"choices": [choice(content="hi")]}, False),
        (CHAT, {"choices": [choice(content="hi"), choice(content="hi", images=[{"type": "image_url"}])]}, True),
        (CHAT, {"choices": [choice(audio={"id": "a"})]}, True),
        (CHAT, {"choices": [choice(content="hi", images=[], audio=None)]}, False),
        (RESPONSES, {"output": [{"type": "message", "content": []}]}, False),
        (RESPONSES, {"output": [{"type": "web_search_call"}]}, False),
        (RESPONSES, {"output": [{"type": "image_generation_call", "result": "aGk="}]}, True),
    ],
)
def test_a_picture_or_a_sound_in_an_answer_of_text_is_told(url: str, reply: dict[str, Any], opaque: bool) -> None:
    """No usage of tokens says what it costs where a model is billed by it."""
    assert read(url, reply).opaque == opaque


def output(*parts: dict[str, Any], kind: str = "message") -> list[dict[str, Any]]:
    return [{"type": "reasoning", "summary": []}, {"type": kind, "content": list(parts)}]


TEXT = {"type": "output_text", "text": "hi"}


@pytest.mark.parametrize(
    ("reply", "finish", "reason"),
    [
        ({"status": "completed", "output": output(TEXT)}, "stop", "completed"),
        ({"output": output(TEXT)}, "stop", None),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length", "max_output_tokens"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "refusal", "content_filter"),
        ({"status": "incomplete", "incomplete_details": None}, "other", "incomplete"),
        ({"status": "completed", "output": output({"type": "refusal", "refusal": "no"})}, "refusal", "completed"),
        ({"status": "completed", "output": output(kind="function_call")}, "tool", "completed"),
        ({"status": "completed", "output": output(TEXT, kind="message") + output(kind="custom_tool_call")}, "tool", "completed"),
        ({"status": "completed", "output": output(TEXT) + output(kind="web_search_call")}, "stop", "completed"),
        ({"status": "completed", "output": output(kind="image_generation_call")}, "tool", "completed"),
        ({"status": "completed", "output": output({"type": "output_text", "text": ""})}, "empty", "completed"),
        ({"status": "completed", "output": []}, "empty", "completed"),
        ({"status": "completed", "output": [{"type": {}}, 5]}, "empty", "completed"),
        ({"status": "failed", "error": {"code": "server_error"}}, "other", "failed"),
        ({"status": 5, "output": "x"}, "empty", None),
    ],
)
def test_responses_finishes(reply: dict[str, Any], finish: str, reason: str | None) -> None:
    """Responses: by status, incomplete_details and the output's items."""
    facts = read(RESPONSES, reply)
    assert (facts.finish, facts.finish_reason, facts.model) == (Finish(finish), reason, None)


@pytest.mark.parametrize(
    ("reason", "content", "finish"),
    [
        ("end_turn", [{"type": "text", "text": "hi"}], "stop"),
        ("stop_sequence", [{"type": "text", "text": "hi"}], "stop"),
        ("end_turn", [{"type": "text", "text": ""}], "empty"),
        ("end_turn", [{"type": "thinking", "thinking": "hm"}], "empty"),
        ("end_turn", [], "empty"),
        ("end_turn", "nonsense", "stop"),
        ("end_turn", [{"type": "server_tool_use"}], "stop"),
        ("max_tokens", [], "length"),
        ("model_context_window_exceeded", [], "length"),
        ("tool_use", [{"type": "tool_use"}], "tool"),
        ("refusal", [], "refusal"),
        ("pause_turn", [], "other"),
        (None, [{"type": "text", "text": "hi"}], "other"),
    ],
)
def test_messages_finishes(reason: str | None, content: object, finish: str) -> None:
    """Messages: by stop_reason and content."""
    facts = read(MESSAGES, {"stop_reason": reason, "content": content, "model": ""})
    assert (facts.finish, facts.finish_reason, facts.model) == (Finish(finish), reason, None)


@pytest.mark.parametrize(
    ("url", "usage", "expected"),
    [
        (CHAT, {"prompt_tokens": 9, "completion_tokens": 4}, Usage(9, 4)),
        (
            CHAT,
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 5},
                "completion_tokens_details": {"reasoning_tokens": 3},
                "total_tokens": 13,
            },
            Usage(9, 4, 5, 3),
        ),
        (
            CHAT,
            {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "total_tokens": 43,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(9, 34, 0, 30),
        ),
        (
            CHAT,
            {"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 30}},
            Usage(9, 4, 0, 4),
        ),
        (CHAT, {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(9, 4)),
        (
            RESPONSES,
            {
                "input_tokens": 9,
                "output_tokens": 4,
                "input_tokens_details": {"cached_tokens": 5},
                "output_tokens_details": {"reasoning_tokens": 3},
            },
            Usage(9, 4, 5, 3),
        ),
        (MESSAGES, {"input_tokens": 9, "output_tokens": 4}, Usage(9, 4)),
        (
            MESSAGES,
            {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 20},
            Usage(129, 4, 100),
        ),
        (MESSAGES, {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": None}, Usage(9, 4)),
    ],
)
def test_usage_is_read_in_one_spelling(url: str, usage: dict[str, Any], expected: Usage) -> None:
    """Input includes cached and output includes reasoning, whatever the dialect says."""
    assert read(url, {"usage": usage}).usage == expected


@pytest.mark.parametrize(
    ("url", "usage"),
    [
        (CHAT, None),
        (CHAT, []),
        (CHAT, {}),
        (CHAT, {"prompt_tokens": 9}),
        (CHAT, {"completion_tokens": 9}),
        (CHAT, {"prompt_tokens": "9", "completion_tokens": 4}),
        (CHAT, {"prompt_tokens": -9, "completion_tokens": 4}),
        (CHAT, {"prompt_tokens": True, "completion_tokens": 4}),
        (CHAT, {"prompt_tokens": 9.5, "completion_tokens": 4}),
        (CHAT, {"prompt_tokens": 10**12, "completion_tokens": 4}),
        (CHAT, {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 10}}),
        (CHAT, {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": -1}}),
        (CHAT, {"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": "x"}}),
        (RESPONSES, {"input_tokens": 9}),
        (MESSAGES, {"input_tokens": 9}),
        (MESSAGES, {"output_tokens": 9}),
        (MESSAGES, {"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": -1}),
        (MESSAGES, {"input_tokens": 9, "output_tokens": 4, "cache_creation_input_tokens": "x"}),
    ],
)
def test_usage_that_makes_no_sense_is_none(url: str, usage: object) -> None:
    """A wrong figure would become a wrong amount."""
    assert read(url, {"usage": usage}).usage is None


@pytest.mark.parametrize(
    "reply",
    [
        {"tool_usage": {"web_search": 2, "none": 0, "odd": "x"}},
        {"usage": {"tool_usage": {"web_search": 2}}},
        {"metadata": {"tool_usage": {"web_search": 2}}},
    ],
)
def test_tools_that_fired_are_told(reply: dict[str, Any]) -> None:
    """The platform bills them beside the tokens."""
    for url in URLS:
        assert read(url, reply).tool_usage == {"web_search": 2}


def test_no_tool_fired_is_an_empty_map() -> None:
    """The usual reply has none."""
    assert read(CHAT, {}).tool_usage == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xef\xbb\xbf\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_json_is_none(body: bytes) -> None:
    """Nothing raises."""
    for url in URLS:
        assert dialect.for_url(url).read(body) is None


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'["\\ud800 x"]', b"\xef\xbb\xbf[]"])
def test_json_that_is_no_object_is_an_answer_of_which_nothing_is_known(body: bytes) -> None:
    """It was paid for, and says neither what it took nor how it ended."""
    for url in URLS:
        assert dialect.for_url(url).read(body) == ReplyFacts(None, Finish.OTHER, opaque=isinstance(dialect.for_url(url), Generic))


def test_a_byte_order_mark_is_no_part_of_the_json() -> None:
    """Some servers begin with one; the answer behind it was paid for."""
    body = b'\xef\xbb\xbf{"usage":{"prompt_tokens":9,"completion_tokens":4}}'
    facts = dialect.for_url(CHAT).read(body)
    assert facts is not None
    assert facts.usage == Usage(9, 4)


@pytest.mark.parametrize("url", URLS)
def test_no_nesting_is_too_deep_to_be_read(url: str) -> None:
    """Texts in texts in texts: whatever the parser lets through is read, since nothing of a reply may raise."""
    for depth in (100, 300, 380, 900):
        inner = b'[{"text":' * depth + b'"x"' + b"}]" * depth
        for body in (b'{"choices":[{"message":{"content":%b}}]}', b'{"output":[{"content":%b}]}', b'{"content":%b}'):
            facts = dialect.for_url(url).read(body % inner)
            assert (facts is not None) >= (depth == 100)


@pytest.mark.parametrize("odd", ['"\\ud83d"', "1e999", "-1e999", "9" * 400, "9" * 5000, "-" + "9" * 30])
def test_json_with_odd_values_is_still_a_reply(odd: str) -> None:
    """A text cut within an emoji, or a number past all ranges, is JSON, and was paid for."""
    body = f'{{"odd":{odd},"usage":{{"prompt_tokens":9,"completion_tokens":4}},"model":"m"}}'
    facts = dialect.for_url(CHAT).read(body.encode())
    assert facts is not None
    assert (facts.usage, facts.model) == (Usage(9, 4), "m")
