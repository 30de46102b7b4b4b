"""Answers about the account, whatever they hold: usage events are sums of money or unknown, saved chats are jobs or none."""

from __future__ import annotations

import msgspec

from batchrunner import chats
from batchrunner.cli.usage_text import document, report
from batchrunner.dialect import on_one_line, read_json
from batchrunner.errors import AccountError
from batchrunner.jobfile import check
from batchrunner.platform.usage_events import read_page
from batchrunner.pricing import PriceTable, json_number
from batchrunner.usage_sums import WAYS, UsageSums
from batchrunner.wording import escape_terminal

_EVENT = (
    b'{"id":"ue_1","object":"usage_event","created_at":"2026-01-02T03:04:05.678Z","source":"api","model":"m",'
    b'"endpoint":"/v1/chat/completions","tokens":{"input":12,"output":5,"cached":4,"total":17},'
    b'"cost":{"amount":0.0123,"currency":"USD"},"status":"failed","status_code":502,"error":{"code":"upstream_error"},'
    b'"output_urls":["https://x/1.png"],"metadata":{"tool_usage":{"web_search":2},"list_cost":"0.10","billed_cost":0.09,'
    b'"discount_amount":{"amount":"0.01"}}}'
)
PAGES = [
    b'{"balance":{"amount":1.5,"currency":"USD"},"has_more":true,"data":[%b]}' % _EVENT,
    b'{"credits":"12.5","events":[%b,{"at":1700000000123,"cost":"1e-7"},null]}' % _EVENT,
    b'[{"id":7,"timestamp":1700000000.5,"error":"\\ud83d","cost":{"amount":5,"currency":"EUR"}}]',
    b'{"data":[{"metadata":' + b"[" * 1200 + b"]" * 1200 + b"}]}",
]
PAGE_WORDS = [
    *(
        b'"amount"',
        b'"cost":',
        b'"created_at":',
        b'"tokens":',
        b'"tool_usage":',
        b'"balance"',
        b'"has_more"',
        b"null",
        b"1e999999999",
    ),
    *(b"-1", b'"NaN"', b'"Infinity"', b"9" * 400, b'"9999-12-31T23:59:59-23:59"', b"\\ud83d", b'"EUR"', b"1e-49", b"9" * 6_000),
]

CHATS = [
    b'{"data":[{"id":"c","title":"T","model":"m","message_count":2,"updated_at":"2026-01-01"}],"has_more":false,"total":1}',
    (
        b'{"conversation":{"id":"c","messages":[{"role":"user","content":"q"},{"role":"assistant","content":[{"type":"text",'
        b'"text":"a"}]},{"author":"human","text":"\\ud83d\\ude00"}],"system":"s"}}'
    ),
    b'{"id":"c","model":"m","history":[{"message":{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}},"t"]}}]}',
    b'{"id":"c","messages":' + b"[" * 1200 + b"]" * 1200 + b"}",
]
CHAT_WORDS = [
    *(
        b'"id":',
        b'"messages":',
        b'"role":"user"',
        b'"content":',
        b'"conversation":',
        b'"model":',
        b'"text":',
        b'"type":"image_url"',
    ),
    *(b"\\ud83d", b"\\\\", b"\n", b"null", b"9" * 400, b'"created_at":', b"1e999", b"NaN", b"[]", b"{}"),
]


class _Told(msgspec.Struct):
    """What `usage` knows of the pages when it shows their sums."""

    balance_usd: object
    complete: bool = True


def usage(data: bytes) -> None:
    """Events whose every amount is one or unknown, and that can be summed up, shown and printed; or one error."""
    try:
        page = read_page(data, "the usage")
    except AccountError as error:
        assert escape_terminal(str(error)).isprintable()  # noqa: PT017 - any bytes are a page or none
        return
    sums = UsageSums(WAYS)
    for event in page.events:
        for amount in (event.cost_usd, event.list_cost_usd, event.billed_cost_usd, event.discount_usd):
            assert amount is None or len(json_number(amount)) <= 120
        assert event.at_ns is None or event.at_ns >= 0
        assert event.tokens is None or 0 <= event.tokens.cached_tokens <= event.tokens.input_tokens
        sums.add(event)
    told = _Told(page.balance_usd)
    assert all(escape_terminal(line).isprintable() for line in report(told, sums, PriceTable()))  # type: ignore[arg-type]
    read_json(document("s", {}, told, sums, PriceTable()))  # type: ignore[arg-type]
    for line in page.lines:
        assert b"\n" not in on_one_line(line)


def saved_chats(data: bytes) -> None:
    """A list, a conversation, both or neither; every job that is made of it is one that `submit` takes, and the same again."""
    listing = chats.read_list(data)
    for listed in () if listing is None else listing.conversations:
        assert listed.id
    line = chats.unwrapped(data)
    assert b"\n" not in line
    found = chats.read_conversation(data)
    if found is None:
        return
    lines = list(chats.job_lines(found, "m"))
    assert len({check(job) for job in lines}) == len(lines)
    assert lines == list(chats.job_lines(found, "m"))
    assert all(isinstance(message.text, str) and message.text for message in found.messages)
