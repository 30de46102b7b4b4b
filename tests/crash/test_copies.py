"""Inputs that are copied into the run directory: cut off at any moment, a copy is whole or not there, and never another's."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from batchrunner.copies import Copies, Copy
from batchrunner.disk import MemoryDisk
from batchrunner.errors import DiskError, InvalidInput
from batchrunner.inputs import Identity, Inputs
from batchrunner.sources import Source, opened
from tests.crash.scripted import PowerCut, break_at

NOTES = "run.json"
SPARE_BYTES = 64 << 20


class Home:
    """A run directory in memory, and what processes at work on it do with their inputs, one after another."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        self.said: list[str] = []

    @property
    def known(self) -> dict[str, Copy]:
        return msgspec.json.decode(b"".join(self.disk.chunks(NOTES)) or b"{}", type=dict[str, Copy])

    def copies(self) -> Copies:
        return Copies(self.disk, self.known, lambda known: self.disk.replace(NOTES, [msgspec.json.encode(known)]))

    @contextlib.contextmanager
    def inputs(self, named: Sequence[Path | Source]) -> Iterator[Inputs]:
        with as_sources(named) as sources:
            inputs = self.copies().inputs(sources, spare_bytes=SPARE_BYTES, say=self.said.append)
            with inputs as found:
                yield found

    def read(self, *named: Path | Source) -> list[bytes]:
        """What each input holds, for a start with these."""
        with self.inputs(named) as inputs:
            return [file.file.read(0, file.size) for file in inputs.files]

    def identity(self, *named: Path | Source) -> list[Identity] | None:
        """What a start knows of these inputs before it reads any."""
        with as_sources(named) as sources:
            return self.copies().identity(sources)

    def after_power_cut(self) -> Home:
        return Home(self.disk.crash())


def packed(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content))
    return path


class Pipe(Source, frozen=True):
    """A pipe and what its writer has to say, each time that it is read."""

    brings: bytes = b""

    def content(self) -> Iterator[bytes]:
        yield from (self.brings[at : at + 2] for at in range(0, len(self.brings), 2))


def pipe(brings: bytes, path: str = "/pipe") -> Pipe:
    return Pipe(path, path, brings=brings)


@contextlib.contextmanager
def as_sources(named: Sequence[Path | Source]) -> Iterator[list[Source]]:
    with contextlib.ExitStack() as held:
        yield [one if isinstance(one, Source) else held.enter_context(opened([one]))[0] for one in named]


# What is copied, and when ----------------------------------------------------------------------------------------


def test_copies_have_clean_names_in_any_mixture(tmp_path: Path) -> None:
    """`input.jsonl` for the first that needs one, then `input.2.jsonl`; plain files are read where they are."""
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(b"plain")
    home = Home()
    named: list[Path | Source] = [plain, packed(tmp_path / "a.gz", b"a"), pipe(b"piped"), packed(tmp_path / "b.gz", b"b")]
    assert home.read(*named) == [b"plain", b"a", b"piped", b"b"]
    assert {name: bytes(data) for name, data in home.disk.files.items() if name != NOTES} == {
        "input.jsonl": b"a",
        "input.2.jsonl": b"piped",
        "input.3.jsonl": b"b",
    }
    assert home.said[0] == f"{tmp_path}/a.gz is copied into the run directory, as input.jsonl."


def test_copies_belong_to_their_inputs_and_not_to_places(tmp_path: Path) -> None:
    """In another order, and with others between, each input has its own copy; none is made twice."""
    a, b, new = (packed(tmp_path / name, name.encode()) for name in ("a", "b", "new"))
    home = Home()
    home.read(a, b)
    home.said.clear()
    assert home.read(b, new, a) == [b"b", b"new", b"a"]
    assert home.said == [f"{new} is copied into the run directory, as input.3.jsonl."]


def test_a_name_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    """Whoever put a file of that name there may be using it as the input."""
    home = Home()
    home.disk.replace("input.jsonl", [b"somebody's"])
    home.read(packed(tmp_path / "a.gz", b"a"))
    assert bytes(home.disk.files["input.jsonl"]) == b"somebody's"
    assert list(home.known) == ["input.2.jsonl"]


def test_an_unchanged_gzip_is_not_unpacked_again(tmp_path: Path) -> None:
    """Its copy is used; what tells it is the gzip's own path, size, mtime and inode."""
    path = packed(tmp_path / "a.gz", b"a")
    home = Home()
    home.read(path)
    home.disk.operations.clear()
    assert home.read(path) == [b"a"]
    assert home.disk.operations == [("open", "input.jsonl")]
    info = path.stat()
    assert home.identity(path) == [[str(path), info.st_size, info.st_mtime_ns, info.st_ino]]


def test_a_changed_gzip_is_copied_anew_in_its_place(tmp_path: Path) -> None:
    """And only what changed."""
    path, other = packed(tmp_path / "a.gz", b"a"), packed(tmp_path / "b.gz", b"b")
    home = Home()
    home.read(path, other)
    packed(path, b"appended to")
    home.disk.operations.clear()
    assert home.read(path, other) == [b"appended to", b"b"]
    assert ("replace", "input.2.jsonl") not in home.disk.operations
    assert sorted(home.known) == ["input.2.jsonl", "input.jsonl"]


def test_a_copied_pipe_is_not_read_again() -> None:
    """Its writer may be gone. Its identity is the same at each start, and another for another reading."""
    home = Home()
    assert home.identity(pipe(b"once")) is None
    with home.inputs([pipe(b"once")]) as inputs:
        first = inputs.identity()
    assert home.read(pipe(b"again")) == [b"once"]
    assert home.said[1:] == ["/pipe was read by an earlier start: its copy, input.jsonl, is used."]
    assert home.identity(pipe(b"again")) == first
    del home.disk.files["input.jsonl"]  # somebody wants it read again
    assert home.identity(pipe(b"more")) is None
    assert home.read(pipe(b"more")) == [b"more"]
    assert home.identity(pipe(b"more")) != first


def test_a_pipes_copy_may_be_mended() -> None:
    """The copy is the input from now on: whoever changes a line in it is not told that nothing has changed."""
    home = Home()
    home.read(pipe(b"onec"))
    before = home.identity(pipe(b""))
    home.disk.replace("input.jsonl", [b"once"])
    assert home.identity(pipe(b"")) != before
    assert home.read(pipe(b"")) == [b"once"]


def test_a_path_that_was_a_pipe_and_is_a_gzip_is_read(tmp_path: Path) -> None:
    """A file that can be read is what counts, not what once came by its name."""
    home = Home()
    home.read(pipe(b"piped", str(tmp_path / "jobs")))
    assert home.read(packed(tmp_path / "jobs", b"packed")) == [b"packed"]


# What goes wrong -------------------------------------------------------------------------------------------------


def test_a_damaged_gzip_leaves_no_copy(tmp_path: Path) -> None:
    """65 by its name; with the file mended, the same command goes on."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(os.urandom(3 << 20))[:-1])
    home = Home()
    with pytest.raises(InvalidInput, match=r"a\.gz: damaged behind byte"):
        home.read(path)
    assert list(home.disk.files) == [NOTES]
    assert home.read(packed(path, b"mended")) == [b"mended"]
    assert list(home.known) == ["input.jsonl"]


def test_a_gzip_that_is_damaged_later_is_never_taken_for_its_old_copy(tmp_path: Path) -> None:
    """Each start says so, although the copy of what it was still stands there."""
    path = packed(tmp_path / "a.gz", b"good")
    home = Home()
    home.read(path)
    path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):
        with pytest.raises(InvalidInput):
            home.read(path)


def test_a_copy_that_would_fill_the_disk_is_given_up(tmp_path: Path) -> None:
    """A bomb, or just too much: 74 while there is still space for the answers, and the space is given back."""
    home = Home()
    asked = 0

    def free_bytes() -> int:
        nonlocal asked
        asked += 1
        return SPARE_BYTES + (5 - asked << 20)

    home.disk.free_bytes = free_bytes  # type: ignore[method-assign]
    with pytest.raises(DiskError, match="bomb: copying it into the run directory failed: only 64 MiB are free there") as caught:
        home.read(packed(tmp_path / "bomb", bytes(100 << 20)))
    assert caught.value.exit_code == 74
    assert asked == 5
    assert "input.jsonl" not in home.disk.files


@pytest.mark.parametrize("error", [PowerCut(), OSError(28, "No space left on device")], ids=["power cut", "disk error"])
@pytest.mark.parametrize("was_there", [False, True], ids=["first", "again"])
def test_a_gzip_may_be_cut_off_at_any_operation(tmp_path: Path, error: BaseException, was_there: bool) -> None:
    """Whichever fails: the next start has what the gzip holds by then, and no start ever has anything else."""

    def prepared() -> Home:
        home = Home()
        if was_there:
            home.read(packed(tmp_path / "a.gz", b"old"))
        packed(tmp_path / "a.gz", b"new")
        return home

    path = tmp_path / "a.gz"
    broken = 0
    for left in cut_off_everywhere(prepared, error, path):
        broken += 1
        assert bytes(left.disk.files.get("input.jsonl", b"")) in (b"", b"old", b"new")
        assert left.read(path) == left.read(path) == [b"new"]
    assert broken == 4  # noted, copied, noted, opened


@pytest.mark.parametrize("error", [PowerCut(), OSError(5, "Input/output error")], ids=["power cut", "disk error"])
def test_a_pipe_may_be_cut_off_at_any_operation(error: BaseException) -> None:
    """Either its copy is there and is used, or the pipe is read: the next start has the whole of one reading."""
    found = []
    for left in cut_off_everywhere(Home, error, pipe(b"first")):
        found += left.read(pipe(b"second"))
        assert left.read(pipe(b"third")) == found[-1:]
    assert found == [b"second", b"second", b"first"]  # cut off as it was noted, copied, opened


@pytest.mark.parametrize("count", range(1, 5))
def test_a_writer_that_is_cut_off_leaves_no_copy(count: int) -> None:
    """Interrupted between any two pieces: what came so far is no input."""
    home = Home()

    class Interrupted(Pipe, frozen=True):
        def content(self) -> Iterator[bytes]:
            yield from itertools.islice(super().content(), count)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        home.read(Interrupted("/pipe", "/pipe", brings=b"12345678"))
    assert list(home.disk.files) == [NOTES]
    assert home.read(pipe(b"whole")) == [b"whole"]


def cut_off_everywhere(prepared: Callable[[], Home], error: BaseException, named: Path | Source) -> Iterator[Home]:
    """What is left where each operation of a start fails in turn, until one comes to its end."""
    for nth in range(1, 20):
        home = prepared()
        break_at(home.disk, nth, error)
        try:
            home.read(named)
        except (PowerCut, DiskError):
            yield home.after_power_cut()
        else:
            return
    raise AssertionError("it never came to its end")
