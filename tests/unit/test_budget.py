"""The budget's step, without any clock but its argument."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner import budget
from batchrunner.budget.pacer import JITTER_NS, LATENESS_NS, NS, SAFE_WINDOW_NS, WINDOW_NS, interval_ns
from batchrunner.budget.steps import SLOT_LIFE_NS
from batchrunner.budget.window import CELL_NS, CELL_THRESHOLD
from tests.unit.budgets import opened, send, slot_of, take


def test_paces_evenly() -> None:
    """Sends are one every (60 + J) / N seconds, from the first on."""
    state = opened(rpm=50)
    times = []
    now_ns = 0
    for _ in range(200):
        now_ns, _ = send(state, now_ns)
        times.append(now_ns)
    gaps = {b - a for a, b in itertools.pairwise(times)}
    assert gaps == {interval_ns(50)}
    assert interval_ns(50) * 50 >= SAFE_WINDOW_NS


def test_idle_time_is_not_banked() -> None:
    """After a pause of minutes the next two sends are a pace apart, but for the credit for lateness."""
    state = opened(rpm=50)
    send(state, 0)
    first, _ = send(state, 600 * NS)
    second, _ = send(state, first)
    assert second - first >= interval_ns(50) - LATENESS_NS


def test_no_limit_means_none() -> None:
    """With 0 requests and 0 tokens a minute everything may go at once."""
    state = opened(rpm=0, tpm=0)
    assert [send(state, 5, 10**9)[0] for _ in range(1_000)] == [5] * 1_000


def test_small_file_starts_fast() -> None:
    """Forty jobs at 50 a minute are sent within five seconds, not within fifty."""
    state = opened(rpm=50, jobs=40)
    now_ns = 0
    for _ in range(40):
        now_ns, _ = send(state, now_ns)
    assert now_ns < 5 * NS


def test_fast_start_keeps_the_guard() -> None:
    """However fast the start, no 60 s hold more than N sends."""
    state = opened(rpm=50, jobs=150)
    times = []
    now_ns = 0
    for _ in range(150):
        now_ns, _ = send(state, now_ns)
        times.append(now_ns)
    assert all(later - earlier >= SAFE_WINDOW_NS for earlier, later in zip(times, times[50:], strict=False))


def test_large_file_starts_at_its_pace() -> None:
    """Above three minutes of requests a head start is not worth a rejection."""
    state = opened(rpm=50, jobs=151)
    first, _ = send(state, 0)
    second, _ = send(state, first)
    assert second - first >= interval_ns(50) - LATENESS_NS


def test_a_known_last_minute_counts() -> None:
    """Sends of an earlier process are in the window: the full minute makes us wait for its oldest."""
    state = budget.State(budget.Limits(50, 0))
    now_ns = 100 * NS
    past = tuple(budget.PastSend(now_ns - 30 * NS + i * NS // 10, 0) for i in range(50))
    budget.step(state, now_ns, budget.Open(past=past, jobs=10))
    at_ns, _ = send(state, now_ns)
    assert at_ns == past[0].sent_ns + SAFE_WINDOW_NS


def test_an_unknown_last_minute_means_pace() -> None:
    """Where the last minute is not known, even a small file is paced, and not made to wait for a minute."""
    state = budget.State(budget.Limits(50, 0))
    budget.step(state, 0, budget.Open(past=None, jobs=3))
    first, _ = send(state, 0)
    second, _ = send(state, first)
    assert first <= interval_ns(50)
    assert second - first == interval_ns(50)


def test_past_sends_that_have_expired_are_nothing() -> None:
    """A send of two minutes ago neither fills the window nor forbids a fast start."""
    state = budget.State(budget.Limits(50, 1_000))
    budget.step(state, 200 * NS, budget.Open(past=(budget.PastSend(0, 1_000),), jobs=5))
    assert state.window.requests == 0
    assert state.pacer.fast_left == 5


def test_tokens_of_the_last_minute_count() -> None:
    """Tokens that an earlier process took are not taken twice."""
    state = budget.State(budget.Limits(0, 1_000))
    budget.step(state, NS, budget.Open(past=(budget.PastSend(0, 1_000),), jobs=5))
    at_ns, _ = send(state, NS, 500)
    assert at_ns >= SAFE_WINDOW_NS


def test_settlement_frees_what_was_not_used() -> None:
    """Once usage is known, only what was used stays charged."""
    state = opened(rpm=0, tpm=1_000)
    _, entry = send(state, 0, 1_000)
    budget.step(state, NS, budget.Settle(entry, 100))
    at_ns, _ = send(state, NS, 100)
    assert at_ns == NS
    assert (state.window.used, state.window.held, state.window.reserved) == (200, 200, 1_100)


def test_settling_twice_changes_nothing() -> None:
    """An answer that is told of twice is counted once."""
    state = opened(rpm=0, tpm=1_000)
    _, entry = send(state, 0, 900)
    for _ in range(2):
        budget.step(state, NS, budget.Settle(entry, 100))
        budget.step(state, NS, budget.Refuse(entry, None, 0.0))
        budget.step(state, NS, budget.Lost(entry))
    assert state.window.used == 100
    assert state.gate.consecutive == 0


def test_unknown_usage_stays_charged() -> None:
    """Where the server did not say what it used, or the end is unknown, the prediction stands."""
    state = opened(rpm=0, tpm=1_000)
    _, first = send(state, 0, 300)
    _, second = send(state, 0, 200)
    budget.step(state, NS, budget.Settle(first, None))
    budget.step(state, NS, budget.Lost(second))
    assert state.window.used == 500
    assert not state.in_flight


def test_settling_after_expiry_changes_no_sum() -> None:
    """A reply that takes longer than the window does not disturb the window's sums."""
    state = opened(rpm=0, tpm=1_000)
    _, entry = send(state, 0, 300)
    budget.step(state, 2 * SAFE_WINDOW_NS, budget.Settle(entry, 900))
    assert state.window.used == 0


def test_a_job_larger_than_a_minute_goes_alone() -> None:
    """More tokens than the limit: sent once the window is empty, and nothing behind it until it has left."""
    state = opened(rpm=0, tpm=1_000)
    send(state, 0, 10)
    big_ns, _ = send(state, 0, 5_000)
    assert big_ns >= SAFE_WINDOW_NS
    next_ns, _ = send(state, big_ns, 10)
    assert next_ns >= big_ns + SAFE_WINDOW_NS


def test_alone_means_an_empty_window() -> None:
    """A job that is to go alone waits until no other tokens are in the window."""
    state = opened(rpm=0, tpm=1_000)
    send(state, 0, 10)
    slot = slot_of(state, 0)
    decision = budget.step(state, 0, take(slot.slot, 300, alone=True))
    assert isinstance(decision, budget.Later)
    assert decision.tokens
    assert decision.at_ns >= SAFE_WINDOW_NS


def test_a_smaller_job_may_use_the_slot_of_one_that_waits_for_tokens() -> None:
    """`Later` keeps the slot, so that what fits may go in the meantime."""
    state = opened(rpm=50, tpm=1_000)
    send(state, 0, 200)
    slot = slot_of(state, 0)
    assert isinstance(budget.step(state, slot.at_ns, take(slot.slot, 900)), budget.Later)
    assert isinstance(budget.step(state, slot.at_ns, take(slot.slot, 1)), budget.Taken)


def test_a_returned_slot_and_an_unknown_one_are_stale() -> None:
    """What was given back, lapsed or never given is not honoured."""
    state = opened(rpm=50)
    slot = slot_of(state, 0)
    budget.step(state, 0, budget.Return(slot.slot))
    assert isinstance(budget.step(state, 0, take(slot.slot, 0)), budget.Stale)
    slot = slot_of(state, 0)
    late_ns = slot.at_ns + SLOT_LIFE_NS + 1
    assert isinstance(budget.step(state, late_ns, take(slot.slot, 0)), budget.Stale)


def test_slots_count_toward_the_limit() -> None:
    """Slots given out and not yet used are part of the minute."""
    state = opened(rpm=3, jobs=3)
    first = [slot_of(state, 0).at_ns for _ in range(3)]
    assert max(first) < WINDOW_NS
    assert slot_of(state, 0).at_ns >= SAFE_WINDOW_NS


def test_a_large_account_groups_its_log() -> None:
    """Above the threshold sends share cells of 250 ms, and the count stays exact."""
    state = opened(rpm=60_000)
    now_ns = 0
    for _ in range(20_000):
        now_ns, _ = send(state, now_ns)
    assert state.window.requests == 20_000
    assert len(state.window.cells) <= CELL_THRESHOLD + now_ns // CELL_NS + 1


HISTORIES = given(seed=st.integers(0, 2**32), rpm=st.integers(1, 120), tpm=st.sampled_from([0, 500, 10_000]))


@HISTORIES
@settings(max_examples=150, deadline=None)
def test_B01_any_history_holds_the_budget(seed: int, rpm: int, tpm: int) -> None:
    """Whatever is sent, settled, refused, lost or stalled: no 60 s hold more than N sends, the sums equal the log, the
    state survives its encoding, and every request goes sooner or later.
    """
    any_history(seed, rpm, tpm)


@pytest.mark.campaign
@HISTORIES
@settings(max_examples=10_000, deadline=None)
def test_B01_ten_thousand_histories(seed: int, rpm: int, tpm: int) -> None:
    """The same, far more often."""
    any_history(seed, rpm, tpm)


def any_history(seed: int, rpm: int, tpm: int) -> None:
    rng = random.Random(seed)
    state = opened(rpm, tpm, jobs=rng.choice([10, 100_000]))
    now_ns = 0
    sends: list[int] = []
    flying: list[int] = []
    for _ in range(150):
        now_ns += rng.choice([0, 0, 0, rng.randrange(5 * NS), rng.randrange(100 * NS)])
        if flying and rng.random() < 0.6:
            entry = flying.pop(rng.randrange(len(flying)))
            events: list[budget.Event] = [
                budget.Settle(entry, rng.randrange(1_000)),
                budget.Settle(entry, None),
                budget.Lost(entry),
                budget.Refuse(entry, rng.choice([None, 0, NS]), rng.random()),
            ]
            budget.step(state, now_ns, rng.choice(events))
        else:
            now_ns, entry = send(state, now_ns, rng.randrange(1_500))
            sends.append(now_ns)
            flying.append(entry)
        if rng.random() < 0.2:
            state = msgspec.json.decode(msgspec.json.encode(state), type=budget.State)
        window = state.window
        for name in ("requests", "refused", "used", "held", "reserved"):
            assert getattr(window, name) == sum(getattr(cell, name) for cell in window.cells)
    assert all(later - earlier >= WINDOW_NS + JITTER_NS for earlier, later in zip(sends, sends[rpm:], strict=False))


@given(tokens=st.lists(st.integers(1, 1_000), min_size=50, max_size=200))
@settings(max_examples=50, deadline=None)
def test_B02_tokens_hold_in_every_window(tokens: list[int]) -> None:
    """Settled at their prediction, the tokens of any 60 s stay within the limit."""
    state = opened(rpm=0, tpm=2_000)
    now_ns = 0
    sent: list[tuple[int, int]] = []
    for amount in tokens:
        now_ns, _ = send(state, now_ns, amount)
        sent.append((now_ns, amount))
    for start_ns, _ in sent:
        assert sum(amount for at_ns, amount in sent if start_ns <= at_ns < start_ns + WINDOW_NS) <= 2_000


def test_an_unknown_event_is_a_defect() -> None:
    """There is no event that is silently ignored."""
    with pytest.raises(KeyError):
        budget.step(opened(), 0, object())  # type: ignore[arg-type]


def test_statistics_leave_out_what_has_expired() -> None:
    """A look at the budget after a minute of silence shows an empty window, and changes nothing."""
    state = opened(rpm=50, tpm=1_000)
    send(state, 0, 400)
    before = msgspec.json.encode(state)
    later = budget.statistics(state, SAFE_WINDOW_NS)
    assert (later.requests, later.tokens) == (0, 0)
    assert msgspec.json.encode(state) == before


def test_a_window_that_contradicts_itself_is_a_defect() -> None:
    """Sums that the cells do not hold are never waited for: there would be no end."""
    state = opened(rpm=0, tpm=1_000)
    state.window.used = 1_000
    with pytest.raises(AssertionError, match="more than its cells"):
        send(state, 0, 1)
