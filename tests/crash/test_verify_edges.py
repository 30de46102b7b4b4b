"""What a check makes of directories that are being changed, half there, or another version's."""

from __future__ import annotations

import zlib
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from batchrunner.catalog_prices import ModelPrice, Tier
from batchrunner.disk import MemoryDisk
from batchrunner.errors import DiskError, InvalidInput, RunDirectoryInUse
from batchrunner.journal import RunLock
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.journal.records import Started, encode, header
from batchrunner.pricing import PriceTable
from batchrunner.verification import Report, check, verify
from tests.crash.byhand import Run, finished, raw_success
from tests.crash.scripted import RUN, PowerCut, break_at, ids_of, killed, start
from tests.verified import assert_clean, written

IDS = ids_of(4)


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]


def notes(report: Report) -> set[str]:
    return {note.code for note in report.notes} - {"no_status"}


def append(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


# Live runs ----------------------------------------------------------------------------------------------------------


async def started_with_a_foreign_line(tmp_path: Path) -> Path:
    """A run whose newest process has begun, and has not come to work."""
    disk = await finished(IDS)
    start(disk, IDS)
    directory = written(disk, tmp_path / "a.run", run_id=RUN)
    append(directory / RESULTS, raw_success("job-0", run_id="another"))
    return directory


async def test_a_start_that_is_at_work_on_the_files(tmp_path: Path) -> None:
    """What looks wrong while a start sets files right may not be: it says to try again. With nobody there, it is a finding."""
    directory = await started_with_a_foreign_line(tmp_path)
    with RunLock(directory, wall_ns=0), pytest.raises(RunDirectoryInUse, match="Try again in a moment"):
        verify(directory)
    assert codes(verify(directory)) == ["foreign"]


async def test_a_run_at_work_is_checked(tmp_path: Path) -> None:
    """Once something was sent, files only grow, and what is wrong is told although a process is there."""
    disk = await finished(IDS)
    run = Run(disk, IDS)
    run.send(3)
    directory = written(disk, tmp_path / "a.run", run_id=RUN)
    with RunLock(directory, wall_ns=0):
        report = verify(directory)
        assert (codes(report), notes(report), report.live) == ([], {"in_flight"}, True)
        append(directory / RESULTS, raw_success("job-0", run_id="another"))
        assert codes(verify(directory)) == ["foreign"]


async def test_a_start_that_begins_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `started` behind what was read of the journal makes findings doubtful."""
    disk = await finished(IDS)
    run = Run(disk, IDS)
    run.send(3)
    files = run.journal._files
    directory = written(disk, tmp_path / "a.run", run_id=RUN)
    append(directory / RESULTS, raw_success("job-0", run_id="another"))
    line, _ = encode(Started("boot-1", 0, 0, 2, "0"), files._number + 1, files._crc)
    monkeypatch.setattr(check, "check_status", lambda *args, **live: append(directory / JOURNAL, line))
    with pytest.raises(RunDirectoryInUse):
        verify(directory)


async def test_lines_written_after_the_journal_was_read(tmp_path: Path) -> None:
    """A run goes on while it is checked: what the journal's snapshot does not know yet is a note."""
    disk = await finished(IDS)
    run = Run(disk, IDS)
    run.send(3)
    await run.journal.commit()
    journal = bytes(disk.files[JOURNAL])
    run.done(3)
    disk.files[JOURNAL][:] = journal
    report = assert_clean(written(disk, tmp_path / "a.run", run_id=RUN))
    assert notes(report) == {"in_flight", "uncommitted_line", "uncommitted_bill"}


# Crashes ------------------------------------------------------------------------------------------------------------


async def test_a_power_cut_that_took_lines_and_left_records(tmp_path: Path) -> None:
    """Behind the newest commit results and bills may be gone: that is what a start settles."""
    disk = await finished(IDS)
    run = Run(disk, IDS)
    run.send(3)
    run.done(3)
    left = disk.crash({JOURNAL: len(disk.files[JOURNAL])})
    report = assert_clean(written(left, tmp_path / "a.run", run_id=RUN))
    assert notes(report) == {"unsynced_line", "unsynced_bill"}


async def test_a_kill_between_reopening_and_taking_the_lines_out(tmp_path: Path) -> None:
    """The journal says that a failed job runs again, and its old line is still there: a note."""
    for nth in range(1, 30):
        disk = await finished(IDS)
        break_at(disk, nth, PowerCut())
        try:
            start(disk, IDS, retry_failed=True)
        except PowerCut:
            report = assert_clean(written(killed(disk), tmp_path / "a.run", run_id=RUN))
            if disk.operations[-1] == ("replace", ERRORS):
                assert notes(report) == {"stale_line"}
                return
    raise AssertionError("errors.jsonl was never replaced")


# What is no run, or not ours ------------------------------------------------------------------------------------------


async def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    """A manifest alone is a run without jobs."""
    report = assert_clean(written(MemoryDisk(), tmp_path / "a.run", run_id=RUN))
    assert (report.checked.jobs, report.finished, report.unsettled) == (0, False, False)


async def test_no_journal(tmp_path: Path) -> None:
    """Results without a journal cannot be judged."""
    directory = written(await finished(IDS), tmp_path / "a.run", run_id=RUN)
    (directory / JOURNAL).unlink()
    with pytest.raises(InvalidInput, match=r"journal\.jsonl: missing, and there are results"):
        verify(directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"{", "cannot be read"), (b'{"version":2}', "is of version 2"), (None, "no such file"), ("directory", "cannot be read")],
)
async def test_a_manifest_that_says_nothing(tmp_path: Path, text: bytes | str | None, message: str) -> None:
    """Without it nothing is known, not even whose run it is."""
    directory = written(await finished(IDS), tmp_path / "a.run", run_id=RUN)
    (directory / "run.json").unlink()
    if isinstance(text, bytes):
        (directory / "run.json").write_bytes(text)
    elif text is not None:
        (directory / "run.json").mkdir()
    with pytest.raises(InvalidInput, match=f"run.json.*{message}"):
        verify(directory)


async def test_a_journal_of_another_version(tmp_path: Path) -> None:
    """Neither another format nor an unknown kind of record is taken for damage."""
    directory = written(await finished(IDS), tmp_path / "a.run", run_id=RUN)
    first, crc = header(RUN)
    (directory / JOURNAL).write_bytes(first.replace(b':1,"run"', b':7,"run"'))
    with pytest.raises(InvalidInput, match="written in format 7"):
        verify(directory)
    line, _ = encode(Started("b", 0, 0, 1, "0"), 1, crc)
    unknown = msgspec.json.decode(line, type=dict[str, object]) | {"t": "unheard"}
    (directory / JOURNAL).write_bytes(first + sealed(unknown, crc))
    with pytest.raises(InvalidInput, match=r"line 2, byte .* of a kind that this batchrun does not know"):
        verify(directory)


def sealed(record: dict[str, object], previous_crc: int) -> bytes:
    del record["crc"]
    start_of_line = msgspec.json.encode(record)[:-1]
    return b'%b,"crc":"%08x"}\n' % (start_of_line, zlib.crc32(start_of_line, previous_crc))


async def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is a disk's error, by name, and no finding."""
    directory = written(await finished(IDS), tmp_path / "a.run", run_id=RUN)
    (directory / COSTS).unlink()
    (directory / COSTS).mkdir()
    with pytest.raises(DiskError, match=r"costs\.jsonl: reading failed"):
        verify(directory)


# Prices ---------------------------------------------------------------------------------------------------------------


def table(prompt: str, fetched_at: str) -> PriceTable:
    return PriceTable({"model-1": ModelPrice((Tier(Decimal(prompt), Decimal(0)),))}, fetched_at)


@pytest.mark.parametrize(
    ("prices", "found", "noted"),
    [
        (table("0.1", "1970-01-01T00:00:00Z"), set(), set()),
        (table("0.2", "1970-01-01T00:00:00Z"), {"amount"}, set()),
        (table("0.2", "2050-01-01T00:00:00Z"), set(), {"earlier_prices"}),
        (table("0.2", "some day"), set(), {"earlier_prices"}),
        (None, set(), set()),
    ],
)
async def test_prices(tmp_path: Path, prices: PriceTable | None, found: set[str], noted: set[str]) -> None:
    """What ended under run.json's prices must follow from them; what ended before they were fetched need not."""
    directory = written(await finished(IDS), tmp_path / "a.run", run_id=RUN, prices=prices)
    report = verify(directory)
    assert (set(codes(report)), notes(report)) == (found, noted)
    assert report.checked.amounts == (0 if prices is None else 2)
