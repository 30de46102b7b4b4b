"""Signals and lost terminals: what is in flight, the exit code, and a run that goes on afterwards."""

from __future__ import annotations

import os
import pty
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchrunner.cli.status import status
from tests.e2e.cli_support import (
    Platform,
    command,
    ending,
    environment,
    finals,
    line_with,
    maybe_billed,
    platform,
    started,
    until,
    write_jobs,
)
from tests.e2e.harness import read_lines

IDS = [f"job-{number}" for number in range(40)]
#: each waits for its answer in vain the first time that it is sent
HANGING = ["hang-0", "hang-1", "hang-2"]
ONCE_SILENT = [part for custom_id in HANGING for part in ("--fault-on", f"{custom_id}=silent*1")]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that answers at once, for runs to be resumed on."""
    with platform(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGINT, 130, "waiting for 2 in flight"), (signal.SIGTERM, 143, "has 20 s to end")]
)
def test_a_signal_drains_what_is_in_flight(
    tmp_path: Path, healthy: Platform, number: signal.Signals, code: int, said: str
) -> None:
    """Nothing more is sent, what was sent is answered and kept, nothing may have been billed unseen; then it resumes."""
    jobs = write_jobs(tmp_path, IDS)
    with platform(tmp_path, "--latency", "0.4", "--latency-sigma", "0") as slow:
        arguments = ("submit", jobs, *slow.options, "--max-in-flight", "2", "--json")
        with started(tmp_path, *arguments, env=slow.env) as process:
            slow.until_in_flight(2)
            process.send_signal(number)
            ended = ending(process)
        sent = slow.statistics()["requests"]
    assert ended.code == code
    assert (ended.summary["status"], ended.summary["stopped_by"]) == ("stopped", "signal")
    assert said in ended.stderr
    assert "Run the same command again to resume" in ended.stderr
    assert ended.summary["request_counts"]["completed"] == sent == len(finals(tmp_path / "jobs.run"))
    assert sent < len(IDS)
    assert maybe_billed(tmp_path / "jobs.run") == set()
    before = healthy.statistics()["requests"]
    assert healthy.submit(tmp_path, jobs).code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS)
    assert healthy.statistics()["requests"] - before == len(IDS) - sent


def test_a_second_sigint_cuts_off_and_lists_each_attempt(tmp_path: Path) -> None:
    """130 at once; each attempt that was cut off stands in costs.jsonl as perhaps billed, and its job runs again."""
    jobs = write_jobs(tmp_path, [*HANGING, "job"])
    with platform(tmp_path, *ONCE_SILENT) as running:
        with started(tmp_path, "submit", jobs, *running.options, "--json", env=running.env) as process:
            running.until_silent(len(HANGING))
            process.send_signal(signal.SIGINT)
            line_with(process, "Ctrl-C once more")
            process.send_signal(signal.SIGINT)
            ended = ending(process)
        assert ended.code == 130
        assert "maybe billed" in ended.stderr
        assert ended.summary["stopped_by"] == "signal"
        assert ended.summary["cost"]["maybe_billed"] > 0
        assert maybe_billed(tmp_path / "jobs.run") == set(HANGING)
        assert running.submit(tmp_path, jobs).code == 0
    assert finals(tmp_path / "jobs.run") == Counter([*HANGING, "job"])
    costs = [line for line in read_lines(tmp_path / "jobs.run" / "costs.jsonl") if line["custom_id"] == "hang-0"]
    assert [(line["attempt"], line["state"]) for line in costs] == [(1, "maybe_billed"), (2, "billed")]


def test_sigterm_cuts_off_after_its_drain(tmp_path: Path) -> None:
    """What has not been answered within `--drain-seconds` is cut off and listed; 143, and the run resumes."""
    jobs = write_jobs(tmp_path, HANGING)
    with platform(tmp_path, *ONCE_SILENT) as running:
        arguments = ("submit", jobs, *running.options, "--drain-seconds", "0.1", "--json")
        with started(tmp_path, *arguments, env=running.env) as process:
            running.until_silent(len(HANGING))
            process.send_signal(signal.SIGTERM)
            ended = ending(process)
        assert ended.code == 143
        assert "0.1 s to end" in ended.stderr
        assert (ended.summary["stopped_by"], ended.summary["request_counts"]["failed"]) == ("signal", 0)
        assert maybe_billed(tmp_path / "jobs.run") == set(HANGING)
        assert running.submit(tmp_path, jobs).code == 0
    assert finals(tmp_path / "jobs.run") == Counter(HANGING)


# A shell calls an end by SIGTERM itself 143.
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_before_the_server_is_reached_ends_at_once(
    tmp_path: Path, healthy: Platform, number: signal.Signals, code: int
) -> None:
    """While prices are still being asked for nothing is in flight: nothing is waited for, and the same command begins anew."""
    jobs = write_jobs(tmp_path, IDS)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with started(tmp_path, "submit", jobs, "--base-url", f"http://127.0.0.1:{port}") as process:
        line_with(process, "Trying again.")
        process.send_signal(number)
        ended = ending(process)
    assert ended.code == code
    assert "Traceback" not in ended.stderr
    assert ("run the same command again to resume" in ended.stderr) is (number is signal.SIGINT)
    assert healthy.submit(tmp_path, jobs).code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


def test_sigint_after_all_was_sent_lets_the_run_complete(tmp_path: Path) -> None:
    """Where the drain finishes the last job there is nothing to resume: 0, and `completed`."""
    with platform(tmp_path, "--latency", "0.5", "--latency-sigma", "0") as slow:
        arguments = ("submit", write_jobs(tmp_path, IDS[:2]), *slow.options, "--json")
        with started(tmp_path, *arguments, env=slow.env) as process:
            slow.until_in_flight(2)
            process.send_signal(signal.SIGINT)
            ended = ending(process)
    assert ended.code == 0
    assert (ended.summary["status"], ended.summary["stopped_by"]) == ("completed", None)


def test_sighup_turns_off_the_display_and_nothing_else(tmp_path: Path) -> None:
    """Not a word more on stderr; the run goes on to its end and says on stdout what came of it."""
    with platform(tmp_path, "--latency", "0.4", "--latency-sigma", "0") as slow:
        arguments = ("submit", write_jobs(tmp_path, IDS[:4]), *slow.options, "--max-in-flight", "2", "--json")
        with started(tmp_path, *arguments, env=slow.env) as process:
            slow.until_in_flight(2)
            process.send_signal(signal.SIGHUP)
            ended = ending(process)
    assert ended.code == 0
    assert ended.summary["request_counts"]["completed"] == 4
    assert [event["state"] for event in ended.events] == ["running"]


def test_a_terminal_that_hangs_up_ends_no_run(tmp_path: Path) -> None:
    """The session's terminal goes, and with it SIGHUP comes and all three streams fail; every job still ends, once."""
    jobs = write_jobs(tmp_path, IDS[:6])
    with platform(tmp_path, "--latency", "0.4", "--latency-sigma", "0") as slow:
        pid, terminal = pty.fork()
        if pid == 0:  # the leader of a session whose terminal this is
            os.chdir(tmp_path)
            arguments = command("submit", jobs, *slow.options, "--max-in-flight", "2")
            os.execve(arguments[0], arguments, environment(tmp_path, TERM="xterm", **slow.env))
        slow.until_in_flight(2)
        os.close(terminal)
        _, wait_status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(wait_status) == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS[:6])


@pytest.mark.parametrize("streams", [(1,), (0, 1, 2)], ids=["stdout", "all"])
def test_closed_streams_change_nothing(tmp_path: Path, healthy: Platform, streams: tuple[int, ...]) -> None:
    """A process that was started without its streams runs to its end with the same exit code."""

    def close() -> None:
        for descriptor in streams:
            os.close(descriptor)

    ended = healthy.submit(tmp_path, write_jobs(tmp_path, IDS), preexec_fn=close)
    assert ended.code == 0
    assert ended.stderr.count("\n") == (0 if 2 in streams else 2), "two lines of progress and nothing else"
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone_changes_nothing(tmp_path: Path, healthy: Platform, stream: str) -> None:
    """`batchrun submit ... | head -0`: each write fails, the run does not, and the exit code is still that of the run."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        popen: dict[str, Any] = {stream: writer}
        ended = healthy.submit(tmp_path, write_jobs(tmp_path, IDS), **popen)
    finally:
        os.close(writer)
    assert ended.code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


def test_a_run_that_is_killed_is_shown_as_dead_and_resumes(tmp_path: Path) -> None:
    """`status` of a live run and of a killed one differ; the next start lists what was in flight and runs it again."""
    jobs = write_jobs(tmp_path, HANGING)
    run_dir = tmp_path / "jobs.run"
    with platform(tmp_path, *ONCE_SILENT) as running:
        with started(tmp_path, "submit", jobs, *running.options, env=running.env) as process:
            running.until_silent(len(HANGING))
            until((run_dir / "status.json").exists, "a first status.json")
            live = _status(run_dir)
            process.kill()
            process.wait()
        dead = _status(run_dir)
        resumed = running.submit(tmp_path, jobs)
    assert live.startswith("Running: 0 of 3 jobs done.")
    assert "No process" not in live
    assert "No process is at work on it: run the same command again to resume" in dead
    assert resumed.code == 0
    assert "3 attempt(s) were in flight when the last process ended" in resumed.stderr
    assert maybe_billed(run_dir) == set(HANGING)
    assert finals(run_dir) == Counter(HANGING)
    assert _status(run_dir).startswith("Completed: 3 jobs, all succeeded.")


def _status(run_dir: Path) -> str:
    """What `batchrun status` prints: it reads files, and so needs no process of its own."""
    shown = CliRunner().invoke(status, [str(run_dir)])
    assert shown.exit_code == 0
    return shown.stdout
