"""The retry budget: in any minute ten repeats, and one for every five successes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchrunner.retries import CELL_NS, FLOOR, NS, SUCCESSES_PER_RETRY, WINDOW_NS, RetryBudget


def test_row_retry_budget_ten_a_minute() -> None:
    """Ten go at once; the eleventh when the first has left the minute."""
    budget = RetryBudget()
    for second in range(FLOOR):
        assert budget.due_ns(second * NS) == second * NS
        budget.retried(second * NS)
    assert budget.left(20 * NS) == 0
    assert budget.due_ns(20 * NS) == WINDOW_NS
    assert budget.due_ns(WINDOW_NS) == WINDOW_NS


def test_row_retry_budget_a_fifth_of_the_successes() -> None:
    """Every fifth success of the minute pays for one more, and no longer once it has left it."""
    budget = RetryBudget()
    for _ in range(FLOOR):
        budget.retried(30 * NS)
    for _ in range(3 * SUCCESSES_PER_RETRY):
        budget.succeeded(0)
    assert budget.left(30 * NS) == 3
    assert budget.left(WINDOW_NS) == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20 * NS)), max_size=200))
def test_no_minute_holds_more_than_is_allowed(steps: list[tuple[bool, int]]) -> None:
    """Whoever asks first and goes when it is due keeps the bound, to a cell's width."""
    budget = RetryBudget()
    now_ns = 0
    retries: list[int] = []
    successes: list[int] = []
    for retry, pause_ns in steps:
        now_ns += pause_ns
        if retry:
            now_ns = budget.due_ns(now_ns)
            retries.append(now_ns)
            budget.retried(now_ns)
        else:
            successes.append(now_ns)
            budget.succeeded(now_ns)
        recent = sum(at > now_ns - WINDOW_NS + CELL_NS for at in retries)
        paid = sum(at > now_ns - WINDOW_NS for at in successes) // SUCCESSES_PER_RETRY
        assert recent <= FLOOR + paid or not retry
