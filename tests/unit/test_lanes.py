"""Lanes: which jobs stand in which, and in which order they come out."""

from __future__ import annotations

import itertools
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

import batchrunner.lanes
from batchrunner.index import ASIDE, MOST_ACCOUNTS, Index, Wish
from batchrunner.job import MAX_STEPS, Extras
from batchrunner.lanes import Lane, Lanes
from batchrunner.lifecycle import State


def index_of(files: list[list[Extras | None]], *, priority: int = 0) -> Index:
    index = Index(lambda number: None, priority=priority)
    for name, lines in enumerate(files):
        index.begin_file(f"{name}.jsonl", len(index))
        for extras in lines:
            number = len(index)
            assert index.add(f"job-{number}", number, number, 1, number + 1, extras) == number
    return index


def jobs_of(lane: Lane) -> list[int]:
    found = []
    while (number := lane.head()) is not None:
        assert lane.remove(number)
        found.append(number)
    return found


def test_a_lane_for_each_file_and_priority() -> None:
    """Files share nothing but the account; within one, jobs of a priority stand together, and keep their order."""
    urgent, plain = Extras(priority=2), Extras(timeout=9.0)
    lanes = Lanes(index_of([[None, urgent, plain, urgent], [], [urgent]]))
    assert [(lane.priority, jobs_of(lane)) for lane in lanes.all] == [(0, [0, 2]), (2, [1, 3]), (2, [4])]
    assert [lanes.of(number) for number in range(5)] == [0, 1, 0, 1, 2]


def test_what_is_set_aside_stands_in_no_lane() -> None:
    """And stays what it is: the next start finds it."""
    index = index_of([[None, Extras(priority=2), None], [None]])
    for number in (0, 1, 3):
        index.set_aside(number)
    assert [jobs_of(lane) for lane in Lanes(index).all] == [[2]]
    assert (index.aside, index.state.count(State.PENDING)) == (3, 4)


def test_the_runs_priority_is_that_of_lines_without_one() -> None:
    """A line that names the very same is no other lane."""
    lanes = Lanes(index_of([[None, Extras(priority=3), Extras(priority=0)]], priority=3))
    assert [(lane.priority, jobs_of(lane)) for lane in lanes.all] == [(3, [0, 1]), (0, [2])]


def test_priorities_end_somewhere() -> None:
    """Files are written with 1000 for what matters most: it counts as the highest there is."""
    lanes = Lanes(index_of([[Extras(priority=1000), Extras(priority=11), Extras(priority=-1000)]]))
    assert [(lane.priority, jobs_of(lane)) for lane in lanes.all] == [(MAX_STEPS, [0, 1]), (-MAX_STEPS, [2])]


def test_jobs_of_accounts_stand_by_themselves() -> None:
    """Each kind of wish has its place for all accounts that a run may have; those that it has not stand with the rest."""
    accounts = [f"account-{number}" for number in range(MOST_ACCOUNTS)]
    steps = range(-MAX_STEPS, MAX_STEPS + 1)
    lines = [Extras(account=name, priority=priority) for name in (*accounts, "x", "y") for priority in steps]
    index = Index(lambda number: None, accounts=accounts)
    for number, extras in enumerate(lines):
        index.add(str(number), number, number, 1, number + 1, extras)
    lanes = Lanes(index)
    assert len(index.wishes) <= ASIDE
    assert {lane.account for lane in lanes.all} == {*accounts, None}
    found = {(lane.account, lane.priority): jobs_of(lane) for lane in lanes.all}
    assert all(len(jobs) == (2 if account is None else 1) for (account, _), jobs in found.items())
    assert sum(map(len, found.values())) == len(lines)


@given(
    st.lists(st.tuples(st.sampled_from([None, 1, 2]), st.sampled_from(State)), max_size=60),
    st.lists(st.integers(0, 60), max_size=2).map(sorted),
)
def test_only_what_is_pending_comes_out(jobs: list[tuple[int | None, State]], cuts: list[int]) -> None:
    """After a resume most of a file may have ended: of each lane all that is left comes out, once, in the order of the file."""
    cuts = [0, *(min(cut, len(jobs)) for cut in cuts), len(jobs)]
    files = [[Extras(priority=p) if p else None for p, _ in jobs[a:b]] for a, b in itertools.pairwise(cuts)]
    index = index_of(files)
    for number, (_, state) in enumerate(jobs):
        index.state[number] = state
    pending = [number for number, (_, state) in enumerate(jobs) if state is State.PENDING]
    for shortest, longest in ((1, 3), (64, 65_536)):
        with mock.patch.multiple(batchrunner.lanes, SHORTEST_REACH=shortest, LONGEST_REACH=longest):
            lanes = Lanes(index)
            found = [jobs_of(lane) for lane in lanes.all]
        assert all(lane == sorted(lane) for lane in found)
        assert sorted(number for lane in found for number in lane) == pending
        for place, lane_jobs in enumerate(found):
            assert all(lanes.of(number) == place for number in lane_jobs)


def test_jobs_that_have_ended_are_passed_at_once() -> None:
    """Every other job is of the lane, and all but the last of them have ended: two hundred thousand are no work of each."""
    jobs = 200_000
    index = index_of([[]])
    index.state = bytearray((State.SUCCEEDED, State.PENDING)) * (jobs // 2)
    index.wish = bytearray((0, 1)) * (jobs // 2)
    index.wishes.append(Wish(1))
    index.state[jobs - 2] = State.PENDING
    first, second = Lanes(index).all
    assert first.ahead(5) == [jobs - 2]
    assert second.ahead(3) == [1, 3, 5]


def test_a_job_that_has_ended_before_it_is_looked_at_does_not_come_out() -> None:
    """States change while the run goes on; the lane looks at no more than it is asked for."""
    index = index_of([[None] * 5])
    (lane,) = Lanes(index).all
    assert lane.ahead(2) == [0, 1]
    index.state[2] = State.FAILED
    assert jobs_of(lane) == [0, 1, 3, 4]


def test_jobs_are_taken_out_of_the_middle() -> None:
    """What was shown can go in any order; what was not is not there."""
    lane = Lane(iter(range(10, 20)))
    assert lane.ahead(4) == [10, 11, 12, 13]
    assert [lane.remove(12), lane.remove(12), lane.remove(9), lane.remove(15), lane.remove(10)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    assert jobs_of(lane) == [11, 13, *range(14, 20)]


def test_what_comes_back_goes_before_what_follows_it() -> None:
    """And is not new any more, so that it may be held aside again, however many are."""
    lane = Lane(iter(range(5)))
    for number in (0, 1, 2):
        lane.head()
        lane.remove(number)
    assert lane.head() == 3
    assert lane.is_new(3)
    lane.put_back([2, 0])
    assert not lane.is_new(2)
    assert jobs_of(lane) == [0, 2, 3, 4]
    lane.put_back([1])
    assert jobs_of(lane) == [1]


def test_lanes_stand_in_the_order_of_their_first_jobs() -> None:
    """Where shares are alike, whoever comes first in the file goes first."""
    lanes = Lanes(index_of([[Extras(priority=1), None, Extras(priority=1)]]))
    assert [(lane.priority, jobs_of(lane)) for lane in lanes.all] == [(1, [0, 2]), (0, [1])]


def test_where_there_is_one_account_its_name_tells_nothing_apart() -> None:
    """Lines with and without it, and those that name another, keep the order of the file."""
    (lane,) = Lanes(index_of([[None, Extras(account="prod"), Extras(account="dev"), None]])).all
    assert (lane.account, jobs_of(lane)) == (None, [0, 1, 2, 3])
