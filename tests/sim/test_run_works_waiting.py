"""Whole runs in virtual time: what the server works on is asked for, and nobody else's, while nothing new may be sent."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner.runner import Run
from batchrunner.simulator.settings import AccountSettings, Change
from batchrunner.status import Status
from tests.sim.nights import assert_whole, jobs
from tests.sim.test_live_changes import told
from tests.sim.test_several_accounts import KEYS
from tests.sim.works import PRICE_USD, json_answer, lines, maker, platform

HOUR = 3600
NO_CREDITS = json_answer(402, {"error": {"code": "insufficient_credits", "message": "m"}})


@pytest.fixture
def night_of(tmp_path: Path, nursery: trio.Nursery) -> Any:
    return maker(tmp_path, nursery)


async def test_work_is_found_in_time_while_credits_are_waited_for(autojump_clock: MockClock, night_of: Any) -> None:
    """Results are kept for an hour, and the account is topped up after three: what was paid for is not lost meanwhile."""
    topped_up = (Change(at_seconds=3 * HOUR, top_up_usd=Decimal(100)),)
    night = night_of(lines(30), balance_usd=5 * PRICE_USD, changes=topped_up, work_seconds=120.0)
    seen: list[Status] = []

    async def look(run: Run) -> None:
        await trio.sleep(HOUR)
        seen.append(run.status())

    status = await night.run(look, max_in_flight=10, wait_for_credits=True)
    assert_whole(night, status)
    assert (status.completed, night.failures()) == (30, {})
    assert (seen[0].completed, seen[0].binding, seen[0].without_credits) == (10, "credits", 1)
    assert len(night.platform.asked) < 30 + 10 + 20  # ten were refused together, and a probe now and then


async def test_a_pause_lets_work_end(autojump_clock: MockClock, night_of: Any) -> None:
    """It is in flight, and its result is kept for an hour; nothing is submitted meanwhile."""
    night = night_of(lines(20), work_seconds=300.0)
    seen: list[tuple[Status, int, int]] = []

    async def pause(run: Run) -> None:
        await trio.sleep(60)
        await told(run, "pause")
        for _ in range(2):
            seen.append((run.status(), len(night.platform.asked), run.status().completed))
            await trio.sleep(3 * HOUR)
        await told(run, "resume")

    status = await night.run(pause, rpm=6)
    assert_whole(night, status)
    assert (status.completed, night.failures()) == (20, {})
    (before, sent, done), (later, sent_later, done_later) = seen
    assert before.submitted > 0
    assert done_later == done + before.submitted
    assert (later.submitted, later.binding) == (0, "paused")
    assert sent_later == sent


async def test_a_server_that_wants_credits_for_a_question_is_not_stormed(autojump_clock: MockClock, night_of: Any) -> None:
    """It is asked again, no more than once a minute."""
    night = night_of(lines(1), work_seconds=10.0)
    platform(night).instead = [NO_CREDITS] * 20
    status = await night.run(wait_for_credits=True)
    assert_whole(night, status)
    asked = [at for at, _ in platform(night).questions]
    assert len(asked) == 21
    assert asked[-1] - asked[0] >= 20 * 54


@pytest.mark.parametrize("trouble", ["credits", "connections"])
async def test_another_account_takes_nobodys_work_away(autojump_clock: MockClock, night_of: Any, trouble: str) -> None:
    """What comes back goes to others while an account waits for credits or its server; its work stays, and is asked for."""
    poor: dict[str, Any] = {"balance_usd": 5 * PRICE_USD, "changes": (Change(at_seconds=900, top_up_usd=Decimal(9)),)}
    accounts = (
        AccountSettings(name="a", keys=KEYS["a"], **(poor if trouble == "credits" else {})),
        AccountSettings(name="b", keys=KEYS["b"]),
    )
    night = night_of(lines(20), accounts=accounts, work_seconds=300.0)
    night.accounts = dict(KEYS)

    async def part(_: Run) -> None:
        await trio.sleep(30)
        night.away = frozenset({"a"})
        night.server.hang_up()
        await trio.sleep(600)
        night.away = frozenset()

    status = await night.run(part if trouble == "connections" else None, rpm=60, wait_for_credits=True)
    assert_whole(night, status)
    assert (status.completed, night.failures()) == (20, {})


async def test_a_cap_that_is_raised_lets_more_be_submitted_at_once(autojump_clock: MockClock, night_of: Any) -> None:
    """Not only once something has ended of what the server works on."""
    night = night_of(lines(6), work_seconds=4 * HOUR)
    seen: list[int] = []

    async def raise_cap(run: Run) -> None:
        for _ in range(2):
            await trio.sleep(60)
            seen.append(run.status().submitted)
            await told(run, "set", "max-cost=1")

    status = await night.run(raise_cap, max_cost_usd=2 * PRICE_USD)
    assert_whole(night, status)
    assert seen == [2, 6]


async def test_a_raised_limit_lets_more_be_submitted_at_once(autojump_clock: MockClock, night_of: Any) -> None:
    """As many as can be asked for every quarter of an hour: 15 at one request a minute."""
    night = night_of(lines(25), work_seconds=4 * HOUR)
    seen: list[int] = []

    async def raise_limit(run: Run) -> None:
        await trio.sleep(HOUR)
        seen.append(run.status().submitted)
        await told(run, "set", "rpm=600")
        await trio.sleep(60)
        seen.append(run.status().submitted)
        run.drain()

    await night.run(raise_limit, rpm=1)
    assert seen == [15, 25]


async def test_questions_leave_room_under_a_lowered_limit(autojump_clock: MockClock, night_of: Any) -> None:
    """They take half of the requests that there are now, not all of them: the other jobs go on."""
    night = night_of([*lines(60), *jobs(400)], work_seconds=24 * HOUR)
    seen: list[int] = []

    async def lower(run: Run) -> None:
        await trio.sleep(90)
        await told(run, "set", "rpm=6")
        for _ in range(2):
            await trio.sleep(600)
            seen.append(run.status().completed)
        run.drain()

    await night.run(lower, rpm=60)
    assert seen[1] - seen[0] >= 15
