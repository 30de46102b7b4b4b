"""A `text/event-stream` as bytes in memory: pieces in, whole events out. The format is WHATWG HTML's, section 9.2.

Of an event only its type and data are kept: nobody reconnects, so that `id` and `retry` mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

_LF, _CR = 10, 13
#: what a line of data takes in memory beside its bytes
_LINE_BYTES: Final = 40
_BOM: Final = b"\xef\xbb\xbf"


class ServerEvent(msgspec.Struct, frozen=True, gc=False):
    """One event; `type` is empty where it names none."""

    type: str
    data: bytes


class EventStream:
    """Cuts a stream into lines and events. However the bytes are split, the same events come out."""

    def __init__(self) -> None:
        #: the line that has not ended
        self._line = bytearray()
        self._type = ""
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._after_cr = False
        self._begun = False

    @property
    def held_bytes(self) -> int:
        """What is kept of an event that is not whole."""
        return len(self._line) + len(self._type) + self._data_bytes

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """The events that end in this piece. To be gone through to its end."""
        start = 0
        feed = piece.find(b"\n")
        while start < len(piece):
            if self._after_cr:
                self._after_cr = False
                if piece[start] == _LF:  # one line end in two bytes, perhaps in two pieces
                    start += 1
                    continue
            if 0 <= feed < start:  # looked for once: a piece without any would be gone through for each of its lines
                feed = piece.find(b"\n", start)
            back = piece.find(b"\r", start, feed if feed >= 0 else len(piece))
            end = feed if back < 0 else back
            if end < 0:
                self._line += piece[start:]
                return
            self._line += piece[start:end]
            self._after_cr = piece[end] == _CR
            start = end + 1
            event = self._take_line()
            if event is not None:
                yield event

    def end(self) -> ServerEvent | None:
        """The stream is over: the event that only its end delimits. The format drops it; a server that says so much means it."""
        if self._line:
            self._take_line()
        return self._take_line()

    def _take_line(self) -> ServerEvent | None:
        line = bytes(self._line)
        self._line.clear()
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if not line:
            return self._take_event()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + _LINE_BYTES
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        return None  # a comment, or a field that means nothing here

    def _take_event(self) -> ServerEvent | None:
        kind, data = self._type, self._data
        self._type, self._data, self._data_bytes = "", [], 0
        return ServerEvent(kind, b"\n".join(data)) if data else None
