"""The inputs that a command names, opened: plain files, gzip files, and pipes, which can be read only once.

What can be refused is refused here, before there is a run directory, and without waiting for anybody: a pipe is not opened
before it is read.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from batchrunner.errors import DiskError, InvalidInput, UsageError
from batchrunner.gunzip import MAGIC, DamagedGzip, gunzip
from batchrunner.inputs import Identity, InputFile, PlainFile

STDIN: Final = "-"
_PIECE_BYTES: Final = 1 << 18


class Source(msgspec.Struct, frozen=True):
    """An input as it was named."""

    #: for people: its path as they gave it, or `standard input`
    name: str
    #: absolute, or `-`
    path: str
    #: None for a pipe, which nothing tells from another
    identity: Identity | None = None
    #: None for a pipe
    file: PlainFile | None = None
    size: int = 0
    packed: bool = False

    def as_it_is(self) -> InputFile | None:
        """The input itself, where its bytes are its lines and can be read again; else None."""
        if self.file is None or self.identity is None or self.packed:
            return None
        return InputFile(self.name, self.size, self.identity, self.file)

    def content(self) -> Iterator[bytes]:
        """All that it holds, unpacked, in pieces. A pipe's writer is waited for.

        Raises: DiskError where reading fails; InvalidInput for a gzip that is cut short or damaged, and for a pipe that ends
        without a byte.
        """
        is_empty = True
        for piece in self._unpacked():
            is_empty = False
            yield piece
        if is_empty and self.file is None:
            raise InvalidInput(f"{self.name}: ended without a byte, and nothing was kept. See why its writer wrote nothing.")

    def _unpacked(self) -> Iterator[bytes]:
        pieces = self._pieces()
        first = b""
        while len(first) < len(MAGIC) and (piece := next(pieces, b"")):
            first += piece
        pieces = itertools.chain([first] if first else [], pieces)
        try:
            yield from gunzip(pieces) if first.startswith(MAGIC) else pieces
        except DamagedGzip as damage:
            raise InvalidInput(
                f"{self.name}: damaged behind byte {damage.offset} of the gzip: {damage.what}. Nothing of it was kept. "
                "Make it anew, or unpack what can be saved and name that; then run the same command again."
            ) from damage

    def _pieces(self) -> Iterator[bytes]:
        """What it holds as it is."""
        if self.file is not None:
            offset = 0
            while piece := self.file.read(offset, _PIECE_BYTES):
                offset += len(piece)
                yield piece
            return
        is_stdin = self.path == STDIN
        try:
            with open(0 if is_stdin else self.path, "rb", buffering=0, closefd=not is_stdin) as pipe:
                os.set_blocking(pipe.fileno(), True)  # who started us may have left it otherwise
                while piece := pipe.read(_PIECE_BYTES):
                    yield piece
        except OSError as cause:
            raise DiskError(self.name, "reading", cause) from cause


@contextlib.contextmanager
def opened(paths: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[Source, ...]]:
    """The inputs of these names, each once, for as long as they are in use.

    Raises: UsageError where one is missing, cannot be read, is given twice or is none; InvalidInput for what is neither
    file nor pipe.
    """
    if not paths:
        raise UsageError("no job file given: name at least one.")
    with contextlib.ExitStack() as held:
        sources: list[Source] = []
        seen: dict[tuple[int, int], str] = {}
        for given in paths:
            path = os.fspath(given)
            source, key = _stdin() if path == STDIN else _open(path)
            if source.file is not None:
                held.callback(source.file.close)
            if key in seen:
                raise UsageError(f"{source.name}: the same file as {seen[key]}; name it once.")
            seen[key] = source.name
            sources.append(source)
        yield tuple(sources)


def _stdin() -> tuple[Source, tuple[int, int]]:
    return Source("standard input", STDIN), (-1, -1)


def _open(path: str) -> tuple[Source, tuple[int, int]]:
    """A file or pipe, and what makes it another than all others: device and inode."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path!r}: the name is not UTF-8, which no file of the run can hold; rename the job file.") from None
    try:
        # Opening a FIFO would wait for its writer; and one that was opened and closed again would break its writer's pipe.
        info = os.stat(path)
        if stat.S_ISFIFO(info.st_mode):
            return Source(path, os.path.abspath(path)), (info.st_dev, info.st_ino)
        if stat.S_ISDIR(info.st_mode):
            raise UsageError(f"{path}: a directory; name the job files in it.")
        if not stat.S_ISREG(info.st_mode):
            raise InvalidInput(f"{path}: neither a file nor a pipe; name a file, or give its lines to standard input and name -.")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the name of the job file.") from None
    except OSError as cause:
        raise UsageError(f"{path}: cannot be opened: {cause.strerror or cause}.") from None
    file = PlainFile(path, descriptor)
    try:
        info = os.fstat(descriptor)
        packed = file.read(0, len(MAGIC)) == MAGIC
    except BaseException:
        file.close()
        raise
    identity: Identity = [os.path.abspath(path), info.st_size, info.st_mtime_ns, info.st_ino]
    return Source(path, os.path.abspath(path), identity, file, info.st_size, packed), (info.st_dev, info.st_ino)
