"""The budget's parts by themselves, to the nanosecond: pacers, log and gate."""

from __future__ import annotations

import itertools

import pytest

from batchrunner import budget
from batchrunner.budget.charging import Charging
from batchrunner.budget.gate import CANARY_GRACE_NS, Gate
from batchrunner.budget.pacer import LATENESS_NS, NS, SAFE_WINDOW_NS, RequestPacer, TokenPacer, interval_ns
from batchrunner.budget.steps import SLOT_LIFE_NS
from batchrunner.budget.window import CELL_NS, CELL_THRESHOLD, Cell, Window
from tests.unit.budgets import opened, send, slot_of, take

#: of a token where 6,025 may flow in a minute of 60.25 s
TOKEN_NS = NS // 100
TPM = 6_025

# Pacers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rpm", [1, 7, 50, 6_000, 100_000])
def test_the_pace_is_the_limit_to_the_nanosecond(rpm: int) -> None:
    """Never faster than the limit, and slower by less than a nanosecond a request."""
    assert SAFE_WINDOW_NS < interval_ns(rpm) * rpm <= SAFE_WINDOW_NS + rpm


@pytest.mark.parametrize(("rpm", "ease"), [(50, 8), (5, 1)])
def test_a_fast_start_eases_off_to_the_pace(rpm: int, ease: int) -> None:
    """The k-th gap is T / 5 (1 + k / 0.16 N); after as many sends as it was given, the pace is T."""
    pacer = RequestPacer()
    pacer.start_fast(4)
    due = [0]
    for _ in range(6):
        pacer.advance(due[-1], rpm)
        due.append(pacer.due_ns)
    pace = interval_ns(rpm)
    expected = [pace * ease // (5 * (ease + made)) for made in range(4)] + [pace, pace]
    assert [later - earlier for earlier, later in itertools.pairwise(due)] == expected


def test_a_fast_start_that_is_stopped_goes_on_at_the_pace() -> None:
    """From the very next send on; and another one begins from its beginning."""
    pacer = RequestPacer()
    pacer.start_fast(50)
    pacer.advance(0, 50)
    pacer.stop_fast(8)
    before_ns = pacer.due_ns
    pacer.advance(before_ns, 50)
    assert pacer.due_ns - before_ns == interval_ns(50)


def test_what_a_fast_start_found_out_is_used_by_the_next() -> None:
    """Three quarters of what went through before a refusal goes at once, and then the pace."""
    pacer = RequestPacer()
    pacer.start_fast(50)
    pacer.stop_fast(12)
    pacer.start_fast(50)
    gaps = []
    for _ in range(11):
        before_ns = pacer.due_ns
        pacer.advance(before_ns, 50)
        gaps.append(pacer.due_ns - before_ns)
    assert gaps == [interval_ns(50) // 50] * 9 + [interval_ns(50)] * 2


def test_a_burst_that_was_never_refused_goes_at_once_the_next_time() -> None:
    """And what is beyond it is tried at the speed of a fast start."""
    pacer = RequestPacer()
    pacer.start_fast(4)
    for at_ns in range(4):
        pacer.advance(at_ns, 50)
    pacer.accepted()
    pacer.start_fast(6)
    gaps = []
    for _ in range(6):
        before_ns = pacer.due_ns
        pacer.advance(before_ns, 50)
        gaps.append(pacer.due_ns - before_ns)
    pace = interval_ns(50)
    assert gaps == [pace // 50] * 4 + [pace * 8 // (5 * (8 + made)) for made in (4, 5)]


def test_a_full_minute_makes_a_fast_start_begin_gently_again() -> None:
    """Whether a second burst is let through is not known by the first one. Refused there, the first one stays known."""
    pacer = RequestPacer()
    pacer.start_fast(100)
    for at_ns in range(50):
        pacer.advance(at_ns, 50)
    pacer.accepted()
    pacer.advance(SAFE_WINDOW_NS, 50)
    assert (pacer.fast_made, pacer.fast_minutes, pacer.burst) == (1, 1, 50)
    pacer.stop_fast(51)
    pacer.start_fast(100)
    assert (pacer.burst, pacer.fast_left) == (50, 50)


def test_what_a_send_was_too_late_is_not_made_up_for() -> None:
    """The next one is due a pace behind it, but for the credit for lateness; in a fast start, where its plan had it."""
    pacer = RequestPacer()
    pacer.delayed(10 * NS, 50)
    assert pacer.due_ns == 10 * NS - LATENESS_NS + interval_ns(50)
    fast = RequestPacer()
    fast.start_fast(1)
    fast.delayed(10 * NS, 50)
    assert fast.due_ns == 0


def test_tokens_flow_in_at_their_limit() -> None:
    """A quarter of a minute's at once, then each when it has been paid for."""
    pacer = TokenPacer()
    pacer.take(NS, 2_000, TPM)
    assert pacer.empty_ns == NS + 2_000 * TOKEN_NS
    pacer.take(NS, 100, TPM)
    assert pacer.empty_ns == NS + 2_100 * TOKEN_NS
    assert pacer.earliest(NS, 500, TPM) == NS + 2_600 * TOKEN_NS - SAFE_WINDOW_NS // 4
    assert pacer.earliest(NS, 3_000, TPM) == NS + 2_100 * TOKEN_NS


def test_tokens_are_corrected_to_what_was_used() -> None:
    """Up or down by the difference; a figure that makes no sense costs a minute at most."""
    pacer = TokenPacer()
    pacer.take(0, 500, TPM)
    pacer.correct(NS, 300, TPM)
    assert pacer.empty_ns == 800 * TOKEN_NS
    pacer.correct(NS, -700, TPM)
    assert pacer.empty_ns == 100 * TOKEN_NS
    pacer.correct(NS, 10**15, TPM)
    assert pacer.empty_ns == NS + SAFE_WINDOW_NS


# Log -----------------------------------------------------------------------------------------------------------------


def test_sends_that_share_a_cell_are_all_in_it() -> None:
    """Above the threshold, those of 250 ms are one cell, with its requests, its tokens and the time of its last."""
    window = Window()
    numbers = [window.add(at_ns, 1, 2) for at_ns in range(CELL_THRESHOLD)]
    last_ns = CELL_THRESHOLD - 1 + CELL_NS - 1
    assert [window.add(at_ns, tokens, 2 * tokens) for at_ns, tokens in ((CELL_THRESHOLD, 10), (last_ns, 100))] == [
        numbers[-1]
    ] * 2
    assert window.cells[-1] == Cell(CELL_THRESHOLD - 1, last_ns, 3, 0, 111, 222, 222)
    assert window.add(last_ns + 1, 1_000, 2_000) == numbers[-1] + 1
    assert (window.requests, window.used) == (CELL_THRESHOLD + 3, CELL_THRESHOLD + 1_110)
    window.expire(CELL_THRESHOLD + SAFE_WINDOW_NS)
    assert (window.requests, window.used) == (4, 1_111)


def test_below_the_threshold_each_send_has_a_cell_of_its_own() -> None:
    """However close together they are."""
    window = Window()
    assert [window.add(0, 0, 0) for _ in range(CELL_THRESHOLD)] == list(range(CELL_THRESHOLD))


def test_room_comes_with_the_send_that_makes_enough_of_it() -> None:
    """Where two places are wanted, the second oldest must leave; where eleven tokens of two times ten are, the second too."""
    window = Window()
    window.add(0, 10, 10)
    window.add(NS, 10, 10)
    assert window.room_for_request_ns(2 * NS, 2, 2, 0) == SAFE_WINDOW_NS
    assert window.room_for_request_ns(2 * NS, 2, 2, 1) == NS + SAFE_WINDOW_NS
    assert window.room_for_tokens_ns(2 * NS, Charging.ACTUAL, 10, 20) == SAFE_WINDOW_NS
    assert window.room_for_tokens_ns(2 * NS, Charging.ACTUAL, 11, 20) == NS + SAFE_WINDOW_NS


# Gate ----------------------------------------------------------------------------------------------------------------


def refused_at(at_ns: int, *, sent_ns: int = 0, random: float = 0.0) -> Gate:
    gate = Gate()
    assert gate.refused(at_ns, 1, sent_ns, NS, None, random)
    return gate


def test_only_the_first_send_after_a_closure_is_its_canary() -> None:
    """The next one does not take its place."""
    gate = refused_at(NS // 2)
    gate.taken(2 * NS, 1)
    gate.taken(3 * NS, 2)
    assert gate.canary == 1
    assert gate.until_ns == 2 * NS + NS // 2


@pytest.mark.parametrize(
    ("took_ns", "grace_ns"), [([NS // 5], NS // 5), ([NS, NS // 5], 3 * NS // 4), ([9 * NS], CANARY_GRACE_NS)]
)
def test_a_canary_is_alive_once_it_is_out_for_as_long_as_refusals_take(took_ns: list[int], grace_ns: int) -> None:
    """The longest of late, which counts for less with each that follows; never longer than two seconds."""
    gate = Gate()
    now_ns = 0
    for flight_ns in took_ns:
        sent_ns, now_ns = now_ns + NS, now_ns + NS + flight_ns
        assert gate.refused(now_ns, 1, sent_ns, NS, None, 0.0)
    gate.taken(gate.until_ns, 2)
    assert gate.until_ns == now_ns + NS * len(took_ns) + grace_ns


@pytest.mark.parametrize(("entry", "canaries"), [(7, 1), (8, 0)])
def test_canaries_refused_are_counted(entry: int, canaries: int) -> None:
    """A 429 to the canary is one more; to another request, which may only have been too close to it, none."""
    gate = refused_at(NS)
    gate.taken(3 * NS, 7)
    assert gate.refused(4 * NS, entry, 3 * NS, NS, None, 0.0)
    assert gate.canaries_refused == canaries


def test_what_was_sent_when_the_gate_closed_belongs_to_the_burst() -> None:
    """A 429 to a request of the very nanosecond is no second reaction, and its being taken ends no streak."""
    gate = refused_at(5 * NS)
    until_ns = gate.until_ns
    assert not gate.refused(6 * NS, 1, 5 * NS, NS, None, 0.0)
    gate.accepted(6 * NS, 9, 5 * NS)
    assert (gate.consecutive, gate.until_ns) == (1, until_ns)
    gate.accepted(6 * NS, 9, 5 * NS + 1)
    assert gate.consecutive == 0


def test_a_streak_ends_with_anything_sent_after_its_first_rejection() -> None:
    """Also with what was sent before its latest: answers take long, 429s do not."""
    gate = refused_at(0, sent_ns=0)
    assert gate.refused(4 * NS, 1, NS, NS, None, 0.0)
    gate.accepted(5 * NS, 9, 2 * NS)
    assert gate.consecutive == 0


def test_jitter_is_up_to_half_of_the_backoff() -> None:
    """U(1, 1.5) times it."""
    assert [refused_at(0, random=draw).until_ns for draw in (0.0, 0.5, 0.9)] == [NS, NS * 5 // 4, NS * 29 // 20]


# Steps ---------------------------------------------------------------------------------------------------------------


def test_an_echo_of_a_burst_voids_no_slot_that_was_given_since() -> None:
    """The slot after the backoff is good, though a second 429 of the burst comes in meanwhile."""
    state = opened(rpm=0)
    entries = [send(state, 0)[1] for _ in range(2)]
    budget.step(state, NS, budget.Refuse(entries[0], None, 0.0))
    slot = slot_of(state, NS)
    budget.step(state, NS + 1, budget.Refuse(entries[1], None, 0.0))
    assert isinstance(budget.step(state, slot.at_ns, take(slot.slot, 0)), budget.Taken)


def test_a_request_knows_whether_it_went_alone() -> None:
    """Alone is what found no tokens of others in the window."""
    state = opened(rpm=0, tpm=1_000)
    taken = [budget.step(state, NS, take(slot_of(state, NS).slot, 10)) for _ in range(2)]
    assert [decision.alone for decision in taken if isinstance(decision, budget.Taken)] == [True, False]


def test_each_request_is_settled_as_itself() -> None:
    """Of two in flight, the one that is named is corrected, and the other one later on."""
    state = opened(rpm=0, tpm=1_000)
    _, first = send(state, 0, 100)
    _, second = send(state, 0, 100)
    budget.step(state, NS, budget.Settle(second, 1))
    assert state.window.used == 101
    budget.step(state, NS, budget.Settle(first, 2))
    assert state.window.used == 3


def test_returning_a_slot_twice_is_harmless() -> None:
    """As is returning one that a 429 has voided."""
    state = opened(rpm=50)
    slot = slot_of(state, 0)
    for _ in range(2):
        budget.step(state, 0, budget.Return(slot.slot))
    assert not state.slots


def test_statistics_name_the_limits_and_how_long_the_gate_is_closed() -> None:
    """In seconds from now, whenever now is."""
    state = opened(rpm=0, tpm=1_000)
    _, entry = send(state, 0, 400)
    budget.step(state, 100 * NS, budget.Refuse(entry, None, 0.5))
    found = budget.statistics(state, 100 * NS + NS // 4)
    assert (found.rpm_limit, found.tpm_limit, found.closed_for_seconds) == (0, 1_000, 1.0)
    assert budget.statistics(state, 200 * NS).closed_for_seconds == 0


# Borders -------------------------------------------------------------------------------------------------------------


def test_three_minutes_of_jobs_still_start_fast() -> None:
    """One more does not."""
    assert (opened(rpm=50, jobs=150).pacer.fast_left, opened(rpm=50, jobs=151).pacer.fast_left) == (150, 0)


def test_a_429_to_the_last_of_a_fast_start_is_not_taken_for_a_lower_limit() -> None:
    """All has been sent by the time it comes: it says how many go through at once, and nothing of the rate."""
    state = opened(rpm=50, jobs=8)
    entries = [send(state, 0)[1] for _ in range(8)]
    assert state.pacer.fast_left == 0
    budget.step(state, 5 * NS, budget.Refuse(entries[-1], None, 0.0))
    assert (state.pacer.burst_ends, state.pacer.burst, state.requests.missing) == (True, 5, 0)


def test_a_429_to_what_was_sent_at_the_pace_after_a_fast_start_lowers_the_rate() -> None:
    """As it does a second time to what was: a fast start is over with its first refusal."""
    state = opened(rpm=50, jobs=2)
    sent = [send(state, at_ns) for at_ns in (0, 0, 30 * NS)]
    budget.step(state, 31 * NS, budget.Refuse(sent[2][1], None, 0.0))
    assert (state.pacer.burst_ends, state.requests.missing) == (False, 1)
    again = opened(rpm=50, jobs=2)
    entries = [send(again, 0)[1] for _ in range(2)]
    again.pacer.stop_fast(1)
    budget.step(again, NS, budget.Refuse(entries[1], None, 0.0))
    assert again.requests.missing == 1


def test_a_past_send_has_left_the_window_when_it_is_its_length_old() -> None:
    """Those behind it count on."""
    state = budget.State(budget.Limits(50, 0))
    past = (budget.PastSend(0, 1), budget.PastSend(1, 1))
    budget.step(state, SAFE_WINDOW_NS, budget.Open(past=past, jobs=1))
    assert (state.window.requests, state.window.cells[0].first_ns) == (1, 1)


def test_a_send_leaves_the_window_to_the_nanosecond() -> None:
    window = Window()
    window.add(0, 10, 10)
    window.expire(SAFE_WINDOW_NS - 1)
    assert window.requests == 1
    window.expire(SAFE_WINDOW_NS)
    assert (window.requests, window.used, window.cells) == (0, 0, [])


def test_a_slot_lives_for_three_seconds() -> None:
    """To the last nanosecond of them."""
    for late_ns, good in ((SLOT_LIFE_NS, True), (SLOT_LIFE_NS + 1, False)):
        state = opened(rpm=50)
        slot = slot_of(state, 0)
        decision = budget.step(state, slot.at_ns + late_ns, take(slot.slot, 0))
        assert isinstance(decision, budget.Taken) is good
