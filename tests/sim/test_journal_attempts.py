"""What each thing that happens to an attempt leaves in the files: one record, field by field, and who is told."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
import trio
import trio.testing

from batchrunner.costs import Charge, CostLine, read_cost_line
from batchrunner.disk import MemoryDisk
from batchrunner.events import AttemptResult, Event
from batchrunner.exchange import Reply
from batchrunner.job import Job, Usage
from batchrunner.journal import Journal, inline
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS, RunFiles
from batchrunner.journal.reading import JournalReader
from batchrunner.journal.records import Ended, Line, Record, Refunded, Sent, What
from batchrunner.results import failure_line, success_line

URL = "/v1/responses"
JOB = Job(4, 5, "job-4", URL, b"{}", 0xABC)
FP = "0000000000000abc"
BILLED = Charge.billed("m", URL, Usage(1, 2), Decimal("0.25"))
MAYBE = Charge.maybe("m", URL, 1, 2, Decimal("0.5"))
REPLY = Reply(200, (), b'{"a":1}')
EVENT = Event("job-4", 5, 2, "m", URL, AttemptResult.OK, final=True, succeeded=True)


class Bench:
    """A journal on a disk in memory, by a clock that stands still."""

    def __init__(self, sync_in: Callable[..., object] = inline) -> None:
        self.disk = MemoryDisk()
        self.told: list[Event] = []
        self.files = RunFiles(self.disk, "run")
        self.journal = Journal(self.files, Seven(), sink=self.told.append, sync_in=sync_in)  # type: ignore[arg-type]

    def records(self) -> list[Record]:
        return [record for _, record in JournalReader(self.disk, "run")]

    def costs(self) -> list[CostLine]:
        lines = [read_cost_line(raw) for raw in bytes(self.disk.files[COSTS]).splitlines(keepends=True)]
        return [line for line in lines if line is not None]


class Seven:
    """A clock that stands still."""

    boot_id = "boot"

    def monotonic_ns(self) -> int:
        return 7

    def wall_ns(self) -> int:
        return 11


def ended(what: What, **fields: object) -> Ended:
    return Ended("job-4", FP, 2, what, 11, **fields)  # type: ignore[arg-type]


async def test_a_sending() -> None:
    """All that an estimate, a bill or the last minute's budget may need after a crash."""
    bench = Bench()
    bench.journal.sent(JOB, 2, model="m", input_tokens=10, output_cap_tokens=20, reserve_tokens=30)
    assert bench.records() == [Sent("job-4", FP, 2, "boot", 7, 30, 10, 20, "m", URL)]
    assert bench.journal.totals.attempts == 1


async def test_a_success() -> None:
    """The line in results.jsonl, its bill, and a record that knows the line by its place and checksum."""
    bench = Bench()
    line = bench.files.final_line(RESULTS, b"before\n")
    bench.journal.done(JOB, 2, REPLY, charge=BILLED, finish="stop", event=EVENT)
    raw = success_line("run", "job-4", 0xABC, 2, REPLY)
    (record,) = bench.records()
    assert isinstance(record, Ended)
    assert record.line is not None
    assert record == ended(What.DONE, spent=True, charge=BILLED, line=record.line, finish="stop")
    assert (record.line.file, record.line.offset, record.line.length) == (RESULTS, line.length, len(raw))
    assert bytes(bench.disk.files[RESULTS]) == b"before\n" + raw
    assert [(cost.custom_id, cost.attempt, cost.cost.amount) for cost in bench.costs()] == [("job-4", 2, Decimal("0.25"))]
    await bench.journal.commit()
    assert bench.told == [EVENT]


@pytest.mark.parametrize("spent", [True, False])
async def test_a_failure_for_good(spent: bool) -> None:
    """With the server's answer in errors.jsonl, its bill where it may have one, and its code in the record."""
    bench = Bench()
    bench.journal.failed(JOB, 2, code="bad", message="It is bad.", reply=REPLY, charge=MAYBE, spent=spent, event=EVENT)
    raw = failure_line("run", "job-4", 0xABC, 2, code="bad", message="It is bad.", reply=REPLY)
    (record,) = bench.records()
    assert isinstance(record, Ended)
    assert isinstance(record.line, Line)
    assert record == ended(What.FAILED, spent=spent, charge=MAYBE, line=record.line, why="bad")
    assert record.line.file == ERRORS
    assert bytes(bench.disk.files[ERRORS]) == raw
    assert [cost.cost.amount for cost in bench.costs()] == [Decimal("0.5")]
    await bench.journal.commit()
    assert bench.told == [EVENT]


async def test_a_failure_counts_toward_the_jobs_attempts_unless_it_is_said_not_to() -> None:
    bench = Bench()
    bench.journal.failed(JOB, 2, code="bad", message="It is bad.")
    bench.journal.again(JOB, 2, why="timeout")
    assert [(record.spent, record.in_vain) for record in bench.records() if isinstance(record, Ended)] == [(True, False)] * 2


async def test_an_attempt_that_is_worth_another() -> None:
    """Why, what it may have cost, and whether the server has said that nothing came of it."""
    bench = Bench()
    bench.journal.again(JOB, 2, why="http_500\ud800", charge=MAYBE, spent=False, in_vain=True, event=EVENT)
    assert bench.records() == [ended(What.AGAIN, charge=MAYBE, why="http_500?", in_vain=True)]
    assert len(bench.costs()) == 1
    await bench.journal.commit()
    assert bench.told == [EVENT]


async def test_refusals() -> None:
    """No money, no attempt; each is counted."""
    bench = Bench()
    for _ in range(2):
        bench.journal.refused(JOB, 2, why="rate_limit_exceeded", event=EVENT)
    assert bench.records() == [ended(What.REFUSED, why="rate_limit_exceeded")] * 2
    assert (bench.journal.totals.rate_limited, bench.costs()) == (2, [])
    await bench.journal.commit()
    assert bench.told == [EVENT] * 2


async def test_an_attempt_that_nobody_saw_the_end_of() -> None:
    """Interrupted: it may have been billed, and costs none of the job's attempts."""
    bench = Bench()
    bench.journal.lost(JOB, 2, charge=MAYBE, why="interrupted", event=EVENT)
    assert bench.records() == [ended(What.LOST, charge=MAYBE, why="interrupted")]
    assert len(bench.costs()) == 1
    await bench.journal.commit()
    assert bench.told == [EVENT]


async def test_a_refund() -> None:
    bench = Bench()
    bench.journal.refunded("job-4", 0xABC, 3)
    assert bench.records() == [Refunded("job-4", FP, 3)]


async def test_the_end_of_a_run_is_not_cut_off_once_it_is_being_written(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelled in the middle of the last sync, the note that all has ended is on disk all the same."""

    async def slow(blocking: Callable[[], None]) -> None:
        await trio.sleep(1)
        blocking()

    bench = Bench(slow)
    with trio.move_on_after(0.5):
        await bench.journal.finish([["jobs.jsonl", 5]], b"{}")
    assert bench.disk.synced[JOURNAL] == len(bench.disk.files[JOURNAL])
