"""Tokens in this minute of the wall clock, and what is still covered of the last one."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.budget.charging import Charging
from batchrunner.budget.pacer import JITTER_NS, NS, WINDOW_NS
from batchrunner.budget.two_bucket import CLOCKS_DIFFER_NS, TwoBuckets
from batchrunner.budget.window import Window

TPM = 1_000


def at_minute(*, last: int = 0, used: int = 0, believed: bool = True) -> TwoBuckets:
    """As they stand in the minute that began at 120 s."""
    return TwoBuckets(wall_offset_ns=0, believed=believed, began_ns=2 * WINDOW_NS, used=used, last=last)


def test_the_last_minute_counts_by_what_is_still_covered_of_it() -> None:
    """40 s into this one, a third of the last; what is sent now, whole."""
    buckets = at_minute(last=300, used=7)
    assert buckets.load(2 * WINDOW_NS + 40 * NS) == 107
    assert buckets.add(2 * WINDOW_NS + 40 * NS, 20) == 127
    assert (buckets.used, buckets.last) == (27, 300)


@pytest.mark.parametrize(
    ("at_ns", "last", "used"), [(WINDOW_NS - 1, 300, 7), (WINDOW_NS, 7, 0), (2 * WINDOW_NS - 1, 7, 0), (2 * WINDOW_NS, 0, 0)]
)
def test_a_minute_ends_with_the_clocks(at_ns: int, last: int, used: int) -> None:
    """To the nanosecond: this one becomes the last one, and after another one nothing of it is left."""
    buckets = at_minute(last=300, used=7)
    buckets.load(2 * WINDOW_NS + at_ns)
    assert (buckets.last, buckets.used) == (last, used)
    assert buckets.began_ns == 2 * WINDOW_NS + at_ns // WINDOW_NS * WINDOW_NS


def test_the_first_minute_began_where_the_wall_clock_says() -> None:
    """Whose minutes are ahead of ours by the offset; without one, ours are as good as any."""
    buckets = TwoBuckets(wall_offset_ns=59 * NS)
    assert buckets.add(5 * NS, 100) == 100
    assert (buckets.began_ns, buckets.used) == (NS, 100)
    buckets.load(61 * NS)
    assert (buckets.began_ns, buckets.used, buckets.last) == (61 * NS, 0, 100)
    unknown = TwoBuckets()
    unknown.add(5 * NS, 100)
    assert unknown.began_ns == 0


@pytest.mark.parametrize("set_ns", [-NS // 1_000, NS // 1_000, -20 * NS, 20 * NS])
def test_a_wall_clock_that_was_set_ends_no_minute(set_ns: int) -> None:
    """What was sent a moment ago stays counted, at the edge of a minute too."""
    buckets = at_minute(used=500)
    buckets.set_clock(3 * WINDOW_NS - NS, set_ns)
    buckets.load(3 * WINDOW_NS + 1)
    buckets.load(3 * WINDOW_NS + NS // 500)
    assert buckets.used + buckets.last == 500


def test_a_correction_goes_to_the_minute_of_the_send() -> None:
    """Of this one, of the last one; of an earlier one nothing is left to correct."""
    buckets = at_minute(last=300, used=200)
    now_ns = 2 * WINDOW_NS + NS
    buckets.correct(now_ns, 2 * WINDOW_NS, -10)
    buckets.correct(now_ns, 2 * WINDOW_NS - 1, -20)
    buckets.correct(now_ns, WINDOW_NS, -20)
    buckets.correct(now_ns, WINDOW_NS - 1, -300)
    assert (buckets.last, buckets.used) == (260, 190)


def test_a_correction_is_made_after_the_minute_has_ended() -> None:
    buckets = at_minute(last=300, used=200)
    buckets.correct(3 * WINDOW_NS, 2 * WINDOW_NS + NS, -50)
    assert (buckets.last, buckets.used) == (150, 0)


def test_nothing_goes_below_zero() -> None:
    """Where a clock was set in between, a request may be taken for one of the other minute."""
    buckets = at_minute(last=5, used=5)
    buckets.correct(2 * WINDOW_NS + 1, 2 * WINDOW_NS, -6)
    buckets.correct(2 * WINDOW_NS + 1, WINDOW_NS, -6)
    assert (buckets.last, buckets.used) == (0, 0)


def test_another_way_of_charging_is_counted_from_the_log() -> None:
    """What was sent since the minute began, and what before it."""
    window = Window()
    window.add(2 * WINDOW_NS - 1, 10, 100)
    window.add(2 * WINDOW_NS, 20, 200)
    window.add(2 * WINDOW_NS + NS, 30, 300)
    buckets = at_minute(last=7, used=7)
    buckets.recount(2 * WINDOW_NS + NS, window, Charging.ESTIMATE)
    assert (buckets.last, buckets.used) == (100, 500)


def test_what_the_log_had_forgotten_when_it_was_counted_again_is_not_taken_off() -> None:
    """An answer that comes after 70 s corrects nothing: what it corrects is not in the count."""
    window = Window()
    window.add(2 * WINDOW_NS - 5 * NS, 10, 100)
    buckets = at_minute()
    buckets.recount(2 * WINDOW_NS + 50 * NS, window, Charging.ESTIMATE)
    buckets.correct(2 * WINDOW_NS + 50 * NS, 2 * WINDOW_NS - 5 * NS - 1, -60)
    assert (buckets.last, buckets.used) == (100, 0)
    buckets.correct(2 * WINDOW_NS + 50 * NS, 2 * WINDOW_NS - 5 * NS, -60)
    assert (buckets.last, buckets.used) == (40, 0)
    buckets.recount(2 * WINDOW_NS + 55 * NS, Window(), Charging.ESTIMATE)
    buckets.correct(2 * WINDOW_NS + 55 * NS, 2 * WINDOW_NS + 55 * NS - 1, 60)
    assert (buckets.last, buckets.used) == (0, 0)
    buckets.correct(2 * WINDOW_NS + 55 * NS, 2 * WINDOW_NS + 55 * NS, 60)
    assert buckets.used == 60


# When there is room ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "used", "tokens", "into_ns"),
    [
        (0, 0, 995, 30 * NS),  # at once
        (0, 100, 895, 30 * NS),
        (400, 0, 795, 30 * NS),  # half of the last minute is covered: 200
        (400, 0, 895, 45 * NS),  # a quarter must be
        (400, 100, 795, 45 * NS),
        (250, 100, 795, 36 * NS),
        (400, 0, 796, 30 * NS + 150_000_000),
        (400, 0, 994, WINDOW_NS + CLOCKS_DIFFER_NS),  # so close to the edge that it may be on either side
        (0, 100, 896, WINDOW_NS + 6 * NS // 10),  # not in this minute: in the next, of which this is the last
        (0, 500, 895, WINDOW_NS + 48 * NS),
        (900, 500, 600, WINDOW_NS + WINDOW_NS - 395 * WINDOW_NS // 500),
    ],
)
def test_room_comes_as_the_last_minute_goes(last: int, used: int, tokens: int, into_ns: int) -> None:
    """Where 99.5 % of the limit hold it, reckoned 30 s into the minute."""
    buckets = at_minute(last=last, used=used)
    found = buckets.room_ns(2 * WINDOW_NS + 30 * NS, tokens, TPM)
    assert found == 2 * WINDOW_NS + into_ns
    assert isinstance(found, int)  # a float loses nanoseconds, and may wait for one for ever
    assert isinstance(buckets.room_ns(10**17, 1, 1_001), int)


@pytest.mark.parametrize(
    ("into_ns", "goes_ns"),
    [
        (0, CLOCKS_DIFFER_NS),
        (CLOCKS_DIFFER_NS, CLOCKS_DIFFER_NS),
        (WINDOW_NS - JITTER_NS - CLOCKS_DIFFER_NS, WINDOW_NS - JITTER_NS - CLOCKS_DIFFER_NS),
        (WINDOW_NS - JITTER_NS - CLOCKS_DIFFER_NS + 1, WINDOW_NS + CLOCKS_DIFFER_NS),
    ],
)
def test_nothing_is_sent_at_the_edge_of_a_minute(into_ns: int, goes_ns: int) -> None:
    """Where the clocks' difference and the way there make it uncertain on which side it is counted."""
    assert at_minute().room_ns(2 * WINDOW_NS + into_ns, 1, TPM) == 2 * WINDOW_NS + goes_ns


def test_what_is_not_believed_makes_nobody_wait() -> None:
    assert at_minute(used=10**6, believed=False).room_ns(2 * WINDOW_NS, 1, TPM) == 2 * WINDOW_NS


def test_what_never_fits_is_not_asked_here() -> None:
    """More than 99.5 % of the limit goes when the log says that it is alone."""
    assert at_minute(used=10**6).room_ns(2 * WINDOW_NS, 996, TPM) == 2 * WINDOW_NS
    assert at_minute(used=10**6).room_ns(2 * WINDOW_NS, 995, TPM) == 4 * WINDOW_NS + CLOCKS_DIFFER_NS


# What is believed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("load", "explains"), [(970, False), (971, True)])
def test_a_429_at_full_buckets_shows_them(load: int, explains: bool) -> None:
    """Once: from then on they are reckoned with, and a 429 needs another explanation."""
    buckets = TwoBuckets(wall_offset_ns=0)
    assert buckets.explain(load, TPM) is explains
    assert buckets.believed is explains
    assert buckets.explain(load, TPM) is False


def test_without_a_wall_clock_there_are_no_minutes_to_believe_in() -> None:
    buckets = TwoBuckets()
    assert not buckets.explain(10**6, TPM)
    assert not buckets.believed


def test_a_request_let_in_above_them_refutes_them_for_ever() -> None:
    """By more than 3 %; no 429 brings them back."""
    buckets = at_minute()
    buckets.accept(1_030, TPM)
    assert (buckets.believed, buckets.refuted) == (True, False)
    buckets.accept(1_031, TPM)
    assert (buckets.believed, buckets.refuted) == (False, True)
    assert not buckets.explain(10**6, TPM)
    assert not buckets.believed


@given(
    offset_ns=st.integers(0, 10**18),
    sends=st.lists(st.tuples(st.integers(0, 50 * NS), st.integers(0, 500), st.integers(-500, 500)), min_size=1, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_B03_the_two_buckets_equal_a_naive_recount(offset_ns: int, sends: list[tuple[int, int, int]]) -> None:
    """Whatever is sent and corrected later, by a clock of any minute, written and read in between."""
    buckets = TwoBuckets(wall_offset_ns=offset_ns)
    known: list[list[int]] = []
    now_ns = 0
    for number, (pause_ns, tokens, correction) in enumerate(sends):
        now_ns += pause_ns
        minute = (now_ns + offset_ns) // WINDOW_NS
        found = buckets.add(now_ns, tokens)
        known.append([now_ns, tokens])
        if number % 3 == 0:
            one = known[number // 2]
            change = max(correction, -one[1])
            if (one[0] + offset_ns) // WINDOW_NS >= minute - 1:
                one[1] += change
            buckets.correct(now_ns, one[0], change)
            found = buckets.load(now_ns)
        used, last = (sum(t for at, t in known if (at + offset_ns) // WINDOW_NS == minute - ago) for ago in (0, 1))
        assert (buckets.used, buckets.last) == (used, last)
        assert found == used + last * (WINDOW_NS - (now_ns + offset_ns) % WINDOW_NS) // WINDOW_NS
        buckets = msgspec.json.decode(msgspec.json.encode(buckets), type=TwoBuckets)
