"""Whole runs in virtual time whose limits and spend cap change, which are paused and go on."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.live import AccountLimits, apply, parse
from batchrunner.runner import Run
from batchrunner.simulator.settings import AccountSettings, Change, Charging
from tests.sim.nights import MakeNight, Meanwhile, Night, assert_bill, assert_once, assert_whole, jobs
from tests.sim.test_run_stops import JOB_CEILING_USD
from tests.sim.test_several_accounts import KEYS


async def told(run: Run, action: str, *words: str) -> None:
    """As a command of `batchrun ctl` does."""
    await run.adopt(apply(run.live(), parse(action, words), why_no_cap=run.parts.spending.why_no_cap, stopping=run.stopping))


def at(seconds: float, action: str, *words: str) -> Meanwhile:
    async def meanwhile(run: Run) -> None:
        await trio.sleep(seconds)
        await told(run, action, *words)

    return meanwhile


def most_in_a_minute(night: Night, since: float) -> int:
    """In the minutes that end with each request from `since` on."""
    times = [asked.at_seconds for asked in night.platform.asked]
    return max(sum(time - 60 < other <= time for other in times) for time in times if time >= since)


async def test_a_lowered_limit_holds_at_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """On a sliding window whose limit sinks from 200 to 50 at the same moment: no 429, and no minute above 50 from then on."""
    night = make_night(jobs(500), rpm=200, window="sliding", changes=(Change(at_seconds=61, rpm=50),))
    began = trio.current_time()
    status = await night.run(at(60, "set", "rpm=50"), rpm=200)
    assert_whole(night, status)
    assert status.rate_limited == 0
    assert status.rpm_limit == 50
    assert most_in_a_minute(night, began + 60.5) <= 50
    assert trio.current_time() - began < 1.02 * (120 + 60 * 300 / 50)  # and no slower than that


async def test_a_raised_limit_is_used_at_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """From 2 to 600 a minute: 300 jobs are through in half a minute more, with no 429."""
    night = make_night(jobs(300), rpm=600, window="sliding")
    began = trio.current_time()
    status = await night.run(at(60, "set", "rpm=600"), rpm=2)
    assert_whole(night, status)
    assert trio.current_time() - began < 60 + 32
    assert status.rate_limited == 0
    assert most_in_a_minute(night, began) <= 600


async def test_lowered_tokens_hold_at_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """The server's limit of tokens sinks to a fifth, and nothing is refused for it."""
    night = make_night(
        jobs(200, cap=400),
        tpm=50_000,
        charging=Charging.ACTUAL,
        output_median_tokens=300,
        output_sigma=0.0,
        changes=(Change(at_seconds=65, tpm=11_000),),
    )
    status = await night.run(at(30, "set", "tpm=10000"), tpm=50_000, max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 200
    assert status.rate_limited == 0
    assert status.tpm_limit == 10_000


async def test_a_pause_lets_what_is_in_flight_end_and_sends_nothing(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """For as long as it lasts; the status shows it, the run waits for nothing else, and goes on as if nothing had been."""
    night = make_night(jobs(40), latency_median_seconds=10.0, latency_sigma=0.0)
    seen = []

    async def pause(run: Run) -> None:
        await trio.sleep(15)
        await told(run, "pause")
        await trio.sleep(600)
        seen.append((run.status(), len(night.platform.asked)))
        await told(run, "resume")

    began = trio.current_time()
    status = await night.run(pause, max_in_flight=4)
    assert_whole(night, status)
    ((paused, asked),) = seen
    assert (paused.paused, paused.binding, paused.state) == (True, "paused", "running")
    assert (paused.in_flight, paused.completed, asked) == (0, 8, 8)
    assert not status.paused
    assert trio.current_time() - began == pytest.approx(615 + 80, abs=5)
    assert "paused" not in status.binding
    assert status.attempts == 40


async def test_a_paused_run_can_be_drained_and_resumed_later(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What stops a run stops a paused one; the next start is not paused."""
    night = make_night(jobs(20), latency_median_seconds=1.0)

    async def stop(run: Run) -> None:
        await trio.sleep(2.5)
        await told(run, "pause")
        await trio.sleep(60)
        run.drain()

    first = await night.run(stop, max_in_flight=2)
    assert (first.state, first.stopped_by, first.paused) == ("stopped", "signal", False)
    assert 0 < first.completed < 20
    assert_whole(night, await night.run())


async def test_a_paused_run_whose_last_job_ends_is_over(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """There is nothing to resume for."""
    night = make_night(jobs(4), latency_median_seconds=10.0)
    status = await night.run(at(5, "pause"))
    assert_whole(night, status)


async def test_a_spend_cap_that_is_raised_in_time_stops_nothing(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Given after the start, and raised while the run waits for what is in flight: the run goes on to its end."""
    night = make_night(jobs(60), latency_median_seconds=5.0, latency_sigma=0.0)

    async def raise_it(run: Run) -> None:
        await trio.sleep(1)
        await told(run, "set", f"max-cost={(8 * JOB_CEILING_USD).normalize():f}")
        await trio.sleep(1)
        assert run.status().max_cost_usd == 8 * JOB_CEILING_USD
        await told(run, "set", "max-cost=1000")

    status = await night.run(raise_it, max_in_flight=4)
    assert_whole(night, status)
    assert status.max_cost_usd == 1000


async def test_a_spend_cap_given_in_mid_run_stops_it(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """As --max-cost does: never passed by more than what was in flight; the next start goes by its own options."""
    night = make_night(jobs(200), latency_median_seconds=5.0, latency_sigma=0.0)
    cap = 40 * JOB_CEILING_USD
    first = await night.run(at(12, "set", f"max-cost={cap.normalize():f}"), max_in_flight=6)
    assert (first.state, first.stopped_by) == ("stopped", "max_cost")
    assert Decimal(0) < first.billed_usd <= cap
    assert_whole(night, await night.run())


async def test_one_of_several_accounts_gets_another_limit(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """The other one's stays what it was."""
    settings: dict[str, Any] = {
        "accounts": tuple(AccountSettings(name=name, keys=keys) for name, keys in KEYS.items()),
        "window": "sliding",
        "rpm": 200,
    }
    night = make_night(jobs(600), **settings)
    night.accounts = dict(KEYS)
    began = trio.current_time()
    seen: list[tuple[AccountLimits, ...]] = []

    async def change(run: Run) -> None:
        await trio.sleep(60)
        await told(run, "set", "rpm=200", "account=b")
        seen.append(run.live().accounts)

    status = await night.run(change, rpm=50)
    assert_once(night, status)
    assert_bill(night, status)
    assert seen == [(AccountLimits("a", 50, 0), AccountLimits("b", 200, 0))]
    assert status.rpm_limit == 250
    keys = [asked.key for asked in night.platform.asked if 65 <= asked.at_seconds - began < 125]
    assert keys.count(f"Bearer {KEYS['a'][0]}") in range(49, 51)
    assert keys.count(f"Bearer {KEYS['b'][0]}") in range(195, 201)


async def test_limits_that_were_outgrown_can_be_lowered(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Also under --limit auto what people say holds at once; growing begins there again."""
    night = make_night(jobs(800), rpm=400, window="sliding")
    status = await night.run(at(600, "set", "rpm=30"), rpm=50, limit="auto")
    assert_whole(night, status)
    assert most_in_a_minute(night, 661) <= 30 * 1.5
    assert status.rpm_limit == 30


async def test_the_figures_left_behind_have_what_holds(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """status.json of a run at work says paused, the limits and the cap as they are now."""
    night = make_night(jobs(300), rpm=0)
    left = []

    async def change(run: Run) -> None:
        await trio.sleep(20)
        await told(run, "set", "rpm=33", "tpm=44000", "max-cost=55")
        await told(run, "pause")
        await trio.sleep(5.5)
        left.append(msgspec.json.decode(bytes(night.disk.files["status.json"])))
        run.drain()

    await night.run(change, rpm=60)
    ((found),) = left
    assert (found["paused"], found["rpm_limit"], found["tpm_limit"], found["max_cost_usd"]) == (True, 33, 44_000, "55")


@pytest.mark.parametrize("seed", range(8))
async def test_any_changes_in_any_order(autojump_clock: MockClock, make_night: MakeNight, seed: int) -> None:
    """Limits, caps and pauses at random, credits that run out and are topped up: each job ends once, each bill is listed, and no
    minute ever holds more than the limit of its last send. Nothing is sent during a pause.
    """
    rng = random.Random(seed)
    changes = tuple(Change(at_seconds=rng.uniform(0, 900), top_up_usd=rng.randint(1, 9) * JOB_CEILING_USD) for _ in range(9))
    night = make_night(
        jobs(400), balance_usd=JOB_CEILING_USD * 150, changes=(*changes, Change(at_seconds=901, top_up_usd=Decimal(9)))
    )
    night.asks_for_balance = rng.random() < 0.5
    began, limits, pauses = trio.current_time(), [(0.0, 60)], []

    async def change(run: Run) -> None:
        for _ in range(12):
            await trio.sleep(rng.uniform(0, 90))
            match rng.choice(["rpm", "rpm", "tpm", "cap", "pause"]):
                case "rpm":
                    rpm = rng.choice([1, 7, 50, 200, 0])
                    await told(run, "set", f"rpm={rpm}")
                    limits.append((trio.current_time(), rpm or 10**9))
                case "tpm":
                    await told(run, "set", f"tpm={rng.choice([0, 5_000, 100_000])}")
                case "cap":
                    await told(run, "set", f"max-cost={rng.choice(['none', '1000'])}")
                case "pause":
                    await told(run, "pause")
                    since = trio.current_time()
                    await trio.sleep(rng.uniform(0, 90))
                    pauses.append((since, trio.current_time()))
                    await told(run, "resume")
        await told(run, "set", "rpm=600", "tpm=0")
        limits.append((trio.current_time(), 600))

    status = await night.run(change, rpm=60, wait_for_credits=True, max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 400
    times = [asked.at_seconds for asked in night.platform.asked]
    for time in times:
        # What is told at the very moment of a send may be heard before it or behind it.
        before = next(rpm for at, rpm in reversed(limits) if at < time or at == began)
        in_force = max([before, *(rpm for at, rpm in limits if at == time)])
        assert sum(time - 60 < other <= time for other in times) <= in_force
    assert not [time for time in times for since, until in pauses if since + 0.1 < time < until]
