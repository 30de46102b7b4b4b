"""Where an account's budget lives."""

from __future__ import annotations

from typing import Protocol

from batchrunner import budget


class AccountStore(Protocol):
    """Holds one account's budget and moves it one event at a time, as if nobody else did."""

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        """Apply `event` at monotonic `now_ns`. Steps of all holders form one sequence."""
        ...

    def statistics(self, now_ns: int) -> budget.Statistics:
        """The budget as last seen from here."""
        ...


class MemoryStore:
    """A budget of this process alone. `SharedStore` is the other one."""

    def __init__(self, limits: budget.Limits) -> None:
        self.state = budget.State(limits)

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        return budget.step(self.state, now_ns, event)

    def statistics(self, now_ns: int) -> budget.Statistics:
        return budget.statistics(self.state, now_ns)
