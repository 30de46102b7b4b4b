"""Killed at each record of a run whose jobs the server works on, and with the power cut behind it: nothing is submitted twice
of which the journal knows the name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.disk import MemoryDisk
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RunFiles
from batchrunner.journal.records import Ended, Line, Record, Sent, Submitted, What, decode
from batchrunner.simulator.settings import Rule, Settings
from tests.sim.nights import PRICES, Night, WatchedPlatform, assert_once
from tests.verified import assert_clean, written

IDS = ["work-0", "work-1"]


def line(custom_id: str) -> bytes:
    body = {"model": "simulated-per-request", "prompt": "The moon", "metadata": {"custom_id": custom_id}}
    return msgspec.json.encode({"custom_id": custom_id, "url": "/v1/videos/generations", "body": body}) + b"\n"


def night_of(tmp_path: Path, nursery: trio.Nursery, platform: WatchedPlatform | None = None) -> Night:
    platform = platform or WatchedPlatform(Settings(latency_sigma=0.0))
    return Night(tmp_path / "jobs.jsonl", nursery, list(map(line, IDS)), platform)


def records(disk: MemoryDisk) -> list[Record]:
    lines = bytes(disk.files.get(JOURNAL, b"")).splitlines(keepends=True)[1:]
    return [decode(found) for found in lines]


def in_doubt(disk: MemoryDisk) -> Counter[str]:
    """Jobs of which a disk knows that they were sent, and not what came of it, or what the server calls them."""
    sent: dict[str, Record] = {}
    for record in records(disk):
        if isinstance(record, Sent | Submitted | Ended):
            sent[record.id] = record
    return Counter(custom_id for custom_id, record in sent.items() if isinstance(record, Sent))


async def disks_of_a_run(night: Night, monkeypatch: pytest.MonkeyPatch, left: Callable[[Night], MemoryDisk]) -> list[MemoryDisk]:
    """What is left where it ends just before and just behind each record."""
    disks: list[MemoryDisk] = []
    put = RunFiles.record

    def record(files: RunFiles, what: Record) -> None:
        disks.append(left(night))
        put(files, what)
        disks.append(left(night))

    with monkeypatch.context() as patched:
        patched.setattr(RunFiles, "record", record)
        await night.run()
    return disks


async def resumed(tmp_path: Path, nursery: trio.Nursery, platform: WatchedPlatform, disk: MemoryDisk) -> Night:
    night = night_of(tmp_path, nursery, platform)
    night.disk = disk
    platform.asked.clear()
    status = await night.run()
    assert_once(night, status)
    assert status.completed == len(IDS)
    assert_clean(written(night.disk, tmp_path / "night.run", run_id="night", prices=PRICES))
    return night


async def test_killed_at_each_record(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was sent and not yet named is submitted anew, and listed as perhaps billed; all else is asked for."""
    night = night_of(tmp_path, nursery)
    disks = await disks_of_a_run(night, monkeypatch, Night.killed)
    assert any(in_doubt(disk) for disk in disks)
    for disk in disks:
        doubtful = in_doubt(disk)
        unsent = set(IDS) - {record.id for record in records(disk) if isinstance(record, Sent)}
        again = await resumed(tmp_path, nursery, night.platform, disk)
        # (A result line may stand without its record: then the job has ended, and was not in doubt.)
        assert set(again.asked()) == doubtful.keys() | unsent
        assert again.maybe_billed() == set(doubtful)


async def test_the_power_goes_at_each_commit(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not synced is gone: a name that went with it is lost, and its job submitted anew; what is left adds up."""
    night = night_of(tmp_path, nursery)
    disks = await disks_of_a_run(night, monkeypatch, lambda night: night.disk.crash())
    for number, disk in enumerate({bytes(disk.files.get(JOURNAL, b"")): disk for disk in disks}.values()):
        named = {record.id for record in records(disk) if isinstance(record, Submitted)}
        again = await resumed(tmp_path, nursery, night.platform, disk)
        assert not named & set(again.asked())
        assert number or set(again.asked()) == set(IDS)


async def test_a_bill_without_its_record_is_replaced(autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Power cut: of the end of an attempt its cost line alone is left. The server is asked, and the job billed once."""
    night = night_of(tmp_path, nursery)
    await night.run()
    lines = bytes(night.disk.files[JOURNAL]).splitlines(keepends=True)
    first_end = next(at for at, found in enumerate(lines[1:], 1) if isinstance(decode(found), Ended))
    sizes = {JOURNAL: sum(map(len, lines[:first_end])), COSTS: len(bytes(night.disk.files[COSTS]).splitlines(keepends=True)[0])}
    night.disk.synced = dict.fromkeys(night.disk.synced, 0)
    again = await resumed(tmp_path, nursery, night.platform, night.disk.crash(sizes))
    assert again.asked() == {}
    assert not again.maybe_billed()
    assert [record.what for record in records(again.disk) if isinstance(record, Ended)] == [What.DONE] * len(IDS)
    assert len(again.costs()) == len(IDS)


@pytest.mark.parametrize("newest", [Sent, Submitted])
async def test_a_result_of_a_later_attempt_ends_the_one_before(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, newest: type[Sent | Submitted]
) -> None:
    """Power cut: the journal knows a first attempt that goes on, and the result of a second one stands there."""
    rules = (Rule(kind="job_failed", tag=IDS[0], times=1),)
    night = night_of(tmp_path, nursery, WatchedPlatform(Settings(latency_sigma=0.0, rules=rules)))
    await night.run()
    lines = bytes(night.disk.files[JOURNAL]).splitlines(keepends=True)
    named = next(at for at, found in enumerate(lines[1:], 1) if isinstance(said := decode(found), newest) and said.id == IDS[0])
    sizes = {name: len(data) for name, data in night.disk.files.items()} | {JOURNAL: sum(map(len, lines[: named + 1]))}
    night.disk.synced = dict.fromkeys(night.disk.synced, 0)
    again = await resumed(tmp_path, nursery, night.platform, night.disk.crash(sizes))
    assert IDS[0] not in again.asked()
    assert sorted(number for custom_id, number in again.costs() if custom_id == IDS[0]) == [1, 2]
    assert not any("left with the server" in line for line in again.said)


async def test_killed_before_the_record_of_an_end_its_bill_is_not_written_again(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result and its bill stand there: both are adopted as they are."""
    night = night_of(tmp_path, nursery)
    put = RunFiles.record
    disks: list[MemoryDisk] = []

    def record(files: RunFiles, what: Record) -> None:
        if isinstance(what, Ended):
            disks.append(night.killed())
        put(files, what)

    with monkeypatch.context() as patched:
        patched.setattr(RunFiles, "record", record)
        await night.run()
    bills = len(bytes(disks[0].files[COSTS]).splitlines())
    again = await resumed(tmp_path, nursery, night.platform, disks[0])
    assert (bills, len(bytes(again.disk.files[COSTS]).splitlines())) == (1, len(IDS))


@pytest.mark.parametrize("bit", [1, 64])
async def test_a_damaged_name_is_not_asked_for(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, bit: int
) -> None:
    """A record that a disk has changed proves nothing: where it had been synced the run is refused, with its place."""
    night = night_of(tmp_path, nursery)
    await night.run()
    journal: Any = night.disk.files[JOURNAL]
    at = bytes(journal).index(b'"t":"submitted"')
    journal[at + 30] ^= bit
    with pytest.raises(Exception, match=f"{JOURNAL}.*byte"):
        await night.run()


async def test_killed_before_the_bill_of_work_that_expired(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error line holds a 404, which costs nothing as an answer to a submission; what was taken on may have been billed."""
    platform = WatchedPlatform(Settings(latency_sigma=0.0, rules=(Rule(kind="job_gone", tag="work-0"),)))
    night = night_of(tmp_path, nursery, platform)
    left: list[MemoryDisk] = []
    put = RunFiles.final_line

    def final_line(files: RunFiles, name: str, raw: bytes) -> Line:
        found = put(files, name, raw)
        if name == ERRORS:
            left.append(night.killed())
        return found

    with monkeypatch.context() as patched:
        patched.setattr(RunFiles, "final_line", final_line)
        await night.run()
    assert night.failures() == {"work-0": "job_expired"}
    (night.disk,) = left
    platform.asked.clear()
    status = await night.run()
    assert_once(night, status)
    assert (platform.asked, night.failures(), night.maybe_billed()) == ([], {"work-0": "job_expired"}, {"work-0"})
    assert_clean(written(night.disk, tmp_path / "night.run", run_id="night", prices=PRICES))
