"""HTTP/1.1 as bytes: what goes out is exactly that, and any bytes that come in are a reply or an error, never a guess."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrunner.exchange import FailureKind, Reply
from batchrunner.transport.wire import ReplyParser, WireError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n"
CLOSED = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"


def read(pieces: Iterable[bytes], *, closed: bool = False, **limits: Any) -> tuple[Reply, ReplyParser]:
    parser = ReplyParser(**limits)
    for piece in pieces:
        if parser.feed(piece):
            return parser.reply, parser
    if closed:
        parser.eof()
    return parser.reply, parser


def fail(pieces: Iterable[bytes], *, closed: bool = False, **limits: int) -> tuple[FailureKind, str]:
    with pytest.raises(WireError) as caught:
        read(pieces, closed=closed, **limits)
    return caught.value.kind, str(caught.value)


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in itertools.pairwise(at) if start != end]


# --- replies


def test_a_reply_has_lower_case_names_and_whole_body() -> None:
    """Names lower, values trimmed and latin-1, repeated headers kept in order."""
    data = b"HTTP/1.1 418 I'm\r\nX-A:  one \t\r\nx-a: \xe4\r\nX-Empty:\r\nContent-Length: 3\r\n\r\nabc"
    reply, parser = read([data])
    assert reply == Reply(418, (("x-a", "one"), ("x-a", "ä"), ("x-empty", ""), ("content-length", "3")), b"abc")
    assert parser.keep_alive


WHOLE = [(OK, False), (CHUNKED, False), (CLOSED, True), (INTERIM + OK, False), (EMPTY, False), (INTERIM + CHUNKED, False)]


@pytest.mark.parametrize(("data", "closed"), WHOLE)
def test_byte_by_byte_gives_the_same_reply(data: bytes, closed: bool) -> None:
    """The network's pieces mean nothing."""
    bytewise = read([data[i : i + 1] for i in range(len(data))], closed=closed)
    assert bytewise[0] == read([data], closed=closed)[0]
    assert bytewise[1].keep_alive is (not closed)


@given(st.sampled_from(WHOLE), st.lists(st.integers(0, 400), max_size=8))
def test_any_split_gives_the_same_reply(whole: tuple[bytes, bool], cuts: list[int]) -> None:
    """The same, for pieces of any size."""
    data, closed = whole
    assert read(split(data, cuts), closed=closed)[0] == read([data], closed=closed)[0]


@pytest.mark.parametrize(
    ("data", "keep_alive"),
    [
        (OK, True),
        (CHUNKED, True),
        (EMPTY, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", True),
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), False),
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: Keep-Alive, Close\r\n\r\n"), False),
        (OK.replace(b"HTTP/1.1", b"HTTP/1.0"), False),
        (OK.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n"), True),
    ],
)
def test_keep_alive_is_what_the_reply_allows(data: bytes, keep_alive: bool) -> None:
    """Persistent by default in 1.1, on request in 1.0, never against `close`; 204 and 304 have no body."""
    reply, parser = read([data])
    assert parser.keep_alive is keep_alive
    assert reply.body in (b"{}", b"abcde", b"")


def test_trailers_are_no_headers() -> None:
    """What follows the last chunk cannot add or change a header."""
    reply, _ = read([CHUNKED])
    assert [name for name, _ in reply.headers] == ["transfer-encoding"]
    assert reply.body == b"abcde"


def test_interim_responses_leave_no_trace() -> None:
    """100 and 103 are skipped with their headers."""
    assert read([INTERIM + OK])[0] == read([OK])[0]


@pytest.mark.parametrize("extra", [b"H", b"HTTP/1.1 200 OK\r\n", OK, b"garbage", b"\0"])
@pytest.mark.parametrize("data", [OK, CHUNKED, EMPTY])
def test_bytes_after_the_reply_condemn_the_connection_alone(data: bytes, extra: bytes) -> None:
    """The reply stands as it was framed; the connection is not used again."""
    reply, parser = read([data + extra])
    assert reply == read([data])[0]
    assert parser.excess
    assert not parser.keep_alive


def test_the_limit_on_a_body_is_exact() -> None:
    """A body as long as the limit passes, one byte more does not, by length, in chunks, and until the close."""
    for build in (
        lambda body: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body),
        lambda body: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
        lambda body: b"HTTP/1.1 200 OK\r\n\r\n" + body,
    ):
        assert read([build(b"x" * 100)], closed=True, max_body_bytes=100)[0].body == b"x" * 100
        assert fail([build(b"x" * 101)], closed=True, max_body_bytes=100)[0] is FailureKind.TOO_LARGE


def test_a_length_over_the_limit_is_refused_before_any_body() -> None:
    """The head says enough."""
    assert fail([b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n"], max_body_bytes=100)[0] is FailureKind.TOO_LARGE


def endless_headers() -> Iterable[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    yield from (b"X-%d: %b\r\n" % (i, b"v" * 100) for i in range(2000))


def endless_trailer() -> Iterable[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-T: "
    yield from itertools.repeat(b"v" * 100, 2000)


@pytest.mark.parametrize(
    "pieces",
    [
        endless_headers(),
        [b"".join(endless_headers()) + b"\r\n"],
        itertools.chain([b"HTTP/1.1 200 OK\r\nX: "], itertools.repeat(b"v" * 100, 2000)),
        itertools.chain([b"HTTP/1.1 200 "], itertools.repeat(b"v" * 100, 2000)),
        itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n", 10_000),
        itertools.repeat(b"\r\n", 100_000),
        endless_trailer(),
    ],
    ids=["headers", "headers at once", "one header", "reason", "interim", "blank lines", "trailer"],
)
def test_endless_heads_are_cut_off(pieces: Iterable[bytes]) -> None:
    """Whatever is not body is bounded, in every place where a server could go on for ever."""
    kind, message = fail(pieces)
    assert kind is FailureKind.TOO_LARGE
    assert "65536" in message


def test_a_head_over_the_limit_is_refused_though_it_came_whole() -> None:
    """The limit does not depend on how many bytes one read brings."""
    head = b"".join(endless_headers())
    assert fail([head + b"Content-Length: 2\r\n\r\n{}"])[0] is FailureKind.TOO_LARGE
    body = b"x" * 200_000
    assert read([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)])[0].body == body


def test_tiny_chunks_are_no_attack() -> None:
    """A body streamed a byte at a time passes, though its framing outweighs it."""
    body = b"x" * 20_000
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * len(body) + b"0\r\n\r\n"
    assert read(split(data, range(0, len(data), 1000)))[0].body == body


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"<html>502</html>",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20x OK\r\n\r\n",
        b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\x0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 \x1b[2J\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nX A: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
    ],
)
def test_nonsense_is_a_protocol_error(data: bytes) -> None:
    """What is not HTTP/1.x, or contradicts itself, is never made sense of."""
    assert fail([data + b"\r\n" * 4], closed=True)[0] is FailureKind.PROTOCOL


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"identity, gzip"])
def test_a_compressed_reply_is_refused_by_name(encoding: bytes) -> None:
    """It was asked for plain; the message says what came, and the status is known."""
    parser = ReplyParser()
    with pytest.raises(WireError, match=encoding.decode()) as caught:
        parser.feed(b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: 1\r\n\r\nx" % encoding)
    assert caught.value.kind is FailureKind.COMPRESSED
    assert parser.status == 200


@pytest.mark.parametrize("name", [b"Content-Encoding", b"Transfer-Encoding"])
def test_what_is_no_name_of_a_coding_is_not_quoted(name: bytes) -> None:
    """A server may put there what it was sent: half a key in a message is half a key too much."""
    _, message = fail([b"HTTP/1.1 200 OK\r\n%b: sk-empiriolabs-test-secret\r\n\r\n" % name])
    assert "something long" in message
    assert "sk-" not in message


def test_identity_is_no_compression() -> None:
    """A server may say that it did nothing."""
    assert read([OK.replace(b"\r\n\r\n", b"\r\nContent-Encoding: Identity\r\n\r\n")])[0].body == b"{}"


@pytest.mark.parametrize("data", [OK, CHUNKED, INTERIM + OK])
def test_a_close_at_any_earlier_byte_is_a_truncation(data: bytes) -> None:
    """No prefix of a framed reply passes for the whole."""
    for end in range(1, len(data)):
        parser = ReplyParser()
        assert not parser.feed(data[:end])
        with pytest.raises(WireError) as caught:
            parser.eof()
        assert caught.value.kind is FailureKind.TRUNCATED


def test_only_a_complete_parser_has_a_reply() -> None:
    """A reply cannot be taken early."""
    parser = ReplyParser()
    parser.feed(OK[:-1])
    with pytest.raises(RuntimeError, match="not complete"):
        _ = parser.reply


def test_a_parser_that_has_ended_takes_nothing_more() -> None:
    """Neither after a whole reply nor after an error: what comes then belongs to nobody."""
    whole, broken = ReplyParser(), ReplyParser()
    assert whole.feed(OK)
    with pytest.raises(WireError):
        broken.feed(b"SSH-2.0\r\n")
    for parser in (whole, broken):
        with pytest.raises(RuntimeError, match="has ended"):
            parser.feed(OK)
    assert whole.reply.body == b"{}"


@settings(max_examples=300)
@given(st.binary(max_size=200), st.lists(st.integers(0, 400), max_size=4))
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", [])
def test_no_bytes_make_it_fail_otherwise(noise: bytes, cuts: list[int]) -> None:
    """Any bytes, alone or spliced into a reply, give a reply or a WireError."""
    for data in (noise, OK[:20] + noise + OK[20:], CHUNKED[:60] + noise):
        parser = ReplyParser()
        try:
            whole = any(parser.feed(piece) for piece in split(data, cuts))
            if not whole:
                parser.eof()
        except WireError:
            assert not parser.complete
        else:
            assert isinstance(parser.reply, Reply)


# --- against an independent parser

STATUSES = st.sampled_from([200, 201, 204, 301, 304, 400, 404, 413, 429, 500, 502, 529])
NAMES = st.from_regex(r"[Xx]-[A-Za-z0-9-]{1,10}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, blacklist_characters="\x7f", blacklist_categories=["Cc"]))


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bool]:
    """A valid response, and whether its end is the close."""
    status, body = draw(STATUSES), draw(st.binary(max_size=300))
    lines = [f"{name}: {value}".encode("latin-1") for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))]
    framing = "none" if status in (204, 304) else draw(st.sampled_from(["length", "chunked", "close"]))
    payload = b""
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
        payload = body
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        pieces: Sequence[bytes] = split(body, draw(st.lists(st.integers(0, 300), max_size=4)))
        payload = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif framing == "close":
        payload = body
    head = b"\r\n".join([b"HTTP/1.1 %d Reason" % status, *lines, b"", b""])
    return head + payload, framing == "close"


@given(messages(), st.lists(st.integers(0, 1000), max_size=5))
def test_h11_reads_the_same_reply(message: tuple[bytes, bool], cuts: list[int]) -> None:
    """Two parsers that share no code agree on status, headers and body."""
    data, closed = message
    reply, _ = read(split(data, cuts), closed=closed)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    if closed:
        client.receive_data(b"")
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    headers = tuple((name.decode(), value.decode("latin-1")) for name, value in response.headers)
    assert reply == Reply(response.status_code, headers, body)
