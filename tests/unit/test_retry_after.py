"""How long a server asks us to wait, in each form; what makes no sense is no hint."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.clock import NS_PER_SECOND
from batchrunner.exchange import Reply
from batchrunner.retry_after import LONGEST_WAIT_NS, retry_after_ns, wait_ns

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
DATE_NS = 784_111_777 * NS_PER_SECOND
YEAR = LONGEST_WAIT_NS // NS_PER_SECOND
TEN_LATER = "Sun, 06 Nov 1994 08:49:47 GMT"


def reply_429(body: object = None, **headers: str) -> Reply:
    encoded = b"" if body is None else json.dumps(body).encode()
    return Reply(429, tuple((name.replace("_", "-"), value) for name, value in headers.items()), encoded)


def ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * NS_PER_SECOND)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry_after": "7"}, 7),
        ({"retry_after": " 7 "}, 7),
        ({"retry_after": "0"}, 0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after": "1m30s"}, 90),
        ({"retry_after": "120ms"}, 0.12),
        ({"retry_after_ms": "250"}, 0.25),
        ({"retry_after_ms": "1234.5"}, 1.2345),
        ({"x_ms_retry_after_ms": "250"}, 0.25),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after_ms": "soon", "retry_after": "9"}, 9),
        ({"retry_after": TEN_LATER, "date": DATE}, 10),
        ({"retry_after": "Sunday, 06-Nov-94 08:49:47 GMT", "date": DATE}, 10),
        ({"retry_after": "1994-11-06T08:49:47Z", "date": DATE}, 10),
        ({"retry_after": "1000000000", "date": DATE}, YEAR),
        ({"retry_after": DATE, "date": TEN_LATER}, 0),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "1e99"}, None),
        ({"retry_after": "1e3"}, None),
        ({"retry_after": "1_000"}, None),
        ({"retry_after": "٣"}, None),
        ({"retry_after": "99999999"}, YEAR),
        ({"retry_after": "9" * 16}, None),
        ({"retry_after": ""}, None),
        ({"retry_after": "later"}, None),
        ({"retry_after": "7" * 400}, None),
        ({"retry_after": "Sun, 99 Nov 1994 08:49:37 GMT"}, None),
        ({"retry_after": "Sun, 06 Nov 1994 08:49:37 +9999999999"}, None),
    ],
)
def test_headers_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds, a duration, a date in either form; what is longer than a year is a year."""
    assert retry_after_ns(reply_429(**headers), 0) == ns(seconds)


def test_a_date_without_the_servers_clock() -> None:
    """Where the reply has no Date of its own, our wall clock stands in."""
    assert retry_after_ns(reply_429(retry_after=DATE), DATE_NS - 7 * NS_PER_SECOND) == 7 * NS_PER_SECOND


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_a_date_without_a_zone(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest form of an HTTP date names no zone and means GMT, wherever this machine stands."""
    monkeypatch.setenv("TZ", "JST-9" if zone == "Asia/Tokyo" else "UTC0")
    time.tzset()
    try:
        assert retry_after_ns(reply_429(retry_after="Sun Nov  6 08:49:47 1994", date=DATE), 0) == 10 * NS_PER_SECOND
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        # OpenAI, error codes guide: rate limit reached ... in organization ... on tokens per min (TPM)
        ("Limit 40000, Used 39500, Requested 1800. Please try again in 1.95s. Visit ...", 1.95),
        ("Please try again in 20s. Contact us through our help center", 20),
        ("Please try again in 6m0s.", 360),
        ("Please try again in 346ms.", 0.346),
        # Groq, where a day's tokens are used up
        ("Please try again in 7m54.336s. Need more tokens?", 474.336),
        ("Please try again in 1h2m3s.", 3_723),
        # Azure
        ("have exceeded token rate limit ... Please retry after 26 seconds. Please go here", 26),
        ("Please retry after 1 second.", 1),
        # Gemini
        ("You exceeded your current quota ... \nPlease retry in 34.074824224s.", 34.074824224),
        ("TRY AGAIN IN 2 MINUTES", 120),
        ("try again in 1 minute and 5 seconds", 65),
        ("try again in 250 milliseconds", 0.25),
        ("try again in 2 days", 172_800),
        ("try again in a minute", None),
        ("try again in 5 sheep", None),
        ("try again in 999 days", YEAR),
        ("try again later", None),
        ("x" * 2_000 + "try again in 1s", None),
    ],
)
def test_words_of_an_error(message: str, seconds: float | None) -> None:
    """Where no header says it: what the message does, in the units that providers write."""
    for body in ({"error": {"message": message}}, {"message": message}, {"error": message}):
        assert retry_after_ns(reply_429(body), 0) == ns(seconds)


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.074824224s"}], 34.074824224),
        ([{"@type": "type.googleapis.com/google.rpc.Help"}, {"@type": "google.rpc.RetryInfo", "retryDelay": "7s"}], 7),
        ([{"@type": "google.rpc.RetryInfo", "retryDelay": "-7s"}], None),
        ([{"@type": "google.rpc.RetryInfo", "retryDelay": {"seconds": 7}}], None),
        ([{"@type": "google.rpc.RetryInfo"}], None),
        ([{"retryDelay": "7s"}], None),
        (["google.rpc.RetryInfo"], None),
        ({"@type": "google.rpc.RetryInfo", "retryDelay": "7s"}, None),
        (7, None),
    ],
)
def test_googles_details(details: object, seconds: float | None) -> None:
    """RetryInfo of google/rpc/error_details.proto, in an object or in the list of one that Gemini sends."""
    error = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": details}}
    assert retry_after_ns(reply_429(error), 0) == ns(seconds)
    assert retry_after_ns(reply_429([error]), 0) == ns(seconds)


def test_headers_go_before_the_body_and_details_before_words() -> None:
    details = [{"@type": "google.rpc.RetryInfo", "retryDelay": "2s"}]
    error = {"error": {"message": "try again in 3s", "details": details}}
    assert retry_after_ns(reply_429(error, retry_after="1"), 0) == 1 * NS_PER_SECOND
    assert retry_after_ns(reply_429(error, retry_after="soon"), 0) == 2 * NS_PER_SECOND


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"[7]", b"null", b"[" * 100_000, b"<html>try again in 3s</html>"])
def test_a_body_that_is_no_error(body: bytes) -> None:
    assert retry_after_ns(Reply(429, (), body), 0) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("33011.382867097855", 33_011.382867097855),
        ("6m0s", 360),
        ("1d2h", 93_600),
        ("5µs", 0.000005),
        ("2026-01-02T03:04:15Z", 10),
        ("2026-01-02T03:04:15.5+00:00", 10.5),
        ("2026-01-02 03:04:15", 10),
        ("2026-01-02T03:03:05Z", 0),
        ("Fri, 02 Jan 2026 03:04:15 GMT", 10),
        ("1767323055", 10),
        ("1767323055.5", 10.5),
        ("1767323055500", 10.5),
        ("1767323035", 0),
        ("2036-01-02T03:04:15Z", YEAR),
        ("9999999999", YEAR),
        ("1m30", None),
        ("m", None),
        ("2026-13-02T03:04:15Z", None),
        ("0000-01-02T03:04:15Z", None),
        ("0001-01-01T00:00:00+23:59", 0),
    ],
)
def test_resets_in_every_form(text: str, seconds: float | None) -> None:
    """At 2026-01-02T03:04:05Z: numbers, Go's durations, RFC 3339, HTTP dates, Unix time in seconds or milliseconds."""
    found = wait_ns(text, 1_767_323_045 * NS_PER_SECOND)
    assert found == (None if seconds is None else pytest.approx(seconds * NS_PER_SECOND, abs=1))


@given(st.text() | st.from_regex(r"[0-9.:TZ+ a-zGMT,-]{0,40}"), st.integers(0, 2**63))
def test_any_text_is_a_bounded_wait_or_none(text: str, now_ns: int) -> None:
    """Nothing raises, and no wait is negative or longer than a year."""
    reply = Reply(429, (("retry-after", text), ("date", text)), text.encode())
    for found in (wait_ns(text, now_ns), retry_after_ns(reply, now_ns)):
        assert found is None or 0 <= found <= LONGEST_WAIT_NS


@pytest.mark.parametrize("unit", ["\u017f", "\u039cs"])
def test_letters_that_only_look_like_a_unit_are_none(unit: str) -> None:
    """Unicode has some that are the same but for case: a server that writes one must not end the run."""
    assert wait_ns(f"5{unit}", 0) is None
    assert retry_after_ns(reply_429({"error": {"message": f"Please try again in 5{unit}."}}), 0) is None


@pytest.mark.parametrize("micro", ["\u00b5", "\u03bc"])
def test_a_microsecond_has_two_spellings(micro: str) -> None:
    """The sign, which Go writes, and the Greek letter."""
    assert wait_ns(f"5{micro}s", 0) == 5_000
    assert retry_after_ns(reply_429({"error": {"message": f"Please try again in 1s5{micro}s."}}), 0) == 1_000_005_000
