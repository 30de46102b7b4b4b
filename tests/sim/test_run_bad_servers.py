"""Whole runs in virtual time against a server that frames, sizes or times its answers badly, or speaks through a proxy."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from batchrunner.events import Billing
from tests.sim.nights import MakeNight, assert_whole, fault, jobs


@pytest.mark.parametrize("kind", ["error409", "html503"])
async def test_what_passes_is_tried_again(autojump_clock: MockClock, make_night: MakeNight, kind: str) -> None:
    """409, and a proxy's 503 in HTML: another attempt, and nothing on the bill for the first."""
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (5, 6)
    assert not night.maybe_billed()


async def test_a_429_of_a_proxy_is_a_429(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Bare HTML with the status is enough: the job keeps its place and loses no attempt."""
    night = make_night(jobs(5), **fault("html429", times=7))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.rate_limited) == (5, 7)


@pytest.mark.parametrize("kind", ["html504", "closed_before", "garbage_headers", "long_length", "endless_drip", "reset_headers"])
async def test_an_answer_that_is_none_is_asked_for_again(autojump_clock: MockClock, make_night: MakeNight, kind: str) -> None:
    """Whatever the platform took for it stands in the books as maybe billed, and the job has its answer in the end."""
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (5, 6)
    assert night.costs()["job-1", 1].state is Billing.MAYBE
    assert night.costs()["job-1", 2].state is Billing.BILLED


async def test_a_compressed_answer_is_not_repeated(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Whoever compresses replies that were asked for plain does so always: it is paid for once."""
    night = make_night(jobs(5), **fault("gzip"))
    status = await night.run()
    assert_whole(night, status)
    assert (night.failures(), night.asked()["job-1"]) == ({"job-1": "compressed"}, 1)
    assert night.maybe_billed() == {"job-1"}


@pytest.mark.parametrize("kind", ["html200", "short_length"])
async def test_a_whole_answer_that_is_no_json_is_not_repeated(
    autojump_clock: MockClock, make_night: MakeNight, kind: str
) -> None:
    """A page of HTML with status 200, a body cut off by its own length: paid for, and not to be paid for again."""
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    assert_whole(night, status)
    assert night.failures() == {"job-1": "unreadable_reply"}
    assert night.maybe_billed() == {"job-1"}


@pytest.mark.parametrize("kind", ["endless", "endless_length", "oversize", "oversize_chunked"])
async def test_more_than_is_taken_is_not_repeated(autojump_clock: MockClock, make_night: MakeNight, kind: str) -> None:
    """Above 64 MiB an answer is given up, listed as maybe billed, and the other jobs are none the worse."""
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    assert_whole(night, status)
    assert night.failures() == {"job-1": "too_large"}
    assert night.asked()["job-1"] == 1
    assert night.maybe_billed() == {"job-1"}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("error403", "permission_denied"),
        ("error413", "request_too_large"),
        ("html413", "http_413"),
        ("error422", "unprocessable"),
        ("unknown_model", "model_not_found"),
        ("gpu_limit", "gpu_limit_exceeded"),
        ("agent_limit", "agent_limit_reached"),
    ],
)
async def test_what_waiting_does_not_mend_fails_at_once(
    autojump_clock: MockClock, make_night: MakeNight, kind: str, code: str
) -> None:
    """One attempt, free of charge, and the server's own code where it has one; a GPU limit is none of the account's rate."""
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    assert_whole(night, status)
    assert night.failures() == {"job-1": code}
    assert (night.asked()["job-1"], status.rate_limited) == (1, 0)
    assert not night.maybe_billed()


async def test_an_answer_in_small_pieces_is_an_answer(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """However slowly a body comes: every job succeeds at its first attempt."""
    night = make_night(jobs(5), faults={"drip": 1.0})
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (5, 5)


async def test_a_connection_that_is_closed_when_idle_costs_nothing(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Found closed before anything was sent on it: each job opens another, and has its answer at its first attempt."""
    night = make_night(jobs(5), faults={"closes_idle": 1.0}, latency_median_seconds=0.001)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert (status.completed, status.attempts, night.server.opened) == (5, 5, 5)
    assert not night.maybe_billed()


async def test_a_stale_connection_costs_no_attempt(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A request that met a dead connection goes again on a fresh one, listed as maybe billed, within one attempt."""
    night = make_night(jobs(6), script=("stale", "ok", "stale", "ok"))
    status = await night.run(max_in_flight=1, max_attempts=1)
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (6, 8)
    assert len(night.maybe_billed()) == 2
    assert len(night.platform.billed) == 6
