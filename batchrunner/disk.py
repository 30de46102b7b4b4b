"""The disk seam: append, sync, replace, and at a start cut a torn tail. Nothing else is ever done to a run's files.

A `Disk` is one directory; files go by their bare names. `SystemDisk` is the machine's, `MemoryDisk` the double that can
lose whatever was not synced.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from batchrunner.errors import DiskError

CHUNK_BYTES = 1 << 20


class AppendFile(Protocol):
    """A file that only grows at its end."""

    name: str

    @property
    def size(self) -> int:
        """Bytes; where the next append lands."""
        ...

    def append(self, data: bytes) -> int:
        """Write `data` at the end with one write; the offset at which it stands.

        Raises: DiskError where not all of it was written; the file is cut back to what it was, and refuses more.
        """
        ...

    def sync(self) -> None:
        """Return once all that was appended is on disk.

        Raises: DiskError. The first failure is final: the kernel may have dropped the pages, so that a second try
        would succeed without having saved anything. The file refuses more.
        """
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only at the end."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""
        ...

    def close(self) -> None: ...


class Disk(Protocol):
    """A directory of append-only and replaced files."""

    def open(self, name: str) -> AppendFile:
        """Open for appending; made, with its directory entry synced, where it is missing."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes, or None where there is no such file."""
        ...

    def modified_ns(self, name: str) -> int | None:
        """When the file was last changed, or None where there is no such file: another number means another content."""
        ...

    def chunks(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """The file's bytes from `offset`, about a megabyte at a time; nothing where there is no such file."""
        ...

    def replace(self, name: str, parts: Iterable[bytes], *, durable: bool = True) -> None:
        """Put a whole new file in the place of the old at one stroke: write aside, sync, rename, sync the directory.

        Where `parts` raises, the old file stays, and nothing of the new one. `durable=False` leaves out both syncs: for
        files that may be lost but never seen half-written.
        An `AppendFile` that was open on the old file still means the old file.
        """
        ...

    def free_bytes(self) -> int | None:
        """What the file system still takes, or None where it does not say."""
        ...


class SystemDisk:
    """A directory of the machine: 0700, its files 0600, whatever the umask."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            made = [path for path in (directory, *directory.parents) if not path.exists()]
            directory.mkdir(parents=True, mode=0o700, exist_ok=True)
            for path in made:
                with contextlib.suppress(PermissionError):  # one may be allowed to make a directory where one may not look
                    _sync_directory(path.parent)
        except OSError as cause:
            raise DiskError(str(directory), "making the directory", cause) from cause

    def open(self, name: str) -> SystemAppendFile:
        path = self.directory / name
        made = self._stat(name) is None
        try:
            file = SystemAppendFile(name, path)
        except OSError as cause:
            raise DiskError(str(path), "opening", cause) from cause
        if made:
            self._sync_directory()
        return file

    def size(self, name: str) -> int | None:
        info = self._stat(name)
        return None if info is None else info.st_size

    def modified_ns(self, name: str) -> int | None:
        info = self._stat(name)
        return None if info is None else info.st_mtime_ns

    def chunks(self, name: str, offset: int = 0) -> Iterator[bytes]:
        path = self.directory / name
        try:
            with open(path, "rb", buffering=0) as file:
                file.seek(offset)
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except FileNotFoundError:
            return
        except OSError as cause:
            raise DiskError(str(path), "reading", cause) from cause

    def replace(self, name: str, parts: Iterable[bytes], *, durable: bool = True) -> None:
        path = self.directory / name
        aside = self.directory / f".{name}.new"
        try:
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb", buffering=CHUNK_BYTES) as file:
                file.writelines(parts)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.rename(aside, path)
        except BaseException as cause:
            with contextlib.suppress(OSError):  # what is of no use must not keep a full disk full
                os.unlink(aside)
            if isinstance(cause, OSError):
                raise DiskError(str(path), "replacing", cause) from cause
            raise
        if durable:
            self._sync_directory()

    def free_bytes(self) -> int | None:
        try:
            info = os.statvfs(self.directory)
        except OSError:
            return None
        return info.f_bavail * info.f_frsize

    def _stat(self, name: str) -> os.stat_result | None:
        path = self.directory / name
        try:
            return path.stat()
        except FileNotFoundError:
            return None
        except OSError as cause:
            raise DiskError(str(path), "reading", cause) from cause

    def _sync_directory(self) -> None:
        try:
            _sync_directory(self.directory)
        except OSError as cause:
            raise DiskError(str(self.directory), "syncing the directory", cause) from cause


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class SystemAppendFile:
    """An append-only file behind a descriptor of its own. Raises, while being made: OSError."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._broken: DiskError | None = None
        try:
            self.size = os.fstat(self._fd).st_size
        except OSError:
            self.close()
            raise

    def append(self, data: bytes) -> int:
        self._refuse_if_broken()
        offset = self.size
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                # A second write would say why it was short (ENOSPC, as a rule), and is asked so that people read the cause.
                written += os.write(self._fd, data[written:])
                if written != len(data):
                    raise OSError(0, f"only {written} of {len(data)} bytes were written")
        except OSError as cause:
            self._broken = DiskError(str(self.path), "writing", cause)
            with contextlib.suppress(OSError):  # a torn tail is found by its checksum at the next start
                os.ftruncate(self._fd, offset)
            raise self._broken from cause
        self.size = offset + len(data)
        return offset

    def sync(self) -> None:
        self._refuse_if_broken()
        try:
            # macOS's fdatasync is not exposed everywhere; fsync is the stronger of the two.
            getattr(os, "fdatasync", os.fsync)(self._fd)
        except OSError as cause:
            self._broken = DiskError(str(self.path), "syncing", cause)
            raise self._broken from cause

    def read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as cause:
            raise DiskError(str(self.path), "reading", cause) from cause

    def truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
            os.fsync(self._fd)
        except OSError as cause:
            raise DiskError(str(self.path), "truncating", cause) from cause
        self.size = size

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _refuse_if_broken(self) -> None:
        if self._broken is not None:
            raise self._broken


class MemoryDisk:
    """The double: files as bytes in memory, with a memory of what was synced.

    `crash()` gives the disk that a machine would find after losing its power. `fail` is called before each operation
    with (operation, name) and may raise OSError, so that a test can break the Nth one.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.synced: dict[str, int] = {}
        self.operations: list[tuple[str, str]] = []
        self.free: int | None = None

    def fail(self, operation: str, name: str) -> None:
        """Replaced by tests that want an operation to fail."""

    def open(self, name: str) -> MemoryAppendFile:
        self._do("open", name)
        self.files.setdefault(name, bytearray())
        self.synced.setdefault(name, 0)
        return MemoryAppendFile(self, name)

    def size(self, name: str) -> int | None:
        return len(self.files[name]) if name in self.files else None

    def modified_ns(self, name: str) -> int | None:
        """Without a clock: the content's checksum does what the contract asks for."""
        return zlib.crc32(self.files[name]) if name in self.files else None

    def chunks(self, name: str, offset: int = 0) -> Iterator[bytes]:
        data = bytes(self.files.get(name, b""))
        for start in range(offset, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]

    def replace(self, name: str, parts: Iterable[bytes], *, durable: bool = True) -> None:  # noqa: ARG002 - a rename is never torn
        self._do("replace", name)
        self.files[name] = bytearray(b"".join(parts))
        self.synced[name] = len(self.files[name])

    def free_bytes(self) -> int | None:
        return self.free

    def crash(self, keep: dict[str, int] | None = None) -> MemoryDisk:
        """What is left after a power cut: what was synced, and of the rest the first `keep[name]` bytes (default none)."""
        after = MemoryDisk()
        for name, data in self.files.items():
            size = min(len(data), self.synced[name] + (keep or {}).get(name, 0))
            after.files[name] = bytearray(data[:size])
            after.synced[name] = size
        return after

    def _do(self, operation: str, name: str) -> None:
        self.operations.append((operation, name))
        try:
            self.fail(operation, name)
        except OSError as cause:
            raise DiskError(name, operation, cause) from cause


class MemoryAppendFile:
    """An append-only file of a MemoryDisk."""

    def __init__(self, disk: MemoryDisk, name: str) -> None:
        self.name = name
        self._disk = disk
        self._data = disk.files[name]
        self._broken: DiskError | None = None

    @property
    def size(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> int:
        self._attempt("write")
        offset = len(self._data)
        self._data += data
        return offset

    def sync(self) -> None:
        self._attempt("sync")
        if self._disk.files.get(self.name) is self._data:
            self._disk.synced[self.name] = len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    def truncate(self, size: int) -> None:
        self._attempt("truncate")
        del self._data[size:]
        self._disk.synced[self.name] = min(self._disk.synced[self.name], size)

    def close(self) -> None:
        pass

    def _attempt(self, operation: str) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            self._disk._do(operation, self.name)
        except DiskError as error:
            self._broken = error
            raise
