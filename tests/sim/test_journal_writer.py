"""The group commit under virtual time: when it syncs, what it tells whom, and how it ends."""

from __future__ import annotations

import errno
from collections.abc import Callable
from decimal import Decimal
from typing import NoReturn

import pytest
import trio
import trio.testing

from batchrunner.clock import VirtualClock
from batchrunner.costs import Charge, Totals
from batchrunner.disk import MemoryDisk
from batchrunner.errors import DiskError
from batchrunner.events import AttemptResult, Event
from batchrunner.exchange import Reply
from batchrunner.job import Job, Usage
from batchrunner.journal import Journal, in_thread, inline
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS, RunFiles
from batchrunner.journal.records import Reopened

URL = "/v1/responses"
CHARGE = Charge.billed("m", URL, Usage(1, 2), Decimal("0.25"))
REPLY = Reply(200, (), b"{}")


def job(number: int) -> Job:
    return Job(number, number + 1, f"job-{number}", URL, b"{}", number)


def event(number: int) -> Event:
    return Event(f"job-{number}", number + 1, 1, "m", URL, AttemptResult.OK, final=True, succeeded=True)


class Bench:
    """A journal on a MemoryDisk, and whom it told what, when."""

    def __init__(self, sync_in: Callable[..., object] = inline) -> None:
        self.disk = MemoryDisk()
        self.clock = VirtualClock(trio.current_time)
        self.files = RunFiles(self.disk, "run")
        self.told: list[tuple[str, float]] = []
        self.journal = Journal(self.files, self.clock, sink=self.tell, sync_in=sync_in)  # type: ignore[arg-type]
        self.disk.operations.clear()

    def tell(self, told: Event) -> None:
        size = self.disk.synced[JOURNAL]
        assert told.custom_id.encode() in self.disk.files[JOURNAL][:size], "told before it was on disk"
        self.told.append((told.custom_id, self.clock.monotonic_ns() / 1e9))

    def syncs(self) -> list[str]:
        return [name for operation, name in self.disk.operations if operation == "sync"]

    def sent(self, number: int) -> None:
        self.journal.sent(job(number), 1, model="m", input_tokens=1, output_cap_tokens=2, reserve_tokens=3)

    def done(self, number: int) -> None:
        self.journal.done(job(number), 1, REPLY, charge=CHARGE, finish="stop", event=event(number))


def no_space(at: str, of: str) -> Callable[[str, str], None]:
    def fail(operation: str, name: str) -> None:
        if (operation, name) == (at, of):
            raise OSError(errno.ENOSPC, "no space")

    return fail


async def test_records_are_committed_together_after_20_ms(autojump_clock: trio.testing.MockClock) -> None:
    """What happens within 20 ms shares its syncs, and is told after them in its order."""
    bench = Bench()
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.journal.run)
        for number in range(3):
            bench.sent(number)
            bench.done(number)
            await trio.sleep(0.005)
        assert bench.told == []
        await trio.sleep(1)
        assert bench.told == [(f"job-{number}", 0.02) for number in range(3)]
        assert bench.syncs() == [RESULTS, ERRORS, COSTS, JOURNAL]
        await bench.journal.close()


async def test_256_records_do_not_wait(autojump_clock: trio.testing.MockClock) -> None:
    """A full group is committed at once."""
    bench = Bench()
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.journal.run)
        for number in range(128):
            bench.sent(number)
            bench.done(number)
        await trio.testing.wait_all_tasks_blocked()
        assert len(bench.told) == 128
        assert {at for _, at in bench.told} == {0.0}
        await bench.journal.close()


async def test_a_journal_with_nothing_to_do_does_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """No new record, no sync: not in an hour, and not at the end."""
    bench = Bench()
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.journal.run)
        bench.sent(0)
        await trio.sleep(0.1)
        operations = len(bench.disk.operations)
        await trio.sleep(3600)
        await bench.journal.commit()
        await bench.journal.close()
        assert len(bench.disk.operations) == operations


async def test_files_that_have_not_grown_are_not_synced_again(autojump_clock: trio.testing.MockClock) -> None:
    """A commit of `sent` records alone costs the journal's sync and no other."""
    bench = Bench()
    bench.done(0)
    await bench.journal.commit()
    bench.disk.operations.clear()
    bench.sent(1)
    await bench.journal.commit()
    assert bench.syncs() == [JOURNAL]


async def test_an_ended_attempt_is_written_before_its_method_returns() -> None:
    """Result, cost and record stand in their files, one write each and in this order, with no commit."""
    bench = Bench()
    bench.done(0)
    assert bench.disk.operations == [("write", RESULTS), ("write", COSTS), ("write", JOURNAL)]


async def test_what_was_not_billed_has_no_cost_line() -> None:
    """A refusal, a plain failure and a send write no cost."""
    bench = Bench()
    bench.sent(0)
    bench.journal.refused(job(0), 1, why="rate_limit_exceeded")
    bench.journal.failed(job(0), 1, code="bad", message="no", reply=Reply(400, (), b"{}"))
    assert bench.disk.files[COSTS] == b""
    assert (bench.journal.totals.attempts, bench.journal.totals.rate_limited) == (1, 1)


async def test_sums_count_as_soon_as_they_are_written() -> None:
    """A spend cap sees a charge before any disk has synced it."""
    bench = Bench()
    bench.done(0)
    bench.journal.again(job(1), 1, why="timeout", charge=Charge.maybe("m", URL, 1, 2, Decimal("0.5")))
    bench.journal.lost(job(2), 1, charge=Charge.maybe("m", URL, 1, 2, None), why="interrupted")
    totals = bench.journal.totals
    expected = Totals(
        input_tokens=1, output_tokens=2, billed=Decimal("0.25"), maybe_billed=Decimal("0.5"), unpriced=1, finishes={"stop": 1}
    )
    assert totals == expected


@pytest.mark.parametrize("broken", [RESULTS, ERRORS, COSTS, JOURNAL])
async def test_the_first_failed_sync_is_final(broken: str, autojump_clock: trio.testing.MockClock) -> None:
    """Nothing is told, nothing synced again, and everything after raises the same error."""
    bench = Bench()
    bench.disk.fail = no_space("sync", broken)  # type: ignore[assignment, method-assign]
    bench.sent(0)
    bench.done(0)
    with pytest.RaisesGroup(DiskError):
        async with trio.open_nursery() as nursery:
            await nursery.start(bench.journal.run)
    assert bench.syncs().count(broken) == 1
    with pytest.raises(DiskError, match="no space"):
        bench.sent(1)
    with pytest.raises(DiskError, match="no space"):
        await bench.journal.commit()
    await bench.journal.close()
    assert bench.syncs().count(broken) == 1
    assert bench.told == []


@pytest.mark.parametrize("broken", [RESULTS, COSTS, JOURNAL])
async def test_the_first_failed_write_is_final(broken: str) -> None:
    """A short or refused write ends the run: the journal takes no more, whichever file it was."""
    bench = Bench()
    bench.disk.fail = no_space("write", broken)  # type: ignore[assignment, method-assign]
    with pytest.raises(DiskError, match="no space"):
        bench.done(0)
    bench.disk.fail = lambda operation, name: None  # type: ignore[method-assign]
    with pytest.raises(DiskError, match="no space"):
        bench.sent(1)
    await bench.journal.close()
    assert bench.told == []
    assert b"job-1" not in bench.disk.files[JOURNAL]


async def test_a_note_that_cannot_be_written_is_final_too() -> None:
    """The disk may fill up exactly at the note that says that all is on disk."""
    bench = Bench()
    bench.done(0)
    bench.disk.fail = no_space("write", JOURNAL)  # type: ignore[assignment, method-assign]
    with pytest.raises(DiskError):
        await bench.journal.commit()
    with pytest.raises(DiskError):
        bench.sent(1)


async def test_cancelling_the_writer_commits_once_more(autojump_clock: trio.testing.MockClock) -> None:
    """A cancelled run still puts on disk, and tells, what was written."""
    bench = Bench()
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.journal.run)
        bench.sent(0)
        bench.done(0)
        nursery.cancel_scope.cancel()
    assert bench.told == [("job-0", 0.0)]


async def test_closing_under_cancellation_commits_what_came_last(autojump_clock: trio.testing.MockClock) -> None:
    """The writer closes last, after tasks that write while they are being cancelled."""
    bench = Bench()
    with trio.CancelScope() as scope:
        scope.cancel()
        bench.done(0)
        await bench.journal.close()
    assert bench.told == [("job-0", 0.0)]


async def test_closing_lets_the_writer_return(autojump_clock: trio.testing.MockClock) -> None:
    """`run` ends by itself once the journal is closed, idle or not."""
    for number in (None, 0):
        bench = Bench()
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                await nursery.start(bench.journal.run)
                await trio.testing.wait_all_tasks_blocked()
                if number is not None:
                    bench.done(number)
                await bench.journal.close()
        assert bench.journal.statistics().pending == 0


async def test_records_written_during_a_sync_wait_for_the_next(autojump_clock: trio.testing.MockClock) -> None:
    """A sync covers what stood there when it began, and nothing that came meanwhile is told with it."""

    async def slow(blocking: Callable[[], None]) -> None:
        await trio.sleep(1)
        blocking()

    bench = Bench(slow)
    async with trio.open_nursery() as nursery:
        await nursery.start(bench.journal.run)
        bench.done(0)
        await trio.sleep(0.5)
        bench.done(1)
        await bench.journal.close()
    assert [name for name, _ in bench.told] == ["job-0", "job-1"]
    assert bench.told[1][1] - bench.told[0][1] >= 1
    assert bench.journal.statistics().last_sync_seconds == 1.0


async def test_a_commit_in_progress_is_not_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelled in the middle of a sync, a commit still tells what that sync covers."""

    async def slow(blocking: Callable[[], None]) -> None:
        await trio.sleep(1)
        blocking()

    bench = Bench(slow)
    bench.done(0)
    with trio.move_on_after(0.5):
        await bench.journal.commit()
    assert [name for name, _ in bench.told] == ["job-0"]


async def test_a_sink_that_fails_fails_aloud() -> None:
    """A defect in a display is not swallowed by the journal, whose files are in order all the same."""

    def refuse(told: Event) -> NoReturn:
        raise ZeroDivisionError

    bench = Bench()
    bench.journal = Journal(bench.files, bench.clock, sink=refuse, sync_in=inline)
    bench.done(0)
    with pytest.raises(ZeroDivisionError):
        await bench.journal.commit()
    assert bench.disk.synced[RESULTS] == len(bench.disk.files[RESULTS])


async def test_statistics_say_what_was_written() -> None:
    """Records, commits, bytes and what is pending."""
    bench = Bench()
    header_bytes = len(bench.disk.files[JOURNAL])
    bench.sent(0)
    bench.journal.record(Reopened("job-0", "0", 1))
    before = bench.journal.statistics()
    assert (before.records, before.commits, before.pending) == (2, 0, 2)
    assert before.bytes_written == len(bench.disk.files[JOURNAL]) - header_bytes > 0
    await bench.journal.commit()
    after = bench.journal.statistics()
    assert (after.records, after.commits, after.pending) == (2, 1, 0)


async def test_syncs_can_go_to_a_thread() -> None:
    """The way of real disks: the same promises, off the event loop."""
    bench = Bench(in_thread)
    bench.done(0)
    await bench.journal.commit()
    assert [name for name, _ in bench.told] == ["job-0"]
    bench.disk.fail = no_space("sync", JOURNAL)  # type: ignore[assignment, method-assign]
    bench.done(1)
    with pytest.raises(DiskError):
        await bench.journal.commit()
