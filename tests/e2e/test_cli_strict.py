"""`--strict`: a line that is no job refuses the start, the first one and any later one."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.cli_support import job, platform
from tests.e2e.harness import read_lines

BAD = b"".join(b"date;amount\n" for _ in range(11)) + job("good", "again")


def test_a_bad_line_refuses_the_start(tmp_path: Path) -> None:
    """65 with the first ten by file and line and the number of all; nothing is sent or written. Without it the others run.

    Then: a finished run answers as ever, since nothing is sent; a start that would send is refused, and leaves what was
    written as it was. So does the option where it stands in the environment or in a file.
    """
    (tmp_path / "good.jsonl").write_bytes(job("good"))
    (tmp_path / "bad.jsonl").write_bytes(BAD)
    arguments = ("good.jsonl", "bad.jsonl", "-o", "run", "--progress", "none")
    with platform(tmp_path) as running:
        refused = running.submit(tmp_path, *arguments, "--strict")
        assert refused.code == 65
        said = refused.stderr.splitlines()
        assert [line.partition(" is no job: ")[0] for line in said[:10]] == [f"bad.jsonl line {n}" for n in range(1, 11)]
        assert said[10].startswith("2 more lines are no jobs")
        assert said[11].startswith("batchrun: 12 of the input's lines are no jobs, and with --strict nothing is sent")
        assert len(said) == 12
        assert {file.name for file in (tmp_path / "run").iterdir()} == {"lock", "run.json"}
        assert running.statistics()["requests"] == 0
        assert running.submit(tmp_path, *arguments).code == 1
        before = written(tmp_path / "run")
        assert running.submit(tmp_path, *arguments, "--strict", "--json").summary["request_counts"]["failed"] == 12
        with open(tmp_path / "good.jsonl", "ab") as file:
            file.write(job("appended"))
        assert running.submit(tmp_path, *arguments, "--strict").code == 65
        assert running.submit(tmp_path, *arguments, env={"BATCHRUN_STRICT": "1"}).code == 65
        (tmp_path / "batchrun.toml").write_text("strict = true")
        assert running.submit(tmp_path, *arguments).code == 65
        assert written(tmp_path / "run") == before
        assert running.statistics()["requests"] == 1
        (tmp_path / "bad.jsonl").write_bytes(b"")
        assert running.submit(tmp_path, *arguments).code == 0
    assert len(read_lines(tmp_path / "run" / "results.jsonl")) == 2


def written(run_dir: Path) -> dict[str, bytes]:
    """What a run has to show, but for its manifest, which names the options of the newest start."""
    return {path.name: path.read_bytes() for path in run_dir.iterdir() if path.name not in ("run.json", "lock")}


def test_a_pipe_is_mended_in_its_copy(tmp_path: Path) -> None:
    """It is not read again: the message says where its lines stand, and what is mended there counts."""
    (tmp_path / "stdin").write_bytes(job("good") + b"[]\n")
    with platform(tmp_path) as running:
        with open(tmp_path / "stdin", "rb") as stdin:
            refused = running.submit(tmp_path, "-", "-o", "run", "--strict", stdin=stdin)
        assert refused.code == 65
        assert "Mend them (standard input is read from run/input.jsonl now), or leave --strict out" in refused.stderr
        (tmp_path / "run" / "input.jsonl").write_bytes(job("good"))
        assert running.submit(tmp_path, "-", "-o", "run", "--strict").code == 0
