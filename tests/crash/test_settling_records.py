"""The records by which recovery closes what was left open, field by field, and what it tells people of it."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import pytest

from batchrunner.costs import Charge, cost_line
from batchrunner.disk import MemoryDisk
from batchrunner.errors import ChangedLines, JournalDamaged
from batchrunner.events import Billing
from batchrunner.exchange import Reply
from batchrunner.job import BadLine
from batchrunner.journal import Recovered, recover
from batchrunner.journal.files import COSTS, CUT, ERRORS, JOURNAL, RESULTS
from batchrunner.journal.reading import JournalReader
from batchrunner.journal.records import Ended, Reopened, Started, What, fingerprint_text
from batchrunner.results import failure_line
from tests.crash.byhand import Run, finished, raw_success, settled
from tests.crash.scripted import CEILING, PRICE, RUN, TARIFF, URL, StepClock, fingerprint_of, ids_of, index_of, killed, start

MAYBE = Charge.maybe("model-1", URL, 5, 7, CEILING)
ELSEWHERE = "/v1/elsewhere"


def by_their_jobs(disk: MemoryDisk, ids: list[str]) -> Recovered:
    """Recover with a tariff that knows of each job another model than the one it was sent to."""
    tariff = msgspec.structs.replace(TARIFF, request=lambda number: (ELSEWHERE, f"model of {ids[number]}"))
    return recover(disk, run_id=RUN, index=index_of(ids), clock=StepClock(), tariff=tariff, pid=42, version="7")


def records(disk: MemoryDisk, *kinds: type) -> list[object]:
    """The records of these kinds since the newest start."""
    found = [record for _, record in JournalReader(disk, RUN)]
    newest = max(place for place, record in enumerate(found) if isinstance(record, Started))
    return [record for record in found[newest:] if isinstance(record, kinds)]


def ended(disk: MemoryDisk) -> list[tuple[str, int, What, str | None, str | None, Charge | None]]:
    return [
        (record.id, record.attempt, record.what, record.why, record.finish, record.charge)
        for record in records(disk, Ended)
        if isinstance(record, Ended)
    ]


def failure(custom_id: str, attempt: int, status: int | None, code: str = "late") -> bytes:
    reply = None if status is None else Reply(status, (), b"{}")
    return failure_line(RUN, custom_id, fingerprint_of(custom_id), attempt, code=code, message="m", reply=reply)


# Ends ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [True, False])
def test_an_adopted_success_is_billed_as_it_was_sent(sent: bool) -> None:
    """By the record of its sending where there is one, else by the job's own line."""
    ids = ids_of(3)
    disk = MemoryDisk()
    run = Run(disk, ids)
    if sent:
        run.send(1)
    disk.files[RESULTS] += raw_success("job-1")
    by_their_jobs(disk, ids)
    endpoint, model = (URL, "model-1") if sent else (ELSEWHERE, "model of job-1")
    charge = Charge(model, endpoint, Billing.BILLED, 1, 0, 3, PRICE)
    assert ended(disk) == [("job-1", 1, What.DONE, "adopted", "stop", charge)]


@pytest.mark.parametrize("sent", [True, False])
def test_an_adopted_failure_keeps_its_code(sent: bool) -> None:
    """And has no end in a model's words; its bill is the most that it can have been, if that is known."""
    ids = ids_of(3)
    disk = MemoryDisk()
    run = Run(disk, ids)
    if sent:
        run.send(1)
    disk.files[ERRORS] += failure("job-1", 1, 504)
    by_their_jobs(disk, ids)
    charge = MAYBE if sent else Charge("model of job-1", ELSEWHERE, Billing.MAYBE)
    assert ended(disk) == [("job-1", 1, What.FAILED, "late", None, charge)]


def test_an_adopted_line_is_known_by_its_place_and_checksum_from_then_on() -> None:
    """A later start finds it altered, and refuses."""
    ids = ids_of(2)
    disk = MemoryDisk()
    Run(disk, ids)
    disk.files[RESULTS] += raw_success("job-0") + raw_success("job-1")
    by_their_jobs(disk, ids)
    places = [record.line for record in records(disk, Ended) if isinstance(record, Ended)]
    length = len(raw_success("job-0"))
    assert [(line.file, line.offset, line.length) for line in places if line] == [(RESULTS, 0, length), (RESULTS, length, length)]
    settled(disk, ids)


def test_what_was_in_flight_is_lost_because_the_process_ended() -> None:
    ids = ids_of(3)
    disk = MemoryDisk()
    run = Run(disk, ids)
    run.send(1)
    recovered = by_their_jobs(killed(disk), ids)
    left = recovered.files.disk
    assert isinstance(left, MemoryDisk)
    assert ended(left) == [("job-1", 1, What.LOST, "the process ended", None, MAYBE)]
    assert recovered.warnings == ["1 attempt(s) were in flight when the last process ended; each may have been billed."]


@pytest.mark.parametrize("line", [raw_success("job-1"), failure("job-1", 1, 504)], ids=["success", "failure"])
def test_a_bill_whose_line_is_adopted_is_of_that_attempt(line: bytes) -> None:
    """Line and bill outlived their records: one attempt, charged once, and no other that was lost."""
    ids = ids_of(3)
    disk = MemoryDisk()
    Run(disk, ids)
    bill = Charge("model-1", URL, Billing.BILLED, 5, 0, 6, Decimal("0.07"))
    disk.files[ERRORS if b'"late"' in line else RESULTS] += line
    disk.files[COSTS] += cost_line("job-1", 1, bill, 0)
    recovered = by_their_jobs(disk, ids)
    assert [(custom_id, attempt, charge) for custom_id, attempt, *_, charge in ended(disk)] == [("job-1", 1, bill)]
    assert recovered.totals.billed == Decimal("0.07")


@pytest.mark.parametrize("line", [raw_success("job-1", 2), failure("job-1", 2, 400)], ids=["success", "failure"])
def test_a_bill_of_an_attempt_before_the_line_that_is_adopted_was_lost(line: bytes) -> None:
    """Two attempts, neither of them in the journal: the first is known by its bill alone."""
    ids = ids_of(3)
    disk = MemoryDisk()
    Run(disk, ids)
    disk.files[ERRORS if b'"late"' in line else RESULTS] += line
    disk.files[COSTS] += cost_line("job-1", 1, MAYBE, 0)
    recovered = by_their_jobs(disk, ids)
    assert [(attempt, what) for _, attempt, what, *_ in ended(disk)] == [
        (1, What.LOST),
        (2, What.FAILED if b'"late"' in line else What.DONE),
    ]
    assert (recovered.totals.attempts, recovered.totals.maybe_billed) == (2, CEILING)


def test_a_bill_of_a_job_that_is_gone_from_the_input_stays_where_it_is() -> None:
    """Nobody runs that job: nothing is counted lost."""
    ids = ids_of(2)
    disk = MemoryDisk()
    Run(disk, ids)
    disk.files[COSTS] += cost_line("job-1", 1, MAYBE, 0)
    recovered = by_their_jobs(disk, ids[:1])
    assert not ended(disk)
    assert recovered.totals.maybe_billed == 0
    assert len(bytes(disk.files[COSTS]).splitlines()) == 1


# Reopened ------------------------------------------------------------------------------------------------------------


async def test_each_failed_job_that_is_tried_again_is_noted() -> None:
    """With how often it was sent, and why."""
    ids = ids_of(5)
    disk = await finished(ids)
    run = Run(disk, ids)
    run.send(3)
    run.fail(3)
    await run.journal.commit()
    recovered, _ = start(disk, ids, retry_failed=True)
    noted = [
        Reopened(f"job-{number}", fingerprint_text(fingerprint_of(f"job-{number}")), 1, "failed before") for number in (2, 3)
    ]
    assert records(disk, Reopened) == noted
    assert (recovered.failed, recovered.completed) == (0, 2)
    assert bytes(disk.files[ERRORS]) == b""


async def test_each_changed_job_that_is_accepted_is_noted() -> None:
    """A failed one as what failed before, others as changed; under the new line's fingerprint."""
    ids = ids_of(5)
    disk = await finished(ids)
    run = Run(disk, ids)
    run.send(3)
    disk = killed(disk)
    new = {"job-2": 22, "job-3": 33}
    start(disk, ids, index=index_of(ids, new), accept_changes=True)
    assert records(disk, Reopened) == [
        Reopened("job-2", fingerprint_text(22), 1, "failed before"),
        Reopened("job-3", fingerprint_text(33), 1, "its line was changed"),
    ]


def test_a_job_whose_line_went_with_the_power_is_noted() -> None:
    ids = ids_of(2)
    disk = MemoryDisk()
    run = Run(disk, ids)
    run.send(0)
    run.done(0)
    left = disk.crash({JOURNAL: 10_000})
    recovered, _ = start(left, ids)
    why = "its line had not reached the disk"
    assert records(left, Reopened) == [Reopened("job-0", fingerprint_text(fingerprint_of("job-0")), 1, why)]
    assert "1 finished job(s) run again: their lines had not reached the disk." in recovered.warnings


async def test_changed_lines_are_refused_by_their_places() -> None:
    """The first five by file and line, and how many there are."""
    ids = ids_of(9)
    disk = MemoryDisk()
    run = Run(disk, ids)
    for number in range(7):
        run.send(number)
    new = {f"job-{number}": 900 + number for number in range(7)}
    with pytest.raises(ChangedLines) as caught:
        start(killed(disk), ids, index=index_of(ids, new))
    assert caught.value.count == 7
    assert [custom_id for _, custom_id in caught.value.lines] == ids[:5]
    assert [place for place, _ in caught.value.lines] == [index_of(ids).place(number + 1) for number in range(5)]


async def test_changed_lines_that_had_succeeded_keep_their_results_and_are_named() -> None:
    ids = ids_of(4)
    disk = await finished(ids)
    index = index_of(ids, {"job-0": 90, "job-1": 91})
    recovered, _ = start(disk, ids, index=index)
    assert recovered.warnings == [
        f"2 changed line(s) of the input keep the result of what they were: they had succeeded. The first is {index.place(1)}."
    ]


# Words ---------------------------------------------------------------------------------------------------------------


async def test_lines_that_match_nothing_are_counted() -> None:
    """Those of both files together, in the one that they are put into."""
    ids = ids_of(4)
    disk = await finished(ids)
    strange = b'{"id":"other-run-0000000000000000-1","custom_id":"x","response":null,"error":null}\n'
    disk.files[RESULTS] += strange * 2
    disk.files[ERRORS] += strange
    recovered, _ = start(disk, ids)
    assert recovered.warnings == ["results.cut: 3 line(s) of results.jsonl or errors.jsonl that match nothing were put there."]
    assert bytes(disk.files[CUT]) == strange * 3
    assert disk.synced[CUT] == 3 * len(strange)


async def test_torn_ends_are_measured() -> None:
    """Of each file by its name, in bytes."""
    ids = ids_of(4)
    disk = await finished(ids)
    for name in (JOURNAL, COSTS, RESULTS):
        disk.files[name] += b"x" * 7
    recovered, _ = start(disk, ids)
    assert recovered.warnings == [
        "journal.jsonl: a torn end of 7 bytes was cut.",
        "costs.jsonl: a torn end of 7 bytes was cut; its lines are written again.",
        "results.jsonl: a torn last line of 7 bytes was cut.",
        "results.cut: 1 line(s) of results.jsonl or errors.jsonl that match nothing were put there.",
    ]
    assert bytes(disk.files[CUT]) == b"x" * 7 + b"\n"
    settled(disk, ids)


async def test_jobs_that_are_gone_from_the_input_are_counted() -> None:
    """Ended or open; what stands there of them stays."""
    ids = ids_of(5)
    disk = await finished(ids)
    run = Run(disk, ids)
    run.send(4)
    recovered, _ = start(killed(disk), ids[1:4])
    assert "2 job(s) of this run are not in the input any more; their lines stay." in recovered.warnings


def test_a_start_notes_itself() -> None:
    """Process, version, boot and the time by both clocks."""
    disk = MemoryDisk()
    recovered = by_their_jobs(disk, ids_of(1))
    (started,) = records(disk, Started)
    assert isinstance(started, Started)
    assert (started.pid, started.version, started.boot) == (42, "7", "boot-1")
    assert started.wall_ns > started.mono_ns > 0
    assert (recovered.fresh, recovered.same_boot, recovered.lost, recovered.warnings) == (True, False, 0, [])


def test_a_second_start_under_the_same_boot_knows_the_last_minutes() -> None:
    """Another boot's times mean nothing here."""
    ids = ids_of(2)
    disk = MemoryDisk()
    Run(disk, ids).send(0)
    for boot, known in (("boot-1", True), ("boot-2", False)):
        recovered, _ = start(killed(disk), ids, clock=StepClock(boot))
        assert (recovered.fresh, recovered.same_boot) == (False, known)


async def test_bad_lines_that_are_the_same_are_left_as_they_stand() -> None:
    """Counted, and the file not written again; other words are another set."""
    ids = ids_of(3)
    disk = await finished(ids)
    bad = [BadLine(3, "not_json", "line 3"), BadLine(9, "not_json", "line 9")]
    assert start(disk, ids, bad_lines=bad)[0].bad_lines == 2
    before = bytes(disk.files[ERRORS])
    assert [json.loads(raw)["line"] for raw in before.splitlines()[:2]] == [3, 9]
    disk.operations.clear()
    assert start(disk, ids, bad_lines=bad)[0].bad_lines == 2
    assert ("replace", ERRORS) not in disk.operations
    for other in ([bad[1], bad[0]], [bad[0], BadLine(9, "not_json", "other words")], bad[:1]):
        start(disk, ids, bad_lines=other)
        assert bytes(disk.files[ERRORS]) != before
        start(disk, ids, bad_lines=bad)
        assert bytes(disk.files[ERRORS]) == before


# Lines of jobs that are gone -----------------------------------------------------------------------------------------


async def test_a_line_of_a_job_that_is_gone_stays_only_where_it_is_json() -> None:
    """Nothing else seals it: a later reader must be able to read the file."""
    ids = ids_of(4)
    disk = await finished(ids)
    broken = raw_success("job-3")[:-2] + b",}\n"
    disk.files[RESULTS] += raw_success("job-9") + broken
    start(disk, ids[:3])
    assert raw_success("job-9") in disk.files[RESULTS]
    assert bytes(disk.files[CUT]) == broken


async def test_costs_that_are_cut_short_are_refused_at_their_end() -> None:
    """With how long they were once."""
    ids = ids_of(4)
    disk = await finished(ids)
    whole = len(disk.files[COSTS])
    del disk.files[COSTS][-10:]
    with pytest.raises(JournalDamaged) as caught:
        start(disk, ids)
    assert (caught.value.path, caught.value.offset) == (COSTS, whole - 10)
    assert f"it ends here, and was {whole} bytes long once" in str(caught.value)


async def test_altered_costs_are_refused_from_their_beginning_on() -> None:
    """No mark stands before the first."""
    ids = ids_of(4)
    disk = await finished(ids)
    disk.files[COSTS][5] ^= 1
    with pytest.raises(JournalDamaged) as caught:
        start(disk, ids)
    assert (caught.value.path, caught.value.offset) == (COSTS, 0)
