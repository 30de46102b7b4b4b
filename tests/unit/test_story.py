"""What a story makes of each record, whoever wrote it."""

from __future__ import annotations

import zlib
from decimal import Decimal
from pathlib import Path

import pytest

from batchrunner.costs import Charge
from batchrunner.disk import MemoryDisk
from batchrunner.journal.files import ERRORS, JOURNAL, RunFiles
from batchrunner.journal.records import Ended, Line, Record, Refunded, Sent, Started, Synced, What
from batchrunner.story import Story, tell
from batchrunner.story_text import story_text
from tests.crash.scripted import RUN, URL
from tests.verified import written

STARTED = Started("boot-1", 0, 0, 7, "test")


def sent(attempt: int = 1, boot: str = "boot-1") -> Sent:
    return Sent("job-1", "0" * 16, attempt, boot, 5_000_000_000, 12, 5, 7, "m", URL)


def ended(what: What, attempt: int = 1, *, spent: bool = False, charge: Charge | None = None) -> Ended:
    return Ended("job-1", "0" * 16, attempt, what, 6_000_000_000, spent=spent, charge=charge)


def told(tmp_path: Path, *records: Record, edit: tuple[bytes, bytes] = (b"", b"")) -> Story:
    disk = MemoryDisk()
    files = RunFiles(disk, RUN)
    for record in records:
        files.record(record)
    disk.files[JOURNAL] = bytearray(bytes(disk.files[JOURNAL]).replace(*edit, 1))
    return tell(written(disk, tmp_path / "a.run", run_id=RUN), "job-1")


def test_attempts_that_an_outage_took_are_given_back(tmp_path: Path) -> None:
    story = told(tmp_path, STARTED, sent(), ended(What.AGAIN, spent=True), Refunded("job-1", "0" * 16, 1))
    assert [step.what for step in story.steps] == ["sent", "again", "refunded"]
    assert (story.state, story.sends, story.spent) == ("pending", 1, 0)
    assert "1 attempt given back: part of an outage" in story_text(story, None, live=False)


def test_a_charge_without_a_price_is_counted_apart(tmp_path: Path) -> None:
    """It is no sum of money, and not nothing."""
    charge = Charge.maybe("m", URL, 5, None, None)
    story = told(tmp_path, STARTED, sent(), ended(What.AGAIN, spent=True, charge=charge))
    assert (story.maybe_billed_usd, story.unpriced_attempts) == (Decimal(0), 1)
    assert "unknown for 1 attempt without a price" in story_text(story, None, live=False)


def test_a_bill_for_an_attempt_that_was_not_in_flight(tmp_path: Path) -> None:
    """Recovery found it in the costs alone: the job stands where it stood."""
    charge = Charge.maybe("m", URL, 5, 7, Decimal("0.5"))
    story = told(tmp_path, STARTED, ended(What.LOST, charge=charge))
    assert (story.state, story.sends, story.maybe_billed_usd) == ("pending", 1, Decimal("0.5"))


def test_a_failure_unsent_keeps_the_bill_of_the_attempt_before(tmp_path: Path) -> None:
    charge = Charge.maybe("m", URL, 5, 7, Decimal("0.5"))
    story = told(tmp_path, STARTED, sent(), ended(What.LOST, charge=charge), ended(What.FAILED))
    assert story.maybe_billed_usd == Decimal("0.5")


@pytest.mark.parametrize("boot", ["boot-1", "boot-2"])
def test_a_time_is_told_where_it_can_be(tmp_path: Path, boot: str) -> None:
    """A monotonic time means nothing under another boot than that of the process."""
    (step,) = told(tmp_path, STARTED, sent(boot=boot)).steps
    assert step.at == ("1970-01-01T00:00:05.000Z" if boot == "boot-1" else None)


def test_a_send_whose_process_is_damaged_has_no_time(tmp_path: Path) -> None:
    story = told(tmp_path, STARTED, sent(), sent(2), Synced(0, 0, 0, 1_000, 0), edit=(b'"pid":7', b'"pid":8'))
    assert story.damaged
    assert {(step.at, step.pid) for step in story.steps} == {(None, None)}


def test_a_final_line_is_found_where_it_moved_to(tmp_path: Path) -> None:
    """By its length and checksum, behind lines of the same length and of others."""
    line = b'{"custom_id":"job-1"}\n'
    final = Line(ERRORS, 0, len(line), zlib.crc32(line))
    disk = MemoryDisk()
    files = RunFiles(disk, RUN)
    for record in (STARTED, sent(), Ended("job-1", "0" * 16, 1, What.FAILED, 0, spent=True, line=final)):
        files.record(record)
    disk.files[ERRORS] = bytearray(b"short\n" + line.replace(b"1", b"2") + line)
    story = tell(written(disk, tmp_path / "a.run", run_id=RUN), "job-1")
    assert story.final is not None
    assert story.final.offset == 6 + len(line)
