"""Bodies that are not kept whole in memory: what reads one as it comes."""

from __future__ import annotations

from typing import Protocol

#: a stream of events is read, and not kept, to this many bytes: an answer of 64 MiB in the smallest fragments
MAX_STREAM_BYTES = 1 << 32
EVENT_STREAM = "text/event-stream"


class BodyTaker(Protocol):
    """Reads the body of an answer that comes as a stream of events, in the place of memory for all of it."""

    @property
    def held_bytes(self) -> int:
        """What it keeps in memory."""
        ...

    @property
    def began(self) -> bool:
        """Something of the answer itself has come: until then whoever writes it may still be thinking."""
        ...

    @property
    def complete(self) -> bool:
        """All that is wanted of the body has come."""
        ...

    def feed(self, piece: bytes) -> None:
        """Take in the next bytes. Raises nothing."""
        ...
