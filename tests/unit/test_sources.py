"""What a command names as input: what is taken for what, what is refused before anything is made, and what each holds."""

from __future__ import annotations

import gzip
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrunner.errors import DiskError, InvalidInput, UsageError
from batchrunner.sources import Source, opened

LINES = b'{"custom_id":"a"}\n' * 3


def write(path: Path, data: bytes = LINES) -> Path:
    path.write_bytes(data)
    return path


def content(*paths: str | Path) -> list[bytes]:
    """All that these inputs hold."""
    with opened(paths) as sources:
        return [b"".join(source.content()) for source in sources]


@pytest.fixture
def stdin() -> Iterator[int]:
    """The end to write to of a pipe that stands for standard input."""
    kept = os.dup(0)
    reader, writer = os.pipe()
    os.dup2(reader, 0)
    os.close(reader)
    yield writer
    os.dup2(kept, 0)
    os.close(kept)


# --- what is refused


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A typing error is the likeliest cause."""
    with pytest.raises(UsageError, match=r"nowhere\.jsonl: no such file"):
        content(write(tmp_path / "jobs.jsonl"), tmp_path / "nowhere.jsonl")


def test_no_input_at_all_is_a_usage_error() -> None:
    """There is nothing to guess."""
    with pytest.raises(UsageError, match="name at least one"):
        content()


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """Its files may be meant."""
    with pytest.raises(UsageError, match="name the job files in it"):
        content(tmp_path)


def test_a_device_is_refused() -> None:
    """It may never end, and has no lines."""
    with pytest.raises(InvalidInput, match="/dev/null: neither a file nor a pipe"):
        content("/dev/null")


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be opened by its name."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("jobs")
        with pytest.raises(InvalidInput, match="jobs: neither a file nor a pipe"):
            content("jobs")


def test_a_file_that_cannot_be_opened_is_a_usage_error(tmp_path: Path) -> None:
    """The system's reason is given."""
    with pytest.raises(UsageError, match="cannot be opened: Not a directory"):
        content(write(tmp_path / "jobs.jsonl") / "below")


def test_a_name_that_no_text_can_hold_is_refused(tmp_path: Path) -> None:
    """Messages, the manifest and errors.jsonl name the file, and are UTF-8."""
    with pytest.raises(UsageError, match="the name is not UTF-8"):
        content(os.fsdecode(os.fsencode(tmp_path) + b"/jobs\xff.jsonl"))


def test_the_same_file_twice_is_a_usage_error(tmp_path: Path) -> None:
    """Under another name too: every one of its lines would be a duplicate."""
    path = write(tmp_path / "jobs.jsonl")
    (tmp_path / "link.jsonl").symlink_to(path)
    with pytest.raises(UsageError, match=r"link\.jsonl: the same file as .*jobs\.jsonl; name it once"):
        content(path, tmp_path / "link.jsonl")


def test_a_pipe_twice_is_a_usage_error(tmp_path: Path) -> None:
    """Nobody could say who reads which part."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="name it once"):
        content(tmp_path / "pipe", tmp_path / "pipe")
    with pytest.raises(UsageError, match="standard input: the same file as standard input"):
        content("-", "-")


def test_a_refused_input_leaves_no_descriptor_open(tmp_path: Path) -> None:
    """Neither of the file refused nor of those before it."""
    path = write(tmp_path / "jobs.jsonl")
    before = set(os.listdir("/dev/fd"))
    for last in (tmp_path, tmp_path / "nowhere", path):
        with pytest.raises(UsageError):
            content(path, last)
    assert len(set(os.listdir("/dev/fd"))) == len(before)


def test_a_file_that_cannot_be_read_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, at the first look at it, and with nothing left open."""
    path = write(tmp_path / "jobs.jsonl")
    before = len(os.listdir("/dev/fd"))

    def broken(descriptor: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", broken)
        with pytest.raises(DiskError, match=r"jobs\.jsonl: reading failed: Input/output error"):
            content(path)
    assert len(os.listdir("/dev/fd")) == before


# --- what is taken


def test_a_plain_file_is_read_where_it_is(tmp_path: Path) -> None:
    """Whatever its name says; it is known again by path, size, mtime and inode."""
    path = write(tmp_path / "jobs.jsonl.gz")
    info = path.stat()
    with opened([path]) as (source,):
        plain = source.as_it_is()
        assert plain is not None
        assert plain.file.read(0, 100) == LINES
        assert plain.identity == [str(path), info.st_size, info.st_mtime_ns, info.st_ino]


def test_gzip_is_known_by_its_bytes(tmp_path: Path) -> None:
    """Whatever the name says; members come one behind the other."""
    path = write(tmp_path / "jobs.jsonl", gzip.compress(LINES) + gzip.compress(b"more\n"))
    with opened([path]) as (source,):
        assert source.as_it_is() is None
        assert b"".join(source.content()) == b"".join(source.content()) == LINES + b"more\n"


@pytest.mark.parametrize("packed", [False, True])
def test_a_fifo_is_not_opened_before_it_is_read(tmp_path: Path, packed: bool) -> None:
    """Opening would wait for a writer; one that comes is read to its end, byte by byte if need be, and unpacked."""
    os.mkfifo(tmp_path / "pipe")
    data = gzip.compress(LINES) if packed else LINES

    def feed() -> None:
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            pipe.writelines(bytes([byte]) for byte in data)

    with opened([tmp_path / "pipe"]) as (source,):
        assert (source.identity, source.as_it_is()) == (None, None)
        writer = threading.Thread(target=feed)
        writer.start()
        assert b"".join(source.content()) == LINES
        writer.join()


def test_standard_input_is_read_also_where_it_does_not_block(stdin: int) -> None:
    """A parent may have left it so; it is waited for all the same, and stays open."""
    os.set_blocking(0, False)
    os.write(stdin, LINES)
    os.close(stdin)
    assert content("-") == [LINES]
    os.fstat(0)


@pytest.mark.parametrize("written", [b"", gzip.compress(b"", mtime=0)])
def test_a_pipe_without_a_byte_is_refused(stdin: int, written: bytes) -> None:
    """A writer that failed is likelier than one with nothing to say; a copy of nothing would stand for it for ever."""
    os.write(stdin, written)
    os.close(stdin)
    with pytest.raises(InvalidInput, match="standard input: ended without a byte"):
        content("-")


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    """Packed or not: it can be read again once it holds something."""
    assert content(write(tmp_path / "a", b""), write(tmp_path / "b", gzip.compress(b"", mtime=0))) == [b"", b""]


def test_a_gzip_that_is_cut_short_is_named_with_its_offset(tmp_path: Path) -> None:
    """65, with what to do."""
    packed = gzip.compress(LINES)[:-5]
    with pytest.raises(InvalidInput) as caught:
        content(write(tmp_path / "jobs.gz", packed))
    assert str(caught.value).startswith(
        f"{tmp_path}/jobs.gz: damaged behind byte {len(packed)} of the gzip: it ends in the middle"
    )
    assert "Make it anew" in str(caught.value)


def test_a_pipe_that_cannot_be_read_is_a_disk_error(tmp_path: Path) -> None:
    """The input is named, with the system's reason."""
    with pytest.raises(DiskError, match="pipe: reading failed: No such file"):
        list(Source("pipe", str(tmp_path / "gone")).content())
