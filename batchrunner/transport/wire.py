"""HTTP/1.1 as bytes in memory: a request's head out, a reply in. No socket, no clock, no trio.

httptools (llhttp) reads the framing; what is strict or bounded beyond it is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import httptools

from batchrunner.errors import UsageError
from batchrunner.exchange import FailureKind, Reply
from batchrunner.transport.taking import EVENT_STREAM, MAX_STREAM_BYTES, BodyTaker

MAX_HEAD_BYTES = 64 << 10
MAX_BODY_BYTES = 64 << 20

#: what the framing of one chunk may take on top of its bytes; past this a reply is all overhead
CHUNK_OVERHEAD_BYTES = 64

#: a longer name of a coding is none, and not quoted
LONGEST_WORD = 16

#: named by this module alone, so that no caller can contradict the framing or the encoding that the parser reads
RESERVED_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "accept-encoding",
        "connection",
        "keep-alive",
        "expect",
        "upgrade",
        "te",
        "trailer",
    }
)

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"/[!-~]*")
_HOST = re.compile(r"[0-9A-Za-z._\-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class WireError(Exception):
    """The bytes of a reply are not, or not yet, a whole response: `kind` is TRUNCATED, PROTOCOL, COMPRESSED or TOO_LARGE."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class Head:
    """All of a request's head that stays the same from one request to the next, checked and encoded once.

    `headers` are names and values as they go out; the ones that frame a message (`RESERVED_HEADERS`) are added here.

    Raises: UsageError where a name or value could not be sent as it is (CR, LF, NUL, other control characters, or
    characters outside latin-1). Its message never holds a value.
    """

    __slots__ = ("_prefix",)

    def __init__(self, method: str, target: str, host: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        if not _TOKEN.fullmatch(method):
            raise UsageError("a request's method must be one word of letters")
        if not _TARGET.fullmatch(target):
            raise UsageError(
                "a request's path must begin with '/' and hold visible ASCII characters only: percent-encode the others"
            )
        if not _HOST.fullmatch(host):
            raise UsageError("a request's host must be a name or an address, with or without a port")
        start = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: identity\r\n"
        self._prefix = start.encode("ascii") + _encode_headers(headers)

    def encode(self, content_length: int | None, headers: Sequence[tuple[str, str]] = ()) -> bytes:
        """The head of one request, with the headers that are its own. `content_length`: bytes of body, None for none.

        Raises: UsageError as the class does.
        """
        own = _encode_headers(headers) if headers else b""
        if content_length is None:
            return b"%b%b\r\n" % (self._prefix, own)
        return b"%b%bContent-Length: %d\r\n\r\n" % (self._prefix, own, content_length)


def request_head(method: str, target: str, host: str, headers: Sequence[tuple[str, str]], content_length: int | None) -> bytes:
    """The head of a request, ready to be sent before a body of `content_length` bytes (None: no body, as in a GET).

    Raises: UsageError, as `Head` does.
    """
    return Head(method, target, host, headers).encode(content_length)


def _word(value: str) -> str:
    """A header's value for a message: quoted only where it is short, so that no key that stands there is cut in two."""
    return repr(value) if len(value) <= LONGEST_WORD else "something long"


def _encode_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    lines = []
    for number, (name, value) in enumerate(headers, 1):
        if not _TOKEN.fullmatch(name):
            # The name is not shown either: where name and value were swapped, it is the key.
            raise UsageError(f"header number {number} has a name that HTTP does not allow (letters, digits and dashes only)")
        if name.lower() in RESERVED_HEADERS:
            raise UsageError(f"header {name!r} cannot be set: the connection sets it itself")
        if not _VALUE.fullmatch(value):
            raise UsageError(f"the value of header {name!r} holds a line break or another character that cannot be sent")
        lines.append(f"{name}: {value}\r\n".encode("latin-1"))
    return b"".join(lines)


class ReplyParser:
    """Reads one reply from the bytes of a connection, in whatever pieces they come.

    `feed()` until it says that the reply is whole, or `eof()` where the server closed; then take `reply`. Interim (1xx)
    responses are skipped. A parser that raised WireError, or is complete, takes nothing more.

    `max_head_bytes` bounds status line, headers, interim responses and trailers together; `max_body_bytes` the body, or what is
    kept of it. `stream` makes what takes a success that comes as a stream of events, whose reply then has no body; `of_any_type`:
    any success. `max_stream_bytes` bounds what is taken so.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_chunks",
        "_error",
        "_fed_bytes",
        "_first",
        "_framed",
        "_head_done",
        "_headers",
        "_interim",
        "_max_body_bytes",
        "_max_head_bytes",
        "_max_stream_bytes",
        "_names",
        "_of_any_type",
        "_parser",
        "_stream",
        "_taker",
        "_values",
        "body_bytes",
        "complete",
        "excess",
        "keep_alive",
        "status",
    )

    def __init__(
        self,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_head_bytes: int = MAX_HEAD_BYTES,
        max_stream_bytes: int = MAX_STREAM_BYTES,
        stream: Callable[[], BodyTaker] | None = None,
        of_any_type: bool = False,
    ) -> None:
        #: the final status code, as soon as its whole head has been read
        self.status: int | None = None
        #: the reply is whole
        self.complete = False
        #: the connection may carry another exchange; meaningful once complete
        self.keep_alive = False
        #: bytes came after the end of the reply: the connection cannot be trusted with another
        self.excess = False
        #: bytes of body read so far
        self.body_bytes = 0
        self._stream = stream
        self._of_any_type = of_any_type
        self._taker: BodyTaker | None = None
        self._max_body_bytes = max_body_bytes
        self._max_head_bytes = max_head_bytes
        self._max_stream_bytes = max_stream_bytes
        self._headers: tuple[tuple[str, str], ...] = ()
        self._names: list[bytes] = []
        self._values: list[bytes] = []
        self._first = b""
        self._body: bytearray | None = None
        self._fed_bytes = 0
        self._chunks = 0
        self._head_done = False
        self._interim = False
        self._chunked = False
        self._framed = False
        self._error: WireError | None = None
        # Parser and self refer to each other: the circle is broken at the end, so that memory is freed without the collector.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)

    @property
    def started(self) -> bool:
        """Whether a byte of the answer, interim or final, has been read."""
        return self._fed_bytes > 0

    @property
    def held_bytes(self) -> int:
        """What of the body is kept in memory."""
        return self.body_bytes if self._taker is None else self._taker.held_bytes

    @property
    def thinking(self) -> bool:
        """A stream has been promised, and none of its words has come."""
        return self._taker is not None and not self._taker.began

    @property
    def answered(self) -> bool:
        """The reply is whole, or it is a stream that has said all that it had to say."""
        return self.complete or (self._taker is not None and self._taker.complete)

    @property
    def reply(self) -> Reply:
        """The whole reply. Only once `answered`."""
        if not self.answered or self.status is None:
            raise RuntimeError("the reply is not complete")
        body = self._first if self._body is None else bytes(self._body)
        return Reply(self.status, self._headers, body)

    def feed(self, data: bytes) -> bool:
        """Read some bytes (not none: that is `eof`). True once the reply is whole.

        Raises: WireError (PROTOCOL, COMPRESSED, TOO_LARGE).
        """
        parser = self._parser
        if parser is None:
            raise RuntimeError("the parser has ended")
        self._fed_bytes += len(data)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._error = self._error or WireError(FailureKind.PROTOCOL, "the server switched protocols, which nobody asked for")
        except httptools.HttpParserError as cause:
            if self.complete and self._error is None:
                self.excess = True  # what follows a whole reply cannot spoil it, only the connection
            else:
                self._error = self._error or WireError(FailureKind.PROTOCOL, f"the server's answer is not HTTP/1.1 ({cause})")
        if self._error is None and not self.complete:
            overhead_bytes = self._fed_bytes - self.body_bytes
            if overhead_bytes > self._max_head_bytes + CHUNK_OVERHEAD_BYTES * self._chunks:
                self._error = self._too_large_head()
        if self._error is not None:
            self._parser = None
            raise self._error from None
        if self.complete:
            self._parser = None
            self.keep_alive = self.keep_alive and not self.excess
        return self.complete

    def eof(self) -> None:
        """Note that the server closed the connection: completes a reply that only the close delimits.

        Raises: WireError (TRUNCATED) where anything is missing.
        """
        if self.complete:
            return
        self._parser = None
        if not self._head_done:
            raise WireError(FailureKind.TRUNCATED, "the server closed the connection in the middle of the headers")
        if self._framed:
            raise WireError(
                FailureKind.TRUNCATED, f"the server closed the connection after {self.body_bytes} bytes of an unfinished body"
            )
        self.complete = True

    def end(self) -> None:
        """Let go of the parser's memory; nothing more can be fed."""
        self._parser = None

    # Called by httptools. An exception from here would come out wrapped, so the first error is kept and all else ignored.

    def on_message_begin(self) -> None:
        if self.complete:
            self.excess = True

    def on_status(self, reason: bytes) -> None:
        # Perhaps one piece of it. llhttp lets control characters pass here, and nowhere else.
        if not self.complete and self._error is None and not _REASON.fullmatch(reason):
            self._error = WireError(FailureKind.PROTOCOL, "the server's status line holds control characters")

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too, after the headers have been taken: their bytes count, their values are dropped.
        self._names.append(name)
        self._values.append(value)

    def on_headers_complete(self) -> None:
        if self._error is not None or self.complete:
            return
        parser = self._parser
        assert parser is not None
        status: int = parser.get_status_code()
        if self._fed_bytes > self._max_head_bytes and self._head_bytes() > self._max_head_bytes:
            self._error = self._too_large_head()
        elif parser.get_http_version() not in ("1.1", "1.0"):
            self._error = WireError(FailureKind.PROTOCOL, "the server answered in another version of HTTP than 1.0 or 1.1")
        elif not 100 <= status <= 599:
            self._error = WireError(FailureKind.PROTOCOL, f"the server answered with the impossible status {status}")
        elif status < 200:
            self._interim = True
            self._names.clear()
            self._values.clear()
        else:
            self.status = status
            self._head_done = True
            self._headers = self._decode_headers()
            self._read_framing(status)

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, data: bytes) -> None:
        if self._error is not None or self.complete:
            return
        self.body_bytes += len(data)
        if self._taker is not None:
            self._taker.feed(data)
            if self.body_bytes > self._max_stream_bytes:
                self._error = self._too_large_body(self._max_stream_bytes)
            elif self._taker.held_bytes > self._max_body_bytes:
                self._error = self._too_large_body()
        elif self.body_bytes > self._max_body_bytes:
            self._error = self._too_large_body()
        elif self._body is not None:
            self._body += data
        elif self._first:
            # One growing buffer, not a list: a body of one-byte chunks must not take fifty times its size.
            self._body = bytearray(self._first)
            self._body += data
            self._first = b""
        else:
            self._first = data

    def on_message_complete(self) -> None:
        if self._error is not None or self.complete:
            return
        if self._interim:
            self._interim = False
            return
        assert self._parser is not None
        self.complete = True
        self.keep_alive = self._parser.should_keep_alive()  # false for ever if asked any later

    def _decode_headers(self) -> tuple[tuple[str, str], ...]:
        # Decoded together: two dozen small calls are most of what reading a reply costs. No name or value holds a line feed.
        names = b"\n".join(self._names).decode("latin-1").lower().split("\n")
        text = b"\n".join(self._values).decode("latin-1")
        values = text.split("\n")
        if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):  # llhttp drops blanks before a value, not after it
            values = [value.rstrip(" \t") for value in values]
        return tuple(zip(names, values, strict=True)) if self._names else ()

    def _read_framing(self, status: int) -> None:
        length: str | None = None
        of_stream = False
        for name, value in self._headers:
            if name == "content-length":
                length = value
            elif name == "transfer-encoding":
                if self._chunked or value.lower() != "chunked":
                    self._error = WireError(
                        FailureKind.PROTOCOL, f"the server framed its answer as {_word(value)}, not 'chunked'"
                    )
                    return
                self._chunked = True
            elif name == "content-type" and self._stream is not None:
                of_stream = value.lower().startswith(EVENT_STREAM)
            elif name == "content-encoding" and value.lower() not in ("", "identity"):
                self._error = WireError(
                    FailureKind.COMPRESSED,
                    f"the server compressed its answer ({_word(value)}) though 'identity' was asked for; perhaps a proxy did",
                )
                return
        self._framed = self._chunked or length is not None
        taker = self._stream if (of_stream or self._of_any_type) and 200 <= status < 300 else None
        limit_bytes = self._max_body_bytes if taker is None else self._max_stream_bytes
        if length is not None and status not in (204, 304) and int(length) > limit_bytes:
            self._error = self._too_large_body(limit_bytes)
        elif taker is not None:
            self._taker = taker()

    def _head_bytes(self) -> int:
        return sum(map(len, self._names)) + sum(map(len, self._values)) + 4 * len(self._names)

    def _too_large_head(self) -> WireError:
        return WireError(
            FailureKind.TOO_LARGE, f"the headers and framing of the server's answer pass {self._max_head_bytes} bytes"
        )

    def _too_large_body(self, limit_bytes: int | None = None) -> WireError:
        return WireError(FailureKind.TOO_LARGE, f"the server's answer passes {limit_bytes or self._max_body_bytes} bytes")
