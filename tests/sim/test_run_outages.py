"""Whole runs in virtual time: outages of the server, of a model and of a key, and what they cost nobody."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.breaker import FIRST_PROBE_NS, TRIPS_AFTER
from batchrunner.events import AttemptResult
from batchrunner.resilience import MOST_EXCUSED
from batchrunner.runner import Run
from batchrunner.simulator.asks import Ask
from batchrunner.simulator.faults import OK, Fault, kind_named
from batchrunner.simulator.settings import TEST_KEY, Settings
from tests.sim.nights import MakeNight, Night, WatchedPlatform, after, assert_whole, fault, job, jobs

OTHER = "simulated-large"
HOUR = 3600.0


class Outage:
    """A plan of faults: all requests that `meets` says between two moments end in the same way."""

    def __init__(self, kind: str, begins: float, ends: float, meets: Callable[[Ask], bool] = lambda _ask: True) -> None:
        self.met = 0
        self._fault = kind_named(kind)
        self._begins, self._ends = begins, ends
        self._meets = meets

    def choose(self, _arrival: int, ask: Ask) -> Fault:
        if not self._begins <= trio.current_time() < self._ends or not self._meets(ask):
            return OK
        self.met += 1
        return self._fault


@pytest.fixture
def make_outage(tmp_path: Path, nursery: trio.Nursery) -> Callable[..., Night]:
    def make(lines: list[bytes], outage: Outage, **settings: object) -> Night:
        quick: dict[str, object] = {"latency_median_seconds": 1.0, "latency_sigma": 0.0}
        platform = WatchedPlatform(Settings(**(quick | settings)), plan=outage)  # type: ignore[arg-type]
        return Night(tmp_path / "jobs.jsonl", nursery, lines, platform)

    return make


MakeOutage = Callable[..., Night]


# --- the server


@pytest.mark.parametrize("kind", ["error500", "overloaded", "reset_headers", "html"])
@pytest.mark.parametrize("max_attempts", [2, 5])
async def test_row_an_outage_costs_no_job_its_attempts(
    autojump_clock: MockClock, make_outage: MakeOutage, kind: str, max_attempts: int
) -> None:
    """A server that fails whatever it is asked for three hours: nearly nobody asks it, and afterwards every job succeeds.

    But for one perhaps that has few attempts and meets it alone, before anybody else has.
    """
    outage = Outage(kind, 60.0, 3 * HOUR)
    night = make_outage(jobs(200), outage)
    status = await night.run(rpm=60, max_attempts=max_attempts)
    assert_whole(night, status)
    assert status.failed <= (max_attempts < 5)
    # until it trips, in flight then, and a probe every five minutes
    assert TRIPS_AFTER <= outage.met <= 60
    assert next(line for line in night.said if "the server" in line).startswith("the server fails again and again")
    assert "the server answers again" in night.said


async def test_a_probe_comes_after_five_seconds(autojump_clock: MockClock, make_outage: MakeOutage) -> None:
    """A short stumble is over soon: the first probe goes after five seconds, and with it all others."""
    night = make_outage(jobs(400), Outage("error500", 60.0, 75.0))
    await night.run(rpm=600)
    times = [asked.at_seconds for asked in night.platform.asked]
    quiet = max(later - earlier for earlier, later in pairwise(times))
    assert quiet <= FIRST_PROBE_NS / 1e9 * 2 + 1


async def test_attempts_that_an_outage_took_stay_given_back_over_a_resume(
    autojump_clock: MockClock, make_outage: MakeOutage
) -> None:
    """The refund is in the journal: whoever goes on after it goes on with all attempts."""
    night = make_outage(jobs(50), Outage("error500", 20.0, HOUR))
    first = await night.run(after(10 * 60, Run.drain), rpm=60, max_attempts=2)
    assert first.failed == 0
    await trio.sleep(HOUR)
    status = await night.run(rpm=60, max_attempts=1)
    assert_whole(night, status)
    assert status.failed == 0


async def test_jobs_that_the_server_never_takes_end(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """With nothing left but jobs that always fail the server looks as if it were away: they get their attempts, and fail."""
    poison = {f"job-{number}" for number in (3, 7, 9)}
    night = make_night(jobs(20))
    night.platform._plan = Outage("error500", 0, float("inf"), lambda ask: ask.custom_id in poison)
    status = await night.run()
    assert_whole(night, status)
    assert set(night.failures()) == poison
    assert all(night.asked()[custom_id] <= 5 + TRIPS_AFTER for custom_id in poison)


async def test_a_job_that_is_paid_for_each_time_is_not_refunded(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What times out may have been billed: --max-attempts bounds how often, whatever else looks like an outage."""
    night = make_night(jobs(8), latency_median_seconds=100.0, latency_sigma=0.0)
    status = await night.run(timeout_seconds=10.0, max_attempts=3)
    assert_whole(night, status)
    assert night.asked() == Counter({f"job-{number}": 3 for number in range(8)})


@pytest.mark.parametrize("poisoned", [1, 3, 5])
async def test_a_job_that_breaks_its_connection_each_time_is_not_paid_for_without_end(
    autojump_clock: MockClock, make_night: MakeNight, poisoned: int
) -> None:
    """Where answers are slow, a few jobs that fail at once look like one outage after another: not for the whole night."""
    night = make_night(jobs(300), latency_median_seconds=60.0, latency_sigma=0.0)
    breaks_at_once = msgspec.structs.replace(kind_named("reset_body"), latency_factor=0.01)
    poison = {f"job-{number}" for number in range(poisoned)}

    class Poison:
        def choose(self, _arrival: int, ask: Ask) -> Fault:
            return breaks_at_once if ask.custom_id in poison else OK

    night.platform._plan = Poison()
    status = await night.run(max_in_flight=6)
    assert_whole(night, status)
    assert set(night.failures()) == poison
    assert max(night.asked().values()) <= 5 + MOST_EXCUSED + TRIPS_AFTER


@pytest.mark.parametrize(("poisoned", "rpm"), [(1, 6), (3, 12), (8, 50)])
async def test_a_job_that_breaks_off_each_time_at_a_slow_pace_is_not_paid_for_without_end(
    autojump_clock: MockClock, make_night: MakeNight, poisoned: int, rpm: int
) -> None:
    """Where its repeats are most of what is sent, a job opens the circuit alone, time and again: it is excused ten times."""
    night = make_night(jobs(200))
    poison = {f"job-{number}" for number in range(poisoned)}
    night.platform._plan = Outage("truncated", 0, float("inf"), lambda ask: ask.custom_id in poison)
    status = await night.run(rpm=rpm)
    assert_whole(night, status)
    assert set(night.failures()) == poison
    assert max(night.asked().values()) <= 5 + MOST_EXCUSED + TRIPS_AFTER


async def test_row_retry_budget_delays_and_never_fails(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Half of all requests fail: in no minute are there more repeats than ten and a fifth of the successes. All jobs end well."""
    night = make_night(jobs(300), faults={"error500": 0.5}, latency_median_seconds=0.5)
    status = await night.run(rpm=600, max_attempts=50)
    assert_whole(night, status)
    assert status.failed == 0
    seen: set[str] = set()
    repeats = []
    for asked in night.platform.asked:
        if asked.custom_id in seen:
            repeats.append(asked.at_seconds)
        seen.add(asked.custom_id)
    done = [entry.at_ns / 1e9 for entry in night.platform.billed]
    for at in repeats:
        recent = sum(at - 59.7 < other <= at for other in repeats)
        assert recent <= 10 + sum(at - 60 < other <= at for other in done) / 5 + 1


# --- a model


async def test_row_model_unavailable_holds_that_model_alone(autojump_clock: MockClock, make_outage: MakeOutage) -> None:
    """A model that is offline for twenty minutes: the others' jobs all pass it, and its own succeed in the end."""
    lines = [job(f"job-{number}", model=OTHER if number % 2 else "simulated-small") for number in range(200)]
    outage = Outage("model_unavailable", 30.0, HOUR / 3, lambda ask: ask.model.id == OTHER)
    night = make_outage(lines, outage)
    status = await night.run(rpm=60)
    assert_whole(night, status)
    assert status.failed == 0
    assert outage.met < 50
    healthy = [asked.at_seconds for asked in night.platform.asked if int(asked.custom_id[4:]) % 2 == 0]
    assert max(healthy) < 300
    assert f"model {OTHER!r} answers again" in night.said


async def test_row_a_model_offline_for_30_minutes_with_no_other_work_left(
    autojump_clock: MockClock, make_outage: MakeOutage
) -> None:
    """Its jobs fail, and can be retried; until then nobody has failed, and hardly anybody asked."""
    lines = [job(f"job-{number}", model=OTHER if number % 2 else "simulated-small") for number in range(60)]
    outage = Outage("model_unavailable", 0.0, HOUR, lambda ask: ask.model.id == OTHER)
    night = make_outage(lines, outage)
    began = trio.current_time()
    status = await night.run(rpm=120)
    assert 30 * 60 <= trio.current_time() - began < 36 * 60
    assert_whole(night, status)
    assert night.failures() == {f"job-{number}": "model_unavailable" for number in range(1, 60, 2)}
    assert outage.met < 40
    await trio.sleep(HOUR)
    again = await night.run(rpm=120, retry_failed=True)
    assert_whole(night, again)
    assert again.failed == 0


async def test_an_offline_model_is_waited_for_while_there_is_other_work(
    autojump_clock: MockClock, make_outage: MakeOutage
) -> None:
    """An hour offline, with an hour's work of another model: nothing fails."""
    lines = [job(f"job-{number}", model=OTHER if number < 5 else "simulated-small") for number in range(130)]
    night = make_outage(lines, Outage("upstream_error", 0.0, HOUR, lambda ask: ask.model.id == OTHER))
    status = await night.run(rpm=2)
    assert_whole(night, status)
    assert status.failed == 0


async def test_an_offline_model_with_more_jobs_than_can_be_held(
    autojump_clock: MockClock, make_outage: MakeOutage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the queue can look no further, and sees nothing else, the model is given up as where the file has ended."""
    monkeypatch.setattr("batchrunner.fair.MOST_HELD", 10)
    lines = [job(f"job-{number}", model=OTHER if number < 30 else "simulated-small") for number in range(40)]
    outage = Outage("model_unavailable", 0.0, float("inf"), lambda ask: ask.model.id == OTHER)
    night = make_outage(lines, outage)
    began = trio.current_time()
    status = await night.run(rpm=120)
    assert 30 * 60 <= trio.current_time() - began < 36 * 60
    assert_whole(night, status)
    assert night.failures() == {f"job-{number}": "model_unavailable" for number in range(30)}
    assert outage.met < 40


# --- a key


async def test_row_401_the_only_key_is_suspended_and_comes_back(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A key that had worked is refused for a minute: the run waits, asks three times at most, and goes on. No job is hurt."""
    night = make_night(jobs(120), latency_median_seconds=1.0)

    async def gone_for_a_minute(_: Run) -> None:
        await trio.sleep(30)
        night.platform.delete_key(TEST_KEY)
        await trio.sleep(60)
        night.platform.accounts.restore_key(TEST_KEY)

    status = await night.run(gone_for_a_minute, rpm=60, max_attempts=1, max_in_flight=5)
    assert_whole(night, status)
    assert (status.completed, status.failed) == (120, 0)
    refused = [event for event in night.events if event.result is AttemptResult.ACCOUNT]
    assert 1 <= len(refused) <= 5 + 1
    assert "key 1 works again" in night.said


async def test_row_401_the_only_key_is_gone_for_good(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """After three probes in five minutes the run stops, with no job failed."""
    night = make_night(jobs(400), latency_median_seconds=1.0)
    first = await night.run(after(30, lambda _: night.platform.delete_key(TEST_KEY)), max_in_flight=5)
    assert (first.state, first.stopped_by, first.failed) == ("stopped", "keys", 0)
    assert 330 <= trio.current_time() < 345
    assert not night.maybe_billed()


# --- names of repeats


@pytest.mark.parametrize(
    ("kind", "names"),
    [("reset_body", 1), ("truncated", 1), ("garbage", 1)],
)
async def test_row_idempotency_key_an_unknown_outcome_is_repeated_under_the_same_key(
    autojump_clock: MockClock, make_night: MakeNight, kind: str, names: int
) -> None:
    """Whatever was billed without our having seen it whole bears the name of what repeats it."""
    night = make_night(jobs(3), **fault(kind))
    await night.run()
    keys = [entry.idempotency_key for entry in night.platform.billed if entry.custom_id == "job-1"]
    assert len(keys) == (1 if kind == "garbage" else 2)
    assert len(set(keys)) == names
    assert None not in keys


@pytest.mark.parametrize("kind", ["error500", "upstream_error", "overloaded"])
async def test_row_idempotency_key_a_known_outcome_changes_it(
    autojump_clock: MockClock, make_night: MakeNight, kind: str
) -> None:
    """A repeat of what is known to have failed is a new request: a server that honours the key must not answer with the old."""
    night = make_night(jobs(3), **fault(kind, times=2))
    await night.run()
    (entry,) = [entry for entry in night.platform.billed if entry.custom_id == "job-1"]
    assert str(entry.idempotency_key).endswith("-2")


@pytest.mark.parametrize("kind", ["rate_limited", "html429", "error409"])
async def test_a_refusal_says_nothing_of_the_work(autojump_clock: MockClock, make_night: MakeNight, kind: str) -> None:
    """An earlier request may have been worked on: what is refused at the door, or for being the second, keeps its name."""
    night = make_night(jobs(3), **fault(kind, times=2))
    await night.run()
    (entry,) = [entry for entry in night.platform.billed if entry.custom_id == "job-1"]
    assert str(entry.idempotency_key).endswith("-0")


async def test_a_repeat_waits_for_the_work_that_a_killed_process_began(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A server that honours the key says that it is at it; the answer is had in the end, and paid for once."""
    night = make_night(jobs(4), idempotency=True, latency_median_seconds=300.0, latency_sigma=0.0)
    with trio.move_on_after(5):
        await night.run()
    night.server.hang_up()
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert status.failed == 0
    assert night.platform.counters.statistics().billed == 4
    assert {str(entry.idempotency_key)[-2:] for entry in night.platform.billed} == {"-0"}


async def test_row_idempotency_key_over_kills_and_retries(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A crash repeats under the same key; --retry-failed asks anew."""
    night = make_night(jobs(2), **fault("error400", "job-0"), latency_median_seconds=10.0, latency_sigma=0.0)
    with trio.move_on_after(12):
        await night.run()
    night.server.hang_up()
    await night.run()
    keys = [entry.idempotency_key for entry in night.platform.billed if entry.custom_id == "job-1"]
    assert len(set(keys)) == 1
    await night.run(retry_failed=True)
    (entry,) = [entry for entry in night.platform.billed if entry.custom_id == "job-0"]
    assert str(entry.idempotency_key).endswith("-1")


async def test_idempotency_keys_can_be_switched_off(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """For servers that refuse what they do not know."""
    night = make_night(jobs(2))
    await night.run(idempotency_keys=False)
    assert {entry.idempotency_key for entry in night.platform.billed} == {None}


async def test_outages_of_everything_at_random(autojump_clock: MockClock, make_outage: MakeOutage) -> None:
    """Short and long outages of the server and of one model, one after another: every job ends, each once, none failed."""
    chance = random.Random(5)

    class Weather(Outage):
        def __init__(self) -> None:
            super().__init__("error500", 0, 0)
            self._now = 0.0

        def choose(self, arrival: int, ask: Ask) -> Fault:
            while self._ends < trio.current_time():
                self._begins = self._ends + chance.uniform(20, 300)
                self._ends = self._begins + chance.choice([10, 60, 900])
                model = chance.choice([None, OTHER])
                self._fault = kind_named("upstream_error" if model else chance.choice(["error500", "reset_headers"]))
                self._meets = functools.partial(_asks, model)
            return super().choose(arrival, ask)

    lines = [job(f"job-{number}", model=OTHER if number % 3 else "simulated-small") for number in range(600)]
    night = make_outage(lines, Weather())
    status = await night.run(rpm=60)
    assert_whole(night, status)
    assert status.failed == 0


def _asks(model: str | None, ask: Ask) -> bool:
    return model in (None, ask.model.id)
