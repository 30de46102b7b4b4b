"""The budget of one process alone."""

from __future__ import annotations

from batchrunner import budget
from batchrunner.account_store import MemoryStore
from batchrunner.clock import NS_PER_SECOND
from tests.unit.budgets import take


async def test_steps_form_one_sequence() -> None:
    """Each step sees what those before it did, and answers as the budget itself does."""
    store = MemoryStore(budget.Limits(60, 0))
    twin = budget.State(budget.Limits(60, 0))
    story: list[tuple[int, budget.Event]] = [
        (0, budget.Open(past=(), jobs=10_000)),
        (0, budget.Reserve()),
        (0, take(1, 100)),
        (NS_PER_SECOND, budget.Reserve()),
        (2 * NS_PER_SECOND, budget.Settle(1, 70)),
        (2 * NS_PER_SECOND, budget.Return(2)),
    ]
    for now_ns, event in story:
        assert await store.step(now_ns, event) == budget.step(twin, now_ns, event)
    assert store.state == twin


async def test_statistics_change_nothing() -> None:
    """Looking shows the limits and what the last minute holds, and leaves the budget as it is."""
    store = MemoryStore(budget.Limits(50, 1_000))
    await store.step(0, budget.Open(past=(), jobs=1_000))
    slot = await store.step(0, budget.Reserve())
    assert isinstance(slot, budget.Slot)
    await store.step(slot.at_ns, take(slot.slot, 100))
    seen = store.statistics(NS_PER_SECOND)
    assert (seen.rpm_limit, seen.tpm_limit, seen.requests, seen.tokens, seen.in_flight) == (50, 1_000, 1, 100, 1)
    assert store.statistics(120 * NS_PER_SECOND).requests == 0
    assert store.statistics(NS_PER_SECOND) == seen


async def test_statistics_say_what_was_learned() -> None:
    """Nothing at first; then what the parts have come to believe. Where there is no limit there is nothing to let through."""
    fresh = MemoryStore(budget.Limits(50, 1_000)).statistics(0)
    assert (fresh.rpm_effective, fresh.tpm_effective) == (50, 1_000)
    assert (fresh.charging, fresh.two_buckets, fresh.burst) == ("actual", False, 0)
    store = MemoryStore(budget.Limits(50, 1_000))
    store.state.requests.missing = 7
    store.state.tokens.ceiling.thousandths = 970
    store.state.tokens.charging.way = budget.Charging.ESTIMATE
    store.state.tokens.buckets.believed = True
    store.state.pacer.burst = 12
    seen = store.statistics(0)
    assert (seen.rpm_effective, seen.tpm_effective) == (43, 970)
    assert (seen.charging, seen.two_buckets, seen.burst) == ("estimate", True, 12)
    unlimited = MemoryStore(budget.Limits(0, 0)).statistics(0)
    assert (unlimited.rpm_effective, unlimited.tpm_effective) == (0, 0)


async def test_a_store_of_its_own() -> None:
    """Two stores share nothing."""
    first, second = MemoryStore(budget.Limits(50, 0)), MemoryStore(budget.Limits(50, 0))
    await first.step(0, budget.Reserve())
    assert second.state == budget.State(budget.Limits(50, 0))
