"""What carries bytes: the protocol that connections speak to, and the driver over any trio stream.

The driver over real sockets is in `sockets`; this one serves the in-memory network of virtual-time tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio


class LinkBroken(Exception):
    """The bytes can go no further: reset, closed, or refused. Its text says why, for people."""


class Link(Protocol):
    """A connected, two-way flow of bytes. One task uses it at a time. After an exception it is only good for `close`."""

    #: a byte was, or may have been, handed to the kernel since this was last set to False
    sent: bool

    def send_now(self, data: bytes | memoryview) -> int:
        """Hand over what goes without waiting; how many bytes that was.

        Raises: LinkBroken.
        """
        ...

    async def send_all(self, data: bytes | memoryview) -> None:
        """Hand over all of it, waiting as needed. Where `send_now` took less than all, this must get the very rest.

        Raises: LinkBroken.
        """
        ...

    async def receive_some(self) -> bytes:
        """Wait for the next bytes: at least one, or none at all once the peer has closed. Always a checkpoint.

        Raises: LinkBroken.
        """
        ...

    def alive(self) -> bool:
        """Whether a link on which nothing is expected is still open and silent. Costs one system call; waits for nothing."""
        ...

    def close(self) -> None:
        """Close at once, any number of times. A task that waits on the link gets LinkBroken."""
        ...


class Driver(Protocol):
    """Opens links to one server."""

    async def open(self) -> Link:
        """Connect. Cancelling leaves nothing open.

        Raises: LinkBroken with the reason.
        """
        ...


class StreamDriver:
    """Links over whatever streams `open_stream` gives, for example one end of a `trio.testing` memory stream.

    A stream cannot be asked whether it is still open without reading from it: `is_alive` may say so, else it is taken to be.
    """

    def __init__(
        self,
        open_stream: Callable[[], Awaitable[trio.abc.Stream]],
        *,
        is_alive: Callable[[trio.abc.Stream], bool] = lambda _stream: True,
    ) -> None:
        self._open_stream = open_stream
        self._is_alive = is_alive

    async def open(self) -> StreamLink:
        try:
            stream = await self._open_stream()
        except (OSError, trio.BrokenResourceError) as cause:
            raise LinkBroken(str(cause) or type(cause).__name__) from cause
        return StreamLink(stream, self._is_alive)


class StreamLink:
    """A link over a trio stream."""

    __slots__ = ("_is_alive", "_open", "_stream", "sent")

    def __init__(self, stream: trio.abc.Stream, is_alive: Callable[[trio.abc.Stream], bool]) -> None:
        self.sent = False
        self._stream = stream
        self._is_alive = is_alive
        self._open = True

    def send_now(self, data: bytes | memoryview) -> int:  # noqa: ARG002 - a trio stream sends only by waiting
        return 0

    async def send_all(self, data: bytes | memoryview) -> None:
        self.sent = True
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as cause:
            raise LinkBroken(str(cause) or "connection broken") from cause

    async def receive_some(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some())
        except (trio.BrokenResourceError, trio.ClosedResourceError) as cause:
            raise LinkBroken(str(cause) or "connection broken") from cause

    def alive(self) -> bool:
        return self._open and self._is_alive(self._stream)

    def close(self) -> None:
        if self._open:
            self._open = False
            # Closing a stream takes a wait, even a forceful one, and a caller that is being cancelled has none to spare.
            trio.lowlevel.spawn_system_task(_close, self._stream)


async def _close(stream: trio.abc.Stream) -> None:
    with contextlib.suppress(Exception):  # a system task must not fail, and there is nobody left to tell
        await trio.aclose_forcefully(stream)
