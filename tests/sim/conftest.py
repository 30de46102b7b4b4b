"""Fixtures of runs in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from batchrunner.simulator.settings import Settings
from tests.sim.nights import MakeNight, Night, WatchedPlatform


@pytest.fixture
def make_night(tmp_path: Path, nursery: trio.Nursery) -> MakeNight:
    """A night's job file, disk and server; `settings` are the simulated platform's."""

    def make(lines: list[bytes], **settings: object) -> Night:
        platform = WatchedPlatform(Settings(**settings))  # type: ignore[arg-type]
        return Night(tmp_path / "jobs.jsonl", nursery, lines, platform)

    return make
