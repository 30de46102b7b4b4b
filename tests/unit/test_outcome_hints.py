"""What is read from a refusal besides its status: the body's code and words, and how long the server asks us to wait."""

from __future__ import annotations

import json
import random
import time

import pytest

from batchrunner import dialect
from batchrunner.clock import NS_PER_SECOND
from batchrunner.exchange import Reply
from batchrunner.outcome import MESSAGE_MAX_CHARACTERS, Again, ServerError, Tries, classify, read_error, retry_after_ns


def reply_429(**headers: str) -> Reply:
    return Reply(429, tuple((name.replace("_", "-"), value) for name, value in headers.items()), b"")


# --- bodies of errors


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


# --- hints

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
TEN_LATER = "Sun, 06 Nov 1994 08:49:47 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7),
        ({"retry_after": " 7 "}, 7),
        ({"retry_after": "0"}, 0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after_ms": "250"}, 0.25),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after_ms": "soon", "retry_after": "9"}, 9),
        ({"retry_after": TEN_LATER, "date": DATE}, 10),
        ({"retry_after": "Sunday, 06-Nov-94 08:49:47 GMT", "date": DATE}, 10),
        ({"retry_after": DATE, "date": TEN_LATER}, 0),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "1e99"}, None),
        ({"retry_after": ""}, None),
        ({"retry_after": "later"}, None),
        ({"retry_after": "Sun, 99 Nov 1994 08:49:37 GMT"}, None),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:37 +9999999999"}, None),
    ],
)
def test_retry_after_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds, a date in either form; what makes no sense is no hint."""
    assert retry_after_ns(reply_429(**headers), 0) == (None if seconds is None else seconds * NS_PER_SECOND)


def test_retry_after_as_a_date_without_the_server_clock() -> None:
    """Where the reply has no Date of its own, our wall clock stands in."""
    wall_ns = 784_111_770 * NS_PER_SECOND  # 7 seconds before DATE
    assert retry_after_ns(reply_429(retry_after=DATE), wall_ns) == 7 * NS_PER_SECOND


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_retry_after_as_a_date_without_a_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest form of an HTTP date names no zone and means GMT, wherever this machine stands."""
    monkeypatch.setenv("TZ", "JST-9" if zone == "Asia/Tokyo" else "UTC0")
    time.tzset()
    try:
        assert retry_after_ns(reply_429(retry_after="Sun Nov  6 08:49:47 1994", date=DATE), 0) == 10 * NS_PER_SECOND
    finally:
        monkeypatch.undo()
        time.tzset()
