"""Input that is not what it should be: which line, what is wrong with it, what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.cli_support import UNLIMITED, Ended, batchrun, job
from tests.e2e.harness import read_lines

GOOD = job("good")
#: each with a word of its message
BAD = [
    (b"not json\n", "one line of strict JSON"),
    (job("good", "again"), "that of jobs.jsonl line 1; rename one"),
    (GOOD.replace(b"POST", b"GET").replace(b'"good"', b'"get"'), 'only "POST"'),
    (GOOD.replace(b"/v1/chat/completions", b"/v2/guess").replace(b'"good"', b'"guess"'), "it must be a path below /v1/"),
    (b"[]\n", "line"),
]


def simulate(home: Path, *arguments: object) -> Ended:
    return batchrun(home, "submit", *arguments, "--simulate", "--simulate-options", "--latency 0", *UNLIMITED)


def test_bad_lines_are_named_and_the_others_run(tmp_path: Path) -> None:
    """Each bad line is named on stderr by file and line with a remedy, stands so in errors.jsonl, and counts as failed; 1."""
    (tmp_path / "jobs.jsonl").write_bytes(GOOD + b"\n" + b"".join(line for line, _ in BAD))
    ended = simulate(tmp_path, "jobs.jsonl", "--json")
    assert ended.code == 1
    assert ended.summary["request_counts"] == {"total": 6, "completed": 1, "failed": 5}
    errors = read_lines(tmp_path / "jobs.simulated.run" / "errors.jsonl")
    said = [line for line in ended.stderr.splitlines() if line.startswith("jobs.jsonl line ")]
    for number, ((_, remedy), error, line) in enumerate(zip(BAD, errors, said, strict=True), start=3):
        assert (error["custom_id"], error["line"]) == (None, number)
        assert line == error["error"]["message"]
        assert line.startswith(f"jobs.jsonl line {number} is no job: ")
        assert remedy in line


def test_of_many_bad_lines_the_first_ten_are_named(tmp_path: Path) -> None:
    """A file of another kind does not scroll by; how many more there are is said, and all are in errors.jsonl."""
    (tmp_path / "jobs.jsonl").write_bytes(b"date;amount\n" * 25)
    ended = simulate(tmp_path, "jobs.jsonl", "--progress", "none")
    assert ended.code == 1
    assert ended.stderr.splitlines()[9].startswith("jobs.jsonl line 10 is no job")
    assert ended.stderr.splitlines()[10:] == ["15 more lines are no jobs; a run lists all of them in errors.jsonl."]
    assert len(read_lines(tmp_path / "jobs.simulated.run" / "errors.jsonl")) == 25


def test_with_several_files_the_file_is_named_too(tmp_path: Path) -> None:
    """Lines count within their file, but for the `line` of errors.jsonl; an id is unique over all of them."""
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl").write_bytes(b"\n" + GOOD)
    ended = simulate(tmp_path, "a.jsonl", "b.jsonl")
    assert "b.jsonl line 2 is no job: custom_id 'good' is that of a.jsonl line 1; rename one." in ended.stderr
    (error,) = read_lines(tmp_path / "a.simulated.run" / "errors.jsonl")
    assert error["line"] == 3
    assert error["error"]["message"].startswith("b.jsonl line 2 is no job: ")


def test_an_empty_file_is_a_finished_run_with_a_warning(tmp_path: Path) -> None:
    """Nothing to do is no error, yet hardly what was meant."""
    (tmp_path / "jobs.jsonl").write_bytes(b"\n\n")
    ended = simulate(tmp_path, "jobs.jsonl")
    assert ended.code == 0
    assert "warning: no job in jobs.jsonl." in ended.stderr


def _missing(path: Path) -> None:
    """Leave it so."""


@pytest.mark.parametrize(
    ("make", "code", "named"),
    [
        (_missing, 2, "no such file"),
        (os.mkdir, 2, "a directory; name the job files in it"),
    ],
    ids=["missing", "directory"],
)
def test_what_is_no_job_file_is_refused_with_what_to_do(tmp_path: Path, make: object, code: int, named: str) -> None:
    """Before a run directory is made; the message begins with the file's name."""
    make(tmp_path / "jobs.jsonl")  # type: ignore[operator]
    ended = simulate(tmp_path, "jobs.jsonl")
    assert ended.code == code
    assert ended.stderr.startswith("batchrun: jobs.jsonl: ")
    assert named in ended.stderr
    assert not list(tmp_path.glob("*.run"))
