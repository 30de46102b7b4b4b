"""A connection in memory as light as can be: thousands of them are open at once in a night's run."""

from __future__ import annotations

import trio


class MemoryStream(trio.abc.Stream):
    """One end of a connection whose other end lies in the same process; made by `stream_pair`.

    Like trio's own memory streams, but two objects instead of twenty, and closed without an exception for each direction:
    with 10,000 connections that is a fifth of the time that a test takes.
    """

    __slots__ = ("_arrived", "_closed", "_inbox", "_reset", "peer")

    peer: MemoryStream

    def __init__(self) -> None:
        self._inbox = bytearray()
        self._closed = False
        self._reset = False
        #: somebody waits for bytes
        self._arrived: trio.Event | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError
        if self.peer._closed or self._reset:
            raise trio.BrokenResourceError
        self.peer._inbox += data
        self.peer._wake()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while not self._inbox and not self._closed and not self.peer._closed and not self._reset:
            self._arrived = trio.Event()
            await self._arrived.wait()
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError
        if self._reset:
            raise trio.BrokenResourceError
        size = len(self._inbox) if max_bytes is None else max_bytes
        received = bytes(self._inbox[:size])
        del self._inbox[:size]
        return received

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def is_closed(self) -> bool:
        """Whether this end is closed, or the connection reset."""
        return self._closed or self._reset

    def close(self) -> None:
        """As `aclose`, without the wait."""
        self._closed = True
        self._wake()
        self.peer._wake()

    def reset(self) -> None:
        """Break the connection for both ends. What has arrived and was not read is lost, as it is where TCP resets."""
        for end in (self, self.peer):
            end._reset = True
            end._wake()

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None


def stream_pair() -> tuple[MemoryStream, MemoryStream]:
    """Both ends of a new connection."""
    return paired(MemoryStream(), MemoryStream())


def paired(one: MemoryStream, other: MemoryStream) -> tuple[MemoryStream, MemoryStream]:
    """The two, as the ends of a new connection."""
    one.peer, other.peer = other, one
    return one, other
