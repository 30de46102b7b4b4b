"""A run directory's files, open for reading and for nothing else."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

from batchrunner.errors import DiskError
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS

_PIECE_BYTES: Final = 1 << 20


class RunReader:
    """The four append-only files as they are when this is made: one that is replaced by name later is read as it was.

    A file that is not there reads as empty. Raises: DiskError.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held = contextlib.ExitStack()
        self._descriptors: dict[str, int] = {}
        for name in (RESULTS, ERRORS, COSTS, JOURNAL):
            try:
                descriptor = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as cause:
                self.close()
                raise DiskError(str(directory / name), "opening", cause) from cause
            self._held.callback(os.close, descriptor)
            self._descriptors[name] = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._held.close()

    def size(self, name: str) -> int:
        """Bytes, now."""
        descriptor = self._descriptors.get(name)
        return 0 if descriptor is None else os.fstat(descriptor).st_size

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end."""
        descriptor = self._descriptors.get(name)
        if descriptor is None:
            return b""
        try:
            return os.pread(descriptor, length, offset)
        except OSError as cause:
            raise DiskError(str(self._directory / name), "reading", cause) from cause

    def lines(self, name: str, *, end: int, offset: int = 0) -> Iterator[tuple[int, bytes]]:
        """Each line from `offset` to `end` with its place and its line end, in the memory of one. The last may lack its end."""
        at = offset
        parts: list[bytes] = []
        while at < end and (piece := self.read(name, at, min(_PIECE_BYTES, end - at))):
            at += len(piece)
            start = 0
            while (stop := piece.find(b"\n", start) + 1) > 0:
                line = b"".join((*parts, piece[start:stop]))
                parts.clear()
                yield offset, line
                offset += len(line)
                start = stop
            if start < len(piece):
                parts.append(piece[start:])
        if parts:
            yield offset, b"".join(parts)

    def prefix_crcs(self, name: str, ends: Iterable[int]) -> Iterator[int]:
        """CRC-32 of a file's bytes up to each of `ends`, which ascend, in one reading. A file that is shorter counts as it is."""
        crc = at = 0
        for end in ends:
            while at < end and (piece := self.read(name, at, min(_PIECE_BYTES, end - at))):
                crc = zlib.crc32(piece, crc)
                at += len(piece)
            yield crc
