"""Where an account's budget lives, and beside it what was learned of lengths under it."""

from __future__ import annotations

from typing import Protocol

from batchrunner import budget
from batchrunner.estimate import Estimator


class AccountStore(Protocol):
    """Holds one account's budget and moves it one event at a time, as if nobody else did."""

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        """Apply `event` at monotonic `now_ns`. Steps of all holders form one sequence."""
        ...

    def statistics(self, now_ns: int) -> budget.Statistics:
        """The budget as last seen from here."""
        ...

    def lengths(self) -> Estimator | None:
        """What runs before this one have learned; None where there were none, or what they left cannot be read."""
        ...

    def keep_lengths(self, lengths: Estimator) -> None:
        """Have this, as it is now, kept for later runs: soon, and at the latest when the store is closed.

        Of two runs that keep theirs at the same time, the later one's stay.
        """
        ...


class MemoryStore:
    """A budget of this process alone. `SharedStore` is the other one."""

    def __init__(self, limits: budget.Limits) -> None:
        self.state = budget.State(limits)

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        return budget.step(self.state, now_ns, event)

    def statistics(self, now_ns: int) -> budget.Statistics:
        return budget.statistics(self.state, now_ns)

    def lengths(self) -> Estimator | None:
        return None

    def keep_lengths(self, lengths: Estimator) -> None:
        """Nothing outlives this process."""
