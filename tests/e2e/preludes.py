"""What a forked start does before the program begins, for proofs that need a hand on it."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import resource
import signal
import time
from typing import Any

from batchrunner import disk
from batchrunner.cli import start

CAPABILITIES_VERSION = 0x20080522


def stopped() -> None:
    """Wait, before anything, for a SIGCONT."""
    signal.raise_signal(signal.SIGSTOP)


def stopped_before_work() -> None:
    """Wait for a SIGCONT once recovery is over: from there on one thread writes, and another syncs."""
    live = start._live

    async def wait_first(*parts: Any, **more: Any) -> Any:
        signal.raise_signal(signal.SIGSTOP)
        return await live(*parts, **more)

    start._live = wait_first


def few_descriptors(number: int) -> None:
    """So many, and no way to get more."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))


def unprivileged() -> None:
    """Be bound by permissions, as root is not: without any of Linux's capabilities."""
    if os.geteuid() == 0:
        nobodys = (ctypes.c_uint32 * 6)()
        if ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0), nobodys):
            raise OSError("the capabilities of root cannot be given up")


def short_write(nth: int, then: str) -> None:
    """The nth write takes half of what it is given. `then`: "goes on" with the rest; "is full": no byte more, ever; or "tears":
    the half cannot be cut off again either.
    """
    disk.os = _ShortWrite(nth, then)  # type: ignore[assignment, attr-defined]


class _ShortWrite:
    """The machine's own system calls, but for that."""

    def __init__(self, nth: int, then: str) -> None:
        self._left = nth
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        self._left -= 1
        if self._left == 0:
            return os.write(fd, data[: len(data) // 2])
        if self._left < 0 and self._then != "goes on":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)

    def ftruncate(self, fd: int, size: int) -> None:
        if self._left < 0 and self._then == "tears":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.ftruncate(fd, size)


def wall_clock_jumps(readings: int, seconds: int) -> None:
    """From so many readings on, people's clock is wrong by so many seconds. The monotonic one is what it was."""
    right = time.time_ns
    count = itertools.count()
    time.time_ns = lambda: right() + (seconds * 1_000_000_000 if next(count) >= readings else 0)
