"""Servers on loopback that a test scripts, with TLS and without, and the engine's way to them."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime

import pytest
import trio
import trustme

from batchrunner.exchange import FailureKind, Reply
from batchrunner.transport import Origin, Pool, Timeouts, TransportError, request_head

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
QUICK = Timeouts(connect_seconds=10, write_seconds=10, first_byte_seconds=10, between_bytes_seconds=10, attempt_seconds=20)

Script = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def serving(script: Callable[..., Awaitable[None]], *, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A server on loopback; its port."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await script(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=host, backlog=4096)
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving_tls(
    script: Callable[..., Awaitable[None]], authority: trustme.CA, name: str, *, until: datetime | None = None
) -> AsyncIterator[int]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, not_after=until).configure_cert(context)

    async def handle(stream: trio.SocketStream) -> None:
        await script(trio.SSLStream(stream, context, server_side=True, https_compatible=True))

    async with serving(handle) as port:
        yield port


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def read_request(stream: trio.abc.Stream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some(65536)
        if not piece:
            raise trio.BrokenResourceError
        data += bytes(piece)
    head, _, body = data.partition(b"\r\n\r\n")
    pieces, left = [body], int(head.rpartition(b"Content-Length: ")[2]) - len(body)
    while left:
        piece = await stream.receive_some(65536)
        if not piece:
            raise trio.BrokenResourceError
        pieces.append(bytes(piece))
        left -= len(piece)
    return b"".join(pieces)


async def echo(stream: trio.abc.Stream) -> None:
    while True:
        body = await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def reset(stream: trio.SocketStream) -> None:
    """Close with a RST instead of a FIN."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def exchange(pool: Pool, body: bytes = b"{}", timeouts: Timeouts = QUICK) -> Reply:
    connection = await pool.connect(timeouts)
    return await connection.exchange(
        request_head("POST", "/v1/chat/completions", pool.origin.authority, [], len(body)), body, timeouts
    )


async def fail(pool: Pool, body: bytes = b"{}", timeouts: Timeouts = QUICK) -> tuple[FailureKind, bool, int | None]:
    with pytest.raises(TransportError) as caught:
        await exchange(pool, body, timeouts)
    return caught.value.failure.kind, caught.value.failure.sent, caught.value.failure.status


@asynccontextmanager
async def pool_to(port: int, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Pool]:
    """A pool that must have closed all that it opened."""
    pool = Pool(Origin.parse(f"{'https' if tls else 'http'}://{host}:{port}"), ssl_context=tls)
    try:
        yield pool
    finally:
        await pool.aclose()
        statistics = pool.statistics()
        assert statistics.active == statistics.idle == statistics.connecting == 0
        assert statistics.opened == statistics.closed
