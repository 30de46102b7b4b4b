"""An account's budget for tests: opened, asked for a slot, and sent through."""

from __future__ import annotations

from batchrunner import budget


def opened(rpm: int = 50, tpm: int = 0, *, jobs: int = 1_000_000) -> budget.State:
    state = budget.State(budget.Limits(rpm, tpm))
    budget.step(state, 0, budget.Open(past=(), jobs=jobs))
    return state


def slot_of(state: budget.State, now_ns: int) -> budget.Slot:
    decision = budget.step(state, now_ns, budget.Reserve())
    assert isinstance(decision, budget.Slot)
    return decision


def take(slot: int, tokens: int = 0, *, reserved: int | None = None, alone: bool = False) -> budget.Take:
    return budget.Take(slot, (budget.Offer(tokens, tokens if reserved is None else reserved),), alone=alone)


def send(state: budget.State, now_ns: int, tokens: int = 0) -> tuple[int, int]:
    """Reserve and take at the first time that the budget allows: (send time, entry)."""
    slot = slot_of(state, now_ns)
    at_ns = max(now_ns, slot.at_ns)
    for _ in range(100):
        match budget.step(state, at_ns, take(slot.slot, tokens)):
            case budget.Taken(entry):
                return at_ns, entry
            case budget.Later(later_ns):
                assert later_ns > at_ns
                at_ns = later_ns
            case _:
                slot = slot_of(state, at_ns)
                at_ns = max(at_ns, slot.at_ns)
    raise AssertionError("no send in 100 questions")
