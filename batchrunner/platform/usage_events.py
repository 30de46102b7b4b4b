"""One page of `GET /v1/account/usage`, read tolerantly: the balance and the events, newest first. Pure.

    {"balance": B, "data": [EVENT, ...], "has_more": true}

Only what stands in an event is documented, so everything else is read in each form that can be meant: the list under `data`,
`events`, `items` or bare; the balance, and each amount, as a number, a string or an object with an `amount`; a time as Unix
seconds, milliseconds or ISO 8601, under one of four names. What is missing, or makes no sense, is None: an unknown amount is
never 0. Amounts are exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

from batchrunner.dialect import mended, read_exact_json
from batchrunner.dialect.facts import count, mapping, string
from batchrunner.dialect.usage import tool_usage_of
from batchrunner.errors import AccountError
from batchrunner.job import Usage
from batchrunner.platform.answers import read_answer
from batchrunner.usage_event import UsageEvent

LISTS: Final = ("data", "events", "usage_events", "items")
BALANCES: Final = ("balance", "credit_balance", "credits", "balance_usd")
TIMES: Final = ("created_at", "created", "timestamp", "at")
NS_PER_SECOND: Final = 1_000_000_000
#: A number from here on is no second of Unix time but a finer part of one: a second would be of the year 5138.
_FINER: Final = ((10**17, 1), (10**14, 10**3), (10**11, 10**6))

_AMOUNT: Final = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,2})?")
#: before the point, and after it
_MOST_DIGITS: Final = 50
_YEAR_10000_NS: Final = 253_402_300_800 * NS_PER_SECOND
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Page(msgspec.Struct, frozen=True):
    """One answer."""

    #: USD that are left, exact; None where the server does not say
    balance_usd: Decimal | None
    events: tuple[UsageEvent, ...]
    #: each event as the server wrote it
    lines: tuple[bytes, ...]
    #: whether there are older ones; None where the server does not say
    has_more: bool | None = None


def read_page(body: bytes, what: str) -> Page:
    """Raises: AccountError where the answer holds no list of events; `what` names it in the message."""
    text = mended(body)
    page = _object(text)
    listed = next((page[name] for name in LISTS if name in page), b"null") if page else text
    try:
        raw = msgspec.json.decode(listed, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _no_list(body, what) from None
    lines = [bytes(line) for line in raw]
    found = [(event, line) for line in lines for event in [read_event(line)] if event is not None]
    return Page(
        balance_usd=next((amount for name in BALANCES if (amount := amount_of(_value(page.get(name)))) is not None), None),
        events=tuple(event for event, _ in found),
        lines=tuple(line for _, line in found),
        has_more={b"true": True, b"false": False}.get(bytes(page.get("has_more", b""))),
    )


def read_event(line: bytes) -> UsageEvent | None:
    """An event; None where this is no object."""
    said = _value(line)
    if not isinstance(said, dict):
        return None
    details = mapping(said.get("metadata"))
    billed = amount_of(details.get("billed_cost"))
    cost = amount_of(said.get("cost"))
    return UsageEvent(
        id=_text(said.get("id")) or "",
        at_ns=moment_ns(time_of(said)),
        source=string(said.get("source")),
        model=string(said.get("model")),
        endpoint=string(said.get("endpoint")),
        tokens=_tokens(mapping(said.get("tokens"))),
        cost_usd=billed if cost is None else cost,  # documented to be equal
        list_cost_usd=amount_of(details.get("list_cost")),
        billed_cost_usd=billed,
        discount_usd=amount_of(details.get("discount_amount")),
        status=string(said.get("status")),
        status_code=count(said.get("status_code")),
        error=_error(said.get("error")),
        tool_usage=tool_usage_of(said),
        output_urls=_strings(said.get("output_urls")),
    )


def time_of(event: Mapping[str, Any]) -> object:
    """An event's time as the server wrote it; None where it names none."""
    return next((event[name] for name in TIMES if event.get(name) is not None), None)


def moment_ns(value: object) -> int | None:
    """Unix time in ns of a number (seconds, or a finer part of one) or of ISO 8601 text, UTC where that names no zone."""
    number = amount_of(value)
    if number is not None:
        unit_ns = next((unit_ns for least, unit_ns in _FINER if number >= least), NS_PER_SECOND)
        at_ns = int(number * unit_ns)
        return at_ns if 0 <= at_ns < _YEAR_10000_NS else None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError):
        return None
    return since // timedelta(microseconds=1) * 1_000 if since >= timedelta(0) else None


def amount_of(value: object) -> Decimal | None:
    """An exact number from a number, a string, or an object's `amount`. None for anything else, and for another currency."""
    # By type, the likeliest first: an event has six of these, and an account has hundreds of thousands of events.
    kind = type(value)
    if value is None:
        return None
    if kind is Decimal or kind is int:
        return _bounded(Decimal(value))  # type: ignore[arg-type]  # it is one of the two
    if kind is dict:
        said = mapping(value)
        currency, amount = said.get("currency"), said.get("amount")
        usd = currency is None or (isinstance(currency, str) and currency.upper() == "USD")
        return amount_of(amount) if usd and not isinstance(amount, dict) else None
    if kind is str and _AMOUNT.fullmatch(text := str(value).strip()):
        return _bounded(Decimal(text))
    return None


def _bounded(amount: Decimal) -> Decimal | None:
    """An amount of no more digits than anyone means: sums of such are exact, and none takes a page to print."""
    exponent = amount.as_tuple().exponent
    return amount if isinstance(exponent, int) and exponent > -_MOST_DIGITS and amount.adjusted() < _MOST_DIGITS else None


def _tokens(said: dict[str, Any]) -> Usage | None:
    """Tokens with cached ones among the input, also where the total shows that they are counted beside it."""
    total = count(said.get("total"))
    taken, given, cached = (count(said.get(name)) for name in ("input", "output", "cached"))
    if taken is None and given is None:
        return None
    if taken is None:
        taken = 0 if total is None else max(0, total - (given or 0))
    if given is None:
        given = 0 if total is None else max(0, total - taken)
    cached = cached or 0
    if cached and total == taken + given + cached:
        taken += cached
    return Usage(taken, given, cached) if cached <= taken else None


def _error(said: object) -> str | None:
    """An error's code, or what stands in its place."""
    error = mapping(said)
    return string(said) or _text(error.get("code")) or string(error.get("type")) or string(error.get("message"))


def _strings(value: object) -> tuple[str, ...]:
    found: Iterable[object] = value if isinstance(value, list) else ()
    return tuple(text for text in found if isinstance(text, str))


def _text(value: object) -> str | None:
    return str(value) if type(value) is int else string(value)


def _object(text: bytes) -> dict[str, msgspec.Raw]:
    """The fields of an object, unread; none where the body is something else."""
    try:
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _value(raw: bytes | msgspec.Raw | None) -> object:
    try:
        return None if raw is None else read_exact_json(bytes(raw))
    except (ValueError, RecursionError):
        return None


def _no_list(body: bytes, what: str) -> AccountError:
    """Why an answer holds no events. Raises: AccountError where it is not even JSON."""
    read_answer(body, what)
    return AccountError(f"{what} cannot be read: the answer names no list of events; check --base-url.")
