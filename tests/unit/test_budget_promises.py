"""What the budget promises whatever its holders, its server and its clock do: any history, one event at a time."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner import budget
from batchrunner.budget.charging import Charging
from batchrunner.budget.pacer import LATENESS_NS, NS, SAFE_WINDOW_NS, WINDOW_NS, interval_ns
from tests.unit.budget_histories import HISTORIES, LIMITS, History, played

FEW = settings(max_examples=60, deadline=None)
JOBS = st.sampled_from((1, 40, 10**6))


def hints_of(number: int) -> budget.Hints:
    """Of any kind: lies, limits of a day or of a second, nothing."""
    numbers = (None, 0, 1, 25, 49, 14_400, 2**63)
    return budget.Hints(request_limit=numbers[number % 7], requests_left=numbers[number // 7 % 7])


@given(limits=LIMITS, actions=HISTORIES, jobs=JOBS)
@FEW
def test_B01_no_minute_holds_more_sends_than_the_limit(
    limits: budget.Limits, actions: list[tuple[str, int, int]], jobs: int
) -> None:
    """Fast starts, bursts, tries for more and slots of several holders included; nor is the rate ever above the limit."""
    history = History(limits, jobs=jobs)
    for action in actions:
        history.play(*action)
        state = history.state
        assert 1 <= state.requests.rpm(max(1, limits.rpm)) <= max(1, limits.rpm)
        assert 1 <= state.tokens.ceiling.tpm(max(1, limits.tpm)) <= max(1, limits.tpm)
    if limits.rpm:
        for one in history.sent:
            assert len(history.in_minute(before_ns=one.sent_ns, length_ns=SAFE_WINDOW_NS)) <= limits.rpm


@given(actions=HISTORIES, changes=st.lists(LIMITS, min_size=1, max_size=5))
@FEW
def test_B01_a_limit_that_is_changed_holds_from_then_on(
    actions: list[tuple[str, int, int]], changes: list[budget.Limits]
) -> None:
    """To a smaller one, to a larger one, to none and back: no send makes a minute fuller than the limit of the moment."""
    history = History(changes[0])
    for number, action in enumerate(actions):
        history.state.limits = changes[number * len(changes) // len(actions)]
        before = len(history.sent)
        history.play(*action)
        rpm = history.state.limits.rpm
        for one in history.sent[before:]:
            assert not rpm or len(history.in_minute(before_ns=one.sent_ns)) <= rpm


@pytest.mark.parametrize("way", Charging)
@given(actions=HISTORIES, tpm=st.sampled_from((1, 1_000, 10_000)))
@FEW
def test_B02_tokens_of_a_minute_are_within_the_limit(way: Charging, actions: list[tuple[str, int, int]], tpm: int) -> None:
    """As they are charged when a request goes out, itself included; but for one that is larger than a minute, and goes alone."""
    history = History(budget.Limits(0, tpm))
    belief = history.state.tokens.charging
    belief.laxer_ns = 10**18
    for action in actions:
        belief.way = way
        # What is accepted of requests larger than a minute would refute it.
        belief.settle_accepted = belief.estimate_accepted = 0
        before = len(history.sent)
        history.play(*action)
        if len(history.sent) > before and belief.way is way:
            charged = [one.tokens(way) for one in history.in_minute(before_ns=history.now_ns)]
            assert sum(charged) <= tpm or sum(tokens > 0 for tokens in charged) == 1
    for one in history.sent:
        minute = history.in_minute(before_ns=one.sent_ns)
        surprises = sum(max(0, (sent.used or 0) - sent.predicted) for sent in minute)
        assert sum(sent.tokens(Charging.ACTUAL) for sent in minute) <= max(tpm, *(sent.predicted for sent in minute)) + surprises


@pytest.mark.parametrize("way", Charging)
@given(limits=LIMITS, actions=HISTORIES, jobs=JOBS)
@FEW
def test_B03_all_sums_equal_a_naive_ledger(
    way: Charging, limits: budget.Limits, actions: list[tuple[str, int, int]], jobs: int
) -> None:
    """After each event; told of twice, an end changes nothing; and nothing is ever less than none."""
    history = History(limits, jobs=jobs)
    history.state.tokens.charging.way = way
    for action in actions:
        ended = {one.entry for one in history.sent} - set(history.state.in_flight)
        for entry in ended:
            history.step(budget.Settle(entry, 10**6))
            history.step(budget.Refuse(entry, 10**9, 0.5))
            history.step(budget.Lost(entry))
        history.play(*action)
        history.step(budget.Return(-1))
        window, buckets = history.state.window, history.state.tokens.buckets
        known = history.in_minute(before_ns=history.now_ns, length_ns=SAFE_WINDOW_NS)
        assert (window.requests, window.refused) == (len(known), sum(one.refused for one in known))
        for way in Charging:
            assert window.load(way) == sum(one.tokens(way) for one in known)
            assert window.load(way) == sum(window.load(way, at_ns) - window.load(way, at_ns + 1) for at_ns in moments(history))
        assert {one.entry for one in history.flying} == set(history.state.in_flight)
        assert min(buckets.used, buckets.last, history.state.requests.missing) >= 0


def moments(history: History) -> set[int]:
    return {one.sent_ns for one in history.sent}


@given(rpm=st.integers(1, 100), tpm=st.sampled_from((0, 2_000)), refusals=st.lists(st.integers(0, 3), min_size=5, max_size=40))
@FEW
def test_B04_every_request_goes_in_the_end(rpm: int, tpm: int, refusals: list[int]) -> None:
    """However often each is refused; and no wait is longer than a closed gate's, or two minutes of the clock."""
    history = History(budget.Limits(rpm, tpm))
    for times in refusals:
        for number in range(times + 1):
            one = history.send(100 * times, 250 * times)
            history.now_ns += NS // 5
            history.end("settle" if number == times else "refuse", one, 1)
    assert not history.flying
    for moment in history.moments:
        if isinstance(moment.decision, budget.Slot | budget.Later):
            assert moment.decision.at_ns >= moment.now_ns
            assert moment.decision.at_ns - moment.now_ns <= 2 * WINDOW_NS + NS


@pytest.mark.parametrize("rpm", [1, 2, 3, 50])
@pytest.mark.parametrize("holders", [1, 2, 4])
def test_B04_holders_of_slots_do_not_wait_for_each_other(rpm: int, holders: int) -> None:
    """However many hold a slot, and however few the limit allows: together they send all that it does."""
    history = History(budget.Limits(rpm, 0))
    turns: list[tuple[int, int, int | None]] = [(0, holder, None) for holder in range(holders)]
    while turns[0][0] <= 600 * NS:
        now_ns, holder, slot = turns.pop(0)
        history.now_ns = now_ns
        if slot is None:
            given = history.reserve()
            turns.append((given.at_ns, holder, given.slot))
        else:
            match history.take(slot, 0, 0):
                case budget.Later(at_ns):
                    turns.append((at_ns, holder, slot))
                case _:
                    turns.append((now_ns, holder, None))
        turns.sort(key=lambda turn: turn[:2])
    assert 600 * NS // interval_ns(rpm) <= len(history.sent) <= 600 * NS // interval_ns(rpm) + 1


@given(rpm=st.sampled_from((2, 50, 600)), flight=st.integers(1, 30), numbers=st.lists(st.integers(0, 48), min_size=30))
@FEW
def test_B05_a_flight_of_429s_is_reacted_to_once(rpm: int, flight: int, numbers: list[int]) -> None:
    """Whatever their headers say: what is missing of the limit, and what else is believed, change with the first."""
    history = History(budget.Limits(rpm, 0))
    history.state.requests.missing = rpm // 2
    history.state.requests.next_ns = 10**18
    for _ in range(flight):
        history.send(0, 0)
    history.now_ns += NS
    seen = [history.state.requests.missing]
    for one, number in zip(tuple(history.flying), numbers, strict=False):
        history.now_ns += 1
        history.end("refuse", one, 1, hints_of(number))
        seen.append(history.state.requests.missing)
    assert sum(later != earlier for earlier, later in itertools.pairwise(seen)) <= 1
    assert history.state.gate.consecutive == 1


@given(limits=LIMITS, actions=HISTORIES, jobs=JOBS)
@FEW
def test_B06_a_429_never_makes_anything_laxer(limits: budget.Limits, actions: list[tuple[str, int, int]], jobs: int) -> None:
    """Neither the rate, nor a burst that is known, nor the tokens, nor the way they are charged, whatever its headers say."""
    history = History(limits, jobs=jobs)
    for kind, pause_ns, number in actions:
        if kind != "refuse" or not history.flying:
            history.play(kind, pause_ns, number)
            continue
        history.now_ns += pause_ns
        history.step(budget.Return(-1))  # what time brings of itself
        before = laxness(history.state)
        history.end("refuse", history.flying[number % len(history.flying)], number, hints_of(number))
        assert all(now <= then for now, then in zip(laxness(history.state), before, strict=True))


def laxness(state: budget.State) -> tuple[int, ...]:
    """Each the greater, the more is let through."""
    pacer, tokens = state.pacer, state.tokens
    return (
        state.requests.rpm(max(1, state.limits.rpm)),
        pacer.fast_left,
        pacer.credit,
        pacer.burst if pacer.burst_ends else 10**9,
        tokens.ceiling.thousandths,
        -tokens.charging.way,
        -tokens.buckets.believed,
        -state.gate.until_ns,
    )


@pytest.mark.parametrize("way", Charging)
@given(actions=HISTORIES, loads=st.tuples(st.integers(0, 3_000), st.integers(0, 3_000)))
@FEW
def test_B07_what_an_accepted_request_refutes_is_never_believed(
    way: Charging, actions: list[tuple[str, int, int]], loads: tuple[int, int]
) -> None:
    """Whatever happens after: once more than 2.1 times the limit was let in by some way, that is not the server's."""
    history = History(budget.Limits(0, 1_000))
    belief = history.state.tokens.charging
    belief.settle_accepted, belief.estimate_accepted = loads
    belief.way = way if loads[way - 1] < 2_100 else Charging.ACTUAL
    for action in actions:
        history.play(*action)
        accepted = {Charging.SETTLE: belief.settle_accepted, Charging.ESTIMATE: belief.estimate_accepted}
        assert accepted.get(belief.way, 0) < 2_100


@pytest.mark.parametrize("rpm", [1, 50, 600])
@given(stalls=st.lists(st.sampled_from((0, 0, 0, NS // 100, 2 * NS, 600 * NS)), min_size=2, max_size=60))
@FEW
def test_B09_after_a_stall_or_a_sleep_nothing_is_made_up_for(rpm: int, stalls: list[int]) -> None:
    """Two seconds or ten minutes late: the next one is a pace behind it, but for the credit for lateness. No wait is negative."""
    history = History(budget.Limits(rpm, 0))
    for number, stall_ns in enumerate(stalls):
        slot = history.reserve()
        assert slot.at_ns >= history.now_ns
        history.now_ns = max(history.now_ns, slot.at_ns) + (stall_ns if number % 2 else 0)
        if isinstance(history.take(slot.slot, 0, 0), budget.Stale):
            history.send(0, 0)
        history.now_ns += 0 if number % 2 else stall_ns
    gaps = [later.sent_ns - earlier.sent_ns for earlier, later in itertools.pairwise(history.sent)]
    assert min(gaps) >= interval_ns(rpm) - LATENESS_NS


@given(pauses=st.lists(st.sampled_from((0, 0, 0, 0, 2 * NS, 20 * NS, 600 * NS)), min_size=2, max_size=80))
@FEW
def test_B09_no_burst_is_larger_than_one_that_is_known_to_pass(pauses: list[int]) -> None:
    """Eight at once are known to flow in again: no time t holds more than eight and what the pace lets through in t."""
    state = budget.State(budget.Limits(50, 0))
    state.pacer.burst, state.pacer.burst_ends, state.pacer.burst_flows = 8, True, True
    history = History(state.limits, jobs=60, state=state)
    for pause_ns in pauses:
        history.now_ns += pause_ns
        history.send(0, 0)
    times = [one.sent_ns for one in history.sent]
    for first, last in itertools.combinations(range(len(times)), 2):
        flown_in = (times[last] - times[first]) // (interval_ns(50) - LATENESS_NS)
        assert last - first + 1 <= 8 + flown_in + 1


@given(limits=LIMITS, actions=HISTORIES, jobs=JOBS)
@FEW
def test_B13_a_trace_that_is_played_again_decides_the_same(
    limits: budget.Limits, actions: list[tuple[str, int, int]], jobs: int
) -> None:
    """From a fresh state that is written and read at every step, as a store that is shared does."""
    history = played(limits, actions, jobs=jobs)
    state = budget.State(limits)
    for moment in history.moments:
        event = msgspec.json.decode(msgspec.json.encode(moment.event), type=type(moment.event))
        assert budget.step(state, moment.now_ns, event) == moment.decision
        state = msgspec.json.decode(msgspec.json.encode(state), type=budget.State)
    assert state == history.state
