"""Input that can be read only once, or not as it is: standard input, FIFOs, gzip; how it runs, resumes and is refused."""

from __future__ import annotations

import gzip
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli_support import UNLIMITED, Ended, Platform, batchrun, ending, finals, job, line_with, platform, started, until
from tests.e2e.harness import read_lines

IDS = [f"job-{number}" for number in range(6)]
LINES = b"".join(map(job, IDS))
#: the others are answered; these only from the second time on
HANGING = IDS[3:]
ONCE_SILENT = [part for custom_id in HANGING for part in ("--fault-on", f"{custom_id}=silent*1")]
#: name of the input by kind
NAMES = {"stdin": "-", "gzip": "jobs.jsonl.gz", "fifo": "pipe"}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform without a fault, for all tests here."""
    with platform(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture
def stdin() -> Iterator[tuple[int, int]]:
    """A pipe: the end for a process to read from, and the one to write to."""
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb"):
        yield reader, writer


def simulate(home: Path, *arguments: object, **popen: Any) -> Ended:
    return batchrun(home, "submit", *arguments, "--simulate", "--simulate-options", "--latency 0", *UNLIMITED, **popen)


@pytest.mark.parametrize("kind", NAMES)
def test_a_run_that_is_killed_goes_on_without_its_input(tmp_path: Path, healthy: Platform, kind: str) -> None:
    """kill -9 with half of the jobs answered: the same command, with nobody at the other end, runs the rest, each job once.

    Once finished it answers at once. A gzip must still be there, as it was, but is not unpacked again.
    """
    arguments = (NAMES[kind], "-o", "run")
    (tmp_path / "jobs.jsonl.gz").write_bytes(gzip.compress(LINES[:100]) + gzip.compress(LINES[100:]))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdin").write_bytes(LINES)
    with (
        platform(tmp_path, *ONCE_SILENT) as running,
        open(tmp_path / "stdin", "rb") as stdin,
        started(tmp_path, "submit", *arguments, *running.options, env=running.env, stdin=stdin) as process,
    ):
        if kind == "fifo":
            (tmp_path / "pipe").write_bytes(LINES)
        running.until_silent(len(HANGING))
        until(lambda: len(finals(tmp_path / "run")) == len(IDS) - len(HANGING), "the others to be answered")
        process.kill()
        process.wait()
    assert (tmp_path / "run" / "input.jsonl").read_bytes() == LINES
    before = healthy.statistics()["requests"]
    resumed = healthy.submit(tmp_path, *arguments)
    assert resumed.code == 0
    assert finals(tmp_path / "run") == Counter(IDS)
    again = healthy.submit(tmp_path, *arguments, "--json")
    assert (again.code, again.stderr) == (0, "")
    assert again.summary["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
    assert healthy.statistics()["requests"] - before == len(HANGING)


def test_standard_input_needs_a_run_directory(tmp_path: Path) -> None:
    """2, with the remedy, and before anything is read or made."""
    ended = batchrun(tmp_path, "submit", "jobs.jsonl", "-", "--simulate")
    assert ended.code == 2
    assert "--run-dir DIR" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_all_kinds_in_one_run(tmp_path: Path) -> None:
    """In any order; lines and files are those that people know, on stderr and in errors.jsonl, and never the copies."""
    (tmp_path / "plain.jsonl").write_bytes(job("plain") + b"[]\n")
    (tmp_path / "a.gz").write_bytes(gzip.compress(job("a") + job("plain")))
    (tmp_path / "b.gz").write_bytes(gzip.compress(job("b")))
    (tmp_path / "stdin").write_bytes(b"\n" + job("a") + job("c"))
    with open(tmp_path / "stdin", "rb") as stdin:
        ended = simulate(tmp_path, "a.gz", "plain.jsonl", "-", "b.gz", "-o", "run", "--progress", "none", stdin=stdin)
    assert ended.code == 1
    bad = [
        "plain.jsonl line 1 is no job: custom_id 'plain' is that of a.gz line 2; rename one.",
        'plain.jsonl line 2 is no job: a job is a JSON object on one line: {"custom_id": ..., "body": {...}}.',
        "standard input line 2 is no job: custom_id 'a' is that of a.gz line 1; rename one.",
    ]
    assert ended.stderr.splitlines() == [
        "a.gz is copied into the run directory, as input.jsonl.",
        "standard input is copied into the run directory, as input.2.jsonl.",
        "b.gz is copied into the run directory, as input.3.jsonl.",
        *bad,
    ]
    errors = read_lines(tmp_path / "run" / "errors.jsonl")
    assert [(error["line"], error["error"]["message"]) for error in errors] == list(zip((3, 4, 6), bad, strict=True))
    assert finals(tmp_path / "run") == Counter(["a", "b", "c", "plain", *["None"] * 3])


def test_a_gzip_that_changed_is_looked_at_anew(tmp_path: Path) -> None:
    """Appended lines run; a changed line that failed stops the run by the name of the gzip, unless it is accepted."""
    path = tmp_path / "jobs.jsonl.gz"
    path.write_bytes(gzip.compress(job("first") + job("second", model="nobody's")))
    assert simulate(tmp_path, path.name).code == 1
    path.write_bytes(gzip.compress(job("first") + job("second") + job("third")))
    stopped = simulate(tmp_path, path.name)
    assert stopped.code == 65
    assert "jobs.jsonl.gz line 2 ('second')" in stopped.stderr
    assert simulate(tmp_path, path.name, "--accept-changes").code == 0
    assert finals(tmp_path / "jobs.simulated.run") == Counter(["first", "second", "third"])


def test_a_damaged_gzip_ends_with_65(tmp_path: Path) -> None:
    """By its name and offset; nothing of it stays, and with the whole file the same command runs."""
    path = tmp_path / "jobs.jsonl.gz"
    path.write_bytes(gzip.compress(LINES)[:-9])
    ended = simulate(tmp_path, path.name)
    assert ended.code == 65
    assert f"jobs.jsonl.gz: damaged behind byte {path.stat().st_size} of the gzip" in ended.stderr
    assert {file.name for file in (tmp_path / "jobs.simulated.run").iterdir()} == {"lock", "run.json"}
    path.write_bytes(gzip.compress(LINES))
    assert simulate(tmp_path, path.name).code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_copying_can_be_interrupted(tmp_path: Path, stdin: tuple[int, int], number: signal.Signals, code: int) -> None:
    """While the writer takes its time: no part of a copy is taken for one, and the same command reads anew and runs."""
    reader, writer = stdin
    aside = tmp_path / "run" / ".input.jsonl.new"
    arguments = ("-", "-o", "run", "--simulate", *UNLIMITED)
    with started(tmp_path, "submit", *arguments, stdin=reader) as process:
        os.write(writer, job("first"))
        line_with(process, "standard input is copied")
        until(aside.exists, "the copy to be begun")
        process.send_signal(number)
        ended = ending(process)
    assert ended.code == code
    assert ("run the same command again" in ended.stderr) == (number != signal.SIGKILL)
    assert aside.exists() == (number == signal.SIGKILL)
    assert not (tmp_path / "run" / "input.jsonl").exists()
    (tmp_path / "stdin").write_bytes(LINES)
    with open(tmp_path / "stdin", "rb") as whole:
        assert simulate(tmp_path, "-", "-o", "run", stdin=whole).code == 0
    assert finals(tmp_path / "run") == Counter(IDS)
    assert not aside.exists()


def test_standard_input_that_is_closed_ends_with_65_and_keeps_nothing(tmp_path: Path) -> None:
    """A command that was put into a schedule without its pipe does not become a run of nothing."""
    ended = simulate(tmp_path, "-", "-o", "run", preexec_fn=lambda: os.close(0))
    assert ended.code == 65
    assert "standard input: ended without a byte" in ended.stderr
    assert not (tmp_path / "run" / "input.jsonl").exists()
