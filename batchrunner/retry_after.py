"""When a server that turns a request away wants to be asked again, in each form in which servers say so. Pure.

| form | who writes it |
| --- | --- |
| `retry-after: 7`, `1.5`, an HTTP date | RFC 9110; decimals of some gateways |
| `retry-after: 1m30s` | Go gateways that write a duration as it is |
| `retry-after-ms`, `x-ms-retry-after-ms` | Azure, OpenAI (openai-python reads the first) |
| `error.details[]` of type `RetryInfo`: `"retryDelay": "34.07s"` | Google (google/rpc/error_details.proto) |
| words: "try again in 1.2s", "in 6m0s", "retry after 26 seconds" | OpenAI and Groq, Azure, Gemini, where headers are missing |

Headers go before the body. What makes no sense is no hint: a wait is a lower bound that a run can do without. How long a wait
is believed is for others to say.
"""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from batchrunner.dialect import without_bom
from batchrunner.exchange import Reply

NS = 1_000_000_000
#: whatever is longer is this: no limit is one of years
LONGEST_WAIT_NS = 366 * 86_400 * NS
#: texts that are longer hold no time; and of an error's words so much is looked at
LONGEST_TEXT = 64
LONGEST_MESSAGE = 2_000
#: A reset's number from here on is no wait but a moment, in seconds since 1970 or in milliseconds (OpenRouter).
EPOCH_SECONDS = 10**9
EPOCH_MILLISECONDS = 10**12

_MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
_UNITS_NS = {
    "d": 86_400 * NS,
    "h": 3_600 * NS,
    "m": 60 * NS,
    "s": NS,
    "ms": 10**6,
    "us": 10**3,
    "µs": 10**3,
    "\u03bcs": 10**3,
    "ns": 1,
}
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,20})?")
# ASCII: beyond it there are letters that are these but for case, and no unit's.
_ANY_CASE = re.IGNORECASE | re.ASCII
_PART = re.compile(
    r"([0-9]{1,9}(?:\.[0-9]{1,20})?) ?(milliseconds?|minutes?|seconds?|hours?|days?|ms|us|µs|\u03bcs|ns|m|s|h|d)(?![a-z])",
    _ANY_CASE,
)
_DURATION = re.compile(f"(?:{_PART.pattern})+", _ANY_CASE)
_AGAIN = re.compile(rf"(?:try again|retry) (?:in|after) ((?:{_PART.pattern}(?:,| and)? ?)+)", _ANY_CASE)


def retry_after_ns(reply: Reply, wall_ns: int) -> int | None:
    """The server's hint, counted from now; None where there is no sound one.

    `wall_ns` turns moments into waits where the reply has no Date of its own.
    """
    for name in _MILLISECONDS:
        milliseconds = _number(reply.header(name))
        if milliseconds is not None:
            return _bounded(milliseconds * 10**6)
    text = reply.header("retry-after") or ""
    seconds = _number(text)
    found = wait_ns(text, server_ns(reply, wall_ns)) if seconds is None else _bounded(seconds * NS)
    return _of_error(read_error_object(reply.body)) if found is None else found


def server_ns(reply: Reply, wall_ns: int) -> int:
    """What time it is, Unix time, by the server's clock where it says so: the moments that it names are that clock's."""
    date_ns = _moment_ns(reply.header("date") or "")
    return wall_ns if date_ns is None else date_ns


def wait_ns(text: str, now_ns: int) -> int | None:
    """How long from now: a number of seconds, a duration as Go writes it, or a moment (RFC 3339, HTTP date, Unix time)."""
    text = text.strip()
    if not text or len(text) > LONGEST_TEXT:
        return None
    number = _number(text)
    if number is None:
        if _DURATION.fullmatch(text):
            return _duration_ns(text)
        moment_ns = _moment_ns(text)
        return None if moment_ns is None else _bounded(max(0, moment_ns - now_ns))
    if number < EPOCH_SECONDS:
        return _bounded(number * NS)
    unit_ns = 10**6 if number >= EPOCH_MILLISECONDS else NS
    return _bounded(max(0, round(number * unit_ns) - now_ns))


def read_error_object(body: bytes) -> dict[str, Any]:
    """An error body's `error`, or the body itself where it has none; empty where it is no JSON object.

    Bare words are its `message`. Gemini puts the object into a list of one.
    """
    try:
        said = msgspec.json.decode(without_bom(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if isinstance(said, list) and said:
        said = said[0]
    error = said.get("error") or said if isinstance(said, dict) else {}
    return error if isinstance(error, dict) else {"message": error}


def message_of(error: dict[str, Any]) -> str:
    """The beginning of an error's words."""
    message = error.get("message")
    return message[:LONGEST_MESSAGE] if isinstance(message, str) else ""


def _of_error(error: dict[str, Any]) -> int | None:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and str(detail.get("@type")).endswith("RetryInfo"):
            found = wait_ns(str(detail.get("retryDelay")), 0)
            if found is not None:
                return found
    again = _AGAIN.search(message_of(error))
    return None if again is None else _duration_ns(again[1])


def _duration_ns(text: str) -> int:
    """The sum of all parts of a duration."""
    return _bounded(sum(float(amount) * _unit_ns(unit.lower()) for amount, unit in _PART.findall(text)))


def _unit_ns(unit: str) -> int:
    if unit.startswith("milli"):
        return _UNITS_NS["ms"]
    return _UNITS_NS.get(unit) or _UNITS_NS[unit[0]]


def _number(text: str | None) -> float | None:
    """A decimal number that is not negative, as headers write it."""
    text = (text or "").strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _bounded(ns: float) -> int:
    return min(round(ns), LONGEST_WAIT_NS)


def _moment_ns(text: str) -> int | None:
    """A moment in Unix time. One without a zone is GMT, also where Python would take it for local time."""
    try:
        moment = datetime.fromisoformat(text) if text[:1].isdigit() else email.utils.parsedate_to_datetime(text)
        return round((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * NS)
    except (ValueError, OverflowError):
        return None
