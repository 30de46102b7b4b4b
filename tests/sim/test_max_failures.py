"""Whole runs in virtual time: `--max-failures`."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from batchrunner.config import MaxFailures
from batchrunner.events import Billing
from batchrunner.simulator.settings import Rule
from tests.sim.nights import MakeNight, Night, assert_whole, job, jobs

BAD_LINE = b"this is no job\n"


def allow(text: str) -> MaxFailures:
    return MaxFailures.parse(text)


def refusing(make_night: MakeNight, count: int, *refused: int, times: int = 1) -> Night:
    """A night of so many jobs, of which these are answered with 400."""
    rules = tuple(Rule(kind="error400", tag=f"job-{number}", times=times) for number in refused)
    return make_night(jobs(count), rules=rules)


@pytest.mark.parametrize(("limit", "ended"), [("0", 3), ("1", 6), ("2", 9), ("5%", 6), ("10%", 9)])
async def test_the_run_stops_at_the_failure_that_is_one_too_many(
    autojump_clock: MockClock, make_night: MakeNight, limit: str, ended: int
) -> None:
    """Every third of 20 jobs fails: one after the other, not one more is sent after the failure that the limit forbids."""
    night = refusing(make_night, 20, *range(2, 20, 3))
    status = await night.run(max_failures=allow(limit), max_in_flight=1)
    assert (status.state, status.stopped_by, status.done) == ("stopped", "failures", ended)
    assert night.asked().total() == ended
    assert f"stopping: {ended // 3} of 20 jobs failed, and --max-failures is {limit}; errors.jsonl says why" in night.said


async def test_what_the_limit_allows_stops_nothing(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """As many failures as allowed, and not one more: the run ends as any other."""
    night = refusing(make_night, 20, 3, 4, 5)
    status = await night.run(max_failures=allow("15%"))
    assert_whole(night, status)
    assert status.failed == 3


async def test_what_is_in_flight_is_waited_for(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """The first failure stops admission and nothing else: the answers of the others are kept, and none is cut off."""
    night = make_night(jobs(30), rules=(Rule(kind="error400", tag="job-4"),), latency_median_seconds=10.0, latency_sigma=0.0)
    status = await night.run(max_failures=allow("0"), max_in_flight=5)
    assert (status.stopped_by, status.completed, status.failed) == ("failures", 4, 1)
    assert not night.maybe_billed()
    assert night.asked().total() == 5


async def test_failures_of_earlier_starts_count(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """The same command stops at once and sends nothing; a higher limit lets it go on, and counts from where it stood."""
    night = refusing(make_night, 20, 1, 2, 3, 4, times=0)
    await night.run(max_failures=allow("1"), max_in_flight=1)
    asked = night.asked().total()
    again = await night.run(max_failures=allow("1"))
    assert (again.stopped_by, again.failed, night.asked().total()) == ("failures", 2, asked)
    assert any(line.startswith("stopping: 2 of 20 jobs failed") for line in night.said)
    third = await night.run(max_failures=allow("2"), max_in_flight=1)
    assert (third.stopped_by, third.failed) == ("failures", 3)
    assert_whole(night, await night.run(max_failures=allow("4")))


async def test_retry_failed_takes_its_jobs_off_the_count(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """With --retry-failed the failed jobs are open again, and the same limit stands in nobody's way."""
    night = refusing(make_night, 20, 1, 2)
    first = await night.run(max_failures=allow("1"), max_in_flight=1)
    assert first.stopped_by == "failures"
    status = await night.run(max_failures=allow("1"), retry_failed=True)
    assert_whole(night, status)
    assert status.completed == 20


async def test_a_file_of_rubbish_stops_before_a_cent_is_spent(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Lines that are no jobs count among the failures and among all jobs: too many of them, and nothing is sent at all."""
    night = make_night([*[BAD_LINE] * 3, *jobs(27)])
    status = await night.run(max_failures=allow("9.9%"))
    assert (status.state, status.stopped_by, status.failed, status.attempts) == ("stopped", "failures", 3, 0)
    assert (night.asked().total(), night.server.opened) == (0, 0)
    allowed = await night.run(max_failures=allow("10%"))
    assert (allowed.state, allowed.completed, allowed.failed) == ("completed", 27, 3)


async def test_a_job_that_fails_unsent_counts(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What fails before it is sent has failed all the same: here jobs of an account that is not this run's."""
    night = make_night([job("a", account="prod"), job("b", account="prod"), *jobs(10)])
    status = await night.run(max_failures=allow("1"), max_in_flight=1)
    assert (status.stopped_by, status.failed, night.asked().total()) == ("failures", 2, 0)


async def test_a_failure_that_was_paid_for_is_on_the_bill(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """The answer that made it one too many may have cost money, and is listed before the run stops."""
    night = make_night(jobs(5), rules=(Rule(kind="garbage", tag="job-0"),))
    status = await night.run(max_failures=allow("0"), max_in_flight=1)
    assert (status.stopped_by, night.maybe_billed()) == ("failures", {"job-0"})
    assert status.maybe_billed_usd == night.amount(Billing.MAYBE) > 0


async def test_a_run_whose_last_job_is_the_one_too_many_has_ended(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """There is nothing to stop and nothing to resume: completed, with its failures."""
    night = refusing(make_night, 4, 3)
    status = await night.run(max_failures=allow("0"), max_in_flight=1)
    assert_whole(night, status)
    assert status.failed == 1
