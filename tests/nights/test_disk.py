"""The simulated disk takes away only what was never promised."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from batchrunner.errors import DiskError
from batchrunner.journal.files import JOURNAL
from tests.nights.disk import SECTOR_BYTES, Mode, SimulatedDisk

SYNCED = b"synced\n" * 100
UNSYNCED = b"unsynced\n" * 300


def written_disk() -> SimulatedDisk:
    """A file of which a part is synced."""
    disk = SimulatedDisk()
    file = disk.open(JOURNAL)
    file.append(SYNCED)
    file.sync()
    file.append(UNSYNCED)
    return disk


@pytest.mark.parametrize("mode", Mode)
def test_what_was_synced_is_never_touched_and_the_rest_in_its_own_way(mode: Mode) -> None:
    fired: Counter[str] = Counter()
    left = set()
    for seed in range(200):
        data = bytes(written_disk().power_cut(mode, random.Random(seed), lambda fault: fired.update([fault])).files[JOURNAL])
        assert data.startswith(SYNCED)
        assert len(data) <= len(SYNCED + UNSYNCED)
        if mode is Mode.DROPPED:
            assert (SYNCED + UNSYNCED).startswith(data)
        left.add(data)
    assert len(left) > 20
    assert fired[f"power: tail {mode}"] > 20
    assert mode is Mode.CORRUPTED or not fired[f"power: tail {Mode.CORRUPTED}"]


def test_sectors_come_back_whole_or_not_at_all_when_they_are_reordered() -> None:
    """A later sector may be there without an earlier one."""
    gaps = 0
    for seed in range(50):
        data = bytes(written_disk().power_cut(Mode.REORDERED, random.Random(seed)).files[JOURNAL])
        for start in range(len(SYNCED) - len(SYNCED) % SECTOR_BYTES + SECTOR_BYTES, len(data), SECTOR_BYTES):
            sector = data[start : start + SECTOR_BYTES]
            whole = (SYNCED + UNSYNCED)[start : start + len(sector)]
            assert sector in (whole, bytes(len(sector)))
            gaps += sector != whole and any(data[start + SECTOR_BYTES :])
    assert gaps


def test_a_kill_takes_nothing() -> None:
    disk = written_disk()
    assert disk.killed().files == disk.files


def test_a_name_is_safe_once_its_directory_is_synced() -> None:
    """What was renamed into place without a sync is found new or old, never torn."""
    found = set()
    for seed in range(50):
        disk = SimulatedDisk()
        disk.replace("status.json", [b"old"])
        disk.replace("status.json", [b"new"], durable=False)
        found.add(bytes(disk.power_cut(Mode.CORRUPTED, random.Random(seed)).files["status.json"]))
    assert found == {b"old", b"new"}


def test_a_truncation_is_undone_until_a_sync_covers_it() -> None:
    """The process that cut a tail off was killed between cut and sync; the next one syncs whatever it finds."""

    def fail(operation: str, name: str) -> None:
        if operation == "sync":
            raise OSError(5, "Input/output error")

    disk = written_disk()
    disk.fail = fail  # type: ignore[method-assign]
    with pytest.raises(DiskError):
        disk.open(JOURNAL).truncate(3)
    killed = disk.killed()
    found = {bytes(killed.power_cut(Mode.DROPPED, random.Random(seed)).files[JOURNAL]) for seed in range(50)}
    assert b"syn" in found
    assert any(data.startswith(SYNCED) for data in found)
    killed.open(JOURNAL).sync()
    assert {bytes(killed.power_cut(Mode.DROPPED, random.Random(seed)).files[JOURNAL]) for seed in range(50)} == {b"syn"}
