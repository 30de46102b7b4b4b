"""The life of a job: the table is total, and nothing happens that is not in it."""

from __future__ import annotations

from itertools import product

import pytest

from batchrunner.lifecycle import FINAL, TRANSITIONS, Happening, IllegalTransitionError, State, after

PENDING, IN_FLIGHT, BACKING_OFF, SUCCEEDED, FAILED = State
LEGAL = {
    (PENDING, Happening.SEND): IN_FLIGHT,
    (PENDING, Happening.FAIL): FAILED,
    (PENDING, Happening.ADOPT): SUCCEEDED,
    (IN_FLIGHT, Happening.SUCCEED): SUCCEEDED,
    (IN_FLIGHT, Happening.FAIL): FAILED,
    (IN_FLIGHT, Happening.AGAIN): BACKING_OFF,
    (IN_FLIGHT, Happening.REFUSE): PENDING,
    (IN_FLIGHT, Happening.LOSE): PENDING,
    (IN_FLIGHT, Happening.ADOPT): SUCCEEDED,
    (BACKING_OFF, Happening.FAIL): FAILED,
    (BACKING_OFF, Happening.READY): PENDING,
    (BACKING_OFF, Happening.ADOPT): SUCCEEDED,
    (SUCCEEDED, Happening.LOSE): PENDING,
    (FAILED, Happening.LOSE): PENDING,
    (FAILED, Happening.REOPEN): PENDING,
}
ILLEGAL = sorted(set(product(State, Happening)) - set(LEGAL), key=str)


def test_the_table_is_total() -> None:
    """Every state has a row, and every row an entry for everything that can happen."""
    assert set(TRANSITIONS) == set(State)
    assert all(set(row) == set(Happening) for row in TRANSITIONS.values())


@pytest.mark.parametrize(("state", "happening"), sorted(LEGAL, key=str))
def test_legal(state: State, happening: Happening) -> None:
    """Each transition of a job's life leads where it should."""
    assert after(state, happening, "a") is LEGAL[state, happening]


@pytest.mark.parametrize(("state", "happening"), ILLEGAL)
def test_illegal(state: State, happening: Happening) -> None:
    """Whatever else happens is a defect of ours, and is told with the job's id."""
    with pytest.raises(IllegalTransitionError, match="job 'my-job' is") as caught:
        after(state, happening, "my-job")
    assert (caught.value.custom_id, caught.value.state, caught.value.happening) == ("my-job", state, happening)


def test_a_state_fits_a_byte_and_pending_is_zero() -> None:
    """An index made of zeros is one of pending jobs."""
    assert State(0) is State.PENDING
    assert {int(state) for state in State} == set(range(5))


def test_a_job_that_has_ended_is_not_sent() -> None:
    """From an end, only a reopening or the loss of its line leads back to pending; nothing leads to another end."""
    for state in FINAL:
        assert {following for following in TRANSITIONS[state].values() if following is not None} == {State.PENDING}
        assert TRANSITIONS[state][Happening.SEND] is None
