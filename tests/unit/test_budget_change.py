"""Limits that change while requests are sent: what comes next keeps to the new ones, at once, whatever went before."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner import budget
from batchrunner.budget.pacer import NS, SAFE_WINDOW_NS, interval_ns
from batchrunner.shared_account import RETRY_NS
from tests.unit.budgets import opened, send, slot_of, take
from tests.unit.crowds import Crowd, MemoryFile, Process

MINUTE = 60 * NS


def change(state: budget.State, now_ns: int, rpm: int, tpm: int = 0) -> None:
    budget.step(state, now_ns, budget.Change(budget.Limits(rpm, tpm)))


def sends_from(state: budget.State, now_ns: int, count: int, tokens: int = 0) -> list[int]:
    times = []
    for _ in range(count):
        now_ns, entry = send(state, now_ns, tokens)
        budget.step(state, now_ns, budget.Settle(entry, tokens))
        times.append(now_ns)
    return times


def test_a_raised_limit_acts_on_the_next_request() -> None:
    """At one a minute the next slot is a minute away; with 60 a minute it is a second behind the last send."""
    state = opened(1)
    (first,) = sends_from(state, 0, 1)
    assert slot_of(state, first + NS).at_ns == first + interval_ns(1)
    change(state, first + 2 * NS, 60)
    times = sends_from(state, first + 2 * NS, 10)
    assert times[0] == first + 2 * NS
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(interval_ns(60) - NS // 20 <= gap <= interval_ns(60) for gap in gaps)


def test_a_slot_of_the_old_pace_is_void() -> None:
    """Whoever comes with it is told to reserve another one."""
    state = opened(50)
    slot = slot_of(state, 0)
    change(state, 0, 60)
    assert budget.step(state, slot.at_ns, take(slot.slot)) == budget.Stale()


def test_after_a_limit_was_lowered_the_last_minute_counts_in_full() -> None:
    """Of 200 sent in the last minute so many must be a minute old that the next is the 50th, and no sooner."""
    state = opened(200)
    before = sends_from(state, 0, 200)
    change(state, before[-1], 50)
    after = sends_from(state, before[-1], 60)
    assert after[0] == before[150] + SAFE_WINDOW_NS
    times = before + after
    for number, at_ns in enumerate(after, len(before)):
        assert at_ns - times[number - 50] >= SAFE_WINDOW_NS


def test_after_tokens_were_lowered_the_last_minute_counts_in_full() -> None:
    """Where 100,000 were used and 10,000 are allowed, nothing goes before there is room for it."""
    state = opened(0, 100_000)
    before = sends_from(state, 0, 60, 1_000)
    change(state, before[-1], 0, 10_000)
    after = sends_from(state, before[-1], 20, 1_000)
    times = before + after
    for number, at_ns in enumerate(after, len(before)):
        assert at_ns - times[number - 10] >= SAFE_WINDOW_NS


def test_raised_tokens_are_there_at_once() -> None:
    """What would have been paid back in a minute is paid back in six seconds."""
    state = opened(0, 10_000)
    (last, *_) = reversed(sends_from(state, 0, 10, 1_000))
    change(state, last, 0, 100_000)
    assert sends_from(state, last, 20, 1_000)[-1] <= last + 6 * NS


def test_a_limit_where_there_was_none_knows_what_was_sent() -> None:
    """Requests and tokens of before count, though nobody had to pace them."""
    state = opened(0, 0)
    before = sends_from(state, 0, 100, 1_000)
    change(state, NS, 50, 40_000)
    after = sends_from(state, NS, 30, 1_000)
    assert before == [0] * 100
    assert after[0] >= SAFE_WINDOW_NS
    assert all(later - earlier >= interval_ns(50) - NS // 20 for earlier, later in itertools.pairwise(after))


def test_without_a_limit_nobody_waits_any_more() -> None:
    state = opened(1, 1_000)
    (first,) = sends_from(state, 0, 1, 900)
    change(state, first, 0, 0)
    assert sends_from(state, first, 5, 900) == [first] * 5


def test_what_was_let_in_under_a_higher_limit_refutes_nothing_under_a_lower_one() -> None:
    """Else a server that charges caps in advance would never again be taken for one."""
    state = opened(0, 1_000_000)
    slot = slot_of(state, 0)
    taken = budget.step(state, 0, take(slot.slot, 1_000, reserved=900_000))
    assert isinstance(taken, budget.Taken)
    budget.step(state, NS, budget.Settle(taken.entry, 1_000))
    assert state.tokens.charging.refuted(budget.Charging.ESTIMATE, 100_000)
    change(state, NS, 0, 100_000)
    assert not state.tokens.charging.refuted(budget.Charging.ESTIMATE, 100_000)
    assert not state.tokens.charging.refuted(budget.Charging.SETTLE, 100_000)


def test_a_429_still_closes_the_account() -> None:
    """Other limits open no gate."""
    state = opened(50)
    now_ns, entry = send(state, 0)
    budget.step(state, now_ns, budget.Refuse(entry, 30 * NS, 0.0))
    change(state, now_ns, 600)
    assert send(state, now_ns)[0] >= now_ns + 30 * NS


def test_where_nothing_was_sent_a_pace_to_begin_with_is_kept() -> None:
    """After a reboot nobody knows of the last minute; other limits do not make that better."""
    state = budget.State(budget.Limits(50, 0))
    budget.step(state, 0, budget.Open(past=None, jobs=10))
    change(state, 0, 60)
    assert slot_of(state, 0).at_ns >= interval_ns(60) - NS // 20


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 50), st.integers(0, 60)), min_size=1, max_size=8))
def test_no_minute_holds_more_than_the_limit_of_its_last_send(phases: list[tuple[int, int, int]]) -> None:
    """Any limits, one after another, after any number of sends and pauses: promise 4 at each send, by the limit then."""
    state = opened(10)
    now_ns, times = 0, []
    for rpm, count, pause in phases:
        now_ns += pause * NS
        change(state, now_ns, rpm)
        for at_ns in sends_from(state, now_ns, count):
            times.append(at_ns)
            assert sum(earlier > at_ns - SAFE_WINDOW_NS for earlier in times) <= rpm
            now_ns = at_ns


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(0, 60)), min_size=1, max_size=8))
def test_no_minute_holds_more_tokens_than_the_limit_of_its_last_send(phases: list[tuple[int, int, int]]) -> None:
    """The same of tokens, each request a twentieth of the largest limit; one that is more than a minute's goes alone."""
    state = opened(0, 1_000)
    now_ns, times = 0, []
    for thousands, count, pause in phases:
        now_ns += pause * NS
        change(state, now_ns, 0, thousands * 1_000)
        for at_ns in sends_from(state, now_ns, count, 1_000):
            times.append(at_ns)
            assert sum(earlier > at_ns - SAFE_WINDOW_NS for earlier in times) <= thousands
            now_ns = at_ns


# ------------------------------------------------------------------------------------------------------ several processes


def relimit(crowd: Crowd, process: Process, at_ns: int, rpm: int) -> None:
    crowd.at(at_ns, lambda: process.ask(budget.Change(budget.Limits(rpm, 0))))


@pytest.mark.parametrize("rpm", [50, 7_200])
def test_a_lowered_limit_holds_for_all_who_share_the_account(rpm: int) -> None:
    """One process is told; from then on no minute that ends later holds more, also where the account goes round in leases."""
    crowd = Crowd()
    first = crowd.process("a", rpm)
    crowd.process("b", rpm)
    relimit(crowd, first, 30 * NS, rpm // 5)
    crowd.run(160 * NS)
    times = [at_ns for at_ns, _, _ in crowd.sends]
    later = [number for number, at_ns in enumerate(times) if at_ns > 30 * NS + NS // 4]
    assert all(times[number] - times[number - rpm // 5] >= SAFE_WINDOW_NS for number in later)
    assert len(later) >= 0.9 * rpm // 5
    assert crowd.counts(100 * NS)["b"] > 0
    assert any("smaller limits" in said for said in crowd.said)  # to the other one


def test_a_raised_limit_is_that_of_all_only_where_all_have_it() -> None:
    """The smallest holds; once both are told, both go faster."""
    crowd = Crowd()
    processes = [crowd.process(name, 60) for name in "ab"]
    relimit(crowd, processes[0], 120 * NS, 600)
    relimit(crowd, processes[1], 240 * NS, 600)
    crowd.run(360 * NS)
    assert crowd.counts(130 * NS, 190 * NS).total() <= 60
    assert crowd.counts(250 * NS, 310 * NS).total() >= 500


def test_a_limit_that_is_changed_while_the_file_is_away() -> None:
    """Each keeps to its share of what it is told; back at the file, all of it holds again."""
    crowd = Crowd()
    assert isinstance(crowd.file, MemoryFile)
    first = crowd.process("a", 60)
    crowd.process("b", 60)
    crowd.run(60 * NS)
    crowd.file.broken = True
    relimit(crowd, first, 70 * NS, 20)
    crowd.run(300 * NS)
    assert 8 <= crowd.counts(200 * NS, 260 * NS)["a"] <= 10
    crowd.file.broken = False
    crowd.run(300 * NS + 2 * RETRY_NS + 2 * MINUTE)
    assert crowd.counts(crowd.now_ns - MINUTE).total() <= 20
