"""Whole runs in virtual time: ways of being stopped, and what is resumed; money; the account; the disk."""

from __future__ import annotations

import errno
from collections import Counter
from decimal import Decimal

import pytest
import trio
from trio.testing import MockClock

from batchrunner import status as status_file
from batchrunner.disk import MemoryDisk
from batchrunner.errors import ChangedLines
from batchrunner.events import AttemptResult
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.runner import Run
from tests.sim.nights import (
    PRICES,
    MakeNight,
    after,
    assert_bill,
    assert_once,
    assert_whole,
    fault,
    job,
    jobs,
)

#: the most that a job of `jobs()` can cost: 50 tokens of output, and fewer than 60 of input
JOB_CEILING_USD = PRICES.ceiling("simulated-small", 60, 50) or Decimal(0)


# --- being stopped


async def test_drain_lets_what_is_in_flight_end(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A drained run sends nothing more, keeps every answer under way, and goes on later as if nothing had been."""
    night = make_night(jobs(20), latency_median_seconds=10.0, latency_sigma=0.0)
    first = await night.run(after(15, Run.drain), max_in_flight=4)
    assert (first.state, first.stopped_by, first.completed, first.in_flight) == ("stopped", "signal", 8, 0)
    assert first.maybe_billed_usd == 0
    assert night.asked().total() == 8
    status = await night.run()
    assert_whole(night, status)
    assert status.attempts == 20
    assert not night.maybe_billed()
    assert status.billed_usd == night.platform.counters.billed_usd


async def test_a_draining_run_says_so(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """While a run drains, its state is `draining`."""
    night = make_night(jobs(2), latency_median_seconds=10.0)
    states = []

    async def drain(run: Run) -> None:
        await trio.sleep(1)
        run.drain()
        states.append(run.status().state)

    await night.run(drain)
    assert states == ["draining"]


async def test_a_stop_when_all_is_done_is_none(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A run that is told to drain while its last answers come is completed, not stopped."""
    night = make_night(jobs(3), latency_median_seconds=10.0)
    status = await night.run(after(5, Run.drain))
    assert_whole(night, status)


async def test_cancel_lists_what_was_in_flight(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A cancelled run is over at once; each attempt that it cut off is listed as maybe billed, and repeated later."""
    night = make_night(jobs(20), latency_median_seconds=10.0, latency_sigma=0.0)
    began = trio.current_time()
    first = await night.run(after(15, Run.cancel), max_in_flight=4)
    assert 15 <= trio.current_time() - began < 15.1
    assert (first.state, first.stopped_by, first.completed) == ("stopped", "signal", 4)
    assert (first.in_flight, first.attempts) == (0, 8)
    assert night.maybe_billed() == {f"job-{number}" for number in range(4, 8)}
    assert first.maybe_billed_usd > 0
    assert Counter(event.result for event in night.events)[AttemptResult.INTERRUPTED] == 4
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (20, 24)


async def test_drain_then_cancel(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What still flies when the patience of a drain is over is cut off and listed."""
    night = make_night([job("a"), job("b")], **fault("slow", "b"), latency_median_seconds=10.0, latency_sigma=0.0)

    async def stop(run: Run) -> None:
        await trio.sleep(5)
        run.drain()
        await trio.sleep(20)
        run.cancel()

    first = await night.run(stop)
    assert (night.succeeded(), night.maybe_billed()) == (["a"], {"b"})
    assert first.stopped_by == "signal"
    assert_whole(night, await night.run())


async def test_cancel_while_everybody_waits_for_a_slot(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A run that waits for its budget can be cancelled, with nothing lost and nothing listed."""
    night = make_night(jobs(3))
    first = await night.run(after(30, Run.cancel), rpm=1)
    assert first.completed == 1
    assert not night.maybe_billed()
    assert_whole(night, await night.run())


async def test_killed(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """kill -9 at any moment: the next start counts what was in flight as maybe billed, and ends each job once."""
    night = make_night(jobs(40), latency_median_seconds=2.0)
    for seconds in (0.0, 1.7, 2.3):
        left: list[MemoryDisk] = []

        async def die(_: Run, seconds: float = seconds, left: list[MemoryDisk] = left) -> None:
            await trio.sleep(seconds)
            left.append(night.killed())

        with trio.move_on_after(seconds + 0.001):
            await night.run(die, max_in_flight=7)
        (night.disk,) = left
        night.server.hang_up()
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 40
    assert status.attempts == night.sends().total()
    assert len(night.maybe_billed()) >= 7


# --- money


async def test_the_spend_cap_stops_the_run(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """--max-cost: the run stops short of it by less than it would need for what comes next, and goes on with more."""
    night = make_night(jobs(200))
    cap = 40 * JOB_CEILING_USD
    first = await night.run(max_cost_usd=cap, max_in_flight=6)
    assert (first.state, first.stopped_by) == ("stopped", "max_cost")
    assert cap - JOB_CEILING_USD < first.billed_usd <= cap
    assert 0 < first.completed < 200
    status = await night.run(max_cost_usd=1000 * cap)
    assert_whole(night, status)


async def test_the_spend_cap_counts_what_may_have_been_billed(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Attempts of unknown bill count toward the cap: it holds for the two sums together."""
    night = make_night(jobs(200), faults={"reset_body": 0.5})
    cap = 40 * JOB_CEILING_USD
    in_flight = 6
    status = await night.run(max_cost_usd=cap, max_in_flight=in_flight)
    assert status.stopped_by == "max_cost"
    assert status.billed_usd + status.maybe_billed_usd <= cap + in_flight * JOB_CEILING_USD
    assert status.maybe_billed_usd > 0
    assert night.platform.counters.billed_usd <= cap + in_flight * JOB_CEILING_USD


async def test_the_spend_cap_counts_earlier_processes(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A run that has reached its cap sends nothing when it is started again with the same one."""
    night = make_night(jobs(50))
    cap = 10 * JOB_CEILING_USD
    first = await night.run(max_cost_usd=cap)
    asked = night.asked().total()
    again = await night.run(max_cost_usd=cap)
    assert (again.stopped_by, again.billed_usd) == ("max_cost", first.billed_usd)
    assert night.asked().total() == asked


async def test_the_spend_cap_waits_for_what_is_in_flight(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A job that fits only if what is in flight turns out cheaper waits for that, and then goes."""
    night = make_night(jobs(2, cap=1_000), output_median_tokens=10, output_sigma=0.0, latency_median_seconds=60.0)
    ceiling = PRICES.ceiling("simulated-small", 60, 1_000)
    assert ceiling is not None
    status = await night.run(max_cost_usd=ceiling * Decimal("1.5"))
    assert_whole(night, status)
    assert night.platform.counters.peak_in_flight == 1
    assert status.billed_usd < ceiling / 10


async def test_a_cap_below_one_job_sends_nothing(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Where the very first job could pass the cap, the run stops before it."""
    night = make_night(jobs(3))
    status = await night.run(max_cost_usd=JOB_CEILING_USD / 100)
    assert (status.stopped_by, status.attempts) == ("max_cost", 0)
    assert night.asked().total() == 0


async def test_a_job_without_a_price_is_not_sent_under_a_cap(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Under --max-cost a model that the catalog does not price fails as `price_unknown`, before anything is sent."""
    night = make_night([job("a"), job("b", model="not-in-the-catalog"), job("c")])
    status = await night.run(max_cost_usd=Decimal(1))
    assert_whole(night, status)
    assert night.failures() == {"b": "price_unknown"}
    assert night.asked() == Counter("ac")
    assert night.lines(ERRORS)[0]["response"] is None
    assert status.attempts == 2


# --- the account


async def test_a_key_that_dies_in_mid_run_is_replaced(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A key that has worked is retired when the server refuses it; the jobs in flight with it are not lost."""
    night = make_night(jobs(40), keys=("sk-empiriolabs-test-1", "sk-empiriolabs-test-2"))
    night.keys = ("sk-empiriolabs-test-1", "sk-empiriolabs-test-2")
    status = await night.run(after(2, lambda _: night.platform.delete_key(night.keys[0])), max_in_flight=4, max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 40


async def test_jobs_that_are_not_sent_hold_up_nobody(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A whole file of jobs that fail before they are sent: others, signals among them, get their turn in between."""
    night = make_night(jobs(2_000, account="another"))

    async def stop_soon(run: Run) -> None:
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        run.drain()

    status = await night.run(stop_soon)
    assert 0 < status.failed < 2_000


async def test_a_job_for_another_account_is_not_sent(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A line that names an account goes to that account's run alone: elsewhere it fails, unsent and unbilled."""
    night = make_night([job("a", account="prod"), job("b", account="staging"), job("c")])
    status = await night.run(account="prod")
    assert_whole(night, status)
    assert night.failures() == {"b": "unknown_account"}
    assert night.asked() == Counter("ac")


# --- the disk


@pytest.mark.parametrize(
    ("operation", "name", "nth"),
    [
        ("write", RESULTS, 9),
        ("write", COSTS, 9),
        ("write", JOURNAL, 25),
        ("sync", RESULTS, 3),
        ("sync", JOURNAL, 4),
        ("replace", "status.json", 2),
    ],
)
@pytest.mark.parametrize("power_cut", [False, True])
async def test_a_disk_error_stops_a_run_that_resumes(
    autojump_clock: MockClock, make_night: MakeNight, operation: str, name: str, nth: int, power_cut: bool
) -> None:
    """The first disk error stops the run as `disk`; whatever was counted is on disk, and the next start goes on."""
    night = make_night(jobs(60), latency_median_seconds=1.0)
    left = nth

    broken = (operation, name)

    def fail(operation: str, name: str) -> None:
        nonlocal left
        left -= (operation, name) == broken
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    night.disk.fail = fail  # type: ignore[method-assign]
    first = await night.run(max_in_flight=5)
    assert (first.state, first.stopped_by) == ("stopped", "disk")
    assert any("No space left on device" in line for line in night.said)
    assert len(night.succeeded()) >= first.completed
    night.disk = night.disk.crash() if power_cut else night.killed()
    status = await night.run(max_attempts=1)
    assert_once(night, status)
    assert status.completed == 60
    if not power_cut:  # which can hide the sends of the last commit interval
        assert_bill(night, status)


async def test_a_disk_error_while_draining_is_the_reason(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A disk that fails while a run drains is what people are told of, and what the run stopped by."""
    night = make_night(jobs(20), latency_median_seconds=10.0, latency_sigma=0.0)

    async def stop(run: Run) -> None:
        await trio.sleep(5)
        run.drain()

        def fail(operation: str, name: str) -> None:
            if (operation, name) == ("write", RESULTS):
                raise OSError(errno.EIO, "Input/output error")

        night.disk.fail = fail  # type: ignore[method-assign]

    first = await night.run(stop, max_in_flight=4)
    assert first.stopped_by == "disk"
    assert any("Input/output error" in line for line in night.said)


@pytest.mark.parametrize("from_the_end", range(1, 7))
async def test_a_disk_error_when_every_job_has_ended_stops_the_run(
    autojump_clock: MockClock, make_night: MakeNight, from_the_end: int
) -> None:
    """One of the last commits, or the note that the run is over: it is `stopped` by `disk`, never `completed`, and resumes."""
    night = make_night(jobs(3), latency_sigma=0.0)
    await night.run()
    left = len(night.disk.operations) - from_the_end + 1

    def fail(operation: str, name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.EIO, "Input/output error")

    night.disk = MemoryDisk()
    night.platform.asked.clear()
    night.disk.fail = fail  # type: ignore[method-assign]
    first = await night.run()
    assert left <= 0
    assert (first.state, first.stopped_by) == ("stopped", "disk")
    night.disk = night.killed()
    assert_once(night, await night.run())
    assert night.asked() == Counter(["job-0", "job-1", "job-2"]), "nothing was paid for twice"


async def test_a_job_file_that_changes_under_the_run_stops_it(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A line that is not what was indexed is never sent: ChangedLines; with the line back, the run goes on."""
    night = make_night(jobs(20), latency_median_seconds=1.0)
    good = night.path.read_bytes()

    async def change(_: Run) -> None:
        await trio.sleep(2)
        with night.path.open("r+b") as file:
            file.write(good.replace(b"moon", b"Moon"))

    with pytest.RaisesGroup(ChangedLines, allow_unwrapped=True, flatten_subgroups=True):
        await night.run(change, max_in_flight=2)
    assert not night.maybe_billed()  # what was in flight was paid for, and waited for
    last = status_file.decode(bytes(night.disk.files["status.json"]))
    assert (last.in_flight, last.state, last.stopped_by) == (0, "stopped", "input")
    night.path.write_bytes(good)
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 20


async def test_a_disk_that_fills_up_stops_the_run_while_answers_still_fit(
    autojump_clock: MockClock, make_night: MakeNight
) -> None:
    """Below 64 MiB and what is in flight nothing more is sent; what was sent is kept. With room again the run goes on."""
    night = make_night(jobs(200), latency_median_seconds=1.0)
    night.disk.free = 1 << 30

    async def fill(_: Run) -> None:
        await trio.sleep(7)
        night.disk.free = (64 << 20) + 1

    first = await night.run(fill, max_in_flight=3, rpm=60)
    assert first.stopped_by == "disk"
    assert 0 < first.completed < 200
    assert not night.maybe_billed()
    assert any("MiB are free" in line for line in night.said)
    night.disk.free = None
    status = await night.run()
    assert_whole(night, status)
    assert status.completed == 200
