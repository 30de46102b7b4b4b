"""What is read from a refusal besides its status: the body's code and words."""

from __future__ import annotations

import json
import random

import pytest

from batchrunner import dialect
from batchrunner.exchange import Reply
from batchrunner.outcome import MESSAGE_MAX_CHARACTERS, Again, ServerError, Tries, classify, read_error


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"code": "c", "message": "m", "type": "t"}}, ServerError("c", "m")),
        ({"error": {"code": None, "type": "t", "message": "m"}}, ServerError("t", "m")),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, ServerError("overloaded_error", "m")),
        ({"error": {"code": 1234, "message": "m"}}, ServerError("1234", "m")),
        ({"error": {"code": True, "message": ["m"]}}, ServerError(None, None)),
        ({"error": {}}, ServerError()),
        ({"error": "in bare words"}, ServerError(None, "in bare words")),
        ({"error": ""}, ServerError()),
        ({"error": None, "message": "m"}, ServerError(None, "m")),
        ({"message": "m"}, ServerError(None, "m")),
        ({"detail": "d"}, ServerError(None, "d")),
        ({"detail": [{"loc": ["body"]}]}, ServerError()),
        ({"error": ["list"]}, ServerError()),
        ({}, ServerError()),
        ([], ServerError()),
        ("text", ServerError()),
        (None, ServerError()),
    ],
)
def test_error_bodies_in_every_shape(body: object, expected: ServerError) -> None:
    """OpenAI's and Anthropic's shapes, a bare string, a framework's own; what is none of them says nothing."""
    assert read_error(json.dumps(body).encode()) == expected


@pytest.mark.parametrize("body", [b"", b"<html><h1>502 Bad Gateway</h1></html>", b"\xff", b'{"error"', b"[" * 100_000])
def test_error_bodies_that_are_no_json(body: bytes) -> None:
    """A proxy's page of HTML, nothing, or nonsense: no code and no words, and no exception."""
    assert read_error(body) == ServerError()
    reply = Reply(502, (), body)
    assert isinstance(classify(reply, dialect.URLS["/v1/chat/completions"], Tries(1, 5), random.Random(1), 0), Again)


def test_an_error_behind_a_byte_order_mark_is_read() -> None:
    """The mark is no part of what the server says."""
    assert read_error(b'\xef\xbb\xbf{"error":{"code":"c","message":"m"}}') == ServerError("c", "m")


def test_long_words_of_a_server_are_cut() -> None:
    """Messages keep the beginning of what a server says; errors.jsonl has all of it."""
    assert read_error(json.dumps({"error": "x" * 9_999}).encode()).message == "x" * MESSAGE_MAX_CHARACTERS
