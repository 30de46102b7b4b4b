"""Each way in which a run stops by itself: the exit code, what is said, and that the same command takes it to its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli_support import (
    PATIENCE_SECONDS,
    UNLIMITED,
    Ended,
    Platform,
    batchrun,
    ending,
    environment,
    finals,
    line_with,
    maybe_billed,
    platform,
    server,
    started,
    until,
    write_jobs,
)
from tests.e2e.disks import mounted_disk, needs_mount

IDS = [f"job-{number}" for number in range(40)]
MIB = 1 << 20
#: the command line with less patience for a server that is away; its real patience is proven in virtual time
IMPATIENT = """
from batchrunner import cli, dispatcher
from batchrunner.platform import catalog
catalog.PAUSES_SECONDS = (0.1,)
dispatcher.UNREACHED_SECONDS = 0.5
cli.main()
"""


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that answers at once, for runs to be resumed on."""
    with platform(tmp_path_factory.mktemp("platform")) as running:
        yield running


def assert_stopped(ended: Ended, code: int, stopped_by: str, *said: str) -> None:
    """The contract's code and summary; what happened, and what to do, on stderr."""
    assert ended.code == code, ended.stderr
    assert (ended.summary["status"], ended.summary["stopped_by"]) == ("stopped", stopped_by)
    for words in (*said, "un the same command again to resume"):
        assert words in ended.stderr
    assert "Traceback" not in ended.stderr


# -------------------------------------------------------------------------------------------------------------- failures


def test_max_failures_ends_with_3_and_goes_on_when_raised(tmp_path: Path) -> None:
    """The third failure is one too many; the same command stops at once; with a higher limit the rest runs, each job once."""
    jobs = write_jobs(tmp_path, IDS)
    rules = [part for number in (3, 5, 7) for part in ("--fault-on", f"job-{number}=error400*1")]
    with platform(tmp_path, *rules) as running:
        common = (tmp_path, jobs, "--json", "--max-in-flight", "1")
        cut = running.submit(*common, "--max-failures", "5%")
        sent = running.statistics()["requests"]
        again = running.submit(*common, env={"BATCHRUN_MAX_FAILURES": "2"})
        assert running.statistics()["requests"] == sent == 8
        rest = running.submit(*common, "--max-failures", "10%")
    assert_stopped(cut, 3, "failures", "stopping: 3 of 40 jobs failed, and --max-failures is 5%", "or raise --max-failures")
    assert cut.summary["request_counts"] == {"total": 40, "completed": 5, "failed": 3}
    assert_stopped(again, 3, "failures", "and --max-failures is 2")
    assert rest.code == 1
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


def test_the_same_permanent_error_ends_with_3(tmp_path: Path, healthy: Platform) -> None:
    """A model that is not there fails the first twenty jobs and not the file; once it is, all of them succeed."""
    jobs = write_jobs(tmp_path, IDS)
    with server(404, b'{"error":{"code":"model_not_found","message":"There is no such model."}}') as url:
        ended = batchrun(
            tmp_path, "submit", jobs, "--base-url", url, *UNLIMITED, "--json", "--max-in-flight", "1", env=healthy.env
        )
    assert_stopped(ended, 3, "failures", "the same error, model_not_found: There is no such model.", "--retry-failed")
    assert ended.summary["request_counts"] == {"total": 40, "completed": 0, "failed": 20}
    assert healthy.submit(tmp_path, jobs, "--retry-failed").code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


# ------------------------------------------------------------------------------------------------ the account, the server


def test_a_server_that_is_not_there_ends_with_69(tmp_path: Path, healthy: Platform) -> None:
    """Nothing was sent, nothing failed; where there is a server all jobs run."""
    jobs = write_jobs(tmp_path, IDS)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    arguments = ("submit", str(jobs), "--base-url", f"http://127.0.0.1:{port}", "--json")
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    ended = Ended(done.returncode, done.stdout, done.stderr)
    assert_stopped(ended, 69, "unreachable", f"cannot connect to http://127.0.0.1:{port}", "Check network and --base-url")
    assert ended.summary["attempts"] == 0
    assert healthy.submit(tmp_path, jobs).code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


def test_credits_that_run_out_end_with_69(tmp_path: Path, healthy: Platform) -> None:
    """In mid-run: what was paid for is kept, no job fails, and with credits the same command goes on."""
    jobs = write_jobs(tmp_path, IDS)
    with platform(tmp_path, "--balance", "0.0001") as poor:
        ended = poor.submit(tmp_path, jobs, "--json", "--max-in-flight", "1")
    assert_stopped(ended, 69, "credits", "stopping: The account needs credits.", "Top up the account")
    assert ended.summary["request_counts"]["failed"] == 0
    assert 0 < ended.summary["request_counts"]["completed"] < len(IDS)
    assert healthy.submit(tmp_path, jobs).code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


def test_credits_that_run_out_are_waited_for_when_asked_to(tmp_path: Path) -> None:
    """--wait-for-credits: the account is topped up by the time that its balance is asked for; one command, every job, once."""
    jobs = write_jobs(tmp_path, IDS)
    with platform(tmp_path, "--balance", "0.0001", "--change", "@8=top-up:9", "--latency", "0.05") as poor:
        ended = poor.submit(tmp_path, jobs, "--json", "--max-in-flight", "4", "--max-attempts", "1", "--wait-for-credits")
    assert ended.code == 0, ended.stderr
    assert finals(tmp_path / "jobs.run") == Counter(IDS)
    assert 8.9 < ended.summary["balance"] < 9
    assert ended.summary["forecast"] == 0


def test_a_run_that_waits_for_credits_says_so_and_can_be_interrupted(tmp_path: Path, healthy: Platform) -> None:
    """`status` shows why nothing goes on; SIGINT ends it at once, and with credits the same command goes on."""
    jobs, run_dir = write_jobs(tmp_path, IDS), tmp_path / "jobs.run"
    with platform(tmp_path, "--balance", "0") as poor:
        arguments = ("submit", jobs, *poor.options, "--json", "--wait-for-credits", "--progress", "none")
        with started(tmp_path, *arguments, env=poor.env) as process:
            line_with(process, "waiting until the account is topped up")
            until(lambda: "waiting for credits: top up" in batchrun(tmp_path, "status", run_dir).stdout, "a status that says why")
            process.send_signal(signal.SIGINT)
            ended = ending(process)
    assert ended.code == 130
    assert ended.summary["request_counts"]["failed"] == 0
    assert healthy.submit(tmp_path, jobs).code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


# -------------------------------------------------------------------------------------------------------------- the disk


@needs_mount
def test_a_disk_with_little_room_ends_with_74_before_it_is_full(tmp_path: Path, healthy: Platform) -> None:
    """Below 64 MiB nothing is sent whose answer might not fit; with room the same command runs every job."""
    jobs = write_jobs(tmp_path, IDS)
    with mounted_disk(tmp_path / "disk", f"size={32 * MIB}") as remount:
        run_dir = tmp_path / "disk" / "jobs.run"
        ended = healthy.submit(tmp_path, jobs, "--json", "-o", run_dir)
        assert_stopped(ended, 74, "disk", "MiB are free where", "Free space")
        assert ended.summary["request_counts"]["failed"] == 0
        remount(f"size={256 * MIB}")
        assert healthy.submit(tmp_path, jobs, "-o", run_dir).code == 0
        assert finals(run_dir) == Counter(IDS)


@needs_mount
def test_a_disk_that_is_full_ends_with_74(tmp_path: Path, healthy: Platform) -> None:
    """Somebody fills the disk between two looks at it: the first write that fails ends the run, and no job is lost."""
    jobs = write_jobs(tmp_path, IDS)
    with (
        mounted_disk(tmp_path / "disk", f"size={80 * MIB}"),
        platform(tmp_path, "--latency", "0.5", "--latency-sigma", "0") as slow,
    ):
        run_dir = tmp_path / "disk" / "jobs.run"
        arguments = ("submit", jobs, *slow.options, "--max-in-flight", "4", "--json", "-o", run_dir)
        with started(tmp_path, *arguments, env=slow.env) as process:
            slow.until_in_flight(4)
            fill(tmp_path / "disk" / "film.mkv")
            ended = ending(process)
        assert_stopped(ended, 74, "disk", "failed: No space left on device", "Free space")
        (tmp_path / "disk" / "film.mkv").unlink()
        assert healthy.submit(tmp_path, jobs, "-o", run_dir).code == 0
        assert finals(run_dir) == Counter(IDS)


def fill(path: Path) -> None:
    """Take all the room that there is."""
    with open(path, "wb", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


# ------------------------------------------------------------------------------------------------------ stdout and stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_full_stream_changes_nothing(tmp_path: Path, healthy: Platform, stream: str, options: tuple[str, ...]) -> None:
    """Output sent to a file on a full disk: each write fails, and the run and its exit code do not."""
    with open("/dev/full", "wb") as full:
        popen: dict[str, Any] = {stream: full}
        ended = healthy.submit(tmp_path, write_jobs(tmp_path, IDS), *options, **popen)
    assert ended.code == 0
    assert "Traceback" not in ended.stdout + ended.stderr
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


def test_readers_that_leave_in_mid_run_change_nothing(tmp_path: Path) -> None:
    """`submit |& head -1`: both pipes break while jobs are in flight; a run that then stops still exits with its own code."""
    jobs = write_jobs(tmp_path, IDS[:8])
    rules = ("--latency", "0.3", "--latency-sigma", "0", "--fault-on", "job-5=error400*1")
    with platform(tmp_path, *rules) as slow:
        arguments = ("submit", jobs, *slow.options, "--max-in-flight", "2", "--max-failures", "0")
        with started(tmp_path, *arguments, env=slow.env) as process:
            line_with(process, '"event"')
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            process.stderr.close()
            assert process.wait(PATIENCE_SECONDS) == 3
        assert maybe_billed(tmp_path / "jobs.run") == set()
        assert slow.submit(tmp_path, jobs, "--retry-failed").code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS[:8])
