"""Circuit breakers: when they trip, when they probe, when they close, and whose attempts count."""

from __future__ import annotations

import pytest

from batchrunner.breaker import (
    FIRST_PROBE_NS,
    LONGEST_PROBE_NS,
    NS,
    QUIET_NS,
    TRANSITIONS,
    TRIPS_AFTER,
    Breaker,
    Circuit,
    Noted,
    Sign,
)

A, B, C = (1, "a"), (2, "b"), (3, "c")


def fail(breaker: Breaker, now_ns: int, request: int = 0, *, sent_ns: int | None = None, refundable: bool = True) -> Noted:
    sent_ns = now_ns if sent_ns is None else sent_ns
    return breaker.failed(now_ns, request, sent_ns, A, refundable=refundable)


def tripped(now_ns: int = 0) -> Breaker:
    """A circuit that has just opened."""
    breaker = Breaker(probes_spend=True)
    notes = [fail(breaker, now_ns) for _ in range(TRIPS_AFTER)]
    assert [note.tripped for note in notes] == [False] * (TRIPS_AFTER - 1) + [True]
    return breaker


def test_the_table_is_total() -> None:
    """Every state has a word for everything that can happen."""
    assert set(TRANSITIONS) == set(Circuit)
    assert all(set(row) == set(Sign) for row in TRANSITIONS.values())


def test_row_breakers_open_after_five_failures_in_a_row() -> None:
    """Four are not enough, and a success begins the count anew."""
    breaker = Breaker(probes_spend=True)
    for _ in range(TRIPS_AFTER - 1):
        assert not fail(breaker, 0).tripped
    breaker.succeeded(0)
    for _ in range(TRIPS_AFTER - 1):
        assert not fail(breaker, QUIET_NS).tripped
    assert breaker.due_ns(QUIET_NS) == QUIET_NS
    assert fail(breaker, QUIET_NS).tripped
    assert breaker.due_ns(QUIET_NS) == QUIET_NS + FIRST_PROBE_NS


def test_row_breakers_no_success_in_ten_seconds() -> None:
    """Shortly after a success it is the jobs that fail: the circuit trips once it is ten seconds old."""
    breaker = Breaker(probes_spend=True)
    breaker.succeeded(0)
    assert not any(fail(breaker, QUIET_NS - 1).tripped for _ in range(100))
    assert fail(breaker, QUIET_NS).tripped


def test_row_breakers_one_probe_at_5_10_20_to_300_s() -> None:
    """One request goes at a time, at doubling intervals, five minutes at most."""
    breaker = tripped()
    now_ns, waits = 0, []
    for request in range(1, 10):
        due_ns = breaker.due_ns(now_ns)
        assert due_ns is not None
        waits.append((due_ns - now_ns) // NS)
        now_ns = due_ns
        breaker.sent(request)
        assert breaker.due_ns(now_ns) is None
        fail(breaker, now_ns, request)
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert LONGEST_PROBE_NS == 300 * NS


@pytest.mark.parametrize("request_id", [1, 99])
def test_any_success_closes(request_id: int) -> None:
    """The probe's, or that of a request which was in flight when it tripped; the next outage begins at five seconds again."""
    breaker = tripped()
    breaker.sent(1)
    fail(breaker, 0, 1)
    breaker.sent(request_id)
    breaker.succeeded(NS)
    assert breaker.due_ns(NS) == NS
    for _ in range(TRIPS_AFTER):
        fail(breaker, NS + QUIET_NS, 7)
    assert breaker.due_ns(NS + QUIET_NS) == NS + QUIET_NS + FIRST_PROBE_NS


def test_a_probe_that_says_nothing_is_followed_by_another() -> None:
    """A probe that met a 429 or was cut off says nothing of the server: the next may go at once, and the wait has not grown."""
    breaker = tripped()
    breaker.sent(1)
    breaker.ended(7 * NS, 99)
    assert breaker.due_ns(7 * NS) is None
    breaker.ended(7 * NS, 1)
    assert breaker.due_ns(7 * NS) == 7 * NS
    breaker.sent(2)
    fail(breaker, 8 * NS, 2)
    assert breaker.due_ns(8 * NS) == 18 * NS


def test_row_breakers_opening_refunds_the_attempts_of_its_streak() -> None:
    """Each job gets back what the streak took, the one that tripped it included; what came before a success stays spent."""
    breaker = Breaker(probes_spend=True)
    breaker.failed(0, 0, 0, C, refundable=True)
    breaker.succeeded(0)
    now_ns = QUIET_NS
    for job in (A, B, A):
        assert breaker.failed(now_ns, 0, now_ns, job, refundable=True).spends
    breaker.failed(now_ns, 0, now_ns, B, refundable=False)
    noted = breaker.failed(now_ns, 0, now_ns, A, refundable=True)
    assert noted == Noted(spends=False, tripped=True, refunds={A: 2, B: 1})


def test_row_breakers_opening_refunds_all_in_flight() -> None:
    """What was sent before it tripped costs nobody an attempt, however it ends; what is not refundable does."""
    breaker = tripped(now_ns=100)
    assert not fail(breaker, 200, 8, sent_ns=100).spends
    assert fail(breaker, 200, 9, sent_ns=100, refundable=False).spends
    breaker.succeeded(300)
    assert not fail(breaker, 400, 10, sent_ns=99).spends


def test_an_outage_that_ends_refunds_its_probes() -> None:
    """Probes count while nobody knows whether it is the job; a success proves the outage, and gives them back."""
    breaker = tripped()
    for request in (1, 2):
        breaker.sent(request)
        assert fail(breaker, 0, request).spends
    assert breaker.succeeded(NS) == {A: 2}
    assert breaker.succeeded(NS) == {}


def test_an_outage_is_suspected_where_others_fail_too() -> None:
    """One job that fails alone is its own trouble; several with no success between them may be everybody's."""
    breaker = Breaker(probes_spend=True)
    for _ in range(2):
        breaker.failed(0, 0, 0, A, refundable=True)
    assert not breaker.is_suspicious(A)
    breaker.failed(0, 0, 0, B, refundable=True)
    assert breaker.is_suspicious(A)
    assert breaker.is_suspicious(B)
    breaker.succeeded(0)
    breaker.failed(0, 0, 0, B, refundable=True)
    assert not breaker.is_suspicious(B)


def test_a_job_that_fails_alone_in_two_ways_suspects_nobody() -> None:
    """Its own timeouts, which are not refundable, are no failures of others."""
    breaker = Breaker(probes_spend=True)
    breaker.failed(0, 0, 0, A, refundable=False)
    breaker.failed(0, 0, 0, A, refundable=True)
    assert not breaker.is_suspicious(A)
    assert breaker.is_suspicious(B)


def test_probes_may_be_free() -> None:
    """Where somebody else bounds an outage, its probes cost nothing; what is not refundable does all the same."""
    breaker = Breaker(probes_spend=False)
    for _ in range(TRIPS_AFTER):
        fail(breaker, 0)
    for request, refundable in ((1, True), (2, False)):
        breaker.sent(request)
        assert fail(breaker, 0, request, refundable=refundable).spends is not refundable
    assert breaker.succeeded(0) == {}


def test_failures_among_successes_are_spent() -> None:
    """A closed circuit gives nothing back."""
    breaker = Breaker(probes_spend=True)
    assert fail(breaker, 0).spends
    assert breaker.succeeded(0) == {}
