"""Which of the requests that could go takes the slot, and what the first one is promised."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner import budget
from batchrunner.budget.choice import MOST_PASSES, Choice, Wait, choose
from batchrunner.budget.pacer import NS, SAFE_WINDOW_NS
from tests.unit.budgets import opened, send, slot_of

TPM = 60_000
#: of the burst, a quarter of the minute
BURST = 15_000
PROMISE_NS = 5 * NS


def take(
    *tokens: int, slot: int = 1, equals: int | None = None, passed: int = 0, spare_ns: int = PROMISE_NS, alone: bool = False
) -> budget.Take:
    offers = tuple(budget.Offer(amount, amount) for amount in tokens)
    return budget.Take(slot, offers, alone, len(offers) if equals is None else equals, passed, spare_ns)


def state_with(*sent: tuple[int, int], rpm: int = 0) -> budget.State:
    """An account with so many tokens sent at so many seconds."""
    state = opened(rpm=rpm, tpm=TPM)
    for seconds, tokens in sent:
        slot = slot_of(state, seconds * NS)
        assert isinstance(budget.step(state, seconds * NS, take(tokens, slot=slot.slot)), budget.Taken)
    return state


def due_ns(state: budget.State, now_ns: int, offer: budget.Offer) -> int:
    return state.tokens.due_ns(now_ns, state.window, TPM, offer)


def test_one_offer_goes_or_waits() -> None:
    """There is nothing to choose."""
    state = state_with((0, BURST))
    now_ns = 1 * NS
    assert choose(state, now_ns, take(1)) == Choice(0)
    wait = choose(state, now_ns, take(10_000))
    assert isinstance(wait, Wait)
    assert wait.until_ns == due_ns(state, now_ns, budget.Offer(10_000, 10_000))


def test_tokens_that_would_be_lost_go_to_the_largest_that_fits() -> None:
    """With a full bucket the largest goes first, unless it is larger than what there is."""
    state = state_with((0, 50_000))
    now_ns = 59 * NS  # 10,000 are left of the minute, all of the burst is there
    assert choose(state, now_ns, take(100, 9_000, 12_000, 3_000)) == Choice(1)
    assert choose(state, now_ns, take(100, 12_000)) == Choice(0)


def test_the_first_goes_where_nothing_would_be_lost() -> None:
    """With most of the burst taken, file order stands."""
    state = state_with((0, 8_000))
    assert choose(state, 0, take(100, 5_000)) == Choice(0)


def test_the_first_is_passed_only_so_often() -> None:
    """Then it goes, however small it is."""
    state = opened(rpm=0, tpm=TPM)
    assert choose(state, 0, take(100, 5_000, passed=MOST_PASSES - 1)) == Choice(1)
    assert choose(state, 0, take(100, 5_000, passed=MOST_PASSES)) == Choice(0)


def test_the_largest_of_other_lanes_is_not_taken() -> None:
    """Whose turn it is not, does not go for its size."""
    assert choose(opened(rpm=0, tpm=TPM), 0, take(100, 200, 9_000, equals=2)) == Choice(1)


def test_a_smaller_one_fills_what_the_first_must_leave() -> None:
    """The first of those that are smaller than half and fit, of whichever lane; the first is delayed by its tokens."""
    state = state_with((0, 12_000))
    choice = choose(state, NS, take(6_000, 3_000, 1_000, 500, equals=2))
    assert choice == Choice(2, SAFE_WINDOW_NS // 60)


def test_nobody_fills_what_would_break_the_promise() -> None:
    """The delay is reckoned exactly, and is allowed to the nanosecond."""
    state = state_with((0, 12_000))
    delay_ns = SAFE_WINDOW_NS // 60
    assert choose(state, NS, take(6_000, 1_000, spare_ns=delay_ns)) == Choice(1, delay_ns)
    first_ns = due_ns(state, NS, budget.Offer(6_000, 6_000))
    assert choose(state, NS, take(6_000, 1_000, spare_ns=delay_ns - 1)) == Wait(first_ns)


def test_what_needs_the_whole_minute_is_not_put_off_by_small_ones() -> None:
    """Each of them would keep it waiting until it has left the window: they go only while that is within the promise."""
    state = state_with((0, 1_000))
    assert choose(state, 4 * NS, take(TPM, 10)) == Choice(1, 4 * NS)
    assert isinstance(choose(state, 6 * NS, take(TPM, 10)), Wait)
    assert isinstance(choose(state, 6 * NS, take(10_000, 10, alone=True)), Wait)


def test_whoever_could_fill_later_is_waited_for() -> None:
    """Nothing fits now: the next question comes when the smallest does, not only when the first does."""
    state = state_with((0, BURST), (16, BURST))
    now_ns = 16 * NS
    small = due_ns(state, now_ns, budget.Offer(1_000, 1_000))
    wait = choose(state, now_ns, take(10_000, 4_000, 1_000))
    assert wait == Wait(small)
    assert small > now_ns


def test_without_a_token_limit_the_first_goes() -> None:
    """There is nothing to be lost and nothing to wait for."""
    assert choose(opened(rpm=50, tpm=0), 0, take(10**9, 1, 10**10)) == Choice(0)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_no_more_than_the_promise_goes_before_a_job(seed: int) -> None:
    """Whatever was sent before, and however many smaller ones wait: a job goes no more than 5 s of budget later than it would
    have gone alone, and one request more for each slot that it lost.
    """
    rng = random.Random(seed)
    past = [(rng.randrange(50), rng.randrange(1, 12_000)) for _ in range(rng.randrange(12))]
    large = rng.randrange(2_000, TPM + 10_000)

    def begun() -> tuple[budget.State, int]:
        state = opened(rpm=0, tpm=TPM)
        now_ns = 0
        for _, tokens in past:
            now_ns, _ = send(state, now_ns, tokens)
        return state, now_ns

    state, now_ns = begun()
    alone_ns, _ = send(state, now_ns, large)
    state, now_ns = begun()
    passed, spare_ns = 0, PROMISE_NS
    slot = slot_of(state, now_ns)
    while True:
        # Fifty small ones are always there, more than ever fit.
        sizes = [rng.randrange(1, 4_000) for _ in range(50)]
        match budget.step(state, now_ns, take(large, *sizes, slot=slot.slot, passed=passed, spare_ns=spare_ns)):
            case budget.Taken(_, 0):
                break
            case budget.Taken(_, _, _, delay_ns):
                passed += 1
                assert 0 <= delay_ns <= spare_ns
                spare_ns -= delay_ns
                slot = slot_of(state, now_ns)
            case budget.Later(later_ns, tokens):
                assert tokens
                assert later_ns > now_ns
                now_ns = later_ns
            case decision:
                slot = slot_of(state, now_ns)
                assert isinstance(decision, budget.Stale)
    assert alone_ns <= now_ns <= alone_ns + PROMISE_NS
