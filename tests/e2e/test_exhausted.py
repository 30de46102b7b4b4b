"""Real processes that run out of what the machine gives: room in mid-write, descriptors, permission, a disk to write to.

Each is ended by it with 74, names it, fails no job over it, and goes on once the cause is gone. Nothing here needs strace.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.disks import mounted_disk, needs_mount
from tests.e2e.faulty_runs import Faulty, carried_on, prove_books, small_run, wrong_with
from tests.e2e.harness import PATIENCE_SECONDS, Simulated, Submit, wait_until
from tests.e2e.many_runs import Pair, two_at_a_time
from tests.e2e.preforked import Launcher, Prelude
from tests.e2e.proc import until_stopped

PRELUDES = "tests.e2e.preludes"
SEED = 8
#: enough for any run; few enough that the first files of one are too many
DESCRIPTORS = range(3, 48)
#: what may stand in the way of a run that was begun: a file or, as "", the directory; and its mode then
FORBIDDEN = [("", 0o000), ("", 0o500), ("lock", 0o400), ("run.json", 0o000), ("journal.jsonl", 0o400), ("costs.jsonl", 0o000)]

shares = {"some": pytest.param(6, id="some"), "all": pytest.param(None, id="all", marks=pytest.mark.campaign)}


def prove_stopped(faulty: list[Faulty]) -> None:
    wrong = [f"{one.what}: {problem}\n{one.said}" for one in faulty for problem in wrong_with(one)]
    assert not wrong, "\n".join(wrong)


def leave_killed(run: Submit, mine: Launcher) -> None:
    """A run that has begun, and has jobs left."""
    child = run.start_by(mine)
    wait_until(child, lambda: run.size("journal.jsonl") > 2_000, "a few jobs to be sent")
    run.kill(child)


@pytest.mark.parametrize("share", shares.values())
def test_R04_short_writes(tmp_path: Path, platform: Simulated, launchers: Pair, share: int | None) -> None:
    """Half of the Nth write is taken: with its rest it is a whole one; without, it is cut off, or else found by its checksum."""
    run, _ = small_run(tmp_path, platform, "count")
    run.finish(run.start_by(launchers[0]))
    writes = sum(len(run.lines(f"{name}.jsonl")) for name in ("journal", "results", "errors", "costs"))
    cases = [(nth, then) for nth in range(1, writes + 1) for then in ("goes on", "is full", "tears")]
    cases = cases if share is None else random.Random(SEED).sample(cases, share)

    def one(case: tuple[int, str], mine: Launcher) -> Faulty:
        nth, then = case
        what = f"write {nth} is short and {then}"
        run, ids = small_run(tmp_path, platform, what)
        prelude: Prelude = (f"{PRELUDES}:short_write", {"nth": nth, "then": then})
        return carried_on(what, run, ids, run.start_by(mine, prelude), mine)

    found = two_at_a_time(one, cases, launchers)
    prove_stopped([faulty for (_, then), faulty in found.items() if then != "goes on"])
    assert {faulty.code for (_, then), faulty in found.items() if then == "goes on"} <= {1}, "one job of each run fails"
    print(f"R-04: {len(found)} of {writes} x 3 short writes:", prove_books(platform, list(found.values())))


@pytest.mark.parametrize("share", shares.values())
def test_R07_descriptors(tmp_path: Path, platform: Simulated, launchers: Pair, share: int | None) -> None:
    """With too few for any run it is not begun (2); with more than that it comes to its end, whatever it needs them for."""
    numbers = list(DESCRIPTORS) if share is None else [3, 31, 32, 33]

    def one(number: int, mine: Launcher) -> Faulty:
        run, ids = small_run(tmp_path, platform, f"{number} descriptors")
        child = run.start_by(mine, (f"{PRELUDES}:few_descriptors", {"number": number}))
        if number < 32:
            assert child.wait(PATIENCE_SECONDS) == 2
            assert not run.run_dir.exists()
            assert "Too many open files" in run.said() or "Raise the limit (ulimit -n)" in run.said()
        return carried_on(f"{number} descriptors", run, ids, child, mine)

    found = list(two_at_a_time(one, numbers, launchers).values())
    assert {one.code for one in found} == {1, 2}
    print("R-07: descriptors:", prove_books(platform, found))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes descriptors from a process at work")
@pytest.mark.parametrize("share", shares.values())
def test_R07_descriptors_that_run_out(tmp_path: Path, platform: Simulated, launchers: Pair, share: int | None) -> None:
    """No more of them from one moment on, with a few left or none: 74, and no job fails for want of a connection."""

    def one(left: int, mine: Launcher) -> Faulty:
        what = f"{left} more descriptors"
        run, ids = small_run(tmp_path, platform, what)
        child = run.start_by(mine, (f"{PRELUDES}:stopped_before_work", {}))
        until_stopped(child.pid)
        opened = len(os.listdir(f"/proc/{child.pid}/fd"))
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (opened + left, opened + left))
        os.kill(child.pid, signal.SIGCONT)
        return carried_on(what, run, ids, child, mine)

    found = two_at_a_time(one, range(8) if share is None else (0, 2), launchers)
    prove_stopped([faulty for faulty in found.values() if faulty.code != 1])
    assert found[0].code == 74, "without one more descriptor there is no status.json"
    print("R-07: descriptors that run out:", prove_books(platform, list(found.values())))


@pytest.mark.skipif(sys.platform != "linux" and os.geteuid() == 0, reason="permissions do not bind root")
@pytest.mark.parametrize("share", shares.values())
def test_R07_permissions(tmp_path: Path, platform: Simulated, launchers: Pair, share: int | None) -> None:
    """A directory or file that may not be read, or not written, stops the start that meets it; with permission it goes on."""

    def one(case: tuple[str, int], mine: Launcher) -> Faulty:
        name, mode = case
        what = f"mode {mode:03o} of {name or 'the directory'}"
        run, ids = small_run(tmp_path, platform, what)
        leave_killed(run, mine)
        path = run.run_dir / name
        before = path.stat().st_mode & 0o777
        path.chmod(mode)
        child = run.start_by(mine, (f"{PRELUDES}:unprivileged", {}))
        child.wait(PATIENCE_SECONDS)
        path.chmod(before)
        return carried_on(what, run, ids, child, mine)

    cases = FORBIDDEN if share is None else random.Random(SEED).sample(FORBIDDEN, 2)
    found = list(two_at_a_time(one, cases, launchers).values())
    prove_stopped(found)
    assert all("failed: Permission denied" in one.said for one in found)
    print("R-07: permissions:", prove_books(platform, found))


@needs_mount
def test_R07_a_disk_that_can_only_be_read(tmp_path: Path, platform: Simulated, launchers: Pair) -> None:
    """A run that had begun, and a new one, where the file system can only be read from now on: 74; writable again, they go on."""
    with contextlib.ExitStack() as mounts:
        runs = [small_run(tmp_path, platform, what) for what in ("begun", "new")]
        remounts = [mounts.enter_context(mounted_disk(run.run_dir, "size=100m")) for run, _ in runs]
        leave_killed(runs[0][0], launchers[0])
        for remount in remounts:
            remount("ro")
        children = [run.start_by(mine) for (run, _), mine in zip(runs, launchers, strict=True)]
        for child, remount in zip(children, remounts, strict=True):
            child.wait(PATIENCE_SECONDS)
            remount("rw")
        found = [
            carried_on("a read-only disk", run, ids, child, mine)
            for (run, ids), child, mine in zip(runs, children, launchers, strict=True)
        ]
        prove_stopped(found)
        assert all("failed: Read-only file system" in one.said for one in found)
        print("R-07: a disk that can only be read:", prove_books(platform, found))
