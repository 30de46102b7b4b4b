"""What jobs have waited for by the time they are sent."""

from __future__ import annotations

from typing import get_args

import pytest

from batchrunner.clock import NS_PER_SECOND
from batchrunner.status import Cause
from batchrunner.waits import JobWaits, OwnCause, Waits
from batchrunner.wording import BINDING_TEXT

S = NS_PER_SECOND


def test_the_dispatcher_sums_what_it_waits_for_by_cause() -> None:
    waits = Waits().begin("requests", 10 * S).end(13 * S).begin("tokens", 13 * S).end(14 * S).begin("requests", 20 * S)
    assert waits.at(22 * S) == {"requests": 5 * S, "tokens": 1 * S}


def test_a_wait_never_counts_below_nothing() -> None:
    """A monotonic clock that another machine's suspend moved, asked for a moment before the wait began."""
    assert not any(Waits().begin("server", 10 * S).at(9 * S).values())


def test_what_others_look_at_does_not_change_under_them() -> None:
    before = Waits()
    before.begin("work", 0).end(S)
    assert before == Waits()


def test_a_job_that_was_never_sent_waits_since_the_beginning() -> None:
    waits = Waits().begin("requests", 0).end(7 * S).begin("in_flight", 7 * S)
    assert JobWaits().sent(3, 9 * S, waits) == {"requests": 7_000, "in_flight": 2_000}


def test_a_job_that_came_back_waits_since_then_for_its_own_backoff_and_what_holds_up_the_run() -> None:
    jobs = JobWaits()
    waits = Waits().begin("requests", 0)
    jobs.back(3, 5 * S, waits, backoff_ns=2 * S)
    waits = waits.end(6 * S).begin("rate_limited", 6 * S)
    assert jobs.sent(3, 10 * S, waits) == {"backoff": 2_000, "requests": 1_000, "rate_limited": 4_000}


def test_what_was_shorter_than_a_millisecond_is_left_out() -> None:
    jobs = JobWaits()
    jobs.back(3, 0, Waits(), backoff_ns=999_999)
    assert jobs.sent(3, S, Waits().begin("tokens", 0).end(1_000_000)) == {"tokens": 1}


def test_a_job_put_aside_waits_for_its_model_until_it_is_let_go_or_sent() -> None:
    jobs = JobWaits()
    jobs.held(3, 2 * S, Waits())
    jobs.held(4, 2 * S, Waits())
    jobs.released([3, 99], 8 * S)
    assert jobs.sent(3, 9 * S, Waits()) == {"held": 6_000}
    assert jobs.sent(4, 9 * S, Waits()) == {"held": 7_000}


def test_a_job_put_aside_twice_keeps_what_it_waited_for_before() -> None:
    jobs = JobWaits()
    jobs.back(3, 0, Waits(), backoff_ns=S)
    for start in (1, 10):
        jobs.held(3, start * S, Waits())
        jobs.released([3], (start + 4) * S)
        jobs.released([3], (start + 5) * S)
    assert jobs.sent(3, 20 * S, Waits()) == {"backoff": 1_000, "held": 8_000}


@pytest.mark.parametrize("end", ["sent", "gone"])
def test_a_wait_ends_once(end: str) -> None:
    """The next one begins anew, and nothing is kept of a job that is over."""
    jobs = JobWaits()
    jobs.back(3, 0, Waits(), backoff_ns=5 * S)
    if end == "sent":
        jobs.sent(3, S, Waits())
    else:
        jobs.gone(3)
    assert jobs.sent(3, 2 * S, Waits()) == {}


def test_every_cause_has_words() -> None:
    """Those of the run are the status's; no own cause may hide one of them."""
    assert set(get_args(Cause)) < set(BINDING_TEXT)
    assert not set(get_args(Cause)) & set(get_args(OwnCause))
