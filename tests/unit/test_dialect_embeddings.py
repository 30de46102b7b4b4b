from __future__ import annotations

import json
from typing import Any

import pytest

from batchrunner import dialect
from batchrunner.dialect import Finish, ReplyFacts
from batchrunner.job import RequestSize, Usage

EMBEDDINGS = dialect.for_url("/v1/embeddings")


def size(body: object) -> RequestSize:
    return EMBEDDINGS.size(json.dumps(body).encode())


def read(reply: object) -> ReplyFacts:
    facts = EMBEDDINGS.read(json.dumps(reply).encode())
    assert facts is not None
    return facts


@pytest.mark.parametrize(
    "given", ["word", ["one", "two"], [1, 2, 3], [[1, 2], [3]], [], None, {"text": "x"}, [{"text": "x"}], [1.5]]
)
def test_nothing_is_written(given: object) -> None:
    """Whatever is embedded, and whatever cap a body may name: no token of output."""
    found = size({"model": "m", "input": given, "max_tokens": 50})
    assert (found.model, found.output_cap_tokens, found.choices, found.opaque_parts) == ("m", 0, 1, False)


@pytest.mark.parametrize("text", ["word " * 1000, ["word " * 100] * 10])
def test_text_counts_by_its_bytes(text: object) -> None:
    """One text or several: about four bytes a token."""
    assert 1250 <= size({"model": "m", "input": text}).input_tokens <= 1275


@pytest.mark.parametrize("ids", [[100_000] * 900, [[7] * 300] * 3, [[7] * 899, [], [123456]]])
def test_token_ids_are_counted(ids: object) -> None:
    """An id is a token, however many digits it has; only what stands around them is guessed."""
    body = {"model": "m", "input": ids}
    assert size(body).input_tokens == 900 + len(json.dumps(body | {"input": ""}).encode()[:-2]) // 4 + 1


def test_ids_beside_text_are_guessed_by_their_bytes() -> None:
    """No server takes such a list; too much is the safe side."""
    body = {"model": "m", "input": ["word", [1, 2]]}
    assert size(body).input_tokens == len(json.dumps(body)) // 4 + 1


def test_a_picture_is_opaque() -> None:
    """Some models embed pictures, whose tokens bytes cannot tell."""
    found = size({"model": "m", "input": [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}]})
    assert found.opaque_parts
    assert found.input_tokens < 100


def vector(embedding: object) -> dict[str, Any]:
    return {"object": "embedding", "index": 0, "embedding": embedding}


@pytest.mark.parametrize(
    ("data", "finish"),
    [
        ([vector([0.25, -1])], Finish.STOP),
        ([vector([0.25]), vector([0.5])], Finish.STOP),
        ([vector("AACAPw==")], Finish.STOP),
        ([vector({"float": [0.25]})], Finish.STOP),
        ([vector([0.25]), vector([])], Finish.EMPTY),
        ([vector([])], Finish.EMPTY),
        ([vector("")], Finish.EMPTY),
        ([vector(None)], Finish.EMPTY),
        ([{}], Finish.EMPTY),
        ([], Finish.EMPTY),
        (["x", 3], Finish.EMPTY),
        (None, Finish.EMPTY),
        ({"embedding": [1]}, Finish.EMPTY),
    ],
)
def test_an_answer_without_a_vector_is_empty(data: object, finish: Finish) -> None:
    """A vector has no text and is an answer; none, or one that is missing among several, is to be looked at."""
    facts = read({"object": "list", "data": data, "model": "m-1"})
    assert (facts.finish, facts.finish_reason, facts.model, facts.opaque) == (finish, None, "m-1", False)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 9, "total_tokens": 9}, Usage(9, 0)),
        ({"prompt_tokens": 9}, Usage(9, 0)),
        ({"total_tokens": 9}, Usage(9, 0)),
        ({"input_tokens": 9}, Usage(9, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}, Usage(9, 0)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}, Usage(9, 2)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(9, 0, 4)),
        ({"prompt_tokens": "9", "total_tokens": 9}, None),
        ({"prompt_tokens": -1, "total_tokens": 9}, None),
        ({"prompt_tokens": 9, "completion_tokens": "x"}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_usage_is_all_input(usage: object, expected: Usage | None) -> None:
    """Servers name the prompt, the total or both; a figure that is none makes it unknown."""
    assert read({"usage": usage}).usage == expected
