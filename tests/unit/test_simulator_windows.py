"""The simulator's windows against oracles that remember everything and count it anew for each question."""

from __future__ import annotations

from fractions import Fraction
from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.simulator.settings import WindowShape
from batchrunner.simulator.window_shapes import REQUESTS, TOKENS
from batchrunner.simulator.windows import UNLIMITED, WINDOW_NS, Charge, SlidingLog

SECOND_NS = 1_000_000_000


class Oracle(Protocol):
    @property
    def largest(self) -> int: ...
    def fits(self, at_ns: int, amount: int) -> bool: ...
    def take(self, at_ns: int, amount: int) -> int: ...
    def correct(self, at_ns: int, number: int, amount: int) -> None: ...
    def change(self, at_ns: int, limit: int) -> None: ...


class Remembering:
    """All charges ever made, as [time, amount]; a subclass says how much of them counts at a moment."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.charges: list[list[int]] = []

    @property
    def largest(self) -> int:
        return self.limit

    def share(self, charged_ns: int, at_ns: int) -> Fraction | int:
        raise NotImplementedError

    def used(self, at_ns: int) -> Fraction | int:
        return sum(taken * self.share(time, at_ns) for time, taken in self.charges)

    def fits(self, at_ns: int, amount: int) -> bool:
        return self.used(at_ns) + amount <= self.limit

    def take(self, at_ns: int, amount: int) -> int:
        self.charges.append([at_ns, amount])
        return len(self.charges) - 1

    def correct(self, at_ns: int, number: int, amount: int) -> None:
        self.charges[number][1] = amount

    def change(self, at_ns: int, limit: int) -> None:
        self.limit = limit


class LastMinute(Remembering):
    def share(self, charged_ns: int, at_ns: int) -> int:
        return at_ns - WINDOW_NS < charged_ns <= at_ns


class SameMinute(Remembering):
    def share(self, charged_ns: int, at_ns: int) -> int:
        return charged_ns // WINDOW_NS == at_ns // WINDOW_NS


class SinceTheFirst(Remembering):
    def share(self, charged_ns: int, at_ns: int) -> int:
        began_ns = -WINDOW_NS
        for time_ns, _ in self.charges:
            if time_ns >= began_ns + WINDOW_NS:
                began_ns = time_ns
        return began_ns <= charged_ns and at_ns < began_ns + WINDOW_NS


class TwoMinutes(Remembering):
    """This minute in full, and of the last one as much as 60 s still cover."""

    def share(self, charged_ns: int, at_ns: int) -> Fraction | int:
        minutes_ago = at_ns // WINDOW_NS - charged_ns // WINDOW_NS
        covered = Fraction(WINDOW_NS - at_ns % WINDOW_NS, WINDOW_NS)
        return covered if minutes_ago == 1 else int(minutes_ago == 0)


class TwoMinutesRoundedDown(TwoMinutes):
    def used(self, at_ns: int) -> int:
        return int(super().used(at_ns))


class SameMinuteAndSlice(SameMinute):
    def __init__(self, limit: int, seconds: int, *, round_up: bool) -> None:
        super().__init__(limit)
        self.slice_ns = seconds * SECOND_NS
        self.round_up = round_up

    @property
    def slice_limit(self) -> int:
        share = Fraction(self.limit * self.slice_ns, WINDOW_NS)
        return -int(-share // 1) if self.round_up else max(1, int(share))

    @property
    def largest(self) -> int:
        return min(self.limit, self.slice_limit)

    def fits(self, at_ns: int, amount: int) -> bool:
        in_slice = sum(taken for time, taken in self.charges if time // self.slice_ns == at_ns // self.slice_ns)
        return super().fits(at_ns, amount) and in_slice + amount <= self.slice_limit


class Bucket:
    """Replays in fractions all that ever flowed in and out."""

    def __init__(self, limit: int, capacity: int) -> None:
        self.largest = capacity
        self.full = Fraction(capacity)
        #: (time, what was taken, rate and capacity from then on)
        self.history: list[tuple[int, int, int, int]] = [(0, 0, limit, capacity)]
        self.amounts: list[int] = []

    def fits(self, at_ns: int, amount: int) -> bool:
        level, then_ns, rate, size = self.full, 0, 0, 0
        for time_ns, taken, next_rate, next_size in self.history:
            level = min(Fraction(size), level + Fraction((time_ns - then_ns) * rate, WINDOW_NS)) if size else level
            level = min(Fraction(next_size), level - taken)  # what is given back may not overflow either
            then_ns, rate, size = time_ns, next_rate, next_size
        return amount <= min(Fraction(size), level + Fraction((at_ns - then_ns) * rate, WINDOW_NS))

    def take(self, at_ns: int, amount: int) -> int:
        self.history.append((at_ns, amount, *self.history[-1][2:]))
        self.amounts.append(amount)
        return len(self.amounts) - 1

    def correct(self, at_ns: int, number: int, amount: int) -> None:
        self.history.append((at_ns, amount - self.amounts[number], *self.history[-1][2:]))
        self.amounts[number] = amount

    def change(self, at_ns: int, limit: int) -> None:
        rate = self.history[-1][2]
        self.largest = limit if self.largest == rate else self.largest
        self.history.append((at_ns, 0, limit, self.largest))


def oracle_of(shape: WindowShape, limit: int, capacity: int) -> Oracle:
    oracles: dict[WindowShape, Oracle] = {
        WindowShape.SLIDING: LastMinute(limit),
        WindowShape.CALENDAR: SameMinute(limit),
        WindowShape.ANCHORED: SinceTheFirst(limit),
        WindowShape.TWO_BUCKET: TwoMinutesRoundedDown(limit),
        WindowShape.TWO_BUCKET_STRICT: TwoMinutes(limit),
        WindowShape.BUCKET: Bucket(limit, capacity),
        WindowShape.SPACING: Bucket(limit, 1),
        WindowShape.SECONDS: SameMinuteAndSlice(limit, 1, round_up=True),
        WindowShape.TEN_SECONDS: SameMinuteAndSlice(limit, 10, round_up=False),
    }
    return oracles[shape]


EDGES = [1, SECOND_NS, 10 * SECOND_NS, WINDOW_NS // 2, WINDOW_NS - 1, WINDOW_NS, WINDOW_NS + 1]
steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3 * SECOND_NS), st.sampled_from(EDGES)),
        st.integers(1, 12),
        st.sampled_from(["ask", "ask", "ask", "force", "correct", "change"]),
    ),
    max_size=40,
)


@pytest.mark.parametrize("shape", list(WindowShape))
@given(limit=st.integers(1, 20), capacity=st.integers(1, 20), steps=steps)
def test_a_window_lets_in_what_its_oracle_does_and_names_the_first_moment_for_the_rest(
    shape: WindowShape, limit: int, capacity: int, steps: list[tuple[int, int, str]]
) -> None:
    """An amount fits when the oracle says so, otherwise exactly `wait_ns` later and not a nanosecond sooner; `left` fits too."""
    window, oracle = REQUESTS[shape](limit, capacity), oracle_of(shape, limit, capacity)
    now_ns = 0
    taken: list[tuple[Charge, int]] = []
    for pause_ns, amount, step in steps:
        now_ns += pause_ns
        if step == "correct" and taken:
            charge, number = taken[amount % len(taken)]
            window.correct(now_ns, charge, amount - 1)
            oracle.correct(now_ns, number, amount - 1)
            continue
        if step == "change":
            window.change(now_ns, amount)
            oracle.change(now_ns, amount)
            assert window.limit == amount
        wait_ns = window.wait_ns(now_ns, amount)
        assert (wait_ns == 0) == oracle.fits(now_ns, amount)
        if amount > oracle.largest:
            assert wait_ns == WINDOW_NS
        elif wait_ns:
            assert oracle.fits(now_ns + wait_ns, amount)
            assert not oracle.fits(now_ns + wait_ns - 1, amount)
        left = window.left(now_ns)
        assert left == 0 or oracle.fits(now_ns, left)
        assert not oracle.fits(now_ns, left + 1)
        assert oracle.fits(now_ns + window.refill_ns(now_ns), oracle.largest)
        if step == "force" or not wait_ns:
            taken.append((window.take(now_ns, amount), oracle.take(now_ns, amount)))


@pytest.mark.parametrize(
    ("shape", "seconds"),
    [
        (WindowShape.SLIDING, 60),
        (WindowShape.CALENDAR, 49),
        (WindowShape.ANCHORED, 59),
        (WindowShape.TWO_BUCKET, 109),
        (WindowShape.TWO_BUCKET_STRICT, 109),
        (WindowShape.BUCKET, 3),
        (WindowShape.SPACING, 3),
        (WindowShape.SECONDS, 49),
        (WindowShape.TEN_SECONDS, 49),
    ],
)
def test_refilling_takes_until_nothing_counts_any_more(shape: WindowShape, seconds: int) -> None:
    """Of 30 a minute one is taken 10 s into a minute and one a second later: in so many seconds it is as if they never were."""
    window = REQUESTS[shape](30, 0)
    assert window.refill_ns(10 * SECOND_NS) == 0
    window.take(10 * SECOND_NS, 1)
    window.take(11 * SECOND_NS, 1)
    assert window.refill_ns(11 * SECOND_NS) == seconds * SECOND_NS
    assert window.refill_ns((11 + seconds) * SECOND_NS) == 0


@pytest.mark.parametrize(
    ("shape", "accepted_per_minute"),
    [(WindowShape.SECONDS, 50), (WindowShape.TEN_SECONDS, 48), (WindowShape.SPACING, 50), (WindowShape.SLIDING, 50)],
)
def test_fifty_a_minute_are_this_many(shape: WindowShape, accepted_per_minute: int) -> None:
    """Asked each 100 ms of ten minutes, a server with a limit of 50 lets in its slices' worth."""
    window = REQUESTS[shape](50, 0)
    accepted = 0
    for tick in range(6_000):
        if not window.wait_ns(tick * SECOND_NS // 10, 1):
            window.take(tick * SECOND_NS // 10, 1)
            accepted += 1
    assert accepted == 10 * accepted_per_minute


def test_a_small_limit_is_not_rounded_to_nothing() -> None:
    """Three a minute are one each ten seconds, and no more than three."""
    window = REQUESTS[WindowShape.TEN_SECONDS](3, 0)
    for at_seconds in (0, 10, 20):
        assert window.wait_ns(at_seconds * SECOND_NS, 1) == 0
        window.take(at_seconds * SECOND_NS, 1)
    assert window.wait_ns(30 * SECOND_NS, 1) == 30 * SECOND_NS


@pytest.mark.parametrize("shape", [WindowShape.SPACING, WindowShape.SECONDS, WindowShape.TEN_SECONDS])
def test_a_long_prompt_fits_though_requests_are_sliced(shape: WindowShape) -> None:
    """Tokens are counted by the minute: a prompt of the whole limit enters an empty window."""
    assert TOKENS[shape](1_000, 0).wait_ns(0, 1_000) == 0


@pytest.mark.parametrize("shape", list(WindowShape))
def test_a_limit_can_be_lifted_and_come_back(shape: WindowShape) -> None:
    """Where there is no limit all fits; once there is one again, it holds."""
    window = REQUESTS[shape](UNLIMITED, 0)
    if shape is not WindowShape.SPACING:
        assert window.wait_ns(0, 1_000_000) == 0
    window.change(1, 2)
    window.take(2, 2)
    assert window.wait_ns(3, 1) > 0


def test_a_log_lets_go_of_what_has_left_it() -> None:
    """After 100,000 charges at a steady pace it holds the last minute's and some; and it answers as if it held all."""
    window = SlidingLog(60)
    for second in range(100_000):
        now_ns = second * SECOND_NS
        assert window.wait_ns(now_ns, 1) == 0
        window.take(now_ns, 1)
        assert window.wait_ns(now_ns, 1) == (SECOND_NS if second >= 59 else 0)
    assert len(window._log) < 5_000


def test_a_small_wish_after_a_large_one_waits_no_longer_than_it_must() -> None:
    """What was looked up for the large one is gone back from."""
    window = SlidingLog(10)
    for second in range(10):
        window.take(second * SECOND_NS, 1)
    now_ns = 10 * SECOND_NS
    assert [window.wait_ns(now_ns, amount) for amount in (10, 1, 5, 1)] == [
        WINDOW_NS - seconds * SECOND_NS for seconds in (1, 10, 6, 10)
    ]


def test_a_storm_that_counts_is_not_looked_through_each_time() -> None:
    """A log of 100,000 that is far over its limit answers as many questions while it looks at each charge a few times."""
    looks = 0

    class Watched(Charge):
        __slots__ = ()

        def __getattribute__(self, name: str) -> object:
            nonlocal looks
            looks += name == "amount"
            return super().__getattribute__(name)

    window = SlidingLog(50)
    for number in range(100_000):
        window.wait_ns(number, 1)
        window.take(number, 1).__class__ = Watched
    assert window.wait_ns(100_000, 1) == 99_950 + WINDOW_NS - 100_000
    assert 100_000 < looks < 1_000_000
