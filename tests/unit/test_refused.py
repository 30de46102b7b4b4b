"""What 429s say about single jobs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batchrunner.refused import FIRST_YIELD_NS, LONGEST_YIELD_NS, UNSATISFIABLE_AFTER, YIELDS_AFTER, RefusedJobs


def refused(jobs: RefusedJobs, times: int, *, number: int = 1, alone: bool = False) -> int | None:
    return [jobs.refused(number, alone=alone) for _ in range(times)][-1]


def test_a_refused_job_keeps_its_place_twice() -> None:
    """A 429 is the account's. Only from the third on does the job let others pass, longer each time, and never too long."""
    jobs = RefusedJobs()
    yields = [jobs.refused(1, alone=False) for _ in range(20)]
    assert yields[: YIELDS_AFTER - 1] == [0, 0]
    assert yields[YIELDS_AFTER - 1 : YIELDS_AFTER + 2] == [FIRST_YIELD_NS, 2 * FIRST_YIELD_NS, 4 * FIRST_YIELD_NS]
    assert yields[-1] == LONGEST_YIELD_NS


def test_a_large_job_goes_alone_after_three_refusals() -> None:
    """What takes more than a quarter of the minute, and was refused three times, is given the window to itself."""
    jobs = RefusedJobs()
    assert not jobs.alone(1, 500, 1_000)
    refused(jobs, YIELDS_AFTER - 1)
    assert not jobs.alone(1, 500, 1_000)
    refused(jobs, 1)
    assert jobs.alone(1, 500, 1_000)
    assert jobs.alone(1, 251, 1_000)
    assert not jobs.alone(1, 250, 1_000)


def test_without_a_token_limit_nothing_goes_alone() -> None:
    """Where there is no limit there is nothing to be too large for."""
    jobs = RefusedJobs()
    refused(jobs, 10)
    assert not jobs.alone(1, 10**9, 0)


def test_never_taken_needs_five_refusals_alone_and_another_job_accepted() -> None:
    """The server will never take a job that it refused five times alone, from the third refusal on, while it took another."""
    jobs = RefusedJobs()
    refused(jobs, YIELDS_AFTER - 1, alone=True)
    assert refused(jobs, UNSATISFIABLE_AFTER, alone=True) is not None
    jobs.accepted(2)
    assert refused(jobs, 1, alone=True) is None
    assert len(jobs) == 0


def test_acceptance_before_the_first_refusal_is_no_proof() -> None:
    """What the account took before may have used it up: only what it took since says that it is the job."""
    jobs = RefusedJobs()
    jobs.accepted(2)
    assert refused(jobs, 50, alone=True) is not None


def test_refusals_among_others_are_no_proof() -> None:
    """However often a job is refused beside others, and however many of those are taken: it may fit alone."""
    jobs = RefusedJobs()
    refused(jobs, 2)
    jobs.accepted(2)
    assert refused(jobs, 50) is not None
    assert refused(jobs, UNSATISFIABLE_AFTER - 1, alone=True) is not None
    assert refused(jobs, 1, alone=True) is None


@pytest.mark.parametrize("end", [RefusedJobs.accepted, RefusedJobs.forget])
def test_what_has_ended_is_forgotten(end: Callable[[RefusedJobs, int], None]) -> None:
    """A job that was accepted, or is done with, leaves nothing behind."""
    jobs = RefusedJobs()
    refused(jobs, 5)
    for _ in range(2):
        end(jobs, 1)
        assert len(jobs) == 0
    assert not jobs.alone(1, 500, 1_000)
