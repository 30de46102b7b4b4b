"""HTTP/1.1 with keep-alive over any trio stream."""

from __future__ import annotations

import functools
from collections import deque

import httptools
import msgspec
import trio

from batchrunner.simulator.answers import refusal
from batchrunner.simulator.connection import READ_BYTES, Connection
from batchrunner.simulator.delivery import deliver
from batchrunner.simulator.platform import Platform

BACKLOG = 4096
MAX_HEAD_BYTES = 1 << 16
MAX_BODY_BYTES = 1 << 26
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Incoming(msgspec.Struct, frozen=True, gc=False):
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
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_bytes > MAX_HEAD_BYTES:
            self.refusal = self.refusal or (431, f"More than {MAX_HEAD_BYTES} bytes of headers.")
            return
        self._head_bytes += len(name) + len(value)
        self._headers[_lower(name)] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if "expect" in self._headers:
            self.wants_continue = self._headers["expect"].lower() == "100-continue"

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


@functools.lru_cache(1024)
def _lower(name: bytes) -> str:
    return name.decode("latin-1").lower()


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
        await serve_stream(platform, Connection(stream))

    await trio.serve_listeners(handle, listeners)


async def _serve(platform: Platform, stream: trio.abc.Stream) -> None:
    inbox = Inbox()
    while True:
        while inbox.requests:
            request = inbox.requests.popleft()
            answer = await platform.answer(request.method, request.target, request.headers, request.body)
            if not await deliver(stream, answer, keep_alive=request.keep_alive):
                return
        if inbox.refusal is not None:
            status, message = inbox.refusal
            await deliver(stream, refusal(None, status, "invalid_request", message, "none"), keep_alive=False)
            return
        data = await stream.receive_some(READ_BYTES)
        if not data:
            return
        inbox.feed(data)
        if inbox.wants_continue:
            inbox.wants_continue = False
            await stream.send_all(_CONTINUE)
