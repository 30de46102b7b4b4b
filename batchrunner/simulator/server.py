"""HTTP/1.1 with keep-alive over any trio stream, and the ways of answering badly that a client must survive."""

from __future__ import annotations

import socket
import struct
from collections import deque
from http import HTTPStatus

import httptools
import msgspec
import trio

from batchrunner.simulator.faults import Delivery
from batchrunner.simulator.platform import Answer, Platform
from batchrunner.simulator.replies import error

BACKLOG = 4096
READ_BYTES = 1 << 16
MAX_HEAD_BYTES = 1 << 16
MAX_BODY_BYTES = 1 << 26
_RESET = struct.pack("ii", 1, 0)
_REASONS = {status.value: status.phrase for status in HTTPStatus} | {529: "Overloaded"}


class Incoming(msgspec.Struct, frozen=True):
    """A whole request. Header names are lower case; of a header that comes twice the last one counts."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    keep_alive: bool


class Inbox:
    """Bytes in, whole requests out. Holds no stream: it is fed, and says what to do when it will not go on."""

    def __init__(self) -> None:
        self.requests: deque[Incoming] = deque()
        #: (status, message) of what ends this connection
        self.refusal: tuple[int, str] | None = None
        #: the client waits for a word before it sends its body
        self.wants_continue = False
        self._parser = httptools.HttpRequestParser(self)
        self.on_message_begin()

    def feed(self, data: bytes | bytearray) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.refusal = self.refusal or (400, "Upgrades are not served.")
        except httptools.HttpParserError:
            self.refusal = self.refusal or (400, "This is not HTTP/1.1.")

    def on_message_begin(self) -> None:
        self._target: list[bytes] = []
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._target.append(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._count_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self.wants_continue = self._headers.get("expect", "").lower() == "100-continue"

    def on_body(self, part: bytes) -> None:
        self._body_bytes += len(part)
        if self._body_bytes > MAX_BODY_BYTES:
            self.refusal = self.refusal or (413, f"More than {MAX_BODY_BYTES} bytes.")
        else:
            self._body.append(part)

    def on_message_complete(self) -> None:
        self.wants_continue = False
        method = self._parser.get_method().decode("latin-1")
        target = b"".join(self._target).decode("latin-1")
        keep_alive = self._parser.should_keep_alive()
        self.requests.append(Incoming(method, target, self._headers, b"".join(self._body), keep_alive))

    def _count_head(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            self.refusal = self.refusal or (431, f"More than {MAX_HEAD_BYTES} bytes of headers.")


async def serve_stream(platform: Platform, stream: trio.abc.Stream) -> None:
    """Serve one connection until either side ends it; the stream is closed then, also where this is cancelled."""
    counters = platform.counters
    counters.connections_open += 1
    counters.connections_opened += 1
    try:
        await _serve(platform, stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client hung up: what was billed stays billed
    finally:
        counters.connections_open -= 1
        await trio.aclose_forcefully(stream)


async def serve_tcp(platform: Platform, listeners: list[trio.SocketListener]) -> None:
    """Serve all that connect, until cancelled."""

    async def handle(stream: trio.SocketStream) -> None:
        await serve_stream(platform, stream)

    await trio.serve_listeners(handle, listeners)


async def _serve(platform: Platform, stream: trio.abc.Stream) -> None:
    inbox = Inbox()
    while True:
        while inbox.requests:
            request = inbox.requests.popleft()
            answer = await platform.answer(request.method, request.target, request.headers, request.body)
            if not await _deliver(stream, answer, keep_alive=request.keep_alive):
                return
        if inbox.refusal is not None:
            status, message = inbox.refusal
            body = error(None, status, "invalid_request", message, "")
            await _deliver(stream, Answer(status, body, "none"), keep_alive=False)
            return
        data = await stream.receive_some(READ_BYTES)
        if not data:
            return
        inbox.feed(data)
        if inbox.wants_continue:
            inbox.wants_continue = False
            await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")


async def _deliver(stream: trio.abc.Stream, answer: Answer, *, keep_alive: bool) -> bool:
    """Send an answer in the way that it asks for. True where the connection can be used again."""
    head = _head(answer, keep_alive=keep_alive)
    half = answer.body[: len(answer.body) // 2]
    match answer.delivery:
        case Delivery.WHOLE:
            await stream.send_all(head + answer.body)
            return keep_alive
        case Delivery.TRUNCATED:
            await stream.send_all(head + half)
        case Delivery.SILENT:
            while await stream.receive_some(READ_BYTES):
                pass
        case Delivery.RESET_BEFORE:
            _prepare_reset(stream)
        case Delivery.RESET_HEADERS:
            await stream.send_all(head[: len(head) // 2])
            _prepare_reset(stream)
        case Delivery.RESET_BODY:
            await stream.send_all(head + half)
            _prepare_reset(stream)
    return False


def _head(answer: Answer, *, keep_alive: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}",
        f"content-type: {answer.content_type}",
        f"content-length: {len(answer.body)}",
        f"x-request-id: {answer.request_id}",
    ]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    if not keep_alive:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _prepare_reset(stream: trio.abc.Stream) -> None:
    """Make closing a socket send a reset. In-memory streams know no reset: there the client sees an early end."""
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
