"""A run's files, read and nothing else."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from batchrunner.journal.files import ERRORS, RESULTS
from batchrunner.verification import reader
from batchrunner.verification.reader import RunReader

DATA = b"one\n\nthree, which is longer than a piece\nfour\ntorn"


@pytest.fixture(params=[1, 3, 5, 4096])
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """With a file of results, read in pieces of some size."""
    monkeypatch.setattr(reader, "_PIECE_BYTES", request.param)
    (tmp_path / RESULTS).write_bytes(DATA)
    return tmp_path


def test_lines(directory: Path) -> None:
    """Each with its place and its end, whatever the pieces; the last one may be torn."""
    with RunReader(directory) as files:
        found = list(files.lines(RESULTS, end=len(DATA)))
        assert [line for _, line in found] == DATA.splitlines(keepends=True)
        assert all(DATA[offset:].startswith(line) for offset, line in found)
        assert list(files.lines(RESULTS, end=6, offset=4)) == [(4, b"\n"), (5, b"t")]


def test_checksums_of_beginnings(directory: Path) -> None:
    """In one reading; behind the end of the file nothing is added."""
    with RunReader(directory) as files:
        ends = [0, 4, 4, 20, len(DATA), 1_000]
        assert list(files.prefix_crcs(RESULTS, ends)) == [zlib.crc32(DATA[:end]) for end in ends]


def test_what_is_not_there_is_empty(directory: Path) -> None:
    """A run that has no errors yet has no such file."""
    with RunReader(directory) as files:
        assert (files.size(ERRORS), files.read(ERRORS, 0, 9), list(files.lines(ERRORS, end=9))) == (0, b"", [])


def test_a_file_that_is_replaced_is_read_as_it_was(directory: Path) -> None:
    """The files are those of the moment at which the reader was made."""
    with RunReader(directory) as files:
        (directory / "new").write_bytes(b"new\n")
        (directory / "new").rename(directory / RESULTS)
        assert files.read(RESULTS, 0, 100) == DATA
