"""A part of a run: some of its jobs, which one start sends and no others."""

from __future__ import annotations

from collections.abc import Collection

from batchrunner.estimate import Estimator
from batchrunner.index import Index
from batchrunner.lifecycle import State


class Part:
    """Some of a run's jobs, the only ones that a start is to send. All others are left as they are, for the next start."""

    def __init__(self, numbers: Collection[int]) -> None:
        self.numbers = frozenset(numbers)
        #: what the start knew of lengths at its end
        self.lengths: Estimator | None = None

    def set_others_aside(self, index: Index) -> None:
        """Hide the jobs that are not meant from everybody who looks for some to send."""
        for number, state in enumerate(index.state):
            if state == State.PENDING and number not in self.numbers:
                index.set_aside(number)
