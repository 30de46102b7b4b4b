"""Run directories on a real disk, made from runs in memory, for what looks at them from outside."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchrunner.config import Options
from batchrunner.disk import MemoryDisk
from batchrunner.pricing import PriceTable
from batchrunner.run_directory import MANIFEST, VERSION, Manifest
from batchrunner.verification import Report, verify


def written(disk: MemoryDisk, directory: Path, *, run_id: str, prices: PriceTable | None = None) -> Path:
    """A run directory with these files and a manifest, and nothing else."""
    directory.mkdir(exist_ok=True)
    for stale in directory.iterdir():
        if stale.name not in disk.files:
            stale.unlink()
    for name, data in disk.files.items():
        (directory / name).write_bytes(data)
    manifest = Manifest(
        version=VERSION,
        run_id=run_id,
        created_at="1970-01-01T00:00:00.000Z",
        batchrun="test",
        options=Options(inputs=("jobs.jsonl",), run_dir=str(directory)),
        prices=prices,
    )
    (directory / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return directory


def assert_clean(directory: Path) -> Report:
    """Nothing is wrong with it."""
    report = verify(directory)
    assert report.clean, "\n".join(map(str, report.findings[:5]))
    return report
