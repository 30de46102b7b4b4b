"""The input files as one: read once for their index, and each line again when its job is due."""

from __future__ import annotations

import bisect
import io
import itertools
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING, Final, Protocol

import msgspec

from batchrunner import jobfile
from batchrunner.errors import ChangedLines, DiskError
from batchrunner.index import Index, add_lines, custom_id_of
from batchrunner.job import BadLine, Job
from batchrunner.jobfile import LineReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

#: An input as the system names it: path, bytes, mtime, inode. Unchanged means unchanged, as a fast path only.
Identity = list[str | int]

_SPOOL_BYTES: Final = 1 << 20
_encode_bad_line: Final = msgspec.json.Encoder().encode
_decode_bad_line: Final = msgspec.json.Decoder(BadLine).decode
#: of the size at which asking for each line costs least
_BUFFER_BYTES: Final = 1 << 18
#: frames of the interpreter's stack that indexing leaves unused, see `index_inputs`
_SPARE_FRAMES: Final = 200


class BadLines:
    """Lines that are no job, in their order. Beyond a megabyte they wait in a file without a name: a wrong file of ten million
    lines is told apart from a right one, and not kept in memory.
    """

    def __init__(self) -> None:
        self._spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed with the run
        self._count = 0

    def append(self, bad: BadLine) -> None:
        self._spool.write(_encode_bad_line(bad) + b"\n")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[BadLine]:
        """Read them from the first. One reading at a time."""
        self._spool.seek(0)
        for raw in self._spool:
            yield _decode_bad_line(raw)

    def close(self) -> None:
        self._spool.close()


class Readable(Protocol):
    """A file that can be read at any place; `disk.AppendFile` is such."""

    def read(self, offset: int, length: int, /) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end. Raises: DiskError."""
        ...


class PlainFile:
    """A file behind a descriptor that stays open: replaced by name, it is read to its end as it was."""

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor

    def read(self, offset: int, length: int, /) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as cause:
            raise DiskError(self._name, "reading", cause) from cause

    def close(self) -> None:
        """Close it. Closing again does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class InputFile(msgspec.Struct, frozen=True):
    """An input as it was when the run opened it."""

    #: as people know it: its path as they gave it, or `standard input`
    name: str
    #: bytes; what is appended later belongs to the next start
    size: int
    identity: Identity
    file: Readable
    #: the file of the run directory that stands for a pipe from now on; None where the input itself can be read again
    kept_as: str | None = None


class Inputs:
    """The input files read as one, back to back in one space of offsets."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self.files = tuple(files)
        *starts, self.size = itertools.accumulate((file.size for file in files), initial=0)
        #: where the first byte of each file stands
        self.starts = tuple(starts)

    def identity(self) -> list[Identity]:
        """What tells unchanged files without reading them."""
        return [file.identity for file in self.files]

    def file_number(self, offset: int) -> int:
        """Which of `files` holds the byte at an offset."""
        return bisect.bisect_right(self.starts, offset) - 1

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from one file; fewer than `length` where it was cut short since.

        Raises: DiskError.
        """
        number = self.file_number(offset)
        return self.files[number].file.read(offset - self.starts[number], length)

    def load(self, index: Index, number: int) -> Job:
        """A job, read again from its line.

        Raises: ChangedLines where the line is not what was indexed; DiskError.
        """
        length, line, fingerprint = index.lengths[number], index.lines[number], index.fingerprints[number]
        raw = self.read(index.offsets[number], length)
        if jobfile.fingerprint(raw) != fingerprint:
            raise ChangedLines([(index.place(line), custom_id_of(raw) or "?")], 1)
        parsed = jobfile.parse(raw)
        return Job(number, line, parsed.custom_id, parsed.url, parsed.body, fingerprint, parsed.extras)


class _Region(io.RawIOBase):
    """A file's bytes up to the size at which it was opened, as a stream."""

    def __init__(self, file: InputFile) -> None:
        self._file = file.file
        self._at = 0
        self._end = file.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        room = min(len(view), self._end - self._at)
        data = self._file.read(self._at, room) if room else b""
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def regions(inputs: Inputs) -> Iterator[io.RawIOBase]:
    """Each of the files as a stream, up to the size at which it was opened."""
    return map(_Region, inputs.files)


def index_inputs(
    inputs: Inputs,
    on_bad_line: Callable[[BadLine], None],
    *,
    priority: int = 0,
    accounts: Collection[str] = (),
    on_job: Callable[[Index, int, bytes], None] | None = None,
) -> Index:
    """Read all of the input once: the index of its jobs; lines that are no job, and repeated ids, go to the callback.

    `priority`: of jobs that name none; `accounts`: see `Index`; `on_job`: is given the number and the line of each job.
    Raises: DiskError.
    """

    def id_of(number: int) -> str | None:
        return custom_id_of(inputs.read(index.offsets[number], index.lengths[number]))

    index = Index(id_of, priority=priority, accounts=accounts)
    # How deep a line may nest depends on the stack that is left. What is taken in here must be readable wherever a job is
    # sent from, so that the index is made with less of a stack than anyone has later.
    look = None if on_job is None else partial(on_job, index)
    _deeper(_SPARE_FRAMES, lambda: _fill(index, inputs, on_bad_line, look))
    return index


def _deeper(frames: int, work: Callable[[], None]) -> None:
    if frames:
        _deeper(frames - 1, work)
    else:
        work()


def _fill(
    index: Index, inputs: Inputs, on_bad_line: Callable[[BadLine], None], on_job: Callable[[int, bytes], None] | None
) -> None:
    lines = 0
    for file, start in zip(inputs.files, inputs.starts, strict=True):
        index.begin_file(file.name, lines)
        reader = LineReader(io.BufferedReader(_Region(file), _BUFFER_BYTES), offset=start, lines_before=lines)
        add_lines(index, reader, on_bad_line, on_job)
        lines = reader.lines
