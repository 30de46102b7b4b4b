"""An in-memory network of scripted servers, for exchanges in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from batchrunner.exchange import Failure, Reply
from batchrunner.transport import (
    Origin,
    Pool,
    StreamDriver,
    Timeouts,
    TransportError,
    request_head,
)

ORIGIN = Origin.parse("http://localhost:8000")
BODY = b'{"model":"m"}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HEAD = request_head("POST", "/v1/chat/completions", ORIGIN.authority, [], len(BODY))
LIMITS = Timeouts(connect_seconds=1, write_seconds=2, first_byte_seconds=30, between_bytes_seconds=5, attempt_seconds=100)

Stream = trio.abc.Stream
Script = Callable[[Stream], Awaitable[None]]


class Network:
    """A server in memory: each connection is served by `script`, and is known to be open or not."""

    def __init__(self, nursery: trio.Nursery, script: Script, *, one_byte_at_a_time: bool = False) -> None:
        self.script = script
        self.connect_seconds = 0.0
        self.refuse = False
        self.open = 0
        self.opened: list[trio.abc.Stream] = []
        self.dead: set[trio.abc.Stream] = set()
        self._nursery = nursery
        self._lockstep = one_byte_at_a_time

    async def connect(self) -> trio.abc.Stream:
        await trio.sleep(self.connect_seconds)
        if self.refuse:
            raise OSError(111, "Connection refused")
        client: Stream
        server: Stream
        client, server = trio.testing.lockstep_stream_pair() if self._lockstep else trio.testing.memory_stream_pair()
        self.open += 1
        self.opened.append(client)
        self._nursery.start_soon(self._serve, client, server)
        return client

    async def _serve(self, client: trio.abc.Stream, server: Stream) -> None:
        try:
            await self.script(server)
        except trio.BrokenResourceError:
            pass
        finally:
            self.dead.add(client)
            await trio.aclose_forcefully(server)
            self.open -= 1

    def driver(self) -> StreamDriver:
        return StreamDriver(self.connect, is_alive=lambda stream: stream not in self.dead)


@asynccontextmanager
async def pool_over(script: Script, *, lockstep: bool = False, **options: object) -> AsyncIterator[tuple[Pool, Network]]:
    async with trio.open_nursery() as nursery:
        network = Network(nursery, script, one_byte_at_a_time=lockstep)
        pool = Pool(ORIGIN, network.driver(), **options)  # type: ignore[arg-type]
        yield pool, network
        await pool.aclose()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        assert pool.statistics().active == pool.statistics().idle == pool.statistics().connecting == 0
        assert pool.statistics().closed == pool.statistics().opened


async def read_request(server: Stream) -> bytes:
    """One request, head and body; raises BrokenResourceError where the client has gone."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await server.receive_some()
        if not piece:
            raise trio.BrokenResourceError
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    length = int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0]) if b"Content-Length" in head else 0
    while len(rest) < length:
        piece = await server.receive_some()
        if not piece:
            raise trio.BrokenResourceError
        rest += piece
    return head + b"\r\n\r\n" + rest


def answers(*pieces: bytes | float, then_close: bool = False) -> Script:
    """Answer each request with these pieces, sleeping for the numbers."""

    async def script(server: Stream) -> None:
        while True:
            await read_request(server)
            for piece in pieces:
                if isinstance(piece, bytes):
                    await server.send_all(piece)
                else:
                    await trio.sleep(piece)
            if then_close:
                return

    return script


async def exchange(pool: Pool, timeouts: Timeouts = LIMITS, body: bytes = BODY, *, fresh: bool = False) -> Reply:
    connection = await pool.connect(timeouts, fresh=fresh)
    head = request_head("POST", "/v1/chat/completions", ORIGIN.authority, [], len(body))
    return await connection.exchange(head, body, timeouts)


async def fail(pool: Pool, timeouts: Timeouts = LIMITS, body: bytes = BODY) -> Failure:
    with pytest.raises(TransportError) as caught:
        await exchange(pool, timeouts, body)
    assert str(caught.value) == caught.value.failure.message
    return caught.value.failure


async def read_only(server: Stream) -> None:
    await read_request(server)
    await trio.sleep_forever()
