"""An account's gate: two windows, what a request is charged, and when it counts."""

from __future__ import annotations

from typing import Any

import pytest

from batchrunner.simulator.limits import Accepted, Level, Limits, Refused
from batchrunner.simulator.settings import AccountSettings, Change, Charging, LogAt, RateHeaders, Settings, WindowShape
from batchrunner.simulator.windows import WINDOW_NS

SECOND_NS = 1_000_000_000


def limits(charging: Charging = Charging.ACTUAL, **settings: Any) -> Limits:
    return Limits.of(Settings(charging=charging, **settings))


def admitted(gate: Limits, now_ns: int, tokens: int) -> Accepted:
    decision = gate.admit(now_ns, tokens)
    assert isinstance(decision, Accepted)
    return decision


def test_a_refusal_costs_nothing() -> None:
    """A request that one window refuses takes nothing from the other."""
    gate = limits(Charging.ESTIMATE, rpm=2, tpm=100)
    assert isinstance(gate.admit(0, 100), Accepted)
    assert gate.admit(1, 1) == Refused(WINDOW_NS - 1, "tokens")
    assert isinstance(gate.admit(WINDOW_NS, 50), Accepted)
    assert isinstance(gate.admit(WINDOW_NS, 50), Accepted)


def test_charging_actual_lets_in_until_what_was_used_fills_the_window() -> None:
    """Estimates do not matter; once the used tokens reach the limit nothing gets in until they have expired."""
    gate = limits(Charging.ACTUAL, tpm=100)
    first, second = admitted(gate, 0, 1_000), admitted(gate, 0, 1_000)
    gate.spend(5, first, 99)
    assert isinstance(gate.admit(6, 1_000), Accepted)
    gate.spend(7, second, 1)
    assert gate.admit(8, 1) == Refused(5 + WINDOW_NS - 8, "tokens")


@pytest.mark.parametrize("window", list(WindowShape))
@pytest.mark.parametrize("charging", list(Charging))
def test_each_window_charges_in_each_way(window: WindowShape, charging: Charging) -> None:
    """80 of 100 estimated and 20 used: what fits next is 20, 80 (settled), and whatever there is (nothing was charged before)."""
    gate = limits(charging, tpm=100, window=window)
    first = admitted(gate, 0, 80)
    refused_meanwhile = isinstance(gate.admit(1, 80), Refused)
    assert refused_meanwhile == (charging is not Charging.ACTUAL)
    gate.spend(2, first, 20)
    level = gate.tokens(2)
    assert level is not None
    assert level.left == (20 if charging is Charging.ESTIMATE else 80)
    fits = {Charging.ESTIMATE: 20, Charging.SETTLE: 80, Charging.ACTUAL: 1_000}[charging]
    assert isinstance(gate.admit(3, fits), Accepted)


def test_a_burst_is_what_a_bucket_holds() -> None:
    """`burst` requests pass at once, then one each 60 s / rpm."""
    gate = Limits.of(Settings(rpm=60, window=WindowShape.BUCKET, burst=3))
    assert [isinstance(gate.admit(0, 0), Accepted) for _ in range(4)] == [True, True, True, False]
    assert gate.admit(0, 0) == Refused(SECOND_NS, "requests")
    assert isinstance(gate.admit(SECOND_NS, 0), Accepted)


@pytest.mark.parametrize("count_rejected", [False, True])
def test_rejected_requests_count_where_they_do(count_rejected: bool) -> None:
    """Who asks each second although the window is full gets in a minute after what counts: the first request, or the last try."""
    gate = limits(rpm=1, count_rejected=count_rejected)
    admitted(gate, 0, 1)
    for second in range(1, 31):
        assert isinstance(gate.admit(second * SECOND_NS, 1), Refused)
    assert isinstance(gate.admit(60 * SECOND_NS, 1), Refused) == count_rejected
    assert isinstance(gate.admit(120 * SECOND_NS, 1), Accepted)


def test_a_rejected_request_that_counts_is_in_what_it_is_told() -> None:
    """The wait is that after this try, so that whoever keeps to it gets in; one refused for its tokens counts too."""
    gate = limits(Charging.ESTIMATE, rpm=1, tpm=100, count_rejected=True)
    assert gate.admit(0, 1_000) == Refused(WINDOW_NS, "tokens")
    assert gate.admit(10, 1) == Refused(WINDOW_NS, "requests")
    assert isinstance(gate.admit(10 + WINDOW_NS, 1), Accepted)


def test_requests_logged_at_completion_count_from_then_on() -> None:
    """While one is being worked on it takes no room; the next minute counts from its end; a failure never counts."""
    gate = limits(rpm=2, log_at=LogAt.COMPLETION)
    works = [admitted(gate, 0, 1) for _ in range(5)]
    gate.spend(20 * SECOND_NS, works[0], 10)
    gate.spend(20 * SECOND_NS, works[1], 10, succeeded=False)
    assert isinstance(gate.admit(20 * SECOND_NS, 1), Accepted)
    gate.spend(30 * SECOND_NS, works[2], 10)
    assert gate.admit(30 * SECOND_NS, 1) == Refused(50 * SECOND_NS, "requests")


def test_limits_change_and_what_was_taken_stays_taken() -> None:
    """Half the limit is full at once with what was taken before; a limit that is lifted lets all in."""
    changes = (Change(at_seconds=1, rpm=1), Change(at_seconds=2, tpm=10))
    gate = Limits.of(Settings(rpm=4), AccountSettings(name="a", keys=("k",), changes=changes))
    for _ in range(2):
        gate.spend(0, admitted(gate, 0, 1), 10)
    gate.change(1, rpm=2)
    assert gate.admit(2, 1) == Refused(WINDOW_NS - 2, "requests")
    gate.change(3, rpm=0, tpm=20)
    assert gate.admit(4, 1) == Refused(WINDOW_NS - 4, "tokens")
    assert gate.requests(4) is None
    assert gate.tokens(4) == Level(20, 0, WINDOW_NS - 4)
    gate.change(5, tpm=0)
    assert all(isinstance(gate.admit(6, 1_000), Accepted) for _ in range(100))


def test_an_account_goes_by_its_own_limits_and_else_by_all_accounts() -> None:
    """A limit that an account does not name is that of the settings; 0 is none."""
    settings = Settings(rpm=7, tpm=70)
    gate = Limits.of(settings, AccountSettings(name="a", keys=("k",), tpm=0))
    assert gate.requests(0) == Level(7, 7, 0)
    assert gate.tokens(0) is None


def test_groqs_day_is_shown_and_not_enforced() -> None:
    """30 requests of 14,400 a day come back at one each six seconds; only the minute's limit refuses."""
    gate = limits(rpm=10, rate_headers=RateHeaders.GROQ)
    for minute in range(3):
        for _ in range(10):
            admitted(gate, minute * WINDOW_NS, 1)
        assert isinstance(gate.admit(minute * WINDOW_NS, 1), Refused)
    level = gate.requests_of_day(2 * WINDOW_NS)
    assert level == Level(14_400, 14_390, WINDOW_NS)
    assert limits(rpm=10).requests_of_day(0) is None
