"""What Linux's /proc says of a process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from tests.e2e.harness import PATIENCE_SECONDS, POLL_SECONDS


def status_of(pid: int, field: str) -> str:
    """A field of its status: State, TracerPid, ...; empty once it has gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(field + ":"):
                return line.split(":", 1)[1].strip()
    return ""


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait for it, whoever's doing it is."""
    for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
        if happened():
            return
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"waited for {what} in vain")


def until_stopped(pid: int) -> None:
    """Wait for a process that is about to stop itself."""
    until(lambda: status_of(pid, "State").startswith("T"), "the process to stop")
