"""The life of a job: the table is total, and nothing happens that is not in it."""

from __future__ import annotations

import ast
import re
from itertools import product
from pathlib import Path

import pytest

import batchrunner
from batchrunner.journal import History
from batchrunner.lifecycle import FINAL, TRANSITIONS, Happening, IllegalTransitionError, State, after

PENDING, IN_FLIGHT, BACKING_OFF, SUCCEEDED, FAILED, SUBMITTED = State
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
    (IN_FLIGHT, Happening.SUBMIT): SUBMITTED,
    (SUBMITTED, Happening.SUCCEED): SUCCEEDED,
    (SUBMITTED, Happening.FAIL): FAILED,
    (SUBMITTED, Happening.AGAIN): BACKING_OFF,
    (SUBMITTED, Happening.LOSE): PENDING,
    (SUBMITTED, Happening.ADOPT): SUCCEEDED,
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
    assert {int(state) for state in State} == set(range(6))


def test_a_job_that_has_ended_is_not_sent() -> None:
    """From an end, only a reopening or the loss of its line leads back to pending; nothing leads to another end."""
    for state in FINAL:
        assert {following for following in TRANSITIONS[state].values() if following is not None} == {State.PENDING}
        assert TRANSITIONS[state][Happening.SEND] is None


def test_an_illegal_transition_tells_what_the_job_went_through() -> None:
    """The error carries the job's history, in words."""
    history = History(sends=4, spent=2, excused=1, in_vain=1, reopened=1)
    words = r"is in flight and cannot ready \(sent 4 times, 2 of them counted, 1 excused, 1 in vain, reopened after 1\)"
    with pytest.raises(IllegalTransitionError, match=words) as caught:
        after(IN_FLIGHT, Happening.READY, "a", history)
    assert caught.value.so_far == str(history)


def test_an_illegal_transition_of_a_job_with_no_history_tells_none() -> None:
    with pytest.raises(IllegalTransitionError, match=r"is backing off and cannot reopen$") as caught:
        after(BACKING_OFF, Happening.REOPEN, "a")
    assert caught.value.so_far == ""


# Who moves a job ----------------------------------------------------------------------------------------------------

SOURCE = Path(batchrunner.__file__).parent
#: the index makes each job's byte; these two move it
MOVERS = {"endings.py", "journal/replay.py"}


def test_nothing_else_assigns_a_state() -> None:
    """In the whole package a job's state is set in two places, and there by `after` alone."""
    movers = set()
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Assign | ast.AugAssign) and any(map(_is_a_state, _targets(node))):
                assert isinstance(node, ast.Assign), f"{file}, line {node.lineno}"
                assert isinstance(node.value, ast.Call), f"{file}, line {node.lineno}: a state that `after` did not give"
                assert ast.unparse(node.value.func) in ("after", "lifecycle.after"), f"{file}, line {node.lineno}"
                movers.add(str(file.relative_to(SOURCE)))
    assert movers == MOVERS


def _targets(node: ast.Assign | ast.AugAssign) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def _is_a_state(target: ast.expr) -> bool:
    """`index.state[number]`, by whatever name the index goes; or the whole column of somebody else's index."""
    if isinstance(target, ast.Subscript):
        return ast.unparse(target.value).rpartition(".")[2] == "state"
    return ast.unparse(target).endswith("index.state")


def test_the_column_is_only_read_otherwise() -> None:
    """What is called on it outside of the index changes nothing."""
    calls = re.compile(r"index\.state\.(\w+)\(")
    assert {name for file in SOURCE.rglob("*.py") for name in calls.findall(file.read_text())} == {"count", "find"}
