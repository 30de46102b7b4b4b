"""Whose turn it is: shares of lanes, by what their jobs take of the account."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.budget import Limits
from batchrunner.fair import FairQueue
from batchrunner.job import MAX_STEPS
from batchrunner.lanes import Lane

LIMITS = Limits(50, 2_000_000)
#: numbers of a lane's jobs begin here, times its place
LANE = 100_000
#: what a request of few tokens takes of the account
REQUEST_NS = 60_000_000_000 // 50


def queue_of(*priorities: int, jobs: int = LANE, limits: Limits = LIMITS) -> FairQueue:
    """A lane for each priority."""
    lanes = [Lane(iter(range(place * LANE, place * LANE + jobs)), steps) for place, steps in enumerate(priorities)]
    return FairQueue(lanes, lambda number: number // LANE, limits=limits)


def send(queue: FairQueue, tokens: tuple[int, ...]) -> int:
    """Send the next job; its lane. `tokens` of a job by lane."""
    number = queue.peek(0)
    assert number is not None
    lane = number // LANE
    queue.remove(number, 0, tokens=tokens[lane])
    return lane


def test_shares_are_of_what_a_job_takes_most_of() -> None:
    """Small jobs take requests, large ones tokens: of five large ones' tokens there is room for 24 small requests in between."""
    queue = queue_of(0, 0)
    sent = [send(queue, (1_000, 200_000)) for _ in range(600)]
    # 200,000 tokens are a tenth of the minute, a request is a fiftieth: five requests for one of them.
    assert sent.count(0) == 5 * sent.count(1)


def test_lanes_that_are_alike_take_turns_in_the_order_of_their_files() -> None:
    """The first file begins."""
    queue = queue_of(0, 0, 0)
    assert [send(queue, (10, 10, 10)) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_without_limits_lanes_take_turns_too() -> None:
    """Where nothing is limited a request is a request."""
    queue = queue_of(0, 0, limits=Limits(0, 0))
    assert [send(queue, (1, 10**9)) for _ in range(6)] == [0, 1, 0, 1, 0, 1]


def test_each_step_of_priority_doubles_the_share() -> None:
    """One step is twice as many jobs, three are eight times as many; and nobody is left out."""
    queue = queue_of(0, 1, 3)
    sent = [send(queue, (10, 10, 10)) for _ in range(1_100)]
    assert [sent.count(lane) for lane in range(3)] == [100, 200, 800]


def test_the_highest_priority_is_nearly_all_there_is() -> None:
    """From the lowest to the highest are twenty steps: a million to one."""
    queue = queue_of(-MAX_STEPS, MAX_STEPS)
    assert send(queue, (10, 10)) == 0
    assert {send(queue, (10, 10)) for _ in range(10_000)} == {1}


def test_a_lane_that_had_nothing_to_send_saves_nothing_up() -> None:
    """Its jobs were held aside while others went on: back again it takes its turns, and not what it missed."""
    queue = queue_of(0, 0, jobs=200)
    for number in range(200):
        assert queue.peek(0) is not None
        queue.remove(number, 0, sent=False)
        queue.hold(number, "m", None)
    assert {send(queue, (10, 10)) for _ in range(100)} == {1}
    queue.release("m")
    assert [send(queue, (10, 10)) for _ in range(40)].count(0) in (20, 21)


def test_what_was_held_goes_back_to_its_own_lane() -> None:
    """A model that was away leaves a hundred jobs behind: they do not go before those of another file all at once."""
    queue = queue_of(0, 3, jobs=500)
    for number in range(100):
        assert queue.peek(0) == number
        queue.remove(number, 0, sent=False)
        queue.hold(number, "m", None)
    queue.release("m")
    sent = [send(queue, (10, 10)) for _ in range(90)]
    assert sent.count(1) == 80


def test_a_refused_job_goes_first_and_its_lane_pays_for_it() -> None:
    """A 429 took a request of the account: the others have a turn more."""
    queue = queue_of(0, 0)
    assert send(queue, (10, 10)) == 0
    queue.refused(0)
    assert [send(queue, (10, 10)) for _ in range(5)] == [0, 1, 1, 0, 1]


def test_what_could_go_beside_the_next_one() -> None:
    """Those that follow it in its lane, then the first of each other lane; nothing of a lane that is empty."""
    queue = queue_of(0, 0, 0)
    assert queue.peek(0) == 0
    assert queue.beside(0, 3) == ([1, 2, 3], [LANE, 2 * LANE])
    assert queue.beside(0, 1) == ([1], [LANE])
    queue.again(7, 0)
    assert queue.peek(0) == 7
    assert queue.beside(7, 2) == ([], [0, 1, LANE, 2 * LANE])
    assert FairQueue([Lane(iter(()))]).beside(7, 2) == ([], [])


@given(
    st.lists(st.integers(-2, 2), min_size=2, max_size=5),
    st.lists(st.tuples(st.integers(0, 600_000), st.booleans()), min_size=1, max_size=120),
)
@settings(deadline=None)
def test_no_lane_is_ahead_by_more_than_a_job(priorities: list[int], jobs: list[tuple[int, bool]]) -> None:
    """Of lanes that have jobs, virtual times differ by no more than one job takes, of the lane that is further: whatever is
    sent, refused and sent again. Refused jobs are of the lane whose turn it was, and move nobody else.
    """
    queue = queue_of(*priorities)
    most = [0] * len(priorities)
    for tokens, refused in jobs:
        number = queue.peek(0)
        assert number is not None
        lane = number // LANE
        queue.remove(number, 0, tokens=tokens)
        cost_ns = max(REQUEST_NS, tokens * 60_000_000_000 // 2_000_000) << MAX_STEPS - priorities[lane]
        if refused:
            queue.refused(number)
            again = queue.peek(0)
            assert again == number
            queue.remove(number, 0, tokens=tokens)
            cost_ns *= 2
        most[lane] = max(most[lane], cost_ns)
        starts = [turn.start for turn in queue._turns]
        for one, other in itertools.permutations(range(len(starts)), 2):
            assert starts[one] - starts[other] <= most[one]
