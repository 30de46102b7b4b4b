"""Gzip to what it holds: any number of members, streaming, in bounded memory whatever the data claims to be."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Final

MAGIC: Final = b"\x1f\x8b"
#: the most that one piece of content takes; a bomb makes many pieces, not a large one
PIECE_BYTES: Final = 1 << 20
#: the largest window, and a gzip header and trailer around each member
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS


class DamagedGzip(Exception):
    """No gzip, or not all of it. `offset`: bytes of it that were taken in before this showed; `what`: what is wrong there."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"{what} at byte {offset}")
        self.offset = offset
        self.what = what


def gunzip(packed: Iterable[bytes]) -> Iterator[bytes]:
    """The content of a gzip file that comes in pieces. Zeros behind a member are padding, as gzip(1) has it.

    Raises: DamagedGzip once what comes cannot be unpacked, or has ended too early; what was yielded before is not to be used.
    """
    taken = 0
    member = None
    for piece in packed:
        rest = piece
        taken += len(piece)
        while rest:
            if member is None:
                rest = rest.lstrip(b"\0")
                if not rest:
                    break
                member = zlib.decompressobj(_GZIP_WINDOW)
            offset = taken - len(rest)
            try:
                content = member.decompress(rest, PIECE_BYTES)
            except zlib.error as cause:
                raise DamagedGzip(offset, str(cause).rpartition(": ")[2]) from cause
            if content:
                yield content
            rest = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                member = None
    if member is not None:
        raise DamagedGzip(taken, "it ends in the middle of its data")
