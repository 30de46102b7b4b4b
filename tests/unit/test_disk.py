from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchrunner.disk import CHUNK_BYTES, Disk, MemoryDisk, SystemDisk
from batchrunner.errors import DiskError

ENOSPC = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(params=["system", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    """Each disk in turn: what the double promises is what the machine does."""
    return SystemDisk(tmp_path / "x.run") if request.param == "system" else MemoryDisk()


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A process that would leave every file open to the world."""
    before = os.umask(0)
    yield
    os.umask(before)


class TestBoth:
    def test_appends_follow_one_another(self, disk: Disk) -> None:
        """Each append returns the offset at which it stands, and size is where the next will."""
        file = disk.open("a")
        assert (file.append(b"one\n"), file.append(b"two\n"), file.size) == (0, 4, 8)
        assert file.read(4, 100) == b"two\n"
        assert file.read(8, 1) == b""
        file.close()

    def test_a_file_goes_on_where_it_was_left(self, disk: Disk) -> None:
        """Opening again keeps what is there."""
        first = disk.open("a")
        first.append(b"one")
        first.close()
        again = disk.open("a")
        assert again.append(b"two") == 3
        assert b"".join(disk.chunks("a")) == b"onetwo"
        again.close()

    def test_truncate_moves_the_end_back(self, disk: Disk) -> None:
        """After a cut the next append stands at the cut."""
        file = disk.open("a")
        file.append(b"0123456789")
        file.truncate(4)
        assert file.append(b"x") == 4
        assert b"".join(disk.chunks("a")) == b"0123x"
        file.close()

    def test_chunks_cover_a_large_file_from_any_offset(self, disk: Disk) -> None:
        """No byte is left out or read twice, and no chunk is over its size."""
        data = bytes(range(256)) * (CHUNK_BYTES // 100)
        file = disk.open("a")
        file.append(data)
        file.close()
        chunks = list(disk.chunks("a", 12_345))
        assert b"".join(chunks) == data[12_345:]
        assert max(map(len, chunks)) <= CHUNK_BYTES

    def test_a_missing_file_has_no_size_and_no_chunks(self, disk: Disk) -> None:
        """Absence is an answer, not an error."""
        assert disk.size("a") is None
        assert disk.modified_ns("a") is None
        assert list(disk.chunks("a")) == []

    @pytest.mark.parametrize("durable", [True, False])
    def test_replace_puts_a_whole_file_in_place(self, disk: Disk, durable: bool) -> None:
        """The old content is gone, the new one complete, and a file open on the old one still means the old."""
        old = disk.open("a")
        old.append(b"old content")
        disk.replace("a", iter([b"ne", b"w"]), durable=durable)
        assert disk.size("a") == 3
        assert b"".join(disk.chunks("a")) == b"new"
        assert old.read(0, 3) == b"old"
        old.close()

    def test_replace_makes_a_file_that_was_not_there(self, disk: Disk) -> None:
        """The first `status.json` needs no special case."""
        disk.replace("a", [b"new"])
        assert b"".join(disk.chunks("a")) == b"new"

    @pytest.mark.parametrize("error", [ValueError("odd"), KeyboardInterrupt(), DiskError("source", "reading", ENOSPC)])
    def test_a_replace_that_is_broken_off_changes_nothing(self, disk: Disk, error: BaseException) -> None:
        """Where the parts end in an exception, the old file stays, and that exception comes out as it is."""

        def parts() -> Iterator[bytes]:
            yield b"x" * 3 * CHUNK_BYTES
            raise error

        disk.replace("a", [b"old"])
        with pytest.raises(type(error)) as caught:
            disk.replace("a", parts())
        assert caught.value is error
        assert b"".join(disk.chunks("a")) == b"old"


class TestSystem:
    @pytest.mark.usefixtures("open_umask")
    def test_nobody_else_can_read_a_run(self, tmp_path: Path) -> None:
        """The directory is 0700 and each file 0600, under the most careless umask."""
        disk = SystemDisk(tmp_path / "x.run")
        disk.open("a").close()
        disk.replace("b", [b"x"])
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [disk.directory, *disk.directory.iterdir()]}
        assert modes == {"x.run": 0o700, "a": 0o600, "b": 0o600}

    def test_a_short_write_is_cut_back_and_final(self, tmp_path: Path, break_os: BreakOs) -> None:
        """Of a write that did not fit nothing stays: the file ends where it ended, and takes no more."""
        disk = SystemDisk(tmp_path)
        file = disk.open("a")
        file.append(b"whole\n")
        write = os.write
        break_os("write", iter([lambda fd, data: write(fd, data[:3]), ENOSPC]))
        with pytest.raises(DiskError, match="a: writing failed: No space left on device"):
            file.append(b"torn line\n")
        assert b"".join(disk.chunks("a")) == b"whole\n"
        assert file.size == 6
        with pytest.raises(DiskError, match="No space left"):
            file.append(b"more\n")
        with pytest.raises(DiskError, match="No space left"):
            file.sync()
        file.close()

    def test_a_write_that_is_short_without_a_cause_is_final_too(self, tmp_path: Path, break_os: BreakOs) -> None:
        """Where the system never says why, how much was written stands in the message."""
        file = SystemDisk(tmp_path).open("a")
        break_os("write", iter([lambda fd, data: 0, lambda fd, data: 0]))
        with pytest.raises(DiskError, match="only 0 of 4 bytes"):
            file.append(b"line")
        file.close()

    def test_a_signal_in_the_middle_of_a_write_loses_nothing(self, tmp_path: Path, break_os: BreakOs) -> None:
        """A short write whose rest goes through is a whole write."""
        disk = SystemDisk(tmp_path)
        file = disk.open("a")
        write = os.write
        break_os("write", iter([lambda fd, data: write(fd, data[:3]), write]))
        assert file.append(b"whole\n") == 0
        assert b"".join(disk.chunks("a")) == b"whole\n"
        file.close()

    def test_a_full_device_is_a_disk_error(self, tmp_path: Path) -> None:
        """The kernel's own ENOSPC arrives with the file's name."""
        if not Path("/dev/full").exists():  # macOS
            return
        (tmp_path / "a").symlink_to("/dev/full")
        file = SystemDisk(tmp_path).open("a")
        with pytest.raises(DiskError, match="a: writing failed: No space left on device"):
            file.append(b"x")
        file.close()

    def test_a_failed_sync_is_final(self, tmp_path: Path, break_os: BreakOs) -> None:
        """The kernel may have dropped the pages: a second sync is refused, although it would succeed."""
        file = SystemDisk(tmp_path).open("a")
        file.append(b"x")
        break_os("fdatasync" if hasattr(os, "fdatasync") else "fsync", iter([OSError(errno.EIO, "Input/output error")]))
        for attempt in (file.sync, file.sync, lambda: file.append(b"y")):
            with pytest.raises(DiskError, match="a: syncing failed: Input/output error"):
                attempt()
        file.close()

    def test_a_failed_replace_leaves_the_old_file(self, tmp_path: Path, break_os: BreakOs) -> None:
        """Nobody ever sees half a file, and nothing is left lying about for the next replace to trip over."""
        disk = SystemDisk(tmp_path)
        disk.replace("a", [b"old"])
        break_os("fsync", iter([ENOSPC]))
        with pytest.raises(DiskError, match="a: replacing failed: No space left on device"):
            disk.replace("a", [b"new"])
        assert b"".join(disk.chunks("a")) == b"old"
        assert os.listdir(tmp_path) == ["a"]
        disk.replace("a", [b"newer"])
        assert b"".join(disk.chunks("a")) == b"newer"

    def test_a_directory_that_cannot_be_is_a_disk_error(self, tmp_path: Path) -> None:
        """A file in the place of the run directory is named."""
        (tmp_path / "x.run").write_bytes(b"")
        with pytest.raises(DiskError, match=r"x\.run: making the directory failed"):
            SystemDisk(tmp_path / "x.run")

    def test_a_new_directory_is_on_disk_under_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each directory that got one in it is synced: else a power cut could take a whole run. Once it is there, none is."""
        synced: list[str] = []
        fsync = os.fsync

        def watched(fd: int) -> None:
            synced.append(str(Path(f"/dev/fd/{fd}").resolve().relative_to(tmp_path.resolve())))
            fsync(fd)

        monkeypatch.setattr("os.fsync", watched)
        SystemDisk(tmp_path / "a" / "b" / "x.run")
        SystemDisk(tmp_path / "a" / "b" / "x.run")
        assert sorted(synced) == [".", "a", "a/b"]

    @pytest.mark.parametrize(("error", "tells"), [(errno.EACCES, False), (errno.EIO, True)])
    def test_a_parent_that_cannot_be_synced(self, tmp_path: Path, break_os: BreakOs, error: int, tells: bool) -> None:
        """One that may not be looked at cannot be, and has to do; a broken one is said to be."""
        break_os("open", iter([OSError(error, os.strerror(error))]))
        with pytest.raises(DiskError, match="making the directory failed") if tells else contextlib.nullcontext():
            SystemDisk(tmp_path / "x.run")

    def test_closing_twice_is_harmless(self, tmp_path: Path) -> None:
        """A second close does not hit a descriptor that meanwhile belongs to another file."""
        file = SystemDisk(tmp_path).open("a")
        file.close()
        other = SystemDisk(tmp_path).open("b")
        file.close()
        assert other.append(b"x") == 0
        other.close()

    def test_a_file_that_cannot_be_looked_at_is_a_disk_error(self, tmp_path: Path) -> None:
        """Which is something else than a file that is not there."""
        disk = SystemDisk(tmp_path)
        (tmp_path / "a").symlink_to("a")
        for look in (disk.size, disk.modified_ns):
            with pytest.raises(DiskError, match="a: reading failed: "):
                look("a")

    @pytest.mark.parametrize("name", ["open", "fstat"])
    def test_a_file_that_cannot_be_opened_is_a_disk_error(self, tmp_path: Path, break_os: BreakOs, name: str) -> None:
        """Nor one whose size is not told; its descriptor is not kept."""
        disk = SystemDisk(tmp_path)
        before = len(os.listdir("/dev/fd"))
        break_os(name, iter([OSError(errno.EIO, "Input/output error")]))
        with pytest.raises(DiskError, match="a: opening failed: Input/output error"):
            disk.open("a")
        assert len(os.listdir("/dev/fd")) == before

    def test_when_a_file_was_changed_is_known(self, tmp_path: Path) -> None:
        """By the file system's own time."""
        disk = SystemDisk(tmp_path)
        disk.replace("a", [b"x"])
        os.utime(tmp_path / "a", ns=(0, 1_700_000_000_000_000_000))
        assert disk.modified_ns("a") == 1_700_000_000_000_000_000

    def test_free_space_is_known(self, tmp_path: Path) -> None:
        """The run stops before the disk is full, so it must know."""
        free = SystemDisk(tmp_path).free_bytes()
        assert free is not None
        assert free > 0


class TestMemory:
    def test_another_content_of_the_same_size_is_another_change(self) -> None:
        """The double has no clock, and says so by what it holds."""
        disk = MemoryDisk()
        found = []
        for content in (b"one", b"one", b"two"):
            disk.replace("a", [content])
            found.append(disk.modified_ns("a"))
        assert found[0] == found[1] != found[2]

    def test_a_crash_keeps_what_was_synced(self) -> None:
        """Of what was not synced a power cut takes all, or leaves any number of its first bytes."""
        disk = MemoryDisk()
        file = disk.open("a")
        file.append(b"synced")
        file.sync()
        file.append(b" and not")
        assert b"".join(disk.crash().chunks("a")) == b"synced"
        assert b"".join(disk.crash(keep={"a": 4}).chunks("a")) == b"synced and"
        assert b"".join(disk.chunks("a")) == b"synced and not"

    def test_any_operation_can_be_made_to_fail_for_good(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The double breaks as the machine does: the first failure is final, whatever comes after."""
        disk = MemoryDisk()
        file = disk.open("a")

        def fail(operation: str, name: str) -> None:
            if (operation, name) == ("sync", "a"):
                raise ENOSPC

        monkeypatch.setattr(disk, "fail", fail)
        file.append(b"x")
        for attempt in (file.sync, lambda: file.append(b"y")):
            with pytest.raises(DiskError, match="No space left"):
                attempt()
        assert disk.operations == [("open", "a"), ("write", "a"), ("sync", "a")]

    def test_a_replaced_file_survives_a_crash_whole(self) -> None:
        """A rename is never torn."""
        disk = MemoryDisk()
        disk.replace("a", [b"new"])
        assert b"".join(disk.crash().chunks("a")) == b"new"


BreakOs = Callable[[str, Iterator[object]], None]


@pytest.fixture
def break_os(monkeypatch: pytest.MonkeyPatch) -> BreakOs:
    """Give a function of `os` its next outcomes, an error to raise or a function to call; then it is itself again."""

    def install(name: str, outcomes: Iterator[object]) -> None:
        true = getattr(os, name)

        def broken(*args: object) -> object:
            outcome = next(outcomes, true)
            if isinstance(outcome, OSError):
                raise outcome
            return outcome(*args)  # type: ignore[operator]

        monkeypatch.setattr(os, name, broken)

    return install
