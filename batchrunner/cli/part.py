"""A part of a run: some of its jobs, which one start sends and no others."""

from __future__ import annotations

from collections.abc import Collection

from batchrunner.estimate import Estimator
from batchrunner.index import Index
from batchrunner.lifecycle import State


class Part:
    """Some of a run's jobs, the only ones that a start is to send. All others are left as they are, for the next start."""

    def __init__(self, custom_ids: Collection[str]) -> None:
        self.custom_ids = frozenset(custom_ids)
        #: what the start knew of lengths at its end
        self.lengths: Estimator | None = None

    def set_others_aside(self, index: Index) -> None:
        """Hide the jobs that are not meant from everybody who looks for some to send."""
        # By id: lines may have come or gone since the jobs were chosen.
        numbers = {index.find(custom_id) for custom_id in self.custom_ids}
        for number, state in enumerate(index.state):
            if state == State.PENDING and number not in numbers:
                index.set_aside(number)
