"""What 429s do to the budget: one reaction to a burst, a backoff, a canary."""

from __future__ import annotations

from batchrunner import budget
from batchrunner.budget.gate import CLOSED_AFTER, CLOSED_BACKOFF_MAX_NS, LONGEST_HINT_NS
from batchrunner.budget.pacer import LATENESS_NS, NS, interval_ns
from tests.unit.budgets import opened, send, slot_of, take


def test_one_reaction_to_a_burst() -> None:
    """Ten 429s to requests that were all sent before the first of them are one rejection."""
    state = opened(rpm=0)
    entries = [send(state, 0)[1] for _ in range(10)]
    for n, entry in enumerate(entries):
        budget.step(state, NS + n, budget.Refuse(entry, None, 0.5))
    assert state.gate.consecutive == 1


def test_the_gate_holds_everybody_and_lets_one_canary_out() -> None:
    """After a 429 nothing goes before the backoff is over; then one goes, and the next only when its grace is: as long as the
    429 took to come.
    """
    state = opened(rpm=0)
    _, entry = send(state, 0)
    waiting = slot_of(state, 0)
    budget.step(state, NS, budget.Refuse(entry, None, 0.0))
    assert isinstance(budget.step(state, NS, take(waiting.slot, 0)), budget.Stale)
    canary_ns, _ = send(state, NS)
    assert canary_ns >= 2 * NS
    behind_ns, _ = send(state, canary_ns)
    assert behind_ns == canary_ns + NS


def test_an_accepted_canary_opens_the_gate_at_once() -> None:
    """The grace ends when the canary is answered."""
    state = opened(rpm=0)
    _, entry = send(state, 0)
    budget.step(state, NS, budget.Refuse(entry, None, 0.0))
    canary_ns, canary = send(state, NS)
    budget.step(state, canary_ns + 1, budget.Settle(canary, 1))
    assert send(state, canary_ns + 1)[0] == canary_ns + 1
    assert state.gate.consecutive == 0


def test_an_accepted_canary_lets_those_go_who_waited_for_it() -> None:
    """A slot given out during the grace is good at its end, however early that comes: a 429 costs a canary's flight."""
    state = opened(rpm=6_000)
    _, entry = send(state, 0)
    budget.step(state, NS, budget.Refuse(entry, None, 0.0))
    canary_ns, canary = send(state, NS)
    waiting = slot_of(state, canary_ns)
    later = budget.step(state, waiting.at_ns, take(waiting.slot, 0))
    assert later == budget.Later(canary_ns + NS, tokens=False)
    budget.step(state, canary_ns + NS // 2, budget.Settle(canary, 1))
    assert isinstance(budget.step(state, canary_ns + NS // 2, take(waiting.slot, 0)), budget.Taken)


def test_backoff_doubles_and_jitter_never_shortens_it() -> None:
    """Each refused canary doubles the wait, up to its cap, whatever the draw."""
    waits: dict[float, list[int]] = {}
    for draw in (0.0, 0.999):
        state = opened(rpm=0)
        now_ns, entry = send(state, 0)
        waits[draw] = []
        for _ in range(CLOSED_AFTER + 8):
            budget.step(state, now_ns, budget.Refuse(entry, None, draw))
            waits[draw].append(state.gate.until_ns - now_ns)
            now_ns, entry = send(state, now_ns)
    assert waits[0.0][:5] == [NS, 2 * NS, 4 * NS, 8 * NS, 10 * NS]
    assert waits[0.0][CLOSED_AFTER - 1] == 10 * NS
    assert waits[0.0][CLOSED_AFTER : CLOSED_AFTER + 5] == [60 * NS * k for k in (1, 2, 4, 8, 15)]
    assert waits[0.0][-1] == CLOSED_BACKOFF_MAX_NS
    assert all(low <= high <= low * 3 // 2 for low, high in zip(waits[0.0], waits[0.999], strict=True))


def test_a_hint_is_a_lower_bound() -> None:
    """Retry-After makes the wait longer, never shorter, and an absurd one is not believed for more than 15 minutes."""
    for hint_ns, least_ns, most_ns in ((0, NS, 2 * NS), (20 * NS, 20 * NS, 21 * NS), (10**16, LONGEST_HINT_NS, 16 * 60 * NS)):
        state = opened(rpm=0)
        _, entry = send(state, 0)
        budget.step(state, 0, budget.Refuse(entry, hint_ns, 0.0))
        assert least_ns <= state.gate.until_ns <= most_ns


def test_a_refused_request_gives_its_tokens_back_and_stays_a_send() -> None:
    """A 429 took no tokens. It was a send all the same, and is counted as one."""
    state = opened(rpm=50, tpm=1_000)
    _, entry = send(state, 0, 400)
    budget.step(state, NS, budget.Refuse(entry, None, 0.0))
    assert (state.window.requests, state.window.refused, state.window.used, state.window.reserved) == (1, 1, 0, 0)


def test_a_rejection_ends_the_fast_start() -> None:
    """A server that refuses a burst gets the pace from then on."""
    state = opened(rpm=50, jobs=40)
    now_ns, entry = send(state, 0)
    now_ns, _ = send(state, now_ns)
    budget.step(state, now_ns, budget.Refuse(entry, None, 0.0))
    canary_ns, canary = send(state, now_ns)
    budget.step(state, canary_ns, budget.Settle(canary, None))
    second_ns, _ = send(state, canary_ns)
    assert second_ns - canary_ns >= interval_ns(50) - LATENESS_NS


def test_statistics_show_the_gate() -> None:
    """The frozen view speaks of the same things as the state."""
    state = opened(rpm=50, tpm=1_000)
    _, entry = send(state, 0, 400)
    before = budget.statistics(state, 0)
    assert (before.requests, before.tokens, before.in_flight, before.closed_for_seconds) == (1, 400, 1, 0)
    budget.step(state, 0, budget.Refuse(entry, None, 0.0))
    after = budget.statistics(state, 0)
    assert after.consecutive_rejections == 1
    assert after.closed_for_seconds > 1
