"""A run is halted where every job fails alike."""

from __future__ import annotations

from batchrunner import dialect
from batchrunner.events import AttemptResult, Billing
from batchrunner.outcome import Done, Failed, SameError

DONE = Done(dialect.ReplyFacts(None, dialect.Finish.STOP))


def failed(code: str = "model_not_found", *, permanent: bool = True) -> Failed:
    return Failed(code, "no", AttemptResult.INVALID, Billing.NOT, permanent=permanent)


def notes(*verdicts: Done | Failed) -> list[bool]:
    same = SameError()
    return [same.note(verdict) for verdict in verdicts]


def test_the_first_twenty_answers_the_same_error_halt() -> None:
    """A wrong model fails twenty jobs and not a million."""
    assert notes(*[failed()] * 20) == [False] * 19 + [True]


def test_one_other_answer_among_the_first_is_enough_to_go_on() -> None:
    """A success or another error says that not all jobs are wrong in the same way."""
    for other in (DONE, failed("bad_request")):
        assert not any(notes(*[failed()] * 10, other, *[failed()] * 99))


def test_a_hundred_in_a_row_halt_at_any_time() -> None:
    """Later on it takes a hundred of the same, one after the other."""
    assert notes(DONE, *[failed()] * 100) == [False] * 100 + [True]
    assert not any(notes(DONE, *[failed()] * 99, DONE, *[failed()] * 99, failed("other"), *[failed()] * 99))


def test_what_is_not_permanent_says_nothing() -> None:
    """Spent attempts and unreadable answers neither halt a run nor keep it from being halted."""
    assert not any(notes(*[failed(permanent=False)] * 200))
    assert notes(*[failed(), failed("timeout", permanent=False)] * 20)[-2] is True
