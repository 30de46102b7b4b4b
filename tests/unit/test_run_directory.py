"""A run's directory: whose it is, what may not be mixed, what is refused and how it is said."""

from __future__ import annotations

import errno
import gzip
import json
import os
import stat
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from batchrunner import __version__
from batchrunner.clock import VirtualClock
from batchrunner.config import Options
from batchrunner.errors import DiskError, InvalidInput, RunDirectoryInUse
from batchrunner.journal.files import RunFiles
from batchrunner.journal.records import Finished
from batchrunner.pricing import PriceTable
from batchrunner.run_directory import MANIFEST, VERSION, Manifest, RunDirectory, read_status
from batchrunner.sources import opened
from batchrunner.status import Status, encode

IDENTITY: list[list[str | int]] = [["/jobs.jsonl", 10, 1, 2]]
OPTIONS = Options(inputs=("jobs.jsonl",), run_dir="jobs.run")
SIMULATED = msgspec.structs.replace(OPTIONS, simulate=True)

OpenDirectory = Callable[[], RunDirectory]
MakeStatus = Callable[..., Status]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.run"


@pytest.fixture
def open_directory(path: Path) -> Iterator[OpenDirectory]:
    """Take the directory as a process would; all are let go of at the end."""
    held: list[RunDirectory] = []

    def take() -> RunDirectory:
        held.append(RunDirectory(path, VirtualClock(lambda: 0.0)))
        return held[-1]

    yield take
    for directory in held:
        directory.close()


def begun(open_directory: OpenDirectory, options: Options = OPTIONS) -> Manifest:
    """A run that was begun and let go of."""
    directory = open_directory()
    manifest = directory.begin(options)
    directory.close()
    return manifest


def test_a_new_directory(path: Path, open_directory: OpenDirectory) -> None:
    """It is made for its owner alone, and has no manifest before the run begins."""
    directory = open_directory()
    assert not (path / MANIFEST).exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    manifest = directory.begin(OPTIONS)
    assert directory.manifest == manifest
    assert (manifest.version, manifest.batchrun, manifest.options) == (VERSION, __version__, OPTIONS)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


def test_the_manifest_is_a_document(path: Path, open_directory: OpenDirectory) -> None:
    """run.json is one indented JSON object that says whose run it is."""
    manifest = begun(open_directory)
    text = (path / MANIFEST).read_text()
    assert text.endswith("}\n")
    assert json.loads(text)["run_id"] == manifest.run_id


def test_the_accounts_that_a_run_went_under(open_directory: OpenDirectory) -> None:
    """Each in its turn, once in a row; a start that does not say leaves them as they are."""
    for identity in ("host/a", "host/a", "host/b", None, "host/b", "host/a"):
        directory = open_directory()
        directory.begin(OPTIONS, identity)
        directory.close()
    manifest = open_directory().manifest
    assert manifest is not None
    assert manifest.identities == ("host/a", "host/b", "host/a")


def test_a_later_start_keeps_who_the_run_is(open_directory: OpenDirectory) -> None:
    """A resume keeps the run's id and birth, and takes this start's options in."""
    first = begun(open_directory)
    directory = open_directory()
    assert directory.manifest == first
    second = directory.begin(msgspec.structs.replace(OPTIONS, rpm=7, max_cost_usd=Decimal("0.10")))
    assert (second.run_id, second.created_at) == (first.run_id, first.created_at)
    directory.close()
    known = open_directory().manifest
    assert known is not None
    assert (known.options.rpm, known.options.max_cost_usd) == (7, Decimal("0.10"))


def test_two_runs_have_two_ids(tmp_path: Path) -> None:
    """Ids are drawn, not counted."""
    ids = set()
    for name in ("a", "b"):
        directory = RunDirectory(tmp_path / name, VirtualClock(lambda: 0.0))
        ids.add(directory.begin(OPTIONS).run_id)
        directory.close()
    assert len(ids) == 2


def test_prices_are_kept(open_directory: OpenDirectory) -> None:
    """The price table in force survives a restart, and the options of the next start leave it alone."""
    directory = open_directory()
    directory.begin(OPTIONS)
    prices = PriceTable.from_catalog([{"id": "m", "pricing": {"prompt": "0.00000015"}}], fetched_at="2026-01-01T00:00:00Z")
    directory.keep_prices(prices)
    directory.close()
    assert begun(open_directory).prices == prices


def test_what_was_copied_is_kept(tmp_path: Path, open_directory: OpenDirectory) -> None:
    """The next start knows whose copy is where, whatever else it notes in the manifest; one that knows of none had none."""
    gz = tmp_path / "jobs.gz"
    gz.write_bytes(gzip.compress(b"{}\n"))

    def start() -> tuple[RunDirectory, list[str]]:
        directory, said = open_directory(), list[str]()
        directory.begin(OPTIONS)
        directory.keep_prices(PriceTable())
        with opened([gz]) as sources, directory.copies.inputs(sources, spare_bytes=0, say=said.append) as inputs:
            assert inputs.read(0, 9) == b"{}\n"
        directory.close()
        return directory, said

    directory, said = start()
    assert said == [f"{gz} is copied into the run directory, as input.jsonl."]
    manifest = json.loads((directory.path / MANIFEST).read_text())
    assert manifest["copies"]["input.jsonl"]["path"] == str(gz)
    assert start()[1] == []
    del manifest["copies"]
    (directory.path / MANIFEST).write_text(json.dumps(manifest))
    assert start()[1] == [f"{gz} is copied into the run directory, as input.2.jsonl."]


@pytest.mark.parametrize(("first", "second"), [(OPTIONS, SIMULATED), (SIMULATED, OPTIONS)])
def test_simulated_and_real_are_not_mixed(path: Path, open_directory: OpenDirectory, first: Options, second: Options) -> None:
    """A simulated run is never gone on with as a real one, nor the other way: 65, with the manifest untouched."""
    begun(open_directory, first)
    before = (path / MANIFEST).read_bytes()
    directory = open_directory()
    assert directory.finished(IDENTITY, second) is None
    with pytest.raises(InvalidInput, match="is not mixed with") as caught:
        directory.begin(second)
    assert caught.value.exit_code == 65
    assert (path / MANIFEST).read_bytes() == before


def test_one_process_at_a_time(open_directory: OpenDirectory) -> None:
    """A directory that is held is refused with 75, and can be had once it was let go of."""
    holder = open_directory()
    with pytest.raises(RunDirectoryInUse):
        open_directory()
    holder.close()
    open_directory()


@pytest.mark.parametrize("name", ["thesis.tex", "results.jsonl", ".hidden"])
def test_a_foreign_directory_is_refused(path: Path, open_directory: OpenDirectory, name: str) -> None:
    """A directory with files that are no run's is left exactly as it is."""
    path.mkdir()
    (path / name).write_text("mine")
    with pytest.raises(InvalidInput, match="is no run directory and not empty"):
        open_directory()
    assert [file.name for file in path.iterdir()] == [name]


def test_an_empty_directory_is_taken(path: Path, open_directory: OpenDirectory) -> None:
    """A directory that was made beforehand will do."""
    path.mkdir()
    assert open_directory().manifest is None


def test_a_start_that_died_before_its_manifest(path: Path, open_directory: OpenDirectory) -> None:
    """A lock and half a manifest aside are a beginning: the next start makes it whole."""
    path.mkdir()
    (path / "lock").touch()
    (path / f".{MANIFEST}.new").write_text('{"vers')
    assert open_directory().begin(OPTIONS).options == OPTIONS


def test_a_file_is_no_directory(path: Path, open_directory: OpenDirectory) -> None:
    """A file in the directory's place is refused with 65."""
    path.touch()
    with pytest.raises(InvalidInput, match="cannot be used as a run directory"):
        open_directory()


def test_a_directory_that_cannot_be_looked_into(
    path: Path, open_directory: OpenDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No permission, no descriptor, a broken disk: that is no fault of the input, and can be mended: 74."""

    def refuse(self: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    path.mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DiskError, match=r"jobs\.run: reading the directory failed: Permission denied\. Remove the cause"):
        open_directory()


def test_a_journal_without_a_manifest_is_refused(path: Path, open_directory: OpenDirectory) -> None:
    """A journal whose run nobody knows is not gone on with."""
    path.mkdir()
    (path / "journal.jsonl").write_text("{}\n")
    with pytest.raises(InvalidInput, match=r"has a journal but no run\.json"):
        open_directory()


@pytest.mark.parametrize("data", [b"{", b"[]", b"null", b"\xff", b"{}", b'{"version":1}', b"[" * 100_000, b'{"version":"1"}'])
def test_an_unreadable_manifest_is_refused(path: Path, open_directory: OpenDirectory, data: bytes) -> None:
    """A damaged run.json stops the start, with the file named and the lock let go of."""
    path.mkdir()
    (path / MANIFEST).write_bytes(data)
    for _ in range(2):
        with pytest.raises(InvalidInput, match=r"run\.json: cannot be read"):
            open_directory()


@pytest.mark.parametrize("data", [b'{"version": 2}', b'{"version": 2, "options": []}', b'{"version": 0}'])
def test_a_manifest_of_another_version_is_named(path: Path, open_directory: OpenDirectory, data: bytes) -> None:
    """Another version is told as such, whatever else the file holds."""
    path.mkdir()
    (path / MANIFEST).write_bytes(data)
    with pytest.raises(InvalidInput, match=r"is of version [02], and this program reads version 1"):
        open_directory()


# --- finished runs


def finish(directory: RunDirectory, summary: bytes) -> None:
    """Leave the record of a finished run behind."""
    assert directory.manifest is not None
    files = RunFiles(directory.disk, directory.manifest.run_id)
    files.commit()
    files.record(Finished(files.marks(), IDENTITY, msgspec.Raw(summary)))
    files.close()


def test_a_finished_run_is_known(open_directory: OpenDirectory, make_status: MakeStatus) -> None:
    """The same inputs again: the last status, at once. Other inputs: a run to go on with."""
    directory = open_directory()
    assert directory.finished(IDENTITY, OPTIONS) is None
    directory.begin(OPTIONS)
    assert directory.finished(IDENTITY, OPTIONS) is None
    status = make_status(state="completed")
    finish(directory, msgspec.json.encode(status))
    assert directory.finished(IDENTITY, OPTIONS) == msgspec.structs.replace(status, run_dir=OPTIONS.run_dir)
    assert directory.finished([["/jobs.jsonl", 11, 1, 2]], OPTIONS) is None


@pytest.mark.parametrize("shown", [None, b"", b'{"state": "running"}'])
def test_a_finished_run_shows_its_end(
    path: Path, open_directory: OpenDirectory, make_status: MakeStatus, shown: bytes | None
) -> None:
    """Killed between the note that the run has ended and the file that says so, it shows its end from the next start on."""
    directory = open_directory()
    directory.begin(OPTIONS)
    status = make_status(state="completed")
    finish(directory, msgspec.json.encode(status))
    if shown is not None:
        (path / "status.json").write_bytes(shown)
    assert directory.finished(IDENTITY, OPTIONS) is not None
    assert (path / "status.json").read_bytes() == encode(status)
    written = (path / "status.json").stat()
    assert directory.finished(IDENTITY, OPTIONS) is not None
    assert (path / "status.json").stat().st_ino == written.st_ino, "what is right is left alone"


def test_a_finished_run_of_another_program(open_directory: OpenDirectory) -> None:
    """A summary that this program cannot read is no answer: the run is looked at anew."""
    directory = open_directory()
    directory.begin(OPTIONS)
    finish(directory, b'{"state": "completed"}')
    assert directory.finished(IDENTITY, OPTIONS) is None


# --- status.json without the lock


def test_read_status(path: Path, make_status: MakeStatus) -> None:
    """The figures that a run last left."""
    path.mkdir()
    (path / "status.json").write_bytes(encode(make_status(total=7)))
    assert read_status(path).total == 7


def test_read_status_of_no_run(path: Path) -> None:
    """A directory without one is no run directory."""
    with pytest.raises(InvalidInput, match="no such file"):
        read_status(path)


def test_read_status_of_a_job_file(path: Path) -> None:
    """Whoever names the job file learns what was meant."""
    path.write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"is a file. Name the run directory: that of jobs.jsonl is jobs.run."):
        read_status(path)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff"])
def test_read_status_that_is_none(path: Path, data: bytes) -> None:
    """Rubbish is said to be that."""
    path.mkdir()
    (path / "status.json").write_bytes(data)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_status(path)


def test_read_status_that_cannot_be_opened(path: Path) -> None:
    """An operating system's refusal is told in its words."""
    os.makedirs(path / "status.json")
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        read_status(path)
