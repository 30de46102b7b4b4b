"""The run directory's lock: one process at a time.

flock(2) on a file that is never replaced and never unlinked: the kernel drops the lock when its last holder ends, however
it ends, so that there is no stale lock to clear. Locks by existence or by pid need clearing, and clearing races.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from batchrunner.costs import timestamp
from batchrunner.errors import DiskError, InvalidInput, RunDirectoryInUse

NAME: Final = "lock"
_HELD: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
_UNSUPPORTED: Final = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})

# `is_locked` holds a shared lock for a moment: whoever meets it there tries again.
_TRIES: Final = 5
_PAUSE_SECONDS: Final = 0.01


def is_locked(directory: Path) -> bool:
    """Whether a process is at work on a run directory. Its lock is shared for a moment, which a start waits out."""
    return any(_is_held(path) for path in (directory / NAME, directory))


def _is_held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as cause:
        return cause.errno in _HELD
    finally:
        os.close(fd)
    return False


class _Holder(msgspec.Struct):
    pid: int
    started: str


class RunLock:
    """Holds a run directory for this process, from the making of this object to `release()`.

    Raises: RunDirectoryInUse, with the holder's pid, where another process has it; InvalidInput where the file system
    does not lock; DiskError where the file cannot be opened or written.
    """

    def __init__(self, directory: Path, *, wall_ns: int) -> None:
        self._path = directory / NAME
        self._directory_fd = -1
        self._fd = self._open()
        try:
            self._take()
            self._write_holder(wall_ns)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let the next one in. Does nothing the second time."""
        for fd in (self._directory_fd, self._fd):
            if fd >= 0:
                os.close(fd)
        self._directory_fd = self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def _take(self) -> None:
        self._flock(self._fd)
        self._take_directory()
        # Some network file systems grant every lock. A second descriptor of our own must be refused, or nobody is.
        second = self._open()
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            if cause.errno in _HELD:
                return
            raise self._unsupported(cause) from cause
        finally:
            os.close(second)
        raise self._unsupported(OSError(0, "the same file was locked twice"))

    def _take_directory(self) -> None:
        """Lock the directory itself too: people remove lock files, and must not let a second process in by it.

        Where directories cannot be locked, the file has to do.
        """
        try:
            self._directory_fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as cause:
            raise DiskError(str(self._path.parent), "opening", cause) from cause
        with contextlib.suppress(InvalidInput, DiskError):
            self._flock(self._directory_fd)

    def _flock(self, fd: int, tries: int = _TRIES) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            if cause.errno in _HELD:
                if tries > 1:
                    time.sleep(_PAUSE_SECONDS)
                    self._flock(fd, tries - 1)
                    return
                raise self._in_use() from cause
            if cause.errno in _UNSUPPORTED:
                raise self._unsupported(cause) from cause
            raise DiskError(str(self._path), "locking", cause) from cause

    def _in_use(self) -> RunDirectoryInUse:
        return RunDirectoryInUse(
            f"{self._path.parent}: another batchrun is at work on this run directory{self._holder()}. "
            "Wait for it or stop it, or use another --run-dir."
        )

    def _unsupported(self, cause: OSError) -> InvalidInput:
        return InvalidInput(
            f"{self._path}: this file system does not lock files ({cause.strerror}), so that two processes could run the same "
            "jobs. Put the run directory on a local file system (--run-dir)."
        )

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as cause:
            raise DiskError(str(self._path), "opening", cause) from cause

    def _write_holder(self, wall_ns: int) -> None:
        holder = msgspec.json.encode(_Holder(os.getpid(), timestamp(wall_ns))) + b"\n"
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, holder, 0)
        except OSError as cause:
            raise DiskError(str(self._path), "writing", cause) from cause

    def _holder(self) -> str:
        """Who has it, as far as its file says: it may be writing it just now."""
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            holder = msgspec.json.decode(os.pread(self._fd, 4096, 0), type=_Holder)
            return f" (pid {holder.pid}, since {holder.started})"
        return ""
