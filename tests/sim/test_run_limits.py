"""Whole runs in virtual time: the budget, 429s, and a server that is away."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.events import Billing
from batchrunner.runner import Run
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.settings import Charging, Rule
from tests.sim.nights import (
    MakeNight,
    after,
    assert_whole,
    fault,
    job,
    jobs,
    peak_tokens,
)

# --- the budget


async def test_a_small_file_starts_fast(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A minute's worth of jobs does not take a minute: all are sent within 10 seconds."""
    night = make_night(jobs(50), rpm=50)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert night.platform.asked[-1].at_seconds - night.platform.asked[0].at_seconds < 10
    assert status.rate_limited == 0


@pytest.mark.parametrize("window", ["sliding", "calendar", "bucket"])
async def test_a_large_file_is_paced(autojump_clock: MockClock, make_night: MakeNight, window: str) -> None:
    """A file of 600 jobs at 50 a minute: no 429 from any kind of window, and at least 99 % of the paid rate."""
    night = make_night(jobs(600), rpm=50, window=window)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    times = [asked.at_seconds for asked in night.platform.asked]
    assert (599 / 50 * 60) / (times[-1] - times[0]) >= 0.99
    assert status.rate_limited == 0
    assert night.platform.counters.accepted.peak <= 50


@pytest.mark.parametrize("charging", Charging)
async def test_the_token_limit_is_kept(autojump_clock: MockClock, make_night: MakeNight, charging: Charging) -> None:
    """Tokens of any 60 seconds pass the limit by no more than predictions of what was in flight fell short. No job fails."""
    night = make_night(jobs(120, cap=400), tpm=5_000, charging=charging, output_median_tokens=300, output_sigma=0.2)
    status = await night.run(tpm=5_000, max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 120
    short = 120  # tokens: 400 at most, 300 in the mean, and prompts are predicted well
    assert peak_tokens(night) <= 5_000 + short * night.platform.counters.peak_in_flight


async def test_a_limit_that_nobody_told_us_of(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A server with a far lower limit than was asked for: 429s hold the run back, no job fails for them, and the limit that
    is found is shown.
    """
    night = make_night(jobs(60), rpm=20)
    seen = []
    status = await night.run(after(120, lambda run: seen.append(run.status())), rpm=600, max_attempts=1)
    assert 10 <= seen[0].rpm_effective <= 30
    assert seen[0].rpm_limit == 600
    assert seen[0].tpm_effective == 0
    assert_whole(night, status)
    assert status.completed == 60
    assert 0 < status.rate_limited < 60


async def test_a_job_larger_than_the_limit_fails_alone(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A job that the server refuses with the whole minute to itself fails as unsatisfiable; the others all succeed."""
    big = job("big", cap=5_000)
    night = make_night([big, *jobs(400)], rpm=50, tpm=1_500, charging=Charging.ESTIMATE)
    status = await night.run(rpm=50, tpm=1_500)
    assert_whole(night, status)
    assert night.failures() == {"big": "rate_limit_unsatisfiable"}


@pytest.mark.parametrize("seconds", [1.0, 10.0, 30.0])
async def test_the_budget_holds_over_a_restart(autojump_clock: MockClock, make_night: MakeNight, seconds: float) -> None:
    """Killed and started again at once, again and again: no 60 seconds ever hold more than the limit."""
    night = make_night(jobs(120), rpm=50)
    left = []

    async def die(_: Run) -> None:
        await trio.sleep(seconds)
        left.append(night.killed())

    for _ in range(3):
        with trio.move_on_after(seconds + 0.001):
            await night.run(die, rpm=50)
        night.disk = left.pop()
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert night.platform.counters.accepted.peak <= 50
    assert status.rate_limited == 0


async def test_the_first_minute_after_a_reboot_is_paced(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """After a reboot our own sends of the last minute are not known: no fast start."""
    night = make_night(jobs(120), rpm=50)
    await night.run(after(10, Run.drain), rpm=50)
    sent = len(night.platform.asked)
    night.clock.boot_id = "boot-2"
    await trio.sleep(30)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    times = [asked.at_seconds for asked in night.platform.asked[sent:]]
    assert min(later - earlier for earlier, later in pairwise(times)) > 1.0


@pytest.mark.parametrize(("rpm", "tpm"), [(0, 0), (50, 0), (50, 2_000_000)])
async def test_a_job_that_is_always_refused_stops_nobody(
    autojump_clock: MockClock, make_night: MakeNight, rpm: int, tpm: int
) -> None:
    """A job that the server answers 429 every time: the others all succeed, and it fails in the end."""
    night = make_night(jobs(30), **fault("rate_limited", times=0))
    status = await night.run(rpm=rpm, tpm=tpm)
    assert_whole(night, status)
    assert night.failures() == {"job-1": "rate_limit_unsatisfiable"}


async def test_an_account_that_refuses_everything_fails_no_job(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """If nothing is accepted it is the account that is refused: no job fails, and all go once it accepts again."""
    night = make_night(jobs(5), rules=(Rule(kind="rate_limited", model="simulated-small", times=40),))
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert status.completed == 5


@pytest.mark.parametrize(("rpm", "answer_seconds"), [(100, 60.0), (0, 30.0)])
async def test_an_account_that_accepts_is_never_taken_for_closed(
    autojump_clock: MockClock, make_night: MakeNight, rpm: int, answer_seconds: float
) -> None:
    """A limit far below what was asked for, and answers that take longer than 429s: at least half of the limit is used."""
    night = make_night(jobs(400), rpm=50, latency_median_seconds=answer_seconds)
    status = await night.run(rpm=rpm)
    assert_whole(night, status)
    assert status.completed == 400
    assert night.platform.asked[-1].at_seconds - night.platform.asked[0].at_seconds < 2 * 60 * 400 / 50


async def test_an_overload_is_no_acceptance(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """529 and 5xx say nothing about the limit: a job that is refused beside them is not found to be one that never fits."""
    rules = (
        *(Rule(kind="overloaded", tag=f"job-{number}", times=0) for number in range(1, 20)),
        Rule(kind="rate_limited", tag="job-0", times=15),
    )
    night = make_night(jobs(20), rules=rules)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert "job-0" in night.succeeded()


async def test_a_senseless_usage_does_not_stop_the_account(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A reply that claims more tokens than a day holds costs a minute, not a day."""
    night = make_night(jobs(40))
    answer = night.platform.answer

    async def lie(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        given = await answer(method, target, headers, body)
        if b'job-1"' not in body:
            return given
        return msgspec.structs.replace(
            given, body=re.sub(rb'"completion_tokens":\d+', b'"completion_tokens":900000000', given.body)
        )

    night.platform.answer = lie  # type: ignore[method-assign]
    status = await night.run(rpm=50, tpm=2_000_000)
    assert status.completed == 40
    times = [asked.at_seconds for asked in night.platform.asked]
    assert max(later - earlier for earlier, later in pairwise(times)) < 150


# --- the server's being there


async def test_a_server_that_never_was_there(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """No connection for 30 seconds from the start: the run stops as `unreachable`, with nothing sent."""
    night = make_night(jobs(3))
    night.server.down = True
    began = trio.current_time()
    first = await night.run()
    assert (first.state, first.stopped_by, first.attempts) == ("stopped", "unreachable", 0)
    assert 30 <= trio.current_time() - began <= 61
    assert any("Connection refused" in line for line in night.said)
    night.server.down = False
    assert_whole(night, await night.run())


async def test_a_server_that_comes_up_late(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A server that is there within the first 30 seconds is nobody's trouble."""
    night = make_night(jobs(3))
    night.server.down = True
    status = await night.run(after(20, lambda _: setattr(night.server, "down", False)), max_attempts=1)
    assert_whole(night, status)
    assert status.attempts == 3


async def test_a_server_that_went_away_is_waited_for(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Reached once, a server may be gone for hours: nothing fails, and what it had in flight is listed."""
    night = make_night(jobs(60), latency_median_seconds=2.0)
    bindings = []

    async def outage(run: Run) -> None:
        await trio.sleep(5)
        night.server.go_down()
        await trio.sleep(3 * 3600)
        bindings.append(run.status().binding)
        night.server.down = False

    status = await night.run(outage, max_in_flight=5)
    assert_whole(night, status)
    assert (status.completed, status.failed) == (60, 0)
    assert bindings == ["server"]
    assert 1 <= len(night.maybe_billed()) <= 5
    assert trio.current_time() < 3 * 3600 + 120


async def test_drain_while_the_server_is_away(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A run that waits for its server can be drained: it ends at once."""
    night = make_night(jobs(60))

    async def outage(run: Run) -> None:
        await trio.sleep(2)
        night.server.go_down()
        await trio.sleep(600)
        run.drain()

    first = await night.run(outage, max_in_flight=5)
    assert first.stopped_by == "signal"
    assert trio.current_time() == pytest.approx(602)


@pytest.mark.parametrize("max_in_flight", [1, 10], ids=["kept alive", "opened early"])
async def test_a_connection_found_closed_costs_nothing(
    autojump_clock: MockClock, make_night: MakeNight, max_in_flight: int
) -> None:
    """A connection that was closed while it waited for its slot is replaced: no attempt, no maybe billed line."""
    night = make_night(jobs(4), latency_median_seconds=1.0, latency_sigma=0.0)
    # Sends are a minute apart, and the connection of the next one is held meanwhile.
    hang_up = after(90, lambda _: night.server.hang_up())
    status = await night.run(hang_up, rpm=1, max_attempts=1, max_in_flight=max_in_flight)
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (4, 4)
    assert not night.maybe_billed()


@pytest.mark.parametrize("max_in_flight", [1, 10], ids=["kept alive", "opened early"])
async def test_a_stale_connection_costs_no_attempt(autojump_clock: MockClock, make_night: MakeNight, max_in_flight: int) -> None:
    """Closed just as it was used, with no answer: the job goes again, no attempt is spent, and maybe billed is listed."""
    night = make_night(jobs(4), latency_median_seconds=1.0, latency_sigma=0.0)
    night.server.hides_closing = True
    hang_up = after(90, lambda _: night.server.hang_up())
    status = await night.run(hang_up, rpm=1, max_attempts=1, max_in_flight=max_in_flight)
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (4, 5)
    assert night.maybe_billed() == {"job-2"}


async def test_a_job_goes_stale_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """After a stale connection a job goes on a fresh one; where that ends without an answer, it is a read failure."""
    night = make_night(jobs(2), **fault("reset_before", times=0))
    status = await night.run(max_in_flight=1, max_attempts=1)
    assert_whole(night, status)
    assert night.failures() == {"job-1": "read"}
    assert night.asked()["job-1"] == 2


async def test_many_stale_connections_at_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Where every idle connection has been closed, a job meets one of them at most: its next one is fresh."""
    night = make_night(jobs(4), rpm=2, window="bucket", retry_after="seconds", latency_median_seconds=1.0)
    night.server.hides_closing = True
    # Two jobs are answered and two are told to wait for half a minute; in it all connections go.
    status = await night.run(after(20, lambda _: night.server.hang_up()), max_attempts=1)
    assert_whole(night, status)
    assert night.server.opened > 4
    unheard = Counter(custom_id for (custom_id, _), line in night.costs().items() if line.state is Billing.MAYBE)
    assert unheard
    assert set(unheard.values()) == {1}


async def test_an_outage_costs_not_even_the_only_attempt(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A server that is found away when a slot is due: the job that had it was not sent, and has lost nothing."""
    night = make_night(jobs(4), latency_median_seconds=1.0)

    async def outage(_: Run) -> None:
        await trio.sleep(90)
        night.server.go_down()
        await trio.sleep(3600)
        night.server.down = False

    status = await night.run(outage, rpm=1, max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 4


async def test_drain_does_not_wait_for_a_connection(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A connection that hangs while it is opened is given up at once when the run is to stop."""
    night = make_night(jobs(4))
    night.server.hangs = True
    status = await night.run(after(5, Run.drain))
    assert status.stopped_by == "signal"
    assert trio.current_time() < 6
