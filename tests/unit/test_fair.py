"""Which job next, and what 429s say about single jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchrunner.fair import ALONE_AFTER, UNSATISFIABLE_AFTER, FairQueue, RefusedJobs, Statistics


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


def refused(jobs: RefusedJobs, times: int, *, number: int = 1, tokens: int = 500, alone: bool = False) -> int:
    return [jobs.refused(number, tokens, alone=alone) for _ in range(times)][-1]


def test_a_large_job_goes_alone_after_three_refusals() -> None:
    """What takes more than a quarter of the minute, and was refused three times, is given the window to itself."""
    jobs = RefusedJobs()
    assert not jobs.alone(1, 500, 1_000)
    refused(jobs, ALONE_AFTER - 1)
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


def test_refusals_while_alone_are_counted_apart() -> None:
    """Only refusals with the window to itself say something about the job."""
    jobs = RefusedJobs()
    assert refused(jobs, 7) == 0
    assert refused(jobs, 2, alone=True) == 2


def test_unsatisfiable_needs_five_refusals_alone_and_a_smaller_job_accepted() -> None:
    """The server will never take a job that it refused five times alone while it took a smaller one."""
    jobs = RefusedJobs()
    assert not jobs.unsatisfiable(1)
    refused(jobs, UNSATISFIABLE_AFTER, alone=True)
    assert not jobs.unsatisfiable(1)
    jobs.accepted(2, 500)
    assert not jobs.unsatisfiable(1)
    jobs.accepted(2, 499)
    assert jobs.unsatisfiable(1)


def test_a_smaller_job_alone_is_no_proof() -> None:
    """Four refusals are not five."""
    jobs = RefusedJobs()
    refused(jobs, UNSATISFIABLE_AFTER - 1, alone=True)
    jobs.accepted(2, 1)
    assert not jobs.unsatisfiable(1)
    refused(jobs, 1, alone=True)
    assert jobs.unsatisfiable(1)


@pytest.mark.parametrize("forget", ["accepted", "forget"])
def test_what_has_ended_is_forgotten(forget: str) -> None:
    """A job that was accepted, or is done with, begins anew: no refusal of it is kept."""
    jobs = RefusedJobs()
    refused(jobs, UNSATISFIABLE_AFTER, alone=True)
    jobs.accepted(2, 1)
    if forget == "accepted":
        jobs.accepted(1, 500)
    else:
        jobs.forget(1)
    assert not jobs.unsatisfiable(1)
    assert not jobs.alone(1, 500, 1_000)
    jobs.forget(1)
