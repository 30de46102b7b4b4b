"""Thousands of requests that are not answered for a quarter of an hour, all in flight at once, in virtual time."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.events import Billing
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.settings import Settings
from tests.sim.nights import Night, WatchedPlatform, assert_bill, assert_whole, job

#: the platform gives up on a request after 15 minutes, and we after 16
PATIENCE_SECONDS = 960.0
IN_TIME_SECONDS, TOO_LATE_SECONDS = 14 * 60.0, 20 * 60.0


class SilentPlatform(WatchedPlatform):
    """Says nothing for 14 minutes, or for 20 where the job's id says so; then answers, and bills, as if nothing had been."""

    def __init__(self) -> None:
        super().__init__(Settings(latency_median_seconds=1e-9, latency_sigma=0.0))

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        late = msgspec.json.decode(body)["metadata"]["custom_id"].startswith("late")
        await trio.sleep(TOO_LATE_SECONDS if late else IN_TIME_SECONDS)
        return await super().answer(method, target, headers, body)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No cyclic collections: they would look at thousands of live tasks again and again, for a third of the time."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.campaign)])
async def test_silence(autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, count: int) -> None:
    """Those of 14 minutes complete; those of 20 end after 960 seconds each, in a `maybe_billed` line that covers their bill."""
    in_time = [f"soon-{number}" for number in range(count // 2)]
    too_late = [f"late-{number}" for number in range(count // 2)]
    lines = [job(custom_id) for pair in zip(in_time, too_late, strict=True) for custom_id in pair]
    night = Night(tmp_path / "jobs.jsonl", nursery, lines, SilentPlatform())
    status = await night.run(max_in_flight=10_000, max_attempts=1)
    assert trio.current_time() == pytest.approx(PATIENCE_SECONDS, abs=1)
    assert_whole(night, status)
    assert (status.completed, status.failed, status.attempts) == (count // 2, count // 2, count)
    assert sorted(night.succeeded()) == sorted(in_time)
    assert night.failures() == dict.fromkeys(too_late, "attempt_timeout")
    waited = {event.custom_id: event.seconds for event in night.events}
    assert [waited[custom_id] for custom_id in in_time] == pytest.approx([IN_TIME_SECONDS] * len(in_time), abs=1e-3)
    assert [waited[custom_id] for custom_id in too_late] == pytest.approx([PATIENCE_SECONDS] * len(too_late), abs=1e-3)
    states = {custom_id: line.state for (custom_id, _), line in night.costs().items()}
    assert states == dict.fromkeys(in_time, Billing.BILLED) | dict.fromkeys(too_late, Billing.MAYBE)
    await trio.sleep(TOO_LATE_SECONDS - PATIENCE_SECONDS)
    assert_bill(night, status)
