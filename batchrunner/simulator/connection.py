"""A server's end of a TCP connection, as a trio stream.

trio's own SocketStream would do, at twice the cost of a request: it takes locks that a connection with one user has no
need of, asks the kernel for what has not come yet, and gives way to other tasks at each call.
"""

from __future__ import annotations

import socket
import struct

import trio

READ_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)


class Connection(trio.abc.Stream):
    """Takes over the socket of a trio stream, which is of no use from then on.

    One task reads or writes at a time. Writing gives way to other tasks only where the peer does not keep up.
    Raises: trio.BrokenResourceError where the peer has reset the connection.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._fd = self._socket.fileno()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What the peer has sent; nothing where it has ended its side."""
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return self._socket.recv(max_bytes or READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as cause:
                raise trio.BrokenResourceError from cause

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        sent = self._send(data)
        while sent < len(data):
            await trio.lowlevel.wait_writable(self._fd)
            sent += self._send(memoryview(data)[sent:])

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self._fd)

    async def aclose(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._fd)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def prepare_reset(self) -> None:
        """Make closing send a reset instead of an orderly end."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as cause:
            raise trio.BrokenResourceError from cause
