"""`batchrun ctl` on live runs of real processes: limits, pause, drain, and those who may not, or speak nonsense."""

from __future__ import annotations

import os
import socket
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchrunner.live_socket import CLIENTS, directories, place, socket_name
from tests.e2e.cli_support import Ended, batchrun, ending, finals, line_with, platform, started, until, write_jobs

IDS = [f"job-{number}" for number in range(30)]
#: one request a minute: whoever sees a second one has seen a limit change
SLOW = ("--rpm", "1", "--tpm", "0", "--simulate-options", "--latency 0 --rpm 0 --tpm 0")


def simulated(home: Path, *more: object) -> tuple[object, ...]:
    return ("submit", write_jobs(home, IDS), "--simulate", "--json", "--progress", "none", *SLOW, *more)


def run_dir(home: Path) -> Path:
    return home / "jobs.simulated.run"


def ctl(home: Path, *words: str, code: int = 0) -> Ended:
    ended = batchrun(home, "ctl", run_dir(home), *words)
    assert ended.code == code, ended.stderr
    return ended


def answer(home: Path, *words: str) -> dict[str, Any]:
    return msgspec.json.decode(ctl(home, *words, "--json").stdout, type=dict[str, Any])


def socket_of(home: Path) -> Path:
    return next(path for directory in directories() if (path := directory / socket_name(run_dir(home))).exists())


@pytest.fixture
def at_work(tmp_path: Path) -> Iterator[Path]:
    """A run that has sent one job, and will send another in a minute."""
    with started(tmp_path, *simulated(tmp_path)) as process:
        until_completed(tmp_path, 1)
        yield tmp_path
        process.kill()


def until_completed(home: Path, number: int) -> None:
    results = run_dir(home) / "results.jsonl"
    until(lambda: results.exists() and results.read_bytes().count(b"\n") >= number, f"{number} results")


def test_a_raised_limit_ends_a_run_that_would_have_taken_half_an_hour(tmp_path: Path) -> None:
    """What is set is told, shown at once, and acts on the next request. The options of the run are what they were."""
    with started(tmp_path, *simulated(tmp_path)) as process:
        until_completed(tmp_path, 1)
        found = answer(tmp_path, "set", "rpm=0", "max-cost=5")
        assert found["changed"] == [
            "the limit of requests is none now; it was 1 a minute",
            "the spend cap is $5 now; it was none",
        ]
        assert found["accounts"] == [{"name": None, "rpm": 0, "tpm": 0}]
        assert found["max_cost_usd"] == "5"
        assert (found["status"]["rpm_limit"], found["status"]["total"]) == (0, len(IDS))
        ended = ending(process)
    assert ended.code == 0
    assert "batchrun ctl: the limit of requests is none now" in ended.stderr
    assert finals(run_dir(tmp_path)) == Counter(IDS)
    assert msgspec.json.decode((run_dir(tmp_path) / "run.json").read_bytes())["options"]["rpm"] == 1


def test_a_paused_run_sends_nothing_and_goes_on(tmp_path: Path) -> None:
    """`status` shows the pause; `resume` ends it."""
    with started(tmp_path, *simulated(tmp_path)) as process:
        until_completed(tmp_path, 1)
        assert "Paused" in ctl(tmp_path, "pause").stdout
        assert ctl(tmp_path, "pause").stdout == "Nothing has changed.\n"
        assert answer(tmp_path, "set", "rpm=0")["paused"] is True
        until(lambda: "paused, until" in batchrun(tmp_path, "status", run_dir(tmp_path)).stdout, "a status that says paused")
        shown = answer(tmp_path, "show")["status"]
        assert (shown["completed"], shown["in_flight"], shown["paused"]) == (1, 0, True)
        assert "paused, until" in ctl(tmp_path, "show").stdout
        assert "Resumed" in ctl(tmp_path, "resume").stdout
        assert ending(process).code == 0
    assert finals(run_dir(tmp_path)) == Counter(IDS)


def test_a_drained_run_ends_as_if_interrupted_and_resumes(tmp_path: Path) -> None:
    """130, what was in flight is kept, and `submit` goes by its own options again, not by what was set."""
    with started(tmp_path, *simulated(tmp_path)) as process:
        until_completed(tmp_path, 1)
        ctl(tmp_path, "set", "rpm=2")
        assert "Draining" in ctl(tmp_path, "drain").stdout
        ended = ending(process)
    assert ended.code == 130
    assert (ended.summary["stopped_by"], ended.summary["request_counts"]["completed"]) == ("signal", 1)
    assert not any((directory / socket_name(run_dir(tmp_path))).exists() for directory in directories())
    with started(tmp_path, *simulated(tmp_path)) as process:
        until(lambda: batchrun(tmp_path, "ctl", run_dir(tmp_path), "show").code == 0, "a run that answers")
        assert answer(tmp_path, "show")["accounts"][0]["rpm"] == 1
        process.kill()


def test_one_of_several_settings_that_is_wrong_changes_nothing(at_work: Path) -> None:
    """2, the reason, and all is as it was."""
    for words, said in (
        (("set", "rpm=9", "tpm=x"), "no number"),
        (("set",), "nothing is to be set"),
        (("set", "rpm=9", "account=prod"), "no account of that name"),
        (("set", "speed=9"), "rpm=N"),
        (("drain", "now"), "nothing more"),
        (("jump",), "jump"),
    ):
        assert said in ctl(at_work, *words, code=2).stderr
    assert answer(at_work, "show")["accounts"][0] == {"name": None, "rpm": 1, "tpm": 0}


def test_where_there_is_nobody_to_speak_to(tmp_path: Path) -> None:
    """65 for no run at all, 69 for one that nobody is at work on, and what to do."""
    assert "no such file" in ctl(tmp_path, "pause", code=65).stderr
    with started(tmp_path, *simulated(tmp_path)) as process:
        until_completed(tmp_path, 1)
        process.kill()
        process.wait()
    assert "no process is at work on it" in ctl(tmp_path, "pause", code=69).stderr


def test_a_dead_runs_socket_is_replaced(tmp_path: Path) -> None:
    """After kill -9 the next start takes the same place, and answers there; nobody else may enter."""
    with started(tmp_path, *simulated(tmp_path)) as process:
        until_completed(tmp_path, 1)
        dead = socket_of(tmp_path)
        process.kill()
        process.wait()
    assert dead.is_socket()
    dead.with_name(dead.name + ".new").write_text("left behind in the middle of it")
    with started(tmp_path, *simulated(tmp_path)) as process:
        until(lambda: batchrun(tmp_path, "ctl", run_dir(tmp_path), "show").code == 0, "a run that answers")
        assert socket_of(tmp_path) == dead
        assert stat.S_IMODE(os.lstat(dead).st_mode) == 0o600
        assert stat.S_IMODE(os.lstat(dead.parent).st_mode) == 0o700
        ctl(tmp_path, "drain")
        assert ending(process).code == 130
    assert not dead.exists()


def test_a_run_that_nobody_can_make_a_socket_for_goes_on(tmp_path: Path) -> None:
    """One warning; signals reach it still."""
    jobs = write_jobs(tmp_path, IDS[:3])
    with platform(tmp_path) as running:
        blocked = place_of_the_run(tmp_path, jobs)
        blocked.mkdir()
        try:
            ended = running.submit(tmp_path, jobs, "--progress", "none")
        finally:
            blocked.rmdir()
    assert ended.code == 0
    assert ended.stderr.count("`batchrun ctl` cannot reach this run") == 1


def place_of_the_run(home: Path, jobs: Path) -> Path:
    """Where a run's socket will stand, whose directory is made for it."""
    directory = jobs.with_suffix(".run")
    directory.mkdir(mode=0o700)
    return place(directory)


HOSTILE: Sequence[bytes] = (
    b"",
    b"\n",
    b"rubbish\n",
    b"\x00" * 4096 + b"\n",
    b"x" * 100_000,
    b'{"do":"set","rpm":-1}\n',
    b"[" * 4000 + b"\n",
)


def test_hostile_clients_neither_end_nor_stall_a_run(tmp_path: Path) -> None:
    """Nonsense, floods, clients that hang up or never say a word: the run answers others and comes to its end."""
    with started(tmp_path, *simulated(tmp_path)) as process:
        until_completed(tmp_path, 1)
        path = os.fspath(socket_of(tmp_path))
        for said in [*HOSTILE, *HOSTILE, *HOSTILE]:
            speak(path, said)
        silent = [socket.socket(socket.AF_UNIX) for _ in range(3 * CLIENTS)]
        for client in silent:
            client.connect(path)
        for client in silent[1:]:
            client.close()
        until(lambda: batchrun(tmp_path, "ctl", run_dir(tmp_path), "set", "rpm=0").code == 0, "a run that listens again")
        ended = ending(process)
        silent[0].close()
    assert ended.code == 0
    assert "defect" not in ended.stderr
    assert finals(run_dir(tmp_path)) == Counter(IDS)


def speak(path: str, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        try:
            client.sendall(said)
        except OSError:
            return  # it has hung up already


def test_another_interrupt_cuts_a_drained_run_off(tmp_path: Path) -> None:
    """A drain is the first of two interrupts."""
    jobs = write_jobs(tmp_path, ["hang", "job"])
    with platform(tmp_path, "--fault-on", "hang=silent*1") as running:
        arguments = ("submit", jobs, *running.options, "--json", "--progress", "none")
        with started(tmp_path, *arguments, env=running.env) as process:
            running.until_silent(1)
            assert batchrun(tmp_path, "ctl", tmp_path / "jobs.run", "drain").code == 0
            line_with(process, "draining")
            process.send_signal(2)
            ended = ending(process)
    assert ended.code == 130
    assert "cut off" in ended.stderr
