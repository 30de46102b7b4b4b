"""The platform's end of a connection: it waits where the peer does not keep up, and says so where the peer has gone."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from batchrunner.simulator.connection import Connection

MANY_BYTES = 8 << 20


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, socket.socket]]:
    """A connection over loopback, and the peer's socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    connection = Connection(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))
    peer.setblocking(False)
    with trio.fail_after(30):
        yield connection, peer
    await connection.aclose()
    peer.close()


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


async def test_what_a_slow_peer_does_not_take_is_sent_as_it_does() -> None:
    """Every byte, in its order, with other tasks at work meanwhile."""
    sent, got = bytes(range(256)) * (MANY_BYTES // 256), bytearray()
    async with connected() as (connection, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_all, sent)
            while len(got) < len(sent):
                await trio.lowlevel.wait_readable(peer)
                got += peer.recv(1 << 16)
        assert got == sent
        await connection.wait_send_all_might_not_block()


async def test_what_the_peer_sends_comes_until_it_ends() -> None:
    async with connected() as (connection, peer):
        peer.send(b"hello")
        assert await connection.receive_some(2) == b"he"
        assert await connection.receive_some() == b"llo"
        peer.shutdown(socket.SHUT_WR)
        assert await connection.receive_some() == b""


async def test_a_peer_that_has_reset_the_connection_is_gone() -> None:
    """For whoever reads, and for whoever writes."""
    async with connected() as (connection, peer):
        reset(peer)
        with pytest.raises(trio.BrokenResourceError):
            await connection.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await connection.send_all(b"x")


async def test_a_wake_up_for_nothing_is_waited_out() -> None:
    """The kernel may say that something is there and then have nothing."""
    async with connected() as (connection, peer):
        real, wakes = connection._socket, []

        class Shy:
            def recv(self, most: int) -> bytes:
                wakes.append(most)
                if len(wakes) == 1:
                    raise BlockingIOError
                return real.recv(most)

        connection._socket = Shy()  # type: ignore[assignment]
        peer.send(b"hello")
        assert await connection.receive_some(5) == b"hello"
        assert wakes == [5, 5]
        connection._socket = real


async def test_closing_twice_is_closing() -> None:
    async with connected() as (connection, _):
        await connection.aclose()
        await connection.aclose()


async def test_a_reset_can_be_had_instead_of_an_end() -> None:
    async with connected() as (connection, peer):
        connection.prepare_reset()
        await connection.aclose()
        await trio.lowlevel.wait_readable(peer)
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
