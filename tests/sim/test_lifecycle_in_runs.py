"""Whole runs with a watch on the column of states: whatever happens, a job moves by the table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from trio.testing import MockClock

from batchrunner import inputs
from batchrunner.index import Index
from batchrunner.lifecycle import TRANSITIONS, State
from batchrunner.runner import Run
from tests.sim.nights import MakeNight, after, assert_once, job, jobs

KINDS = (
    "error500",
    "error504",
    "error400",
    "reset_before",
    "reset_body",
    "html200",
    "rate_limited",
    "gzip",
    "job_failed",
    "job_gone",
)


def work(custom_id: str) -> bytes:
    """A job that the server takes on, and is asked for."""
    body = {"model": "simulated-per-request", "prompt": "The moon", "metadata": {"custom_id": custom_id}}
    return msgspec.json.encode({"custom_id": custom_id, "url": "/v1/videos/generations", "body": body}) + b"\n"


class WatchedStates(bytearray):
    """Refuses a move that no event of the table makes, and remembers the others."""

    seen: set[tuple[State, State]]

    def __setitem__(self, number: Any, value: Any) -> None:
        was, becomes = State(self[number]), State(value)
        assert becomes in set(TRANSITIONS[was].values()), f"{was.name} -> {becomes.name}"
        self.seen.add((was, becomes))
        super().__setitem__(number, value)


async def test_every_move_is_in_the_table(
    autojump_clock: MockClock, make_night: MakeNight, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through faults, an interruption, a resume and a retry; and each edge of the table but adoption and loss is walked."""
    WatchedStates.seen = set()

    class WatchedIndex(Index):
        def __init__(self, *args: Any, **wishes: Any) -> None:
            super().__init__(*args, **wishes)
            self.state = WatchedStates()

    monkeypatch.setattr(inputs, "Index", WatchedIndex)
    night = make_night(
        [*jobs(80), *(work(f"work-{number}") for number in range(40)), job("stranger", account="another")],
        faults=dict.fromkeys(KINDS, 0.06),
        latency_median_seconds=2.0,
    )
    await night.run(after(3, Run.cancel), max_in_flight=10)
    await night.run(max_in_flight=10)
    assert night.failures()
    assert_once(night, await night.run(retry_failed=True))
    pending, flying, waiting, succeeded, failed, submitted = State
    assert WatchedStates.seen >= {
        (pending, flying),
        (flying, succeeded),
        (flying, failed),
        (flying, waiting),
        (flying, pending),
        (flying, submitted),
        (submitted, succeeded),
        (submitted, failed),
        (submitted, waiting),
        (waiting, pending),
        (pending, failed),
        (failed, pending),
    }
