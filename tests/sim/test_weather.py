"""Whole nights in bad weather, drawn from a seed: whatever goes wrong, a run ends, and each job in it once."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner.admission import Admission
from batchrunner.breaker import TRIPS_AFTER
from batchrunner.inputs import Inputs, index_inputs
from batchrunner.job import BadLine
from batchrunner.journal.files import JOURNAL
from batchrunner.journal.records import Ended, Record, Refunded, What, decode
from batchrunner.journal.replay import Replay
from batchrunner.resilience import MOST_EXCUSED
from batchrunner.runner import Run
from batchrunner.sources import opened
from batchrunner.status import Status
from tests.sim import nights
from tests.sim.nights import Night, assert_bill, assert_once
from tests.sim.weather import HORIZON_SECONDS, SlowStore, befall, clear, disturbance, night_of, options_of

IN_CI = 30
SEEDS = [pytest.param(seed, marks=pytest.mark.campaign if seed >= IN_CI else ()) for seed in range(400)]
#: behind the weather: pauses that had grown, a model that is waited for, repeats of 150 jobs at ten a minute
LONGEST_SECONDS = 6 * 3600.0
#: How often the dispatcher may go to sleep: a few times for each request, and for each of the weather's events.
MOST_WAITS = 100_000


class Watch:
    """The parts of each run of a night, and how often its dispatcher slept."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run: Run | None = None
        self.waits = 0
        wait = Admission._wait

        async def counted(admission: Admission, *args: Any) -> None:
            self.waits += 1
            assert self.waits < MOST_WAITS, "the dispatcher spins"
            await wait(admission, *args)

        monkeypatch.setattr(Admission, "_wait", counted)


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_the_weather_every_job_ends_once(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Outages, 429s, dying keys, resets, kills, tight options: the run ends in bounded time, its books are sound."""
    print(f"seed {seed}")
    chance = random.Random(f"runs {seed}")
    watch = Watch(monkeypatch)
    if chance.random() < 0.5:
        monkeypatch.setattr(nights, "MemoryStore", SlowStore)
    night, _ = night_of(seed, tmp_path, nursery)
    nursery.start_soon(befall, night, seed)
    max_attempts = chance.choice([1, 2, 5])
    status = await _until_it_is_over(night, chance, watch, max_attempts)
    assert trio.current_time() < HORIZON_SECONDS + LONGEST_SECONDS
    assert_once(night, status)
    assert_bill(night, status)
    assert_bounded(_records(night), max_attempts)
    await assert_nothing_to_do(night, status)
    nursery.cancel_scope.cancel()


async def _until_it_is_over(night: Night, chance: random.Random, watch: Watch, max_attempts: int) -> Status:
    """Run, be stopped, and run again, as whoever is responsible for a night would; from the fourth time on, undisturbed."""
    for start in range(12):
        options = options_of(chance) | {"max_attempts": max_attempts}
        if start >= 4:
            options |= {"max_cost_usd": None, "max_failures": None}
        cancelled = False

        async def meanwhile(run: Run, start: int = start) -> None:
            nonlocal cancelled
            watch.run = run
            seconds, act = disturbance(chance, run)
            if start < 3 and chance.random() < 0.7:
                await trio.sleep(seconds)
                act()
                cancelled = act == run.cancel

        status = await night.run(meanwhile, **options)
        assert watch.run is not None
        assert_handed_back(watch.run, cancelled=cancelled)
        assert_replays(night, watch.run)
        if status.state == "completed":
            return status
        if status.stopped_by in ("keys", "unreachable", "failures"):
            await trio.sleep(max(0.0, HORIZON_SECONDS - trio.current_time()) if start >= 2 else 600)
            if trio.current_time() >= HORIZON_SECONDS:
                clear(night)
    raise AssertionError(f"after a dozen starts it is still {status.state}, by {status.stopped_by}: {night.said[-5:]}")


def assert_handed_back(run: Run, *, cancelled: bool) -> None:
    """No ticket is lost, no prediction is left in the spend cap, and no job has had more attempts back than it had spent."""
    parts = run.parts
    assert parts.spending._in_flight == 0
    assert parts.spending._in_flight_usd == 0
    assert all(history.spent >= 0 for history in parts.histories.values())
    if not cancelled:
        assert not parts.store.state.in_flight  # type: ignore[attr-defined]
        assert run.admission_statistics().in_flight == 0


def assert_replays(night: Night, run: Run) -> None:
    """What the run knows of jobs that have not ended is what its journal says of them."""
    bad: list[BadLine] = []
    with opened([str(night.path)]) as sources:
        files = [plain for source in sources if (plain := source.as_it_is()) is not None]
        replay = Replay(index_inputs(Inputs(files), bad.append))
        for record in _records(night):
            replay.apply(0, record)
    assert replay.histories.keys() == run.parts.histories.keys()
    for number, known in run.parts.histories.items():
        told = replay.histories[number]
        assert (known.sends, known.spent) == (told.sends, told.spent)
        assert known.in_vain == told.in_vain


def assert_bounded(records: list[Record], max_attempts: int) -> None:
    """No job is sent, or paid for, without end."""
    spent: Counter[str] = Counter()
    refunded: Counter[str] = Counter()
    paid: Counter[str] = Counter()
    for record in records:
        match record:
            case Ended(what=What.LOST):
                pass  # a crash is ours
            case Ended():
                spent[record.id] += record.spent
                paid[record.id] += record.charge is not None
            case Refunded():
                refunded[record.id] += record.attempts
                assert spent[record.id] >= refunded[record.id], record.id
    for custom_id in spent:
        assert spent[custom_id] - refunded[custom_id] <= max_attempts + TRIPS_AFTER, custom_id
        assert paid[custom_id] <= max_attempts + MOST_EXCUSED + 2 * TRIPS_AFTER, custom_id


async def assert_nothing_to_do(night: Night, status: Status) -> None:
    """The journal replays to where the run ended: another start finds nothing to send and the same figures."""
    asked = len(night.platform.asked)
    again = await night.run()
    assert len(night.platform.asked) == asked
    assert_once(night, again)
    assert (again.attempts, again.rate_limited) == (status.attempts, status.rate_limited)


def _records(night: Night) -> list[Record]:
    return [decode(line) for line in bytes(night.disk.files[JOURNAL]).splitlines(keepends=True)[1:]]
