"""The simulator's windows against oracles that remember everything and count it anew for each question."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.simulator.settings import Charging, Settings, WindowShape
from batchrunner.simulator.windows import (
    WINDOW_NS,
    Accepted,
    CalendarMinute,
    Charge,
    Limits,
    Refused,
    SlidingLog,
    TokenBucket,
    Window,
)

SECOND_NS = 1_000_000_000


class Oracle(Protocol):
    largest: int

    def fits(self, at_ns: int, amount: int) -> bool: ...
    def take(self, at_ns: int, amount: int) -> int: ...
    def correct(self, at_ns: int, number: int, amount: int) -> None: ...


class Remembering:
    """All charges ever made, as [time, amount]; a subclass says which of them count at a moment."""

    def __init__(self, limit: int) -> None:
        self.largest = limit
        self.charges: list[list[int]] = []

    def counts(self, charged_ns: int, at_ns: int) -> bool:
        raise NotImplementedError

    def fits(self, at_ns: int, amount: int) -> bool:
        return sum(taken for time, taken in self.charges if self.counts(time, at_ns)) + amount <= self.largest

    def take(self, at_ns: int, amount: int) -> int:
        self.charges.append([at_ns, amount])
        return len(self.charges) - 1

    def correct(self, at_ns: int, number: int, amount: int) -> None:
        if self.counts(self.charges[number][0], at_ns):
            self.charges[number][1] = amount


class LastMinute(Remembering):
    def counts(self, charged_ns: int, at_ns: int) -> bool:
        return at_ns - WINDOW_NS < charged_ns <= at_ns


class SameMinute(Remembering):
    def counts(self, charged_ns: int, at_ns: int) -> bool:
        return charged_ns // WINDOW_NS == at_ns // WINDOW_NS


class Bucket:
    """Replays in fractions all that ever flowed in and out."""

    def __init__(self, limit: int, capacity: int) -> None:
        self.limit = limit
        self.largest = capacity
        self.flows: list[tuple[int, int]] = []
        self.amounts: list[int] = []

    def fits(self, at_ns: int, amount: int) -> bool:
        level, then_ns = Fraction(self.largest), 0
        for time_ns, taken in [*self.flows, (at_ns, 0)]:
            level = min(Fraction(self.largest), level + Fraction((time_ns - then_ns) * self.limit, WINDOW_NS))
            level = min(Fraction(self.largest), level - taken)  # what is given back may not overflow either
            then_ns = time_ns
        return amount <= level

    def take(self, at_ns: int, amount: int) -> int:
        self.flows.append((at_ns, amount))
        self.amounts.append(amount)
        return len(self.amounts) - 1

    def correct(self, at_ns: int, number: int, amount: int) -> None:
        self.flows.append((at_ns, amount - self.amounts[number]))
        self.amounts[number] = amount


def pair(shape: str, limit: int, capacity: int) -> tuple[Window, Oracle]:
    if shape == "sliding":
        return SlidingLog(limit), LastMinute(limit)
    if shape == "calendar":
        return CalendarMinute(limit), SameMinute(limit)
    return TokenBucket(limit, capacity), Bucket(limit, capacity)


steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3 * SECOND_NS), st.sampled_from([1, SECOND_NS, WINDOW_NS - 1, WINDOW_NS, WINDOW_NS + 1])),
        st.integers(1, 12),
        st.sampled_from(["ask", "ask", "force", "correct"]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("shape", ["sliding", "calendar", "bucket"])
@given(limit=st.integers(1, 20), capacity=st.integers(1, 20), steps=steps)
def test_a_window_lets_in_what_its_oracle_does_and_names_the_first_moment_for_the_rest(
    shape: str, limit: int, capacity: int, steps: list[tuple[int, int, str]]
) -> None:
    """An amount fits when the oracle says so; otherwise it fits exactly `wait_ns` later and not a nanosecond sooner."""
    window, oracle = pair(shape, limit, capacity)
    now_ns = 0
    taken: list[tuple[Charge, int]] = []
    for pause_ns, amount, step in steps:
        now_ns += pause_ns
        if step == "correct" and taken:
            charge, number = taken[amount % len(taken)]
            window.correct(now_ns, charge, amount - 1)
            oracle.correct(now_ns, number, amount - 1)
            continue
        wait_ns = window.wait_ns(now_ns, amount)
        assert (wait_ns == 0) == oracle.fits(now_ns, amount)
        if amount > oracle.largest:
            assert wait_ns == WINDOW_NS
        elif wait_ns:
            assert oracle.fits(now_ns + wait_ns, amount)
            assert not oracle.fits(now_ns + wait_ns - 1, amount)
        if step == "force" or not wait_ns:
            taken.append((window.take(now_ns, amount), oracle.take(now_ns, amount)))


def limits(charging: Charging, *, rpm: int = 0, tpm: int = 0, window: WindowShape = WindowShape.SLIDING) -> Limits:
    return Limits.of(Settings(rpm=rpm, tpm=tpm, window=window, charging=charging))


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
    first, second = gate.admit(0, 1_000), gate.admit(0, 1_000)
    assert isinstance(first, Accepted)
    assert isinstance(second, Accepted)
    gate.spend(5, first, 99)
    assert isinstance(gate.admit(6, 1_000), Accepted)
    gate.spend(7, second, 1)
    assert gate.admit(8, 1) == Refused(5 + WINDOW_NS - 8, "tokens")


@pytest.mark.parametrize(("charging", "fits"), [(Charging.ESTIMATE, False), (Charging.SETTLE, True)])
def test_settling_gives_back_what_was_not_used(charging: Charging, *, fits: bool) -> None:
    """Under `settle` the estimate is corrected when the request ends, under `estimate` it is not."""
    gate = limits(charging, tpm=100)
    accepted = gate.admit(0, 80)
    assert isinstance(accepted, Accepted)
    gate.spend(1, accepted, 20)
    assert isinstance(gate.admit(2, 80), Accepted) == fits


def test_a_burst_is_what_a_bucket_holds() -> None:
    """`burst` requests pass at once, then one each 60 s / rpm."""
    gate = Limits.of(Settings(rpm=60, window=WindowShape.BUCKET, burst=3))
    assert [isinstance(gate.admit(0, 0), Accepted) for _ in range(4)] == [True, True, True, False]
    assert gate.admit(0, 0) == Refused(SECOND_NS, "requests")
    assert isinstance(gate.admit(SECOND_NS, 0), Accepted)
