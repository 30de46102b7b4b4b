"""Usage events are read in whatever shape they come: documented fields exactly, all else tolerantly."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.errors import AccountError
from batchrunner.job import Usage
from batchrunner.platform.usage_events import TIMES, amount_of, moment_ns, read_event, read_page
from batchrunner.usage_event import UsageEvent

#: 2026-01-02T03:04:05.678 UTC
MOMENT_NS = 1_767_323_045_678_000_000
DOCUMENTED = b"""{"id": "ue_1", "object": "usage_event", "created_at": "2026-01-02T03:04:05.678Z", "source": "api",
 "model": "m", "endpoint": "/v1/chat/completions", "tokens": {"input": 12, "output": 5, "cached": 4, "total": 17},
 "cost": {"amount": 0.00000000000000000123, "currency": "USD"}, "status": "succeeded", "status_code": 200, "error": null,
 "output_urls": ["https://x/1.png", "https://x/2.png"],
 "metadata": {"tool_usage": {"web_search": 2},
 "list_cost": "0.10", "billed_cost": 0.09, "discount_amount": {"amount": "0.01"}}}"""


def event(**fields: Any) -> UsageEvent:
    found = read_event(msgspec.json.encode({"id": "ue_1"} | fields))
    assert found is not None
    return found


def test_an_event_documented() -> None:
    """Each documented field, to its last digit."""
    assert read_event(DOCUMENTED) == UsageEvent(
        id="ue_1",
        at_ns=MOMENT_NS,
        source="api",
        model="m",
        endpoint="/v1/chat/completions",
        tokens=Usage(12, 5, 4),
        cost_usd=Decimal("0.00000000000000000123"),
        list_cost_usd=Decimal("0.10"),
        billed_cost_usd=Decimal("0.09"),
        discount_usd=Decimal("0.01"),
        status="succeeded",
        status_code=200,
        tool_usage={"web_search": 2},
        output_urls=("https://x/1.png", "https://x/2.png"),
    )


def test_what_is_missing_is_unknown_and_what_is_unknown_is_ignored() -> None:
    """Never 0: an event without a cost is not free."""
    assert event(shape="new", nested={"a": [1]}) == UsageEvent(id="ue_1")
    assert read_event(b"{}") == UsageEvent(id="")
    names = ("tokens", "cost", "status", "model", "endpoint", "source", "metadata", "output_urls", "created_at")
    nonsense = {name: [{"x": True}] for name in names}
    assert event(**nonsense, status_code="200", error=[]) == UsageEvent(id="ue_1")


@pytest.mark.parametrize("line", [b"null", b"7", b"[]", b'"ue_1"', b"{", b"[" * 100_000])
def test_what_is_no_object_is_no_event(line: bytes) -> None:
    assert read_event(line) is None


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("0.1", "0.1"),
        (" 12 ", "12"),
        (-3, "-3"),
        (0, "0"),
        ({"amount": "1e-7"}, "0.0000001"),
        ({"amount": 5, "currency": "usd"}, "5"),
        ({"amount": 5, "currency": "EUR"}, None),
        ({"amount": {"amount": 5}}, None),
        (True, None),
        ("", None),
        ("$5", None),
        ("NaN", None),
        ("1e999999999", None),
        ("1e49", "1" + "0" * 49),
        ("1e50", None),
        ("1e-49", "0." + "0" * 48 + "1"),
        (Decimal("1e-50"), None),
        (10**30, str(10**30)),
        (10**50, None),
        (Decimal("Infinity"), None),
        ([], None),
        (None, None),
    ],
)
def test_an_amount_is_exact_or_unknown(value: object, amount: str | None) -> None:
    """A number, a string or an object; and no amount of another currency is taken for dollars."""
    assert amount_of(value) == (None if amount is None else Decimal(amount))


@given(st.decimals(min_value=-(10**9), max_value=10**9, allow_nan=False, allow_infinity=False, places=25))
def test_no_digit_of_an_amount_is_lost(amount: Decimal) -> None:
    """As a number and as a string."""
    text = format(amount, "f").encode()
    for line in (b'{"cost":{"amount":%b}}' % text, b'{"cost":"%b"}' % text):
        found = read_event(line)
        assert found is not None
        assert found.cost_usd == amount


def test_the_billed_cost_stands_in_for_a_cost_that_is_not_named() -> None:
    assert event(metadata={"billed_cost": "0.5"}).cost_usd == Decimal("0.5")
    assert event(metadata={"billed_cost": "0.5"}, cost={"amount": 1}).cost_usd == 1


@pytest.mark.parametrize(
    "said",
    [
        "2026-01-02T03:04:05.678Z",
        "2026-01-02T04:04:05.678+01:00",
        "2026-01-02 03:04:05.678",
        1_767_323_045_678,
        "1767323045678",
        1_767_323_045_678_000,
        MOMENT_NS,
        "1767323045.678",
    ],
)
@pytest.mark.parametrize("name", TIMES)
def test_a_time_in_each_spelling(name: str, said: object) -> None:
    """Seconds and finer parts of them, ISO 8601 with and without a zone, under each name."""
    assert event(**{name: said}).at_ns == MOMENT_NS


@pytest.mark.parametrize("said", ["yesterday", -5, "", {}, "9999999999999999999999", 10**30, "0001-01-01T00:00:00+23:59"])
def test_what_is_no_time_is_none(said: object) -> None:
    assert moment_ns(said) is None


def test_a_day_alone_is_its_first_moment_and_a_fraction_of_a_second_is_exact() -> None:
    assert moment_ns("1970-01-02") == 86_400 * 10**9
    assert moment_ns(Decimal("1.123456789")) == 1_123_456_789


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ({"input": 10, "output": 5, "cached": 4, "total": 15}, Usage(10, 5, 4)),
        ({"input": 10, "output": 5, "cached": 4, "total": 19}, Usage(14, 5, 4)),
        ({"input": 10, "output": 5}, Usage(10, 5)),
        ({"input": 10, "total": 10}, Usage(10, 0)),
        ({"input": 10, "total": 12}, Usage(10, 2)),
        ({"output": 2, "total": 12}, Usage(10, 2)),
        ({"input": 1, "output": 1, "cached": 5}, None),
        ({"total": 12}, None),
        ({"input": -1}, None),
        ({}, None),
    ],
)
def test_tokens_with_cached_among_the_input(said: dict[str, int], tokens: Usage | None) -> None:
    """Where the total shows that cached ones were counted beside it, they are added; what cannot be is unknown."""
    assert event(tokens=said).tokens == tokens


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"code": "upstream_error", "message": "m"}, "upstream_error"),
        ({"code": 502}, "502"),
        ({"type": "t"}, "t"),
        ({"message": "m"}, "m"),
        ("timeout", "timeout"),
        (None, None),
        ({}, None),
    ],
)
def test_an_error_by_its_code(said: object, code: str | None) -> None:
    assert event(error=said).error == code


@pytest.mark.parametrize("name", ["data", "events", "usage_events", "items"])
@pytest.mark.parametrize("balance", [b'"12.5"', b"12.5", b'{"amount": 12.5, "currency": "USD"}'])
def test_a_page(name: str, balance: bytes) -> None:
    """The list under each name, the balance in each form, and whether there is more."""
    page = read_page(
        b'{"balance": %b, "%b": [ {"id":"b"}, null, {"id":"a", "x": 1.50} ], "has_more": true}' % (balance, name.encode()), "it"
    )
    assert page.balance_usd == Decimal("12.5")
    assert [event.id for event in page.events] == ["b", "a"]
    assert page.lines == (b'{"id":"b"}', b'{"id":"a", "x": 1.50}')
    assert page.has_more is True


def test_a_bare_list_is_a_page() -> None:
    page = read_page(b'\xef\xbb\xbf[{"id": 7}]', "it")
    assert ([event.id for event in page.events], page.balance_usd, page.has_more) == (["7"], None, None)


def test_what_is_no_utf_8_in_an_event_loses_none() -> None:
    """A model's name in some other encoding: the charge is no less one."""
    page = read_page(b'{"data":[{"id":"a","cost":"0.1","model":"gr\xf6\xdfe"},{"id":"b"}]}', "it")
    assert [event.id for event in page.events] == ["a", "b"]
    assert page.events[0].model == "gr\ufffd\ufffde"
    assert page.lines[0].decode()


def test_half_an_emoji_in_an_event_spoils_nothing() -> None:
    """Error texts are cut in the middle of characters."""
    page = read_page(b'{"data":[{"id":"a","cost":"0.1","error":"\\ud83d"},{"id":"b"}]}', "it")
    assert [event.id for event in page.events] == ["a", "b"]
    assert page.events[0].cost_usd == Decimal("0.1")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{}", "names no list"),
        (b'{"data": 5}', "names no list"),
        (b"<html>", "HTML"),
        (b'{"data":[', "no JSON"),
        (b'"\xff"', "no JSON"),
    ],
)
def test_what_is_no_page_is_said_to_be_none(body: bytes, words: str) -> None:
    with pytest.raises(AccountError, match=f"it cannot be read: .*{words}"):
        read_page(body, "it")
