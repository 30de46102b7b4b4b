"""What recovery makes of each thing that a run can leave behind."""

from __future__ import annotations

from decimal import Decimal

import pytest

from batchrunner.costs import Charge, Source, cost_line
from batchrunner.disk import MemoryDisk
from batchrunner.events import Billing
from batchrunner.exchange import Reply
from batchrunner.journal.files import COSTS, CUT, ERRORS, JOURNAL, RESULTS
from batchrunner.journal.replay import RECENT_NS
from batchrunner.results import failure_line, success_line
from tests.crash.byhand import Run, finished, raw_success, settled, states
from tests.crash.scripted import (
    CEILING,
    PRICE,
    RUN,
    URL,
    StepClock,
    final_lines,
    fingerprint_of,
    ids_of,
    job_of,
    killed,
    lines_of,
    start,
    valid_costs,
)

# Adoption --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [True, False])
def test_a_whole_result_line_is_adopted_sent_or_not(sent: bool) -> None:
    """What was answered is not asked again, and its cost is computed from its usage."""
    ids = ids_of(2)
    disk = MemoryDisk()
    run = Run(disk, ids)
    if sent:
        run.send(0)
    disk.files[RESULTS] += raw_success("job-0")
    recovered, index = start(killed(disk), ids)
    assert states(index) == ["SUCCEEDED", "PENDING"]
    assert (recovered.completed, recovered.lost, recovered.totals.attempts) == (1, 0, 1)
    assert (recovered.totals.billed, recovered.totals.input_tokens, recovered.totals.output_tokens) == (PRICE, 1, 3)
    assert recovered.totals.finishes == {"stop": 1}
    left = recovered.files.disk
    assert isinstance(left, MemoryDisk)
    assert valid_costs(left)[("job-0", 1)].state is Billing.BILLED
    settled(left, ids)


def test_a_line_that_only_begins_like_a_success_is_none() -> None:
    """JSON, of this run and for an open job, and yet not in the form of a success: put by, and the job runs again."""
    ids = ids_of(2)
    disk = MemoryDisk()
    Run(disk, ids).send(0)
    altered = raw_success("job-0").replace(b'"request_id"', b'"request_9d"')
    disk.files["results.jsonl"] = bytearray(altered)
    _, index = start(disk, ids)
    assert states(index) == ["PENDING", "PENDING"]
    assert bytes(disk.files["results.cut"]) == altered
    assert not disk.files["results.jsonl"]


def test_a_result_that_names_no_usage_is_adopted_at_an_unknown_price() -> None:
    """Unknown is null, never nothing."""
    ids = ids_of(1)
    disk = MemoryDisk()
    Run(disk, ids)
    reply = Reply(200, (), b'{"usage":null}')
    disk.files[RESULTS] += success_line(RUN, "job-0", fingerprint_of("job-0"), 1, reply)
    recovered, _ = start(disk, ids, tariff_facts=lambda endpoint, body: None)
    assert recovered.totals.unpriced == 1
    assert valid_costs(disk)[("job-0", 1)].cost.amount is None


@pytest.mark.parametrize(
    ("reply", "billing"),
    [
        (Reply(400, (), b"{}"), None),
        (Reply(504, (), b"<html>"), Billing.MAYBE),
        (Reply(200, (), b"not json"), Billing.MAYBE),
        (None, Billing.MAYBE),
    ],
)
def test_an_adopted_failure_costs_what_its_answer_tells(reply: Reply | None, billing: Billing | None) -> None:
    """An error status costs nothing; what was not seen or not readable may have been billed."""
    ids = ids_of(1)
    disk = MemoryDisk()
    Run(disk, ids).send(0)
    disk.files[ERRORS] += failure_line(RUN, "job-0", fingerprint_of("job-0"), 1, code="c", message="m", reply=reply)
    recovered, index = start(disk, ids)
    assert states(index) == ["FAILED"]
    assert recovered.totals.maybe_billed == (CEILING if billing else 0)
    assert [line.state for line in valid_costs(disk).values()] == ([billing] if billing else [])
    settled(disk, ids)


def test_a_failure_that_was_never_sent_is_adopted_without_a_bill() -> None:
    """Attempt 0 cost nothing."""
    ids = ids_of(1)
    disk = MemoryDisk()
    Run(disk, ids)
    disk.files[ERRORS] += failure_line(RUN, "job-0", fingerprint_of("job-0"), 0, code="price_unknown", message="m")
    recovered, index = start(disk, ids)
    assert states(index) == ["FAILED"]
    assert (recovered.totals.attempts, len(valid_costs(disk))) == (0, 0)


def test_a_bill_that_stands_already_is_not_written_again() -> None:
    """A cost line that reached the file before the crash is the one that counts, settled or not."""
    ids = ids_of(2)
    disk = MemoryDisk()
    run = Run(disk, ids)
    run.send(0)
    run.send(1)
    settled_amount = Charge("model-1", URL, Billing.BILLED, 5, 0, 6, Decimal("0.07"))
    disk.files[RESULTS] += raw_success("job-0")
    for custom_id in ids:
        disk.files[COSTS] += cost_line(custom_id, 1, settled_amount, 0, Source.USAGE_EVENT)
    recovered, index = start(disk, ids)
    assert states(index) == ["SUCCEEDED", "PENDING"]
    assert len(lines_of(disk, COSTS)) == 2
    assert recovered.totals.billed == Decimal("0.14")
    settled(disk, ids)


def test_a_bill_for_an_attempt_without_a_record_keeps_its_number() -> None:
    """Its records went with the power; its money counts, and the next attempt takes the next number."""
    ids = ids_of(1)
    disk = MemoryDisk()
    Run(disk, ids)
    disk.files[COSTS] += cost_line("job-0", 1, Charge.maybe("model-1", URL, 5, 7, CEILING), 0)
    recovered, index = start(disk, ids)
    assert states(index) == ["PENDING"]
    assert recovered.histories[0].sends == 1
    assert recovered.totals.maybe_billed == CEILING
    settled(disk, ids)


# What matches nothing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        raw_success("job-0", run_id="another-run"),
        b"hello\n",
        raw_success("job-3")[:-2] + b",}\n",
        raw_success("job-1").replace(b'"custom_id":"job-1"', b'"custom_id":null'),
        b"\x00" * 50 + b"\n",
    ],
    ids=["another run's", "no line of ours", "no json", "no job's", "zeros"],
)
@pytest.mark.parametrize("name", [RESULTS, ERRORS])
async def test_a_line_that_matches_nothing_is_put_by(line: bytes, name: str) -> None:
    """It leaves the file, is kept in results.cut, is named, and the run's own lines stay."""
    ids = ids_of(4)
    disk = await finished(ids)
    before = final_lines(disk)
    disk.files[name][:0] = line
    disk.operations.clear()
    recovered, index = start(disk, ids)
    assert disk.operations.index(("sync", CUT)) < disk.operations.index(("replace", name))
    assert disk.files[CUT] == line
    assert {key: [final.raw for final in value] for key, value in final_lines(disk).items()} == {
        key: [final.raw for final in value] for key, value in before.items()
    }
    assert any(CUT in warning for warning in recovered.warnings)
    assert states(index) == ["SUCCEEDED", "SUCCEEDED", "FAILED", "PENDING"]
    settled(disk, ids)


async def test_a_line_that_stands_twice_is_kept_once() -> None:
    """A doubled line is a duplicate whether the journal or recovery itself knows the first; also in the other file."""
    ids = ids_of(5)
    disk = await finished(ids)
    first = lines_of(disk, RESULTS)[0]
    disk.files[RESULTS] += first + raw_success("job-3") + raw_success("job-3") + raw_success("job-3", attempt=2)
    disk.files[ERRORS] += failure_line(RUN, "job-3", fingerprint_of("job-3"), 1, code="c", message="m")
    _, index = start(disk, ids)
    assert states(index) == ["SUCCEEDED", "SUCCEEDED", "FAILED", "SUCCEEDED", "PENDING"]
    assert {key: len(found) for key, found in final_lines(disk).items()} == {"job-0": 1, "job-1": 1, "job-2": 1, "job-3": 1}
    assert len(lines_of(disk, CUT)) == 4
    settled(disk, ids)


@pytest.mark.parametrize("name", [RESULTS, ERRORS])
async def test_a_torn_last_line_is_cut_and_kept_aside(name: str) -> None:
    """Half an answer is no result, but it was paid for."""
    ids = ids_of(4)
    disk = await finished(ids)
    torn = raw_success("job-3")[:40]
    disk.files[name] += torn
    recovered, index = start(disk, ids)
    assert disk.files[CUT] == torn + b"\n"
    assert any("torn" in warning for warning in recovered.warnings)
    assert states(index)[3] == "PENDING"
    settled(disk, ids)


# In flight -------------------------------------------------------------------------------------------------------


def test_what_was_in_flight_may_have_been_billed() -> None:
    """Each attempt cut off by the end of the process is counted lost, at the most that it can have cost."""
    ids = ids_of(3)
    disk = MemoryDisk()
    run = Run(disk, ids)
    run.send(0)
    run.send(1)
    recovered, index = start(killed(disk), ids)
    assert recovered.lost == 2
    assert recovered.totals.maybe_billed == 2 * CEILING
    assert {number: history.sends for number, history in recovered.histories.items()} == {0: 1, 1: 1}
    assert {history.spent for history in recovered.histories.values()} == {0}
    assert states(index) == ["PENDING"] * 3
    assert any("2 attempt(s)" in warning for warning in recovered.warnings)


async def test_histories_come_back_as_they_were() -> None:
    """Sends and spent attempts of jobs that go on are known to the next process."""
    ids = ids_of(1)
    disk = MemoryDisk()
    run = Run(disk, ids)
    job = job_of(run.index, ids, 0)
    for attempt in (1, 2, 3):
        run.send(0, attempt)
        run.journal.again(job, attempt, why="upstream_error")
    run.send(0, 4)
    run.journal.refused(job, 4, why="rate_limit_exceeded")
    recovered, _ = start(disk, ids)
    assert (recovered.histories[0].sends, recovered.histories[0].spent) == (4, 3)
    assert (recovered.totals.attempts, recovered.totals.rate_limited) == (4, 1)


def test_the_last_two_minutes_of_the_same_boot_are_known() -> None:
    """The budget gets each send's time and tokens; older ones and those of another boot are left out."""
    ids = ids_of(3)
    disk = MemoryDisk()
    clock = StepClock()
    run = Run(disk, ids, clock)
    run.send(0)
    clock.now_ns += RECENT_NS
    run.send(1)
    recovered, _ = start(killed(disk), ids, clock=clock)
    assert [tokens for _, tokens, _ in recovered.recent_sends] == [12]
    assert recovered.same_boot
    rebooted, _ = start(killed(disk), ids, clock=StepClock("boot-2"))
    assert (rebooted.recent_sends, rebooted.same_boot) == ([], False)
    clock.now_ns += RECENT_NS
    assert start(killed(disk), ids, clock=clock)[0].recent_sends == []


def test_bills_that_reached_their_file_are_not_written_twice() -> None:
    """After kill -9 each cost line still stands there, once."""
    ids = ids_of(2)
    disk = MemoryDisk()
    run = Run(disk, ids)
    run.send(0)
    run.done(0)
    left = killed(disk)
    start(left, ids)
    assert lines_of(left, COSTS) == lines_of(disk, COSTS)


def test_what_recovery_hands_over_is_on_disk() -> None:
    """Counts of a resumed run may be shown at once: whatever they rest on has been synced."""
    ids = ids_of(4)
    disk = MemoryDisk()
    run = Run(disk, ids)
    for number in range(3):
        run.send(number)
        run.fail(number) if number == 2 else run.done(number)
    disk.files[RESULTS] += raw_success("job-3")
    start(disk, ids)
    for name in (RESULTS, ERRORS, COSTS):
        assert disk.synced[name] == len(disk.files[name])
    assert lines_of(disk, JOURNAL)[-1].startswith(b'{"n":11,"t":"synced"')
    assert disk.synced[JOURNAL] == len(disk.files[JOURNAL]) - len(lines_of(disk, JOURNAL)[-1])


def test_an_empty_directory_begins_a_run() -> None:
    """No journal is no error: it says that it is fresh, once."""
    disk = MemoryDisk()
    assert start(disk, ids_of(1))[0].fresh
    assert not start(disk, ids_of(1))[0].fresh


@pytest.mark.parametrize("removed_meanwhile", [True, False])
def test_a_line_that_turns_up_after_its_attempt_was_counted_lost_takes_its_place(removed_meanwhile: bool) -> None:
    """An attempt is charged once: the bill that its line proves replaces the one that was feared."""
    ids = ids_of(2)
    disk = MemoryDisk()
    run = Run(disk, ids)
    run.send(0)
    if removed_meanwhile:  # the line is on disk, and its job is not in the input when the run is started again
        disk.files[RESULTS] += raw_success("job-0")
        recovered, _ = start(killed(disk), ids[1:])
    else:
        recovered, _ = start(killed(disk), ids)
    assert (recovered.lost, recovered.totals.maybe_billed) == (1, CEILING)
    left = recovered.files.disk
    assert isinstance(left, MemoryDisk)
    if not removed_meanwhile:
        left.files[RESULTS] += raw_success("job-0")
    recovered, index = start(killed(left), ids)
    assert states(index) == ["SUCCEEDED", "PENDING"]
    assert recovered.totals.billed == PRICE
    assert recovered.totals.maybe_billed == 0
    assert recovered.totals.unpriced == 0
    left = recovered.files.disk
    assert isinstance(left, MemoryDisk)
    assert valid_costs(left)[("job-0", 1)].state is Billing.BILLED
    settled(left, ids)


async def test_an_unreadable_answer_without_a_record_may_have_been_billed() -> None:
    """An error line with a 2xx that outlived the record of its sending is listed as perhaps billed, at an unknown price."""
    disk = MemoryDisk()
    Run(disk, ids_of(1)).journal._files.close()
    reply = Reply(200, (), b"<p>")
    disk.open(ERRORS).append(failure_line(RUN, "job-0", fingerprint_of("job-0"), 1, code="unreadable", message="no", reply=reply))
    recovered, index = start(disk, ids_of(1))
    assert states(index) == ["FAILED"]
    (line,) = valid_costs(disk).values()
    assert (line.state, line.model, line.cost.amount, recovered.totals.unpriced) == (Billing.MAYBE, "model-1", None, 1)
    settled(disk, ids_of(1))


async def test_a_job_that_fails_unsent_keeps_the_bill_of_the_attempt_before() -> None:
    """Its record names that attempt, which was lost and may have been billed: another start must not take the bill back."""
    disk = MemoryDisk()
    first = Run(disk, ids_of(1))
    first.send(0)
    job = job_of(first.index, first.ids, 0)
    first.journal.lost(job, 1, charge=Charge.maybe("model-1", URL, 5, 7, CEILING), why="interrupted")
    await first.journal.commit()
    second = Run(disk, ids_of(1))
    second.journal.failed(job, 1, code="price_unknown", message="no", spent=False)
    await second.journal.commit()
    recovered, _ = start(disk, ids_of(1))
    assert recovered.totals.maybe_billed == CEILING
    settled(disk, ids_of(1))
