"""Which job next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchrunner.fair import (
    MOST_HELD,
    FairQueue,
    Statistics,
)
from batchrunner.lanes import Lane
from batchrunner.retries import WINDOW_NS


def take(queue: FairQueue, now_ns: int) -> int:
    number = queue.peek(now_ns)
    assert number is not None
    queue.remove(number, now_ns)
    return number


def drain(queue: FairQueue, now_ns: int) -> list[int]:
    taken = []
    while queue.peek(now_ns) is not None:
        taken.append(take(queue, now_ns))
    return taken


def test_file_order() -> None:
    """Jobs that were never sent go in the order of the file."""
    assert drain(FairQueue([Lane(iter([3, 4, 7]))]), 0) == [3, 4, 7]


def test_looking_changes_nothing() -> None:
    """A job is shown until it is removed."""
    queue = FairQueue([Lane(iter([1, 2]))])
    assert [queue.peek(0), queue.peek(0), take(queue, 0), queue.peek(0)] == [1, 1, 1, 2]


def test_what_was_shown_is_what_is_removed() -> None:
    """Between the look and the removal others may come before it: the one that was shown goes, wherever it stands by then."""
    queue = FairQueue([Lane(iter([10, 11]))])
    assert queue.peek(0) == 10
    queue.refused(4)
    queue.refused(2)
    queue.again(7, 0)
    queue.again(6, 0)
    for number in (10, 4, 7):
        queue.remove(number, 0)
    assert drain(queue, 0) == [2, 6, 11]


def test_what_is_not_in_the_queue_cannot_be_removed() -> None:
    """Removing a job twice is a defect, and says so."""
    queue = FairQueue([Lane(iter([1]))])
    queue.again(5, 10)
    assert take(queue, 0) == 1
    with pytest.raises(LookupError, match="job 1 is not"):
        queue.remove(1, 0)


def test_refused_jobs_go_first_in_file_order() -> None:
    """A 429 takes no job's place: refused ones come before backoffs and new ones, the earlier line first."""
    queue = FairQueue([Lane(iter([10, 11]))])
    queue.again(5, 0)
    queue.refused(9)
    queue.refused(2)
    assert queue.statistics() == Statistics(backing_off=1, refused=2, held=0)
    assert drain(queue, 0) == [2, 9, 5, 10, 11]


def test_a_backoff_is_due_at_its_time() -> None:
    """A job that backs off lets others pass until its time has come, and then goes before what is new."""
    queue = FairQueue([Lane(iter([10, 11, 12]))])
    queue.again(5, 100)
    assert take(queue, 99) == 10
    assert queue.next_due_ns(99) == 100
    assert drain(queue, 100) == [5, 11, 12]
    assert queue.next_due_ns(100) is None


def test_backoffs_go_by_their_times() -> None:
    """Of backoffs that are over, the one that was over first goes first."""
    queue = FairQueue([Lane(iter(()))])
    for number, due_ns in ((1, 30), (2, 10), (3, 20)):
        queue.again(number, due_ns)
    assert queue.peek(5) is None
    assert drain(queue, 40) == [2, 3, 1]


def test_empty_counts_what_is_not_due() -> None:
    """A queue is empty only when nothing waits, due or not, refused or new."""
    queue = FairQueue([Lane(iter([1]))])
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

    queue = FairQueue([Lane(numbers())])
    assert drawn == []
    queue.refused(9)
    queue.peek(0)
    assert drawn == []
    take(queue, 0)
    take(queue, 0)
    assert drawn == [0]
    assert drain(queue, 0) == [1, 2]
    assert queue.empty()


# --- repeats, and jobs held aside


def test_repeats_wait_for_the_retry_budget_while_others_pass() -> None:
    """Ten repeats a minute need no success; the eleventh lets new jobs pass, and goes when the first one is a minute old."""
    queue = FairQueue([Lane(iter(range(100, 103)))])
    for number in range(11):
        queue.again(number, 0, repeat=True)
    queue.again(50, 0)
    assert drain(queue, 7) == [50, *range(10), 100, 101, 102]
    assert not queue.empty()
    assert queue.next_due_ns(7) == WINDOW_NS + 7
    assert drain(queue, WINDOW_NS + 7) == [10]


def test_a_success_lets_more_repeats_go() -> None:
    """A fifth of the minute's successes comes on top."""
    queue = FairQueue([Lane(iter(()))])
    for number in range(12):
        queue.again(number, 0, repeat=True)
    assert len(drain(queue, 0)) == 10
    for _ in range(5):
        queue.succeeded(1)
    assert drain(queue, 1) == [10]
    assert queue.statistics().backing_off == 1


def test_a_repeat_that_is_not_sent_costs_no_retry() -> None:
    """What is taken out to be failed or held has not been repeated."""
    queue = FairQueue([Lane(iter(()))])
    for number in range(11):
        queue.again(number, 0, repeat=True)
    queue.remove(0, 0, sent=False)
    assert len(drain(queue, 0)) == 10


def test_held_jobs_let_others_pass_until_one_of_them_is_due() -> None:
    """Of jobs held together one goes at their time, the first; held again it is the last, so that each gets its turn."""
    queue = FairQueue([Lane(iter([7, 8]))])
    for number in (1, 2, 3):
        queue.hold(number, "m", 100)
    assert drain(queue, 99) == [7, 8]
    assert not queue.empty()
    assert queue.only_held()
    assert queue.next_due_ns(99) == 100
    assert take(queue, 100) == 1
    queue.hold(1, "m", None)
    assert (queue.peek(100), queue.next_due_ns(100)) == (None, None)
    queue.retime("m", 200)
    assert drain(queue, 200) == [2, 3, 1]
    assert queue.empty()


def test_released_jobs_go_before_what_follows_them() -> None:
    """Held jobs come back in their order, ahead of the rest of the file, and one that had been drawn is not lost."""
    queue = FairQueue([Lane(iter([1, 2, 3, 4]))])
    for _ in range(2):
        number = queue.peek(0)
        assert number is not None
        queue.remove(number, 0, sent=False)
        queue.hold(number, "m", None)
    assert queue.peek(0) == 3
    assert queue.statistics().held == 2
    queue.release("m")
    queue.release("m")
    assert queue.statistics().held == 0
    assert drain(queue, 0) == [1, 2, 3, 4]
    assert queue.empty()


def test_a_repeat_stays_one_while_it_is_held() -> None:
    """It waits for the retry budget when it is released, and costs one when it goes as a probe."""
    queue = FairQueue([Lane(iter([100]))])
    for number in range(12):
        queue.again(number, 0, repeat=True)
    assert queue.remove(0, 0, sent=False)
    queue.hold(0, "m", 5, repeat=True)
    assert take(queue, 5) == 0
    assert drain(queue, 5) == [*range(1, 10), 100]
    queue.hold(50, "m", None, repeat=True)
    queue.release("m")
    assert queue.peek(6) is None
    assert queue.statistics() == Statistics(backing_off=3, refused=0, held=0)


def test_names_are_held_apart() -> None:
    """What is released, or due, under one name says nothing of another."""
    queue = FairQueue([Lane(iter(()))])
    queue.hold(1, "a", 10)
    queue.hold(2, "b", None)
    queue.retime("nobody", 0)
    assert drain(queue, 10) == [1]
    assert queue.held_names() == ["b"]


@pytest.mark.parametrize("repeat", [False, True])
def test_what_was_shown_can_be_removed_though_it_was_released_since(repeat: bool) -> None:
    """Between look and removal the name of a probe, or of others, may have been let go: no job is lost by it."""
    queue = FairQueue([Lane(iter([7]))])
    queue.hold(1, "m", None, repeat=repeat)
    queue.hold(2, "m", 0, repeat=repeat)
    assert queue.peek(0) == 1
    queue.release("m")
    queue.again(0, 0, repeat=repeat)
    assert queue.remove(1, 0) is repeat
    assert drain(queue, 0) == [0, 2, 7]
    assert queue.empty()


def test_a_probe_is_taken_from_among_the_names_that_wait() -> None:
    """The one whose time has come is shown and removed, whoever was held before it."""
    queue = FairQueue([Lane(iter([]))])
    queue.hold(1, "a", None)
    queue.hold(2, "b", 0)
    assert queue.peek(0) == 2
    assert queue.remove(2, 0) is False
    assert queue.held_names() == ["a"]


def test_a_drawn_job_is_not_lost_by_a_release() -> None:
    """The file's next job was shown; others are let go before it; it is removed all the same."""
    queue = FairQueue([Lane(iter([7, 8]))])
    queue.hold(1, "m", None)
    assert queue.peek(0) == 7
    queue.release("m")
    queue.remove(7, 0)
    assert drain(queue, 0) == [1, 8]


def test_only_so_many_are_held() -> None:
    """The queue looks so far past what is held, and no further: memory is bounded. What was sent once is always held."""
    queue = FairQueue([Lane(iter([MOST_HELD]))])
    for number in range(MOST_HELD):
        assert not queue.full
        queue.hold(number, "m", None)
    queue.refused(MOST_HELD + 1)
    assert queue.full
    assert queue.has_room_for(MOST_HELD + 1)
    assert not queue.only_held()
    take(queue, 0)
    assert queue.peek(0) == MOST_HELD
    assert not queue.has_room_for(MOST_HELD)
    assert queue.only_held()
    assert not queue.empty()
