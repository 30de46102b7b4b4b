from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batchrunner.errors import DiskError, InvalidInput, RunDirectoryInUse
from batchrunner.journal import RunLock, is_locked

HOLDER = """
import sys, time
from pathlib import Path
from batchrunner.journal import RunLock
lock = RunLock(Path(sys.argv[1]), wall_ns=time.time_ns())
print("held", flush=True)
sys.stdin.read()
"""


def hold(directory: Path, program: str = HOLDER) -> subprocess.Popen[bytes]:
    """Another process that holds the directory until its stdin ends."""
    holder = subprocess.Popen([sys.executable, "-c", program, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


def end(holder: subprocess.Popen[bytes]) -> None:
    holder.communicate()


def test_a_directory_at_work_is_refused_by_its_holders_pid(tmp_path: Path) -> None:
    """The second process is told who has the directory, and since when."""
    holder = hold(tmp_path)
    try:
        with pytest.raises(RunDirectoryInUse, match=rf"pid {holder.pid}, since \d{{4}}-") as caught:
            RunLock(tmp_path, wall_ns=0)
        assert caught.value.exit_code == 75
    finally:
        end(holder)


def test_removing_the_lock_file_lets_nobody_in(tmp_path: Path) -> None:
    """People delete lock files that they take for stale: the directory itself is held too."""
    holder = hold(tmp_path)
    try:
        (tmp_path / "lock").unlink()
        assert is_locked(tmp_path)
        with pytest.raises(RunDirectoryInUse):
            RunLock(tmp_path, wall_ns=0)
    finally:
        end(holder)
    RunLock(tmp_path, wall_ns=0).release()


def test_a_killed_holder_leaves_no_lock_behind(tmp_path: Path) -> None:
    """After kill -9 the next process gets in, and the file is the same one."""
    holder = hold(tmp_path)
    inode = (tmp_path / "lock").stat().st_ino
    os.kill(holder.pid, signal.SIGKILL)
    end(holder)
    with RunLock(tmp_path, wall_ns=0):
        assert (tmp_path / "lock").stat().st_ino == inode


def test_R09_a_child_of_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    """A process that it had started, and that outlives it, has inherited no lock, though descriptors were left open to it."""
    parent = HOLDER.replace("print(", "import subprocess; subprocess.Popen(['cat'], close_fds=False); print(")
    holder = hold(tmp_path, parent)
    assert holder.stdout is not None
    os.kill(holder.pid, signal.SIGKILL)
    os.waitpid(holder.pid, 0)
    assert select.select([holder.stdout], [], [], 0)[0] == [], "the child is gone, and proves nothing"
    RunLock(tmp_path, wall_ns=0).release()
    holder.returncode = -signal.SIGKILL
    end(holder)


def test_a_released_directory_is_free_and_its_lock_file_stays(tmp_path: Path) -> None:
    """Releasing lets the next one in, unlinks nothing, and may be done twice."""
    lock = RunLock(tmp_path, wall_ns=0)
    assert f'"pid":{os.getpid()}' in (tmp_path / "lock").read_text()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    with pytest.raises(RunDirectoryInUse):
        RunLock(tmp_path, wall_ns=0)
    lock.release()
    lock.release()
    RunLock(tmp_path, wall_ns=0).release()


def test_a_holder_that_has_not_said_who_it_is_is_respected(tmp_path: Path) -> None:
    """Whatever stands in the file, the lock itself counts."""
    with RunLock(tmp_path, wall_ns=0):
        (tmp_path / "lock").write_bytes(b"\xff not json")
        with pytest.raises(RunDirectoryInUse, match=re.escape("run directory. Wait")):
            RunLock(tmp_path, wall_ns=0)


def test_asking_whether_a_directory_is_at_work_refuses_nobody(tmp_path: Path) -> None:
    """`is_locked` tells held from free, and from a directory that never had a run."""
    assert not is_locked(tmp_path)
    with RunLock(tmp_path, wall_ns=0):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_start_that_meets_somebody_asking_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is gone a moment later does not refuse a run."""
    asking = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(asking, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(asking, fcntl.LOCK_UN))
    RunLock(tmp_path, wall_ns=0).release()
    os.close(asking)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Two processes on one directory cannot be ruled out there, so that no process starts."""

    def refuse(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InvalidInput, match="--run-dir"):
        RunLock(tmp_path, wall_ns=0)


def test_a_file_system_that_grants_every_lock_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that can be taken twice is none."""
    monkeypatch.setattr(fcntl, "flock", lambda fd, operation: None)
    with pytest.raises(InvalidInput, match="locked twice"):
        RunLock(tmp_path, wall_ns=0)


def test_a_lock_that_fails_for_another_reason_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO is no answer to the question who is at work."""

    def fail(fd: int, operation: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(DiskError, match="locking failed: broken"):
        RunLock(tmp_path, wall_ns=0)


def test_a_missing_directory_is_a_disk_error(tmp_path: Path) -> None:
    """The lock makes no directories."""
    with pytest.raises(DiskError, match="opening failed"):
        RunLock(tmp_path / "missing", wall_ns=0)


def test_a_directory_that_cannot_be_opened_is_a_disk_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor is left for it, say: the lock is let go of, and the next start gets in."""
    system = os.open

    def fail(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECTORY:
            raise OSError(errno.EMFILE, "Too many open files")
        return system(path, flags, mode)

    with monkeypatch.context() as scarce:
        scarce.setattr(os, "open", fail)
        with pytest.raises(DiskError, match="opening failed: Too many open files"):
            RunLock(tmp_path, wall_ns=0)
    RunLock(tmp_path, wall_ns=0).release()


def test_a_full_disk_does_not_leave_the_lock_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock whose holder could not be written is let go."""

    def fail(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", fail)
        with pytest.raises(DiskError, match="no space"):
            RunLock(tmp_path, wall_ns=0)
    RunLock(tmp_path, wall_ns=0).release()


def test_the_lock_file_holds_its_newest_holder_alone(tmp_path: Path) -> None:
    """Whatever stood there before, however long: one line of JSON, and the time in UTC."""
    (tmp_path / "lock").write_bytes(b"x" * 500)
    with RunLock(tmp_path, wall_ns=1_000_000_000):
        assert json.loads((tmp_path / "lock").read_bytes()) == {"pid": os.getpid(), "started": "1970-01-01T00:00:01.000Z"}
        assert (tmp_path / "lock").read_bytes().count(b"\n") == 1
        with pytest.raises(RunDirectoryInUse, match=rf"\(pid {os.getpid()}, since 1970-01-01T00:00:01\.000Z\)\. Wait"):
            RunLock(tmp_path, wall_ns=2_000_000_000)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_where_directories_cannot_be_locked_the_file_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Some file systems lock files alone: a run starts there, and a second one does not."""
    flock = fcntl.flock

    def refuse(fd: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RunLock(tmp_path, wall_ns=0), pytest.raises(RunDirectoryInUse):
        RunLock(tmp_path, wall_ns=0)


def test_a_holder_that_cannot_be_written_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(DiskError) as caught:
        RunLock(tmp_path, wall_ns=0)
    assert (caught.value.path, caught.value.operation) == (str(tmp_path / "lock"), "writing")


def test_a_holder_that_cannot_be_read_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock counts, and not whether its file can say whose it is."""

    def fail(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "broken")

    with RunLock(tmp_path, wall_ns=0):
        monkeypatch.setattr(os, "pread", fail)
        with pytest.raises(RunDirectoryInUse, match=re.escape("run directory. Wait")):
            RunLock(tmp_path, wall_ns=0)
