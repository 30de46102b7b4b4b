"""R-08, R-10: clocks that jump, drift or stand still, and a process that does: no request goes out earlier or later for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import accumulate, pairwise

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.budget.pacer import LATENESS_NS
from batchrunner.clock import NS_PER_SECOND, VirtualClock
from batchrunner.disk import MemoryDisk
from batchrunner.journal.files import COSTS, JOURNAL
from batchrunner.runner import Run
from batchrunner.simulator.settings import RetryAfter, Rule
from tests.sim.nights import MakeNight, Night, assert_whole, jobs

DAY = 86_400.0
#: when the night begins, as people's clocks have it
WALL_SECONDS = 1_790_000_000.0
#: with jitter between the sends of two requests, no window of 60 s that a server may have holds more than its limit
SPACING_SECONDS = 60.25

#: seconds since the night began -> seconds since it began as the wall clock has it
WallClock = Callable[[float], float]

WALL_CLOCKS: dict[str, WallClock] = {
    "ten days ahead": lambda now: now + (10 * DAY if now > 20 else 0),
    "25 years back": lambda now: now - (25 * 365 * DAY if now > 20 else 0),
    "an hour on and back again": lambda now: now + (3_600 if 20 < now < 40 else 0),
    "half as fast": lambda now: now / 2,
    "standing still": lambda now: 0.0,
    "anything": lambda now: random.Random(now).uniform(-DAY, DAY),
}


class JumpingClock(VirtualClock):
    """Counts like any other, and shows what somebody has set it to."""

    def __init__(self, wall: WallClock) -> None:
        super().__init__(trio.current_time)
        self._wall = wall

    def wall_ns(self) -> int:
        return round((WALL_SECONDS + self._wall(self.monotonic_ns() / NS_PER_SECOND)) * NS_PER_SECOND)


async def killed_and_resumed(night: Night, wall: WallClock) -> list[tuple[float, str]]:
    """A night of 429s, backoffs and a kill under this clock; when the server was asked for what, from the first time on."""
    night.clock = JumpingClock(wall)
    left: list[MemoryDisk] = []

    async def die(_: Run) -> None:
        await trio.sleep(30)
        left.append(night.killed())

    with trio.move_on_after(30.001):
        await night.run(die, rpm=60)
    (night.disk,) = left
    night.server.hang_up()
    assert_whole(night, await night.run(rpm=60))
    began = night.platform.asked[0].at_seconds
    return [(round(asked.at_seconds - began, 6), asked.custom_id) for asked in night.platform.asked]


def undated(night: Night, name: str) -> list[object]:
    """Lines of a file but for the moments that they name."""
    lines = night.lines(name)
    for line in lines:
        line.pop("at", None)
    return [msgspec.json.encode(line) for line in lines]


@pytest.mark.parametrize("hint", [RetryAfter.SECONDS, RetryAfter.DATE, RetryAfter.NONE])
@pytest.mark.parametrize("wall", WALL_CLOCKS.values(), ids=WALL_CLOCKS)
async def test_R08_a_wall_clock_moves_no_request(
    autojump_clock: MockClock, make_night: MakeNight, wall: WallClock, hint: RetryAfter
) -> None:
    """Pace, backoff, the wait that a 429 asks for and the minute before a kill: all as with a clock that is right."""
    rules = [Rule(kind="rate_limited", tag="job-7", times=2), Rule(kind="error500", tag="job-11", times=2)]
    nights = []
    asked = []
    for clock in (lambda now: now, wall):
        night = make_night(jobs(70), rules=tuple(rules), retry_after=hint, seed=1, latency_sigma=0.0)
        asked.append(await killed_and_resumed(night, clock))
        nights.append(night)
    right, wrong = nights
    assert asked[0] == asked[1]
    assert undated(right, COSTS) == undated(wrong, COSTS)
    assert [line["at"] for line in right.lines(COSTS)] != [line["at"] for line in wrong.lines(COSTS)], "the clock was never wrong"


def most_ahead_seconds(times: list[float], spacing_seconds: float) -> float:
    """By how much any request comes before the pace that any earlier one has set."""
    slack = [time - number * spacing_seconds for number, time in enumerate(times)]
    return max(latest - own for own, latest in zip(slack, accumulate(slack, max), strict=True))


@pytest.mark.parametrize("stopped_seconds", [10.0, 60.0, 3_600.0])
async def test_R10_a_process_that_stood_still_catches_up_on_nothing(
    autojump_clock: MockClock, make_night: MakeNight, stopped_seconds: float
) -> None:
    """SIGSTOP in mid-run, then SIGCONT: slots that passed are gone; the next requests keep their distance and the limit."""
    night = make_night(jobs(400), rpm=50, latency_sigma=0.0)

    async def stand_still(_: Run) -> None:
        await trio.sleep(90)
        autojump_clock.jump(stopped_seconds)

    status = await night.run(stand_still, rpm=50)
    assert_whole(night, status)
    times = [asked.at_seconds for asked in night.platform.asked]
    assert max(later - earlier for earlier, later in pairwise(times)) >= stopped_seconds, "it never stood still"
    assert most_ahead_seconds(times, SPACING_SECONDS / 50) <= LATENESS_NS / NS_PER_SECOND + 1e-6
    assert (status.rate_limited, night.platform.counters.accepted.peak <= 50) == (0, True)


async def test_R10_a_process_that_stood_still_in_its_fast_start(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What it was ahead by is not had twice."""
    night = make_night(jobs(100), rpm=50, latency_sigma=0.0)

    async def stand_still(_: Run) -> None:
        await trio.sleep(2)
        autojump_clock.jump(30)

    status = await night.run(stand_still, rpm=50)
    assert_whole(night, status)
    assert (status.rate_limited, night.platform.counters.accepted.peak <= 50) == (0, True)
    assert len(night.lines(JOURNAL)) > 200
