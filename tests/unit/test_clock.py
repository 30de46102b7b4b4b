from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from batchrunner.clock import NS_PER_SECOND, SystemClock, VirtualClock


def test_the_systems_clock_reads_the_machines_own() -> None:
    """Monotonic readings are the same scale for all processes, so they lie between two bare readings; so does wall time."""
    clock = SystemClock()
    before = time.monotonic_ns(), time.time_ns()
    reading = clock.monotonic_ns(), clock.wall_ns()
    after = time.monotonic_ns(), time.time_ns()
    assert before <= reading
    assert reading[0] <= after[0]
    assert reading[1] <= after[1]


def test_one_boot_has_one_id() -> None:
    """Two processes of one boot agree, and the id is short and fit for a file."""
    boot_id = SystemClock().boot_id
    assert boot_id == SystemClock().boot_id
    assert boot_id.isalnum()


def without_proc(monkeypatch: pytest.MonkeyPatch, sysctl: Callable[[list[str]], bytes]) -> None:
    """As on other systems than Linux; `sysctl` answers the command."""

    def missing(self: Path) -> str:
        raise FileNotFoundError(self)

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 0, sysctl(command))

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(subprocess, "run", run)


def test_macos_is_asked_for_its_boot_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that is set, or rounds another way, is no reboot: runs that share an account have to agree."""
    without_proc(monkeypatch, lambda command: b"11DA4D85-5A9E-4F4C\n" if command[-1] == "kern.bootsessionuuid" else b"")
    boots = set()
    for wall_seconds in (1_000_100.4, 1_000_100.6, 2_000_000.0):
        monkeypatch.setattr(time, "time", lambda seconds=wall_seconds: seconds)
        boots.add(SystemClock().boot_id)
    assert boots == {"11DA4D855A9E"}


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("sysctl", 1), None])
def test_a_machine_without_a_boot_id_is_told_by_its_boot_time(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    """Where neither Linux nor macOS says it, the moment of the boot, in whole seconds, stands in."""

    def sysctl(_command: list[str]) -> bytes:
        if error is not None:
            raise error
        return b""

    without_proc(monkeypatch, sysctl)
    monkeypatch.setattr(time, "time", lambda: 1_000_100.0)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    assert SystemClock().boot_id == "b1000000"


async def test_the_double_follows_virtual_time_to_the_nanosecond(autojump_clock: trio.testing.MockClock) -> None:
    """It starts at its start, and a virtual hour later shows exactly an hour more on both faces."""
    clock = VirtualClock(trio.current_time, start_ns=5)
    assert clock.monotonic_ns() == 5
    await trio.sleep(3600)
    assert clock.monotonic_ns() == 5 + 3600 * NS_PER_SECOND
    assert clock.wall_ns() == clock.monotonic_ns()


def test_virtual_boots_are_told_apart_by_name() -> None:
    """A test of a reboot gives its second clock another id."""
    assert VirtualClock(lambda: 0.0).boot_id != VirtualClock(lambda: 0.0, boot_id="second").boot_id
