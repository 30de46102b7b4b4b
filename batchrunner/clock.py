"""The clock seam: monotonic nanoseconds for every decision, wall time for display and dates only."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

NS_PER_SECOND = 1_000_000_000
#: it answers in milliseconds, or there is something wrong with it
SYSCTL_SECONDS = 5.0
_SYSCTL = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")


class Clock(Protocol):
    """Where time comes from."""

    #: Changes with every boot of the machine: monotonic readings compare only under the same boot id.
    boot_id: str

    def monotonic_ns(self) -> int:
        """Nanoseconds that never go back; the same scale for all processes of this machine since its boot."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch, for people to read. May jump; no decision rests on it."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def __init__(self) -> None:
        self.boot_id = _read_boot_id()

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()


class VirtualClock:
    """The double: reads any function of seconds, for example `trio.current_time` under a MockClock.

    Both clocks show the same instant, counted from the first reading, so that virtual runs are reproducible.
    """

    def __init__(self, seconds: Callable[[], float], *, boot_id: str = "virtual", start_ns: int = 0) -> None:
        self.boot_id = boot_id
        self._seconds = seconds
        self._start_ns = start_ns
        self._origin: float | None = None

    def monotonic_ns(self) -> int:
        now = self._seconds()
        if self._origin is None:
            self._origin = now
        return self._start_ns + round((now - self._origin) * NS_PER_SECOND)

    def wall_ns(self) -> int:
        return self.monotonic_ns()


def _read_boot_id() -> str:
    """The kernel's boot id, shortened: Linux's, else macOS's. Elsewhere the boot time in seconds, which tells boots apart, but
    by the wall clock: where that is set a process takes what others wrote before for another boot's.
    """
    try:
        found = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        found = _boot_session()
    return found.strip().replace("-", "")[:12] or f"b{round(time.time() - time.monotonic())}"


def _boot_session() -> str:
    """What macOS calls its present boot; empty on other systems."""
    try:
        asked = subprocess.run(  # noqa: S603 - a fixed path
            _SYSCTL, capture_output=True, check=True, timeout=SYSCTL_SECONDS, env={}
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.decode(errors="replace")
