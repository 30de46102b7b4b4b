"""The input files as one: opened once, read twice; each line again when its job is due."""

from __future__ import annotations

import bisect
import io
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Final, Self

import msgspec

from batchrunner import jobfile
from batchrunner.errors import BatchrunError, ChangedLines, DiskError, InvalidInput, UsageError
from batchrunner.index import Index, add_lines, custom_id_of
from batchrunner.job import BadLine, Job
from batchrunner.jobfile import LineReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

_SPOOL_BYTES: Final = 1 << 20
_encode_bad_line: Final = msgspec.json.Encoder().encode
_decode_bad_line: Final = msgspec.json.Decoder(BadLine).decode
_GZIP: Final = b"\x1f\x8b"
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


class InputFile(msgspec.Struct, frozen=True):
    """An input file as it was when the run opened it."""

    path: str
    #: bytes; what is appended later belongs to the next start
    size: int
    mtime_ns: int
    inode: int
    #: where its first byte stands in the concatenated input
    start: int


class Inputs:
    """The input files, opened once and read as one, back to back in one space of offsets.

    Descriptors stay open, so that a file replaced by name is read to its end as it was.
    """

    def __init__(self, files: Sequence[tuple[InputFile, int]]) -> None:
        self.files = tuple(file for file, _ in files)
        self.size = sum(file.size for file in self.files)
        self._descriptors = [descriptor for _, descriptor in files]
        self._starts = [file.start for file in self.files]

    @classmethod
    def open(cls, paths: Sequence[str | os.PathLike[str]]) -> Self:
        """Open plain files, each once.

        Raises: UsageError where a file is missing, cannot be read, is given twice or is none; InvalidInput for what cannot
        be read twice as it is.
        """
        if not paths:
            raise UsageError("no job file given: name at least one.")
        files: list[tuple[InputFile, int]] = []
        seen: dict[tuple[int, int], str] = {}
        start = 0
        try:
            for given in paths:
                path = os.fspath(given)
                descriptor = _open_plain(path)
                info = os.fstat(descriptor)
                files.append((InputFile(path, info.st_size, info.st_mtime_ns, info.st_ino, start), descriptor))
                start += info.st_size
                first = seen.setdefault((info.st_dev, info.st_ino), path)
                if len(seen) < len(files):
                    raise UsageError(f"{path}: the same file as {first}; name it once.")
        except BatchrunError:
            for _, descriptor in files:
                os.close(descriptor)
            raise
        return cls(files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Closing again does nothing."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def identity(self) -> list[list[str | int]]:
        """What tells unchanged files without reading them: path, bytes, mtime and inode of each."""
        return [[os.path.abspath(file.path), file.size, file.mtime_ns, file.inode] for file in self.files]

    def file_number(self, offset: int) -> int:
        """Which of `files` holds the byte at an offset."""
        return bisect.bisect_right(self._starts, offset) - 1

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from one file; fewer than `length` where it was cut short since.

        Raises: DiskError.
        """
        number = self.file_number(offset)
        try:
            return os.pread(self._descriptors[number], length, offset - self._starts[number])
        except OSError as cause:
            raise DiskError(self.files[number].path, "reading", cause) from cause

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
    """One file's bytes up to the size at which it was opened, as a stream."""

    def __init__(self, inputs: Inputs, file: InputFile) -> None:
        self._inputs = inputs
        self._at = file.start
        self._end = file.start + file.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        room = min(len(view), self._end - self._at)
        data = self._inputs.read(self._at, room) if room else b""
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def index_inputs(inputs: Inputs, on_bad_line: Callable[[BadLine], None]) -> Index:
    """Read all of the input once: the index of its jobs; lines that are no job, and repeated ids, go to the callback.

    Raises: DiskError.
    """

    def id_of(number: int) -> str | None:
        return custom_id_of(inputs.read(index.offsets[number], index.lengths[number]))

    index = Index(id_of)
    # How deep a line may nest depends on the stack that is left. What is taken in here must be readable wherever a job is
    # sent from, so that the index is made with less of a stack than anyone has later.
    _deeper(_SPARE_FRAMES, lambda: _fill(index, inputs, on_bad_line))
    return index


def _deeper(frames: int, work: Callable[[], None]) -> None:
    if frames:
        _deeper(frames - 1, work)
    else:
        work()


def _fill(index: Index, inputs: Inputs, on_bad_line: Callable[[BadLine], None]) -> None:
    lines = 0
    for file in inputs.files:
        index.begin_file(file.path, lines)
        reader = LineReader(io.BufferedReader(_Region(inputs, file), _BUFFER_BYTES), offset=file.start, lines_before=lines)
        add_lines(index, reader, on_bad_line)
        lines = reader.lines


def _open_plain(path: str) -> int:
    """A descriptor of a plain file.

    What can be read only once (`-`, a FIFO, gzip) would be copied aside to a plain file first; here is the place.
    Raises: UsageError, InvalidInput.
    """
    if path == "-":
        raise UsageError("-: standard input can be read only once; save it to a file (cat > jobs.jsonl) and name that.")
    try:
        # Opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the name of the job file.") from None
    except OSError as cause:
        raise UsageError(f"{path}: cannot be opened: {cause.strerror or cause}.") from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{path}: a directory; name the job files in it.")
        if not stat.S_ISREG(mode):
            raise InvalidInput(f"{path}: not a plain file, so it can be read only once; save it to a file and name that.")
        if os.pread(descriptor, len(_GZIP), 0) == _GZIP:
            raise InvalidInput(
                f"{path}: compressed with gzip; unpack it first (gunzip -k {Path(path).name}) and name the result."
            )
    except BatchrunError:
        os.close(descriptor)
        raise
    return descriptor
