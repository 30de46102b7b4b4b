"""Answers that come as a stream of events, put together into the object that the same request without `stream` has. Pure.

`Stream` is fed bytes as they come and holds no more than the object itself. Whether the answer came to its end is told by the
shape's own words, never by the end of the connection: by its terminator, or, where a server leaves that out, by the reason that
it gives for having stopped. An error in mid-stream becomes an error's envelope, which is what the same server says to begin
with where it fails sooner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from batchrunner.streaming.choices import Choices
from batchrunner.streaming.event_stream import EventStream, ServerEvent
from batchrunner.streaming.messages import Messages
from batchrunner.streaming.responses import Responses

__all__ = ["STREAMED_URLS", "Stream", "stream_for"]

#: of an event that is no JSON so much is kept to be shown
_SHOWN_BYTES: Final = 1 << 16


class Assembler(Protocol):
    """One shape's way of putting its events together."""

    #: what it keeps, about
    held_bytes: int
    #: something of the answer itself has come
    began: bool
    #: the shape's terminator, or an error, has come
    complete: bool

    @property
    def finished(self) -> bool:
        """All that it began has said why it ended: where nothing more comes, nothing was to come but the terminator."""
        ...

    def take(self, event: str, data: bytes) -> None:
        """Take in the next event. Raises: ValueError or RecursionError where its data is no JSON."""
        ...

    def body(self) -> bytes:
        """The whole object as JSON."""
        ...


#: the urls whose answers can be streamed
STREAMED_URLS: Final[dict[str, Callable[[], Assembler]]] = {
    "/v1/chat/completions": Choices,
    "/v1/completions": Choices,
    "/v1/responses": Responses,
    "/v1/messages": Messages,
}


class Stream:
    """A body of `text/event-stream`, read as it comes.

    A body that is a JSON object in spite of its type, as an error may be, is kept as it is.
    """

    def __init__(self, assembler: Assembler) -> None:
        self._assembler = assembler
        self._events = EventStream()
        #: the body, where it is no stream
        self._plain: bytearray | None = None
        self._begun = False
        #: an event that is no JSON
        self._odd: bytes | None = None

    @property
    def held_bytes(self) -> int:
        """What is kept in memory, about."""
        if self._plain is not None:
            return len(self._plain)
        return self._events.held_bytes + self._assembler.held_bytes

    @property
    def began(self) -> bool:
        """Something of the answer itself has come."""
        return self._assembler.began

    @property
    def complete(self) -> bool:
        """The answer has come to its end; what follows is not looked at."""
        return self._odd is not None or self._assembler.complete

    def feed(self, piece: bytes) -> None:
        """Take in the next bytes of the body."""
        if not self._begun and piece:
            self._begun = True
            if piece.startswith(b"{"):
                self._plain = bytearray()
        if self._plain is not None:
            self._plain += piece
            return
        for event in self._events.feed(piece):
            self._take(event)

    def end(self) -> bool:
        """The body is over. Whether the answer is whole."""
        if self._plain is not None:
            return True
        last = self._events.end()
        if last is not None:
            self._take(last)
        return self.complete or self._assembler.finished

    def body(self) -> bytes:
        """The answer; only once it is whole. Where an event could not be read, that event: no answer can be made of it."""
        if self._plain is not None:
            return bytes(self._plain)
        if self._odd is not None:
            return self._odd
        try:
            return self._assembler.body()
        except RecursionError:  # nested as deeply as can just be read
            return b""

    def _take(self, event: ServerEvent) -> None:
        if self.complete or not event.data.strip():  # some servers and proxies keep a connection alive with nothing
            return
        try:
            self._assembler.take(event.type, event.data)
        except (ValueError, RecursionError):
            self._odd = event.data[:_SHOWN_BYTES]


def stream_for(url: str) -> Stream | None:
    """What reads the streams of a url; None where its shape has none."""
    assembler = STREAMED_URLS.get(url)
    return None if assembler is None else Stream(assembler())
