from __future__ import annotations

import json
from typing import Any

import pytest

from batchrunner import dialect
from batchrunner.dialect import Finish, ReplyFacts
from batchrunner.job import RequestSize, Usage

COMPLETIONS = dialect.for_url("/v1/completions")


def size(**body: Any) -> RequestSize:
    return COMPLETIONS.size(json.dumps({"model": "m"} | body).encode())


def read(reply: object) -> ReplyFacts:
    facts = COMPLETIONS.read(json.dumps(reply).encode())
    assert facts is not None
    return facts


@pytest.mark.parametrize(
    ("body", "cap", "choices"),
    [
        ({"prompt": "x", "max_tokens": 100}, 100, 1),
        ({"prompt": "x", "max_tokens": 100, "n": 3}, 300, 3),
        ({"prompt": "x", "max_tokens": 100, "n": 2, "best_of": 5}, 500, 5),
        ({"prompt": "x", "max_tokens": 100, "n": 2, "best_of": 1}, 200, 2),
        ({"prompt": ["x", "y", "z"], "max_tokens": 100}, 300, 3),
        ({"prompt": ["x", "y"], "max_tokens": 100, "n": 2}, 400, 4),
        ({"prompt": [1, 2, 3], "max_tokens": 100}, 100, 1),
        ({"prompt": [[1, 2], [3]], "max_tokens": 100}, 200, 2),
        ({"prompt": [], "max_tokens": 100}, 100, 1),
        ({"max_tokens": 100}, 100, 1),
        ({"prompt": ["x", "y"]}, None, 2),
        ({"prompt": "x"}, None, 1),
        ({"prompt": "x", "max_tokens": 0, "echo": True}, 0, 1),
        ({"prompt": "x", "max_tokens": 10**30, "n": 10**30}, 1_000_000_000, 1_000_000_000),
        ({"prompt": ["x", "y"], "n": 10**30}, None, 1_000_000_000),
        ({"prompt": "x", "max_completion_tokens": 9}, None, 1),
    ],
)
def test_the_cap_holds_for_each_answer_that_is_written(body: dict[str, Any], cap: int | None, choices: int) -> None:
    """Every prompt is answered n times; with best_of more are written, and billed, than come back."""
    found = size(**body)
    assert (found.model, found.output_cap_tokens, found.choices) == ("m", cap, choices)


@pytest.mark.parametrize("value", ["100", -5, 1.5, True, None, [], {}])
def test_a_cap_that_is_no_number_of_tokens_counts_as_none(value: object) -> None:
    """The server will say what it thinks of it."""
    found = size(prompt="x", max_tokens=value, n=value, best_of=value)
    assert (found.output_cap_tokens, found.choices) == (None, 1)


def test_prompts_count_by_bytes_or_by_id() -> None:
    """Text of one or several prompts is guessed, ids are tokens."""
    assert 1250 <= size(prompt="word " * 1000).input_tokens <= 1270
    assert 1250 <= size(prompt=["word " * 500] * 2).input_tokens <= 1275
    assert 500 <= size(prompt=[123_456] * 500).input_tokens <= 520
    assert 500 <= size(prompt=[[123_456] * 250] * 2).input_tokens <= 520


@pytest.mark.parametrize(
    ("choices", "finish", "reason"),
    [
        ([{"text": "hi", "finish_reason": "stop"}], "stop", "stop"),
        ([{"text": "hi", "finish_reason": "length"}], "length", "length"),
        ([{"text": "", "finish_reason": "length"}], "length", "length"),
        ([{"text": "", "finish_reason": "content_filter"}], "refusal", "content_filter"),
        ([{"text": " \n", "finish_reason": "stop"}], "empty", "stop"),
        ([{"finish_reason": "stop"}], "empty", "stop"),
        ([{"text": 5, "finish_reason": "stop"}], "empty", "stop"),
        ([{"text": "hi", "finish_reason": None}], "other", None),
        ([{"text": "hi", "finish_reason": "weird"}], "other", "weird"),
        ([{"text": "a", "finish_reason": "stop"}, {"text": "b", "finish_reason": "length"}], "length", "length"),
        ([], "empty", None),
        (None, "empty", None),
    ],
)
def test_finishes(choices: object, finish: str, reason: str | None) -> None:
    """By finish_reason and text; of several choices the most telling."""
    facts = read({"object": "text_completion", "choices": choices, "model": "m-1"})
    assert (facts.finish, facts.finish_reason, facts.model) == (Finish(finish), reason, "m-1")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}, Usage(9, 4, 5)),
        ({"prompt_tokens": 9}, None),
        (None, None),
    ],
)
def test_usage_is_spelt_as_in_chat(usage: object, expected: Usage | None) -> None:
    """The older spelling of OpenAI."""
    assert read({"usage": usage}).usage == expected
