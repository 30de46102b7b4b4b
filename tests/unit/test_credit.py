"""Credits of an account: when one that has none may be probed, what a balance says, and when people are forewarned."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.credit import FIRST_PROBE_NS, KNOWN_AFTER, LONGEST_PROBE_NS, NS, Credit, Forewarning, Statistics, forecast_usd

MINUTE = 60 * NS


def refused(now_ns: int = 0) -> Credit:
    """An account that was found to have none at that time."""
    credit = Credit()
    credit.sent(1)
    assert credit.refused(now_ns, 1)
    return credit


def probed(credit: Credit, request: int) -> int:
    """A probe goes out when it is due, and is refused at once; when the next one is due."""
    due_ns = credit.due_ns(0)
    assert due_ns is not None
    credit.sent(request)
    assert credit.due_ns(due_ns) is None
    assert not credit.refused(due_ns, request)
    next_ns = credit.due_ns(0)
    assert next_ns is not None
    return next_ns - due_ns


def test_while_nobody_refuses_anything_may_go() -> None:
    credit = Credit()
    credit.sent(1)
    assert credit.due_ns(5) == 5
    assert not credit.waits
    assert not credit.accepted(3)
    credit.ended(7, 1)
    assert credit.due_ns(7) == 7


def test_probes_come_ever_more_rarely() -> None:
    """1, 2, 4, 8, 15, 15 ... minutes after the last refusal, one at a time."""
    credit = refused(7 * NS)
    assert credit.due_ns(8 * NS) == 7 * NS + FIRST_PROBE_NS
    assert [probed(credit, number) // MINUTE for number in range(2, 8)] == [2, 4, 8, 15, 15, 15]


def test_echoes_are_no_news() -> None:
    """What was in flight is refused too: that puts nothing off."""
    credit = refused()
    assert not credit.refused(30 * NS, 2)
    assert credit.due_ns(30 * NS) == FIRST_PROBE_NS


def test_an_accepted_probe_ends_the_wait() -> None:
    credit = refused()
    credit.sent(2)
    assert credit.accepted(MINUTE)
    assert (credit.waits, credit.due_ns(MINUTE)) == (False, MINUTE)
    assert not credit.accepted(MINUTE)
    assert credit.refused(2 * MINUTE, 3)  # and it begins anew
    assert credit.due_ns(2 * MINUTE) == 2 * MINUTE + FIRST_PROBE_NS


def test_what_was_sent_before_proves_nothing() -> None:
    """A long answer that was begun with the last of the credits."""
    credit = refused(10)
    assert not credit.accepted(10)
    assert credit.waits


def test_a_probe_that_ends_without_a_word_is_followed_by_another() -> None:
    """And what ends beside it is not taken for it."""
    credit = refused()
    credit.sent(2)
    credit.ended(MINUTE, 3)
    assert credit.due_ns(MINUTE) is None
    credit.ended(MINUTE + 1, 2)
    assert credit.due_ns(MINUTE + 1) == MINUTE + 1


def test_a_balance_admits_a_probe_at_once() -> None:
    credit = refused()
    credit.told(20 * NS, Decimal("0.01"))
    assert credit.due_ns(20 * NS) == 20 * NS
    assert credit.statistics() == Statistics(waits=True, balance_usd=Decimal("0.01"))


def test_a_balance_that_did_not_suffice_admits_no_second_probe() -> None:
    """Until it is more, probes go by the clock alone."""
    credit = refused()
    credit.told(20 * NS, Decimal("0.01"))
    credit.sent(2)
    credit.refused(21 * NS, 2)
    credit.told(50 * NS, Decimal("0.01"))
    assert credit.due_ns(50 * NS) == 21 * NS + LONGEST_PROBE_NS
    credit.told(80 * NS, Decimal("0.02"))
    assert credit.due_ns(80 * NS) == 80 * NS


def test_what_was_told_while_a_probe_was_out_is_not_held_against_it() -> None:
    """It was refused for what there was when it went out."""
    credit = refused()
    credit.sent(2)
    credit.told(MINUTE, Decimal(5))
    credit.refused(MINUTE + NS, 2)
    credit.told(MINUTE + 2 * NS, Decimal(5))
    assert credit.due_ns(MINUTE + 2 * NS) == MINUTE + 2 * NS


def test_what_was_used_up_and_paid_in_again_admits_a_probe() -> None:
    """Also where it is less than what was refused before."""
    credit = refused()
    credit.told(10 * NS, Decimal(3))
    credit.sent(2)
    credit.refused(11 * NS, 2)
    credit.told(40 * NS, Decimal(0))
    credit.told(70 * NS, Decimal(1))
    assert credit.due_ns(70 * NS) == 70 * NS


def test_what_was_told_before_there_were_none_is_nothing_to_go_by() -> None:
    """A probe by the clock is not held against a balance of five minutes ago."""
    credit = Credit()
    credit.told(0, Decimal(9))
    credit.refused(1, 1)
    credit.sent(2)
    credit.refused(MINUTE, 2)
    credit.told(MINUTE + NS, Decimal(5))
    assert credit.due_ns(MINUTE + NS) == MINUTE + NS


@pytest.mark.parametrize("balance", ["0", "-3.5"])
def test_an_empty_balance_makes_probes_rare_and_does_not_end_them(balance: str) -> None:
    """What servers say of balances is believed, but not for ever."""
    credit = refused()
    for second in range(30, 20 * 60, 30):
        credit.told(second * NS, Decimal(balance))
    assert credit.due_ns(30 * NS) == LONGEST_PROBE_NS
    assert probed(credit, 2) == 2 * MINUTE
    credit.told(LONGEST_PROBE_NS + NS, Decimal(balance))
    assert credit.due_ns(0) == 2 * LONGEST_PROBE_NS


def test_a_balance_of_an_account_that_has_credits_changes_nothing() -> None:
    """Also none at all: it may be a credit line. What it said before a refusal admits nobody after it."""
    credit = Credit()
    credit.told(0, Decimal(0))
    assert credit.due_ns(1) == 1
    credit.told(1, Decimal(9))
    credit.refused(2, 1)
    assert credit.due_ns(3) == 2 + FIRST_PROBE_NS


@given(
    st.lists(st.tuples(st.sampled_from(["refused", "accepted", "ended", "told"]), st.integers(0, 3), st.integers(0, 2 * MINUTE)))
)
def test_one_probe_at_a_time_and_never_none_for_ever(history: list[tuple[str, int, int]]) -> None:
    """Whatever happens in whatever order: while a probe is out nothing else goes, else one is due within 15 minutes."""
    credit, now_ns, out = Credit(), 0, None
    for number, (what, kind, after_ns) in enumerate(history, 10):
        now_ns += after_ns
        due_ns = credit.due_ns(now_ns)
        if due_ns is None:
            assert out is not None
        else:
            assert due_ns <= now_ns + LONGEST_PROBE_NS
            if due_ns <= now_ns:
                credit.sent(number)
                out = number if credit.waits else None
        request = out if kind and out is not None else 1_000_000 + number
        match what:
            case "refused":
                credit.refused(now_ns, request)
            case "accepted":
                credit.accepted(now_ns)
            case "ended":
                credit.ended(now_ns, request)
            case "told":
                credit.told(now_ns, Decimal(kind))
        if credit.due_ns(now_ns) is not None:
            out = None


# --------------------------------------------------------------------------------------------------------------- forecasts


def test_a_forecast_is_what_jobs_have_cost_times_those_that_are_left() -> None:
    assert forecast_usd(Decimal("0.5"), 100, 900) == Decimal("4.5")
    assert forecast_usd(Decimal(1), 30, 20) == Decimal("0.666667")  # upwards
    assert forecast_usd(Decimal(0), 30, 20) == 0


def test_a_few_jobs_say_nothing_and_none_that_is_left_costs_nothing() -> None:
    assert forecast_usd(Decimal(1), KNOWN_AFTER - 1, 10) is None
    assert forecast_usd(Decimal(1), KNOWN_AFTER, 10) is not None
    assert forecast_usd(Decimal(1), 1, 0) == 0


def test_people_are_forewarned_once() -> None:
    """With both figures and how far it goes; again only if it would have done meanwhile."""
    warning = Forewarning()
    assert warning.look(Decimal(4), Decimal(5), 100) is None
    told = warning.look(Decimal(8), Decimal(5), 80)
    assert told is not None
    for word in ("$8", "$5", "80", "about 50"):
        assert word in told
    assert warning.look(Decimal(9), Decimal(4), 70) is None
    assert warning.look(None, Decimal(4), 70) is None
    assert warning.look(Decimal(9), None, 70) is None
    assert warning.look(Decimal(9), Decimal(10), 70) is None
    assert warning.look(Decimal(9), Decimal(-1), 70) is not None
