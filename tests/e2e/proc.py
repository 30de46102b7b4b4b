"""What Linux's /proc says of a process."""

from __future__ import annotations

import contextlib

from tests.e2e.cli_support import until


def status_of(pid: int, field: str) -> str:
    """A field of its status: State, TracerPid, ...; empty once it has gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        for line in file:
            if line.startswith(field + ":"):
                return line.split(":", 1)[1].strip()
    return ""


def until_stopped(pid: int) -> None:
    """Wait for a process that is about to stop itself."""
    until(lambda: status_of(pid, "State").startswith("T"), "the process to stop")
