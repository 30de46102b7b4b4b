"""A run driven by hand, one record at a time, and what a directory holds after it."""

from __future__ import annotations

from batchrunner.costs import Charge
from batchrunner.disk import MemoryDisk
from batchrunner.exchange import Reply
from batchrunner.index import Index
from batchrunner.job import Usage
from batchrunner.journal import Journal, inline
from batchrunner.lifecycle import State
from batchrunner.results import success_line
from tests.crash.scripted import PRICE, RUN, URL, StepClock, body_of, check_money, fingerprint_of, job_of, start

CHARGE = Charge.billed("model-1", URL, Usage(1, 3), PRICE)


class Run:
    """A process at work on a directory, driven by hand."""

    def __init__(self, disk: MemoryDisk, ids: list[str], clock: StepClock | None = None) -> None:
        self.disk = disk
        self.ids = ids
        clock = clock or StepClock()
        recovered, self.index = start(disk, ids, clock=clock)
        self.journal = Journal(recovered.files, clock, sink=lambda event: None, totals=recovered.totals, sync_in=inline)

    def send(self, number: int, attempt: int = 1) -> None:
        job = job_of(self.index, self.ids, number)
        self.journal.sent(job, attempt, model="model-1", input_tokens=5, output_cap_tokens=7, reserve_tokens=12)

    def done(self, number: int, attempt: int = 1) -> None:
        reply = Reply(200, (), body_of(self.ids[number], attempt))
        self.journal.done(job_of(self.index, self.ids, number), attempt, reply, charge=CHARGE)

    def fail(self, number: int, attempt: int = 1) -> None:
        job = job_of(self.index, self.ids, number)
        self.journal.failed(job, attempt, code="bad", message="no", reply=Reply(400, (), b"{}"))


async def finished(ids: list[str]) -> MemoryDisk:
    """A directory in which jobs 0 and 1 succeeded, job 2 failed, and all of that is on disk."""
    disk = MemoryDisk()
    run = Run(disk, ids)
    for number in range(3):
        run.send(number)
        run.fail(number) if number == 2 else run.done(number)
    await run.journal.commit()
    return disk


def states(index: Index) -> list[str]:
    return [State(state).name for state in index.state]


def raw_success(custom_id: str, attempt: int = 1, run_id: str = RUN, fingerprint: int | None = None) -> bytes:
    fingerprint = fingerprint_of(custom_id) if fingerprint is None else fingerprint
    return success_line(run_id, custom_id, fingerprint, attempt, Reply(200, (), body_of(custom_id, attempt)))


def settled(disk: MemoryDisk, ids: list[str], index: Index | None = None) -> None:
    """A second recovery finds nothing to do."""
    recovered, _ = start(disk, ids, index=index)
    check_money(disk, recovered)
    assert recovered.warnings == []
