"""Whole runs in virtual time: whatever can go wrong with a request goes wrong once, so that no kind of fault is forgotten."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from batchrunner.simulator.faults import KINDS, Bill
from tests.sim.nights import MakeNight, assert_whole, fault, jobs


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_every_kind_of_fault_leaves_a_whole_run(autojump_clock: MockClock, make_night: MakeNight, kind: str) -> None:
    """One request meets it: every job ends once, at once or, where key or credits were refused, when the run is resumed; what
    the platform charged for is on the bill, and what it never charges for is not.
    """
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    if status.state == "stopped":
        assert (status.stopped_by, status.failed) in {("keys", 0), ("credits", 0)}
        status = await night.run()
    assert_whole(night, status)
    assert night.platform.counters.faults == ({} if kind == "ok" else {kind: 1})
    assert night.failures().keys() <= {"job-1"}
    if KINDS[kind].bill is Bill.NEVER:
        assert not night.maybe_billed()
