"""Whole runs in virtual time: faults whose bill is not known, attempts, timeouts.

What each answer comes to, by its status, stands in `test_attempt_rows` and `test_platform_codes`.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from batchrunner.events import Billing
from batchrunner.journal.files import ERRORS
from batchrunner.runner import Run
from tests.sim.nights import (
    MakeNight,
    after,
    assert_bill,
    assert_whole,
    fault,
    job,
    jobs,
)

# --- faults


@pytest.mark.parametrize("kind", ["error408", "error504", "reset_before", "reset_headers", "reset_body", "truncated", "silent"])
async def test_an_unknown_end_is_tried_again_and_listed(autojump_clock: MockClock, make_night: MakeNight, kind: str) -> None:
    """Where the work may have been done, the attempt is repeated and listed as maybe billed, at no less than its bill."""
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (5, 6)
    assert night.costs()["job-1", 1].state is Billing.MAYBE
    assert night.costs()["job-1", 2].state is Billing.BILLED
    assert night.maybe_billed() == {"job-1"}


async def test_a_slow_answer_is_waited_for(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """An answer that takes ten times as long as others is an answer."""
    night = make_night(jobs(5), **fault("slow"))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (5, 5)


async def test_all_faults_together(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """With every kind of fault in a third of all requests, each job still ends once, and no bill goes unlisted."""
    kinds = ("overloaded", "error500", "html", "error408", "reset_before", "reset_body", "truncated", "garbage", "error400")
    night = make_night(jobs(200), faults=dict.fromkeys((*kinds, "rate_limited", "silent"), 0.03))
    status = await night.run()
    assert_whole(night, status)
    assert status.completed > 170
    assert set(night.failures().values()) == {"unreadable_reply", "invalid_request"}
    assert status.attempts == night.asked().total() == night.sends().total()


# --- attempts


async def test_attempts_are_bounded(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A job whose every attempt fails ends after --max-attempts of them, with the server's last answer."""
    night = make_night(jobs(3), **fault("error500", times=0))
    status = await night.run(max_attempts=3)
    assert_whole(night, status)
    assert night.asked()["job-1"] == 3
    assert night.failures() == {"job-1": "internal_error"}
    (line,) = night.lines(ERRORS)
    assert line["response"]["status_code"] == 500
    assert "attempt 3 of 3" in line["error"]["message"]


async def test_a_job_may_bound_its_own_attempts(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A line's own `max_attempts` stands above the run's."""
    night = make_night([job("job-0"), job("job-1", max_attempts=1)], **fault("error500", times=0))
    await night.run(max_attempts=5)
    assert night.asked()["job-1"] == 1


async def test_attempts_count_over_a_resume(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What a job spent before a stop counts after it: no restart gives it a new set of attempts."""
    night = make_night(jobs(2), **fault("error500", times=0))
    await night.run(after(2.5, Run.drain), max_attempts=4)
    before = night.asked()["job-1"]
    assert 1 <= before < 4
    assert_whole(night, await night.run(max_attempts=4))
    assert night.asked()["job-1"] == 4


async def test_a_429_costs_no_attempt(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A job that is refused seven times with 429 succeeds on its one and only attempt."""
    night = make_night(jobs(3), **fault("rate_limited", times=7))
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert (status.completed, status.rate_limited, status.attempts) == (3, 7, 10)
    assert status.maybe_billed_usd == 0


async def test_retry_failed(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """--retry-failed runs the failed jobs again, and theirs is then the only line of each."""
    night = make_night(jobs(4), **fault("error400"))
    first = await night.run()
    assert (first.completed, first.failed) == (3, 1)
    status = await night.run(retry_failed=True)
    assert_whole(night, status)
    assert (status.completed, status.failed, status.attempts) == (4, 0, 5)


# --- timeouts


async def test_a_14_minute_answer_completes(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """The platform may take 15 minutes for an answer, and is given them."""
    night = make_night(jobs(3), latency_median_seconds=14 * 60.0, latency_sigma=0.0)
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (3, 3)


async def test_a_20_minute_answer_ends_at_960_seconds(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """An attempt ends after 960 seconds, and is listed as maybe billed: here it is billed in the end."""
    night = make_night(jobs(3), latency_median_seconds=20 * 60.0, latency_sigma=0.0)
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert set(night.failures().values()) == {"attempt_timeout"}
    assert [event.seconds for event in night.events] == pytest.approx([960.0] * 3)
    assert night.maybe_billed() == {"job-0", "job-1", "job-2"}
    await trio.sleep(300)
    assert night.platform.counters.billed == 3
    assert_bill(night, status)


async def test_a_job_may_set_its_own_timeout(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A line's own `timeout` stands in place of the run's."""
    night = make_night([job("a", timeout=30.0)], latency_median_seconds=31.0, latency_sigma=0.0)
    await night.run(max_attempts=1)
    assert night.failures() == {"a": "attempt_timeout"}
    assert night.events[-1].seconds == pytest.approx(30.0)


async def test_waiting_for_a_slot_counts_toward_no_timeout(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """At one request a minute, a timeout of 5 seconds ends none of them."""
    night = make_night(jobs(8), latency_median_seconds=1.0, latency_sigma=0.0)
    status = await night.run(rpm=1, timeout_seconds=5.0, max_attempts=1)
    assert_whole(night, status)
    assert status.failed == 0


async def test_an_outage_costs_no_job_its_attempts(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A server that goes away again and again: every job still ends well within the usual number of attempts."""
    night = make_night(jobs(60), latency_median_seconds=10.0)

    async def outages(_: Run) -> None:
        for _outage in range(8):
            await trio.sleep(8)
            night.server.go_down()
            await trio.sleep(60)
            night.server.down = False

    status = await night.run(outages, max_in_flight=5)
    assert_whole(night, status)
    assert status.failed == 0
