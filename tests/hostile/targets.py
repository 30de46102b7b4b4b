"""What is fuzzed: each reader of somebody else's bytes, and what must hold whatever the bytes are.

A target's `run` takes any bytes and returns, or raises: then it is a finding. The same targets are driven by seeded damage
in `make test` (test_fuzz.py) and by coverage in `make fuzz` (fuzz.py).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal

import msgspec

from batchrunner import dialect, outcome, rate_hints
from batchrunner.catalog import models
from batchrunner.dialect import Dialect, Finish, ReplyFacts
from batchrunner.dialect.json_text import read_json
from batchrunner.errors import AccountError
from batchrunner.exchange import FailureKind, Reply
from batchrunner.gunzip import PIECE_BYTES, DamagedGzip, gunzip
from batchrunner.job import Usage
from batchrunner.jobfile import MAX_CUSTOM_ID_BYTES, OVERLONG, BadLineError, LineReader, check, fingerprint, parse
from batchrunner.price_words import price_text
from batchrunner.pricing import PriceTable, json_number
from batchrunner.results import failure_line, read_line, success_line
from batchrunner.retry_after import LONGEST_WAIT_NS, retry_after_ns
from batchrunner.secret import Blotter
from batchrunner.streaming import STREAMED_URLS, stream_for
from batchrunner.transport.wire import ReplyParser, WireError
from batchrunner.wording import escape_terminal
from tests.hostile import account_targets, seeds, torn

SHAPES: tuple[Dialect, ...] = (
    *{one.name: one for one in dialect.URLS.values()}.values(),
    dialect.for_url("/v1/any/thing"),
)
#: no reader has a reason to come near it with what a test gives it
CONTENT_BYTES = 8 << 20


class Target(msgspec.Struct, frozen=True):
    """A reader, and bytes that it likes."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    #: what stands in such bytes
    words: Sequence[bytes]


def job_file(data: bytes) -> None:
    """Lines are counted and placed right; each is a job or a bad line, by `check` and `parse` alike, and a job's body is JSON."""
    reader = LineReader(io.BytesIO(data), max_line_bytes=4096)
    for number, offset, line in reader:
        assert data.count(b"\n", 0, offset) == number - 1
        if line is OVERLONG:
            continue
        assert isinstance(line, bytes)
        assert data[offset : offset + len(line)] == line
        fingerprint(line)
        try:
            parsed = parse(line)
        except BadLineError as refused:
            _assert_message(refused.message)
            _assert_refused_by_check(line, refused)
            continue
        assert check(line) == parsed.custom_id
        assert 1 <= len(parsed.custom_id.encode()) <= MAX_CUSTOM_ID_BYTES
        assert dialect.is_sound(parsed.url)
        assert parsed.body in line
        assert dialect.is_json(parsed.body)
        for shape in SHAPES:
            size = shape.size(parsed.body)
            assert size.input_tokens >= 1
            assert size.output_cap_tokens is None or size.output_cap_tokens >= 0
            assert all(quantity > 0 and len(json_number(quantity)) < 100 for quantity in size.units.values())


def _assert_refused_by_check(line: bytes, refused: BadLineError) -> None:
    try:
        check(line)
    except BadLineError as also:
        assert (also.code, also.message) == (refused.code, refused.message)  # noqa: PT017 - any line is good or bad
    else:
        raise AssertionError("check takes what parse refuses")


def reply(data: bytes) -> None:
    """Any status, headers and body are judged; what is written of them is a line of JSON that recovery reads."""
    status = 100 + (data[0] if data else 0) * 2 % 500
    head, _, body = data[1:].partition(b"\n\n")
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\n"))
    answer = Reply(status, tuple((name.strip().lower(), value.strip()) for name, _, value in pairs), body)
    for shape in SHAPES:
        facts = shape.read(body)
        assert (facts is not None) == dialect.is_json(dialect.without_bom(body))
        if facts is not None:
            _assert_facts(facts)
        verdict = outcome.classify(answer, shape, outcome.Tries(1, 5), random.Random(1), 10**18)
        for name in ("code", "message"):
            _assert_message(getattr(verdict, name, ""))
    error = outcome.read_error(body)
    lines = [
        success_line("r", "a", 7, 1, answer),
        failure_line("r", "a", 7, 1, code=error.code or "x", message=error.message or "", reply=answer),
    ]
    for line in lines:
        assert line.count(b"\n") == 1
        json.loads(line, parse_int=str)  # of many digits int() would make a task of its own
        found = read_line(line)
        assert found is not None
        assert found.custom_id == "a"
        assert found.status_code() == status


def _assert_facts(facts: ReplyFacts) -> None:
    assert facts.finish in Finish
    if facts.usage is not None:
        assert 0 <= facts.usage.cached_tokens <= facts.usage.input_tokens
        assert 0 <= facts.usage.reasoning_tokens <= facts.usage.output_tokens
    cost = PRICES.cost("m", facts.usage, facts.tool_usage, opaque=facts.opaque)
    assert cost is None or cost >= 0


def hints(data: bytes) -> None:
    """Headers and words that say when to come again give a wait that is none, or bounded and not negative."""
    first, _, second = data.decode("latin-1").partition("\n")
    for headers in (
        (("retry-after", first), ("date", second)),
        (("retry-after", second), ("date", first)),
        (("retry-after-ms", first), ("retry-after", second)),
        (),
    ):
        found = retry_after_ns(Reply(429, headers, json.dumps({"message": f"try again in {first}"}).encode()), 10**18)
        assert found is None or 0 <= found <= LONGEST_WAIT_NS


def rate(data: bytes) -> None:
    """Headers about limits give counts that are none or can be, and resets that a minute may have."""
    head, _, body = data.partition(b"\n\n")
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\n"))
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    for status in (200, 429):
        found = rate_hints.read(Reply(status, headers, body), 10**18)
        for count in () if found is None else (found.requests_left, found.tokens_left):
            assert count is None or 0 <= count <= rate_hints.MOST
        for reset_ns in () if found is None else (found.requests_reset_ns, found.tokens_reset_ns):
            assert reset_ns is None or 0 <= reset_ns <= rate_hints.LONGEST_RESET_NS


def wire(data: bytes) -> None:
    """A reply, or a WireError; and however the network cuts it, the same."""
    cut, data = (data[0], data[1:]) if data else (0, b"")
    whole = _read_wire([data])
    step = 1 + cut % 64
    pieces = _read_wire([data[at : at + step] for at in range(0, len(data), step)])
    if FailureKind.TOO_LARGE not in (whole, pieces):  # how much is one read's is all that bounds some heads
        assert whole == pieces


def _read_wire(pieces: list[bytes]) -> Reply | FailureKind:
    parser = ReplyParser(max_body_bytes=CONTENT_BYTES)
    try:
        for piece in pieces:
            if piece and parser.feed(piece):
                break
        parser.eof()
    except WireError as error:
        _assert_message(str(error))
        return error.kind
    else:
        return parser.reply
    finally:
        parser.end()


def stream(data: bytes) -> None:
    """A streamed body is whole or not, and then an object or words that no shape takes for one; however the network cuts it."""
    cut, data = (data[0], data[1:]) if data else (0, b"")
    for url in STREAMED_URLS:
        whole = _read_stream(url, data, len(data) + 1)
        assert whole == _read_stream(url, data, 1 + cut % 64)
        if whole is not None and (facts := dialect.for_url(url).read(whole)) is not None:
            _assert_facts(facts)


def _read_stream(url: str, data: bytes, step: int) -> bytes | None:
    found = stream_for(url)
    assert found is not None
    for at in range(0, len(data), step):
        found.feed(data[at : at + step])
        assert found.held_bytes <= 1_000 + 100 * len(data)
    return found.body() if found.end() else None


def catalog(data: bytes) -> None:
    """A price table whose every cost is a sum of money or unknown, or one error in the server's name."""
    try:
        prices = PriceTable.from_catalog(data, fetched_at="2026-01-01T00:00:00Z")
    except AccountError as error:
        _assert_message(str(error))
        return
    msgspec.json.encode(prices)
    for offered in models(data)[:3]:
        assert price_text(offered.price)
        for parameter in offered.parameters or ():
            parameter.problem(7)
    held = {"image": Decimal(3), "audio-second": Decimal("0.5")}
    for model in (*list(prices.prices)[:3], "m"):
        for usage in (Usage(10, 20), Usage(10**9, 10**9, cached_tokens=5), Usage(10, 0, units=held)):
            most = prices.ceiling(model, 10**6, 10**6, usage.units)
            for amount in (prices.cost(model, usage, {"web_search": 3}), most):
                assert amount is None or (amount.is_finite() and amount >= 0)
                if amount is not None:
                    assert Decimal(json_number(amount)) == amount


KEY = 'sk-empiriolabs-test-"a/b'


def echo(data: bytes) -> None:
    """Whatever a server makes of our key in JSON, it is not in the text that JSON stands for; and JSON stays JSON."""
    cleaned = Blotter([KEY]).clean(data)
    assert KEY.encode() not in cleaned
    assert dialect.is_json(cleaned) or not dialect.is_json(data)
    if dialect.is_json(cleaned):
        with contextlib.suppress(RecursionError):
            assert not any(KEY in text for text in _texts(read_json(cleaned)))


def _texts(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            yield from itertools.chain.from_iterable(map(_texts, value))
        case dict():
            yield from itertools.chain(*map(_texts, value.keys()), *map(_texts, value.values()))


def packed(data: bytes) -> None:
    """What the standard library unpacks, we do, in bounded pieces; what it refuses is damaged."""
    content = bytearray()
    try:
        for piece in gunzip(data[at : at + 100] for at in range(0, len(data), 100)):
            assert 0 < len(piece) <= PIECE_BYTES
            content += piece
            if len(content) > CONTENT_BYTES:
                return
    except DamagedGzip as damage:
        assert 0 <= damage.offset <= len(data)  # noqa: PT017 - any bytes are whole or damaged
        return
    assert bytes(content) == _gunzip_by_hand(data)


def _gunzip_by_hand(data: bytes) -> bytes:
    """Member after member, all at once."""
    content = b""
    while data := data.lstrip(b"\0"):
        member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        content += member.decompress(data) + member.flush()
        assert member.eof
        data = member.unused_data
    return content


def _assert_message(text: str) -> None:
    """A message can be shown."""
    assert len(text) <= 1000
    assert escape_terminal(text).isprintable()


PRICES = PriceTable.from_catalog(seeds.CATALOGS[0], fetched_at="2026-01-01T00:00:00Z")

TARGETS: dict[str, Target] = {
    "job_file": Target(job_file, seeds.JOB_FILES, seeds.JOB_WORDS),
    "reply": Target(reply, seeds.REPLIES, seeds.REPLY_WORDS),
    "hints": Target(hints, seeds.HINTS, seeds.HINT_WORDS),
    "rate": Target(rate, seeds.RATES, seeds.RATE_WORDS),
    "wire": Target(wire, [b"\7" + data for data in seeds.RESPONSES], seeds.WIRE_WORDS),
    "stream": Target(stream, seeds.STREAMS, seeds.STREAM_WORDS),
    "catalog": Target(catalog, seeds.CATALOGS, seeds.CATALOG_WORDS),
    "usage": Target(account_targets.usage, account_targets.PAGES, account_targets.PAGE_WORDS),
    "chats": Target(account_targets.saved_chats, account_targets.CHATS, account_targets.CHAT_WORDS),
    "echo": Target(echo, seeds.ECHOES, seeds.ECHO_WORDS),
    "gunzip": Target(packed, seeds.GZIPS, seeds.GZIP_WORDS),
    "journal": Target(torn.recover_damaged, torn.SCRIPTS, torn.WORDS),
}
