"""Queues of several accounts that draw from the same lanes."""

from __future__ import annotations

from batchrunner.fair import FairQueue
from batchrunner.lanes import Lane


def two_queues() -> tuple[FairQueue, FairQueue]:
    """A lane for anybody (0 to 4), one of account a (10 to 12), one of b (20 to 22)."""
    lanes = [Lane(iter(range(5))), Lane(iter(range(10, 13)), 0, "a"), Lane(iter(range(20, 23)), 0, "b")]
    a, b = (FairQueue(lanes, lambda number: number // 10, foreign=other) for other in (["b"], ["a"]))
    return a, b


def drain(queue: FairQueue) -> list[int]:
    taken = []
    while (number := queue.peek(0)) is not None:
        queue.remove(number, 0)
        taken.append(number)
    return taken


def test_each_sees_its_own_and_what_is_anybodys() -> None:
    """What one has taken the other does not find; nobody takes what is bound to another."""
    a, b = two_queues()
    assert [a.peek(0), b.peek(0)] == [0, 0]
    a.remove(0, 0)
    assert b.peek(0) == 1
    assert sorted(drain(b)) == [1, 2, 3, 4, 20, 21, 22]
    assert drain(a) == [10, 11, 12]
    assert a.empty()
    assert b.empty()


def test_what_one_gives_back_the_other_finds() -> None:
    """Also where it had found the lane empty before; and it is told of it."""
    a, b = two_queues()
    told: list[str] = []
    b.on_return = lambda: told.append("b")
    assert a.peek(0) == 0
    a.remove(0, 0, sent=False)
    a.hold(0, "m", None)
    drain(b)
    assert b.empty()
    a.release("m")
    assert told == ["b"]
    assert not b.empty()
    assert b.peek(0) == 0


def test_a_queue_that_is_given_up_leaves_everything_to_the_others() -> None:
    """Refused jobs, backoffs, repeats and what is held go back to where they came from; what is bound stays bound."""
    a, b = two_queues()
    assert a.peek(0) == 0
    assert a.beside(0, 9) == ([1, 2, 3, 4], [10])
    for number in (0, 1, 2, 3, 10):
        a.remove(number, 0)
    a.refused(0)
    a.again(1, 10**12)
    a.again(2, 10**12, repeat=True)
    a.hold(3, "m", None, repeat=True)
    a.refused(10)
    a.surrender()
    assert a.statistics().held == a.statistics().backing_off == a.statistics().refused == 0
    assert sorted(drain(b)) == [0, 1, 2, 3, 4, 20, 21, 22]
    assert drain(a) == [10, 11, 12]


def test_questions_stay_with_the_account_that_asks() -> None:
    """Nobody else could ask; whatever else comes back, they come when they are due, a 429 or not."""
    queue = FairQueue([Lane(iter(range(5)))], asks=lambda number: number < 2)
    for number in range(3):
        assert queue.peek(0) == number
        queue.remove(number, 0)
    queue.again(0, 100)
    queue.again(2, 50)
    queue.refused(1)
    queue.surrender()
    assert (queue.question(0), queue.peek(0), queue.next_question_ns()) == (1, 1, 0)
    queue.remove(1, 0)
    assert (queue.question(99), queue.peek(99), queue.idle_cause) == (None, 2, "submitted")
    assert (queue.question(100), queue.peek(100), queue.next_due_ns(0)) == (0, 0, 100)
    assert queue.statistics().backing_off == 1
    assert sorted(drain(queue)) == [2, 3, 4]
    assert not queue.empty()


def test_an_account_keeps_no_more_aside_than_it_may() -> None:
    """Where another server may have what this one is short of."""
    lanes = [Lane(iter(range(10)))]
    queue = FairQueue(lanes, most_held=2)
    for number in range(2):
        assert queue.peek(0) == number
        queue.remove(number, 0, sent=False)
        queue.hold(number, "m", None)
    assert queue.peek(0) == 2
    assert not queue.has_room_for(2)
