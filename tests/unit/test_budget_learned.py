"""What is learned of a server is kept over silence, runs and reboots: how it counts for ever, how much it lets through not."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from batchrunner import budget
from batchrunner.budget.charging import LAXER_AFTER_NS, Belief, Charging
from batchrunner.budget.effective import RequestCeiling, TokenCeiling
from batchrunner.budget.learned import EFFECTIVE_FOR_NS
from batchrunner.budget.pacer import NS, SAFE_WINDOW_NS, RequestPacer, interval_ns
from batchrunner.budget.tokens import Tokens
from batchrunner.budget.two_bucket import TwoBuckets
from tests.unit.budgets import opened, send

LIMITS = budget.Limits(50, 1_000)


def worn() -> budget.State:
    """A state in which all is other than at first."""
    state = budget.State(
        LIMITS,
        pacer=RequestPacer(10**15, 3, 4, 5, 8, burst_ends=True, burst_flows=True, credit=7, fast_until_ns=9),
        requests=RequestCeiling(20, 50, 3, 30, 8, 10**15, 25, 10**15, 10**15),
        tokens=Tokens(
            charging=Belief(Charging.ESTIMATE, 10, 20, 10**15, 2),
            ceiling=TokenCeiling(900, 10**15),
            buckets=TwoBuckets(5, believed=True, refuted=True, began_ns=10**15, used=6, last=7, since_ns=9),
        ),
        began_ns=10**15,
        seen_ns=10**15,
        slots={1: 10**15},
        next_slot=2,
        next_entry=9,
    )
    state.window.add(10**15, 5, 5)
    state.gate.refused(10**15, 1, 10**15, NS, None, 0.0)
    return state


def test_after_a_reboot_only_what_does_not_depend_on_the_clock_is_left() -> None:
    """How the server counts: its burst, its spacing, its way of charging, its buckets."""
    kept = budget.after_reboot(worn(), NS)
    assert kept == budget.State(
        LIMITS,
        pacer=RequestPacer(burst=8, burst_ends=True, burst_flows=True),
        requests=RequestCeiling(20, 50, 3, next_ns=181 * NS),
        tokens=Tokens(
            charging=Belief(Charging.ESTIMATE, 10, 20, NS + 4 * LAXER_AFTER_NS, 2),
            buckets=TwoBuckets(believed=True, refuted=True),
        ),
    )


def test_what_was_closed_is_forgotten_with_a_reboot() -> None:
    """A rate at which nothing at all was let through was somebody else's doing."""
    state = worn()
    state.requests.closed = True
    assert budget.after_reboot(state, NS).requests == RequestCeiling(0, 50, 3, closed=True)


def test_after_ten_minutes_of_silence_the_next_run_finds_all_of_the_limit() -> None:
    """To the nanosecond, from when anybody last asked; and what is let through is measured from its beginning."""
    for silence_ns, forgotten in ((EFFECTIVE_FOR_NS, False), (EFFECTIVE_FOR_NS + 1, True)):
        state = opened(50, 1_000)
        budget.step(state, NS, budget.Reserve())
        state.requests = RequestCeiling(20, 50, next_ns=10**18)
        state.tokens.ceiling = TokenCeiling(900, 10**18)
        state.tokens.charging = Belief(Charging.SETTLE, laxer_ns=10**18)
        budget.step(state, NS + silence_ns, budget.Open(past=(), jobs=10**6, wall_offset_ns=3))
        assert state.requests.missing == (0 if forgotten else 20)
        assert state.tokens.ceiling.thousandths == (1_000 if forgotten else 900)
        assert state.tokens.charging.way is Charging.SETTLE
        assert state.tokens.charging.laxer_ns == (NS + silence_ns + LAXER_AFTER_NS if forgotten else 10**18)
        assert state.began_ns == (NS + silence_ns if forgotten else 0)
        assert state.tokens.buckets.wall_offset_ns == 3


@pytest.mark.parametrize("past", [(), None])
def test_a_fast_start_that_nobody_came_to_the_end_of_is_over(past: tuple[budget.PastSend, ...] | None) -> None:
    """A large file goes at its pace, though a small one was killed a moment after its start."""
    state = opened(50, jobs=40)
    send(state, 0)
    budget.step(state, 100 * NS, budget.Open(past=past, jobs=10**6))
    first_ns, _ = send(state, 100 * NS)
    second_ns, _ = send(state, first_ns)
    assert second_ns - first_ns >= interval_ns(50) - NS // 20


def test_a_fast_start_goes_on_while_another_run_begins() -> None:
    state = opened(50, jobs=40)
    send(state, 0)
    budget.step(state, NS, budget.Open(past=(), jobs=10**6))
    assert state.pacer.fast_left == 39


# Time, limits and answers that nobody foresaw ---------------------------------------------------------------------------


def test_a_429_after_a_sleep_teaches_nothing_of_bursts() -> None:
    """Its request has left the window: how many went before it is not known, and the next small file starts as fast."""
    state = opened(50, jobs=40)
    _, entry = send(state, 0)
    budget.step(state, 600 * NS, budget.Refuse(entry, None, 0.0))
    assert (state.pacer.fast_left, state.pacer.burst, state.pacer.burst_ends) == (0, 0, False)
    assert state.requests.missing == 0


def test_a_429_of_a_fast_start_teaches_how_many_went_before_it() -> None:
    """Those behind it, and itself, are none of them."""
    state = opened(50, jobs=100)
    now_ns, entries = 0, []
    for _ in range(10):
        now_ns, entry = send(state, now_ns)
        entries.append(entry)
    budget.step(state, now_ns, budget.Refuse(entries[8], None, 0.0))
    assert (state.pacer.burst, state.pacer.burst_ends, state.pacer.burst_flows) == (6, True, True)


def test_a_single_429_after_a_quiet_minute_costs_a_single_request() -> None:
    """Nothing was let through of late because nothing was sent."""
    state = opened(50)
    now_ns, entry = send(state, 200 * NS)
    budget.step(state, now_ns + 1, budget.Refuse(entry, None, 0.0))
    assert state.requests.rpm(50) == 49


def test_an_answer_after_an_hour_harms_nothing() -> None:
    """Neither a usage nor a 429; and one for a request that nobody knows is none."""
    for end in (budget.Settle(1, 900), budget.Refuse(1, None, 0.5), budget.Lost(1), budget.Refuse(77, 10**18, 0.5)):
        state = opened(50, 1_000)
        send(state, 0, 500)
        budget.step(state, 3_600 * NS, end)
        assert (state.window.requests, state.window.refused, state.window.used, state.window.held) == (0, 0, 0, 0)
        assert state.tokens.buckets.load(3_600 * NS) == 0
        sent_ns, _ = send(state, 3_600 * NS, 500)
        assert sent_ns <= 3_602 * NS


@pytest.mark.parametrize("end", [lambda entry: budget.Settle(entry, 10), lambda entry: budget.Refuse(entry, None, 0.5)])
@pytest.mark.parametrize("before", [budget.Limits(50, 1_000), budget.Limits(0, 0)])
def test_a_limit_that_is_taken_away_or_set_while_requests_are_under_way(
    before: budget.Limits, end: Callable[[int], budget.Event]
) -> None:
    """What they took by the old one is not reckoned by the new one: none is none."""
    state = opened(before.rpm, before.tpm)
    now_ns, entry = send(state, 0, 900)
    after = budget.Limits(0, 0) if before.tpm else LIMITS
    state.limits = after
    budget.step(state, NS, end(entry))
    assert not state.tokens.buckets.refuted
    assert state.tokens.charging == Belief()
    assert send(state, NS, 900)[0] <= now_ns + 3 * NS


@pytest.mark.parametrize("rpm", [1, 50, 100_000])
@pytest.mark.parametrize("tpm", [0, 1, 2_000_000])
def test_a_storm_of_ten_thousand_429s_leaves_a_state_that_comes_back(rpm: int, tpm: int) -> None:
    """At the least limits and at large ones: it can be written, requests go on, and in the end all of the limit is back."""
    state = opened(rpm, tpm)
    now_ns = 0
    for number in range(10_000 if rpm == 50 else 1_000):
        state.gate.until_ns = now_ns  # nobody waits for the backoff
        now_ns, entry = send(state, now_ns, number % 2)
        budget.step(state, now_ns + NS // 5, budget.Refuse(entry, number % 2 * 10**15, 0.999))
        now_ns += NS // 5
    state = msgspec.json.decode(msgspec.json.encode(state), type=budget.State)
    assert 1 <= state.requests.rpm(rpm) <= rpm
    for _ in range(3):
        now_ns, entry = send(state, now_ns + 15 * 60 * NS, 1)
        budget.step(state, now_ns, budget.Settle(entry, 1))
    budget.step(state, now_ns + 30 * 86_400 * NS, budget.Return(0))
    assert (state.requests.rpm(rpm), state.tokens.ceiling.thousandths, state.gate.consecutive) == (rpm, 1_000, 0)


def test_a_state_of_an_earlier_shape_is_read() -> None:
    """What it does not say is as at first."""
    whole = msgspec.json.decode(msgspec.json.encode(worn()))
    for part in ("pacer", "requests", "gate", "tokens"):
        whole[part] = {}
    found = msgspec.json.decode(msgspec.json.encode(whole), type=budget.State)
    assert (found.pacer, found.requests, found.tokens, found.seen_ns) == (RequestPacer(), RequestCeiling(), Tokens(), 10**15)
    assert send(found, 10**15 + SAFE_WINDOW_NS)[0] >= 10**15
