"""The engine behind httpx's transport type: for whoever wants an `httpx.AsyncClient` over it.

httpx's client adds about five times the engine's own cost to a request, so jobs do not come this way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NoReturn

import httpx

from batchrunner.errors import UsageError
from batchrunner.exchange import FailureKind, Reply
from batchrunner.transport.connection import Timeouts, TransportError
from batchrunner.transport.origin import DEFAULT_PORTS, Origin
from batchrunner.transport.pool import Pool
from batchrunner.transport.wire import MAX_BODY_BYTES, RESERVED_HEADERS, request_head

#: requests that may be repeated when a kept-alive connection proves to be closed
IDEMPOTENT = frozenset({"GET", "PUT", "DELETE", "OPTIONS"})

_EXCEPTIONS: dict[FailureKind, type[httpx.TransportError]] = {
    FailureKind.CONNECT: httpx.ConnectError,
    FailureKind.CONNECT_TIMEOUT: httpx.ConnectTimeout,
    FailureKind.WRITE: httpx.WriteError,
    FailureKind.WRITE_TIMEOUT: httpx.WriteTimeout,
    FailureKind.STALE: httpx.RemoteProtocolError,
    FailureKind.READ: httpx.ReadError,
    FailureKind.FIRST_BYTE_TIMEOUT: httpx.ReadTimeout,
    FailureKind.BETWEEN_BYTES_TIMEOUT: httpx.ReadTimeout,
    FailureKind.ATTEMPT_TIMEOUT: httpx.ReadTimeout,
    FailureKind.TRUNCATED: httpx.RemoteProtocolError,
    FailureKind.PROTOCOL: httpx.RemoteProtocolError,
    FailureKind.COMPRESSED: httpx.RemoteProtocolError,
    FailureKind.TOO_LARGE: httpx.RemoteProtocolError,
}


class EngineTransport(httpx.AsyncBaseTransport):
    """An httpx transport over this engine, under trio: `httpx.AsyncClient(transport=EngineTransport())`.

    `open_pool` makes the pool of an origin when it is first asked for, by default over real sockets. The transport owns
    the pools and closes them. httpx's timeouts are kept (read: before the first byte and between bytes). A reply is read
    whole before it is returned, uncompressed, up to `max_body_bytes`. Plain http goes to this machine only.
    """

    def __init__(self, open_pool: Callable[[Origin], Pool] = Pool, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._open_pool = open_pool
        self._max_body_bytes = max_body_bytes
        self._pools: dict[tuple[str, str, int | None], Pool] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange. A kept-alive connection that the server had closed is replaced once, where repeating is safe.

        Raises: the httpx exception that fits, all of them `httpx.TransportError`.
        """
        if request.method in ("HEAD", "CONNECT"):
            raise httpx.UnsupportedProtocol(f"{request.method} is not supported by this transport", request=request)
        body = await request.aread()
        try:
            pool = self._pool(request.url)
            head = request_head(
                request.method,
                request.url.raw_path.decode("ascii"),
                pool.origin.authority,
                _own_headers(request.headers.multi_items()),
                len(body) if body or request.method not in ("GET", "DELETE", "OPTIONS") else None,
            )
        except UsageError as error:
            raise httpx.UnsupportedProtocol(str(error), request=request) from error
        reply = await self._exchange(pool, request, head, body)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
        stream = httpx.ByteStream(reply.body)
        return httpx.Response(reply.status, headers=headers, stream=stream, extensions={"http_version": b"HTTP/1.1"})

    async def aclose(self) -> None:
        while self._pools:
            await self._pools.popitem()[1].aclose()

    async def _exchange(self, pool: Pool, request: httpx.Request, head: bytes, body: bytes) -> Reply:
        timeouts = _timeouts(request.extensions.get("timeout") or {})
        fresh = False
        while True:
            try:
                connection = await pool.connect(timeouts, fresh=fresh)
                return await connection.exchange(head, body, timeouts, max_body_bytes=self._max_body_bytes)
            except TransportError as error:
                failure = error.failure
                stale = failure.kind is FailureKind.STALE
                if not stale or fresh or (failure.sent and request.method not in IDEMPOTENT):
                    _raise(error, request)
                fresh = True

    def _pool(self, url: httpx.URL) -> Pool:
        key = (url.scheme, url.host, url.port)
        pool = self._pools.get(key)
        if pool is None:
            host = f"[{url.host}]" if ":" in url.host else url.host
            port = url.port or DEFAULT_PORTS.get(url.scheme)
            pool = self._pools[key] = self._open_pool(Origin.parse(f"{url.scheme}://{host}:{port}"))
        return pool


def _own_headers(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The caller's headers without those by which httpx describes a connection that is not its own here."""
    return [(name, value) for name, value in headers if name.lower() not in RESERVED_HEADERS]


def _timeouts(given: dict[str, float | None]) -> Timeouts:
    def seconds(name: str) -> float:
        value = given.get(name)
        return math.inf if value is None else value

    return Timeouts(
        connect_seconds=seconds("connect"),
        write_seconds=seconds("write"),
        first_byte_seconds=seconds("read"),
        between_bytes_seconds=seconds("read"),
        attempt_seconds=math.inf,
    )


def _raise(error: TransportError, request: httpx.Request) -> NoReturn:
    raise _EXCEPTIONS[error.failure.kind](error.failure.message, request=request) from error
