"""Reranks, and every other shape of which little is known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchrunner import dialect
from batchrunner.dialect import Finish, ReplyFacts
from batchrunner.job import Usage

OTHER, RERANKS = dialect.for_url("/v1/any/thing"), dialect.for_url("/v1/reranks")


def read(reply: object) -> ReplyFacts:
    facts = OTHER.read(json.dumps(reply).encode())
    assert facts is not None
    return facts


@pytest.mark.parametrize(
    ("body", "model", "cap", "choices"),
    [
        ({"model": "m", "prompt": "a cat"}, "m", None, 1),
        ({"model": "m", "max_tokens": 100}, "m", 100, 1),
        ({"max_output_tokens": 100, "n": 2}, "", 200, 2),
        ({"max_completion_tokens": 50, "max_tokens": 100}, "", 50, 1),
        ({"max_tokens": "100", "max_output_tokens": 0, "n": -1}, "", None, 1),
        ({"model": ["m"], "n": 4}, "", None, 4),
        ({}, "", None, 1),
    ],
)
def test_a_request_is_sized_by_the_usual_names(body: dict[str, Any], model: str, cap: int | None, choices: int) -> None:
    """Model, caps and choices, where they are what their names say."""
    size = OTHER.size(json.dumps(body).encode())
    assert (size.model, size.output_cap_tokens, size.choices) == (model, cap, choices)
    assert size.opaque_output


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 4}, Usage(9, 4)),
        ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}, Usage(9, 4, 5)),
        ({"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}, Usage(9, 4)),
        (
            {"input_tokens": 9, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 3}},
            Usage(9, 4, 0, 3),
        ),
        ({"input_tokens": 9, "output_tokens": 4, "cache_read_input_tokens": 100}, Usage(109, 4, 100)),
        ({"input_tokens": 9, "output_tokens": 4, "cache_creation_input_tokens": 100}, Usage(109, 4)),
        ({"input_tokens": 9, "total_tokens": 13}, Usage(9, 4)),
        ({"prompt_tokens": 9, "total_tokens": 9}, Usage(9, 0)),
        ({"prompt_tokens": 9, "total_tokens": 8}, None),
        ({"prompt_tokens": 9}, None),
        ({"total_tokens": 9}, None),
        ({"prompt_tokens": "9", "completion_tokens": 4}, None),
        ({"seconds": 9}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_read_in_whichever_spelling(usage: object, expected: Usage | None) -> None:
    """All that other shapes write; where it could mean two things it is unknown, since a wrong figure is a wrong amount."""
    assert read({"usage": usage}).usage == expected


def test_an_object_has_ended_as_it_should() -> None:
    """Nothing is known of its text, so that it is never called empty."""
    facts = read({"data": [{"url": "https://example.com/a.png"}], "model": "m-1", "tool_usage": {"web_search": 2}})
    assert facts == ReplyFacts(None, Finish.STOP, None, "m-1", {"web_search": 2}, opaque=True)
    assert read({}) == ReplyFacts(None, Finish.STOP, opaque=True)


def test_a_rerank_writes_nothing() -> None:
    """Documents are put in order: no token of output, whatever the body says."""
    size = RERANKS.size(json.dumps({"model": "m", "query": "q", "documents": ["word " * 1000], "max_tokens": 5}).encode())
    assert (size.model, size.output_cap_tokens, size.opaque_output) == ("m", 0, False)
    assert 1250 <= size.input_tokens <= 1275


@pytest.mark.parametrize(
    ("reply", "usage"),
    [
        ({"output": {"results": []}, "usage": {"total_tokens": 79}, "request_id": "r"}, Usage(79, 0)),
        ({"results": [], "usage": {"prompt_tokens": 79, "total_tokens": 79}}, Usage(79, 0)),
        ({"results": [], "usage": {"input_tokens": 70, "output_tokens": 9}}, Usage(70, 9)),
        ({"results": [], "meta": {"billed_units": {"search_units": 1}}}, None),
        ({"usage": {"total_tokens": "79"}}, None),
    ],
)
def test_a_reranks_total_is_its_input(reply: dict[str, Any], usage: Usage | None) -> None:
    """Most servers name nothing else."""
    assert RERANKS.read(json.dumps(reply | {"model": "m-1"}).encode()) == ReplyFacts(usage, Finish.STOP, None, "m-1")
