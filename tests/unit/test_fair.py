"""Which job next, and what 429s say about single jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from batchrunner.fair import (
    FIRST_YIELD_NS,
    LONGEST_YIELD_NS,
    UNSATISFIABLE_AFTER,
    YIELDS_AFTER,
    FairQueue,
    RefusedJobs,
    Statistics,
)


def take(queue: FairQueue, now_ns: int) -> int:
    number = queue.peek(now_ns)
    assert number is not None
    queue.remove(number)
    return number


def drain(queue: FairQueue, now_ns: int) -> list[int]:
    taken = []
    while queue.peek(now_ns) is not None:
        taken.append(take(queue, now_ns))
    return taken


def test_file_order() -> None:
    """Jobs that were never sent go in the order of the file."""
    assert drain(FairQueue(iter([3, 4, 7])), 0) == [3, 4, 7]


def test_looking_changes_nothing() -> None:
    """A job is shown until it is removed."""
    queue = FairQueue(iter([1, 2]))
    assert [queue.peek(0), queue.peek(0), take(queue, 0), queue.peek(0)] == [1, 1, 1, 2]


def test_what_was_shown_is_what_is_removed() -> None:
    """Between the look and the removal others may come before it: the one that was shown goes, wherever it stands by then."""
    queue = FairQueue(iter([10, 11]))
    assert queue.peek(0) == 10
    queue.refused(4)
    queue.refused(2)
    queue.again(7, 0)
    queue.again(6, 0)
    for number in (10, 4, 7):
        queue.remove(number)
    assert drain(queue, 0) == [2, 6, 11]


def test_what_is_not_in_the_queue_cannot_be_removed() -> None:
    """Removing a job twice is a defect, and says so."""
    queue = FairQueue(iter([1]))
    queue.again(5, 10)
    assert take(queue, 0) == 1
    with pytest.raises(LookupError, match="job 1 is not"):
        queue.remove(1)


def test_refused_jobs_go_first_in_file_order() -> None:
    """A 429 takes no job's place: refused ones come before backoffs and new ones, the earlier line first."""
    queue = FairQueue(iter([10, 11]))
    queue.again(5, 0)
    queue.refused(9)
    queue.refused(2)
    assert queue.statistics() == Statistics(backing_off=1, refused=2)
    assert drain(queue, 0) == [2, 9, 5, 10, 11]


def test_a_backoff_is_due_at_its_time() -> None:
    """A job that backs off lets others pass until its time has come, and then goes before what is new."""
    queue = FairQueue(iter([10, 11, 12]))
    queue.again(5, 100)
    assert take(queue, 99) == 10
    assert queue.next_due_ns() == 100
    assert drain(queue, 100) == [5, 11, 12]
    assert queue.next_due_ns() is None


def test_backoffs_go_by_their_times() -> None:
    """Of backoffs that are over, the one that was over first goes first."""
    queue = FairQueue(iter(()))
    for number, due_ns in ((1, 30), (2, 10), (3, 20)):
        queue.again(number, due_ns)
    assert queue.peek(5) is None
    assert drain(queue, 40) == [2, 3, 1]


def test_empty_counts_what_is_not_due() -> None:
    """A queue is empty only when nothing waits, due or not, refused or new."""
    queue = FairQueue(iter([1]))
    assert not queue.empty()
    take(queue, 0)
    assert queue.empty()
    queue.again(1, 100)
    assert not queue.empty()
    take(queue, 100)
    queue.refused(1)
    assert not queue.empty()


def test_new_jobs_are_drawn_as_they_are_needed() -> None:
    """No more of the file is looked at than is asked for: ten million jobs cost no memory. Its end is asked for once."""
    drawn = []

    def numbers() -> Iterator[int]:
        for number in range(3):
            drawn.append(number)
            yield number

    queue = FairQueue(numbers())
    assert drawn == []
    queue.refused(9)
    queue.peek(0)
    assert drawn == []
    take(queue, 0)
    take(queue, 0)
    assert drawn == [0]
    assert drain(queue, 0) == [1, 2]
    assert queue.empty()


# --- refused jobs


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
