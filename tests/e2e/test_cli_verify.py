"""`batchrun verify` and `batchrun explain` as processes of their own, on ended, damaged and live runs."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from tests.e2e.cli_support import batchrun, count_once, ending, finals, platform, started, write_jobs
from tests.e2e.harness import read_lines

IDS = ["a", "b", "c"]


def ended_run(home: Path) -> Path:
    """A run of three jobs, one of which failed."""
    jobs = write_jobs(home, IDS)
    with platform(home, "--fault-on", "b=error400") as server:
        assert server.submit(home, jobs, "-o", home / "r.run").code == 1
    return home / "r.run"


def test_a_good_run(tmp_path: Path) -> None:
    """Exit code 0, and a page that says what was looked at; as JSON one document."""
    run = ended_run(tmp_path)
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    shown = batchrun(tmp_path, "verify", run, "--jobs", tmp_path / "jobs.jsonl")
    assert (shown.code, shown.stderr) == (0, "")
    assert "nothing is wrong." in shown.stdout
    assert "3 in the journal, 2 succeeded, 1 failed" in shown.stdout
    assert "job files 3 lines" in shown.stdout
    document = batchrun(tmp_path, "verify", run, "--json")
    assert document.code == 0
    assert document.summary["clean"] is True
    assert document.summary["report"]["checked"]["results"] == 2
    assert document.summary["repaired"] is None
    repaired = batchrun(tmp_path, "verify", run, "--repair")
    assert (repaired.code, repaired.stderr) == (0, "")
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before, "it only reads, and repairs nothing that is whole"


def test_a_damaged_run(tmp_path: Path) -> None:
    """Exit code 65, with file, line, byte, job and remedy; a repair refuses what a start would refuse."""
    run = ended_run(tmp_path)
    results = (run / "results.jsonl").read_bytes()
    (run / "results.jsonl").write_bytes(results.replace(b'"finish_reason"', b'"finish_raison"', 1))
    shown = batchrun(tmp_path, "verify", run)
    assert shown.code == 65
    assert "1 finding." in shown.stdout
    assert "results.jsonl, line 1, byte 0, job " in shown.stdout
    assert "its checksum is another. [altered]" in shown.stdout
    assert "Restore the run directory from a copy" in shown.stdout
    document = batchrun(tmp_path, "verify", run, "--json")
    assert document.code == 65
    (finding,) = document.summary["report"]["findings"]
    assert (finding["code"], finding["place"]) == ("altered", {"file": "results.jsonl", "offset": 0, "line": 1})
    refused = batchrun(tmp_path, "verify", run, "--repair")
    assert refused.code == 65
    assert "results.jsonl: damaged at byte" in refused.stderr


def test_a_repaired_run_is_resumed(tmp_path: Path) -> None:
    """A kill's remains are settled without the job file, each act is told, and the run goes on."""
    jobs = write_jobs(tmp_path, IDS)
    run = tmp_path / "r.run"
    with platform(tmp_path, "--fault-on", "c=silent") as server:
        with started(tmp_path, "submit", jobs, "-o", run, *server.options, env=server.env) as process:
            server.until_silent(1)
            live = batchrun(tmp_path, "verify", run)
            assert (live.code, live.stderr) == (0, "")
            assert "as far as it is committed: a process is at work on it" in live.stdout
            assert "in flight" in batchrun(tmp_path, "explain", run, "c").stdout
            process.kill()
            ending(process)
        with open(run / "journal.jsonl", "ab") as journal:
            journal.write(b'{"n":')
        noted = batchrun(tmp_path, "verify", run)
        assert noted.code == 0
        assert "a torn end of 5 bytes" in noted.stdout
        repaired = batchrun(tmp_path, "verify", run, "--repair", "--json")
        assert repaired.code == 0
        assert "journal.jsonl: a torn end of 5 bytes was cut." in repaired.stderr
        assert "1 attempt(s) were in flight" in repaired.stderr
        changed = {change["file"]: change for change in repaired.summary["repaired"]["changes"]}
        assert changed["costs.jsonl"]["after"] > changed["costs.jsonl"]["before"]
        assert server.submit(tmp_path, jobs, "-o", run).code == 0
    assert finals(run) == count_once(IDS)
    assert batchrun(tmp_path, "verify", run).code == 0
    story = batchrun(tmp_path, "explain", run, "c").stdout
    assert "attempt 1 was lost in flight: the process ended; maybe billed, up to $" in story
    assert "attempt 2 succeeded" in story


def test_a_repair_needs_quiet(tmp_path: Path) -> None:
    """While a process is at work, exit code 75, and the run is not disturbed."""
    jobs = write_jobs(tmp_path, IDS)
    run = tmp_path / "r.run"
    with platform(tmp_path, "--fault-on", "c=silent") as server:
        options = ("submit", jobs, "-o", run, "--timeout", "10", *server.options)
        with started(tmp_path, *options, env=server.env) as process:
            server.until_silent(1)
            refused = batchrun(tmp_path, "verify", run, "--repair")
            assert refused.code == 75
            assert "another batchrun is at work" in refused.stderr
            assert ending(process).code == 0
    assert batchrun(tmp_path, "verify", run, "--jobs", jobs).code == 0


def test_what_is_no_run(tmp_path: Path) -> None:
    """Exit code 65 for a directory without a run, which is left as it was; 2 for a job file that is missing or packed."""
    (tmp_path / "empty").mkdir()
    for options in ((), ("--repair",)):
        shown = batchrun(tmp_path, "verify", "empty", *options)
        assert shown.code == 65
        assert "run.json: no such file" in shown.stderr
    assert not list((tmp_path / "empty").iterdir())
    assert batchrun(tmp_path, "verify", "nowhere").code == 65
    assert not (tmp_path / "nowhere").exists()
    run = ended_run(tmp_path)
    missing = batchrun(tmp_path, "verify", run, "--jobs", "nowhere.jsonl")
    assert (missing.code, "no such file" in missing.stderr) == (2, True)
    (tmp_path / "jobs.gz").write_bytes(b"\x1f\x8b\x08")
    packed = batchrun(tmp_path, "verify", run, "--jobs", "jobs.gz")
    assert (packed.code, "name its copy in the run directory" in packed.stderr) == (2, True)


def test_the_story_of_one_job(tmp_path: Path) -> None:
    """As a page and as one JSON document; a job that nobody knows is exit code 65."""
    run = ended_run(tmp_path)
    shown = batchrun(tmp_path, "explain", run, "b")
    assert (shown.code, shown.stderr) == (0, "")
    assert shown.stdout.startswith("Job b: failed.\n")
    assert "attempt 1 failed for good" in shown.stdout
    assert "at byte 0 of errors.jsonl" in shown.stdout
    story = batchrun(tmp_path, "explain", run, "a", "--json").summary["story"]
    assert [step["what"] for step in story["steps"]] == ["sent", "done"]
    costs = {line["custom_id"]: line["cost"]["amount"] for line in read_lines(run / "costs.jsonl")}
    assert Decimal(story["billed_usd"]) == costs["a"]
    unknown = batchrun(tmp_path, "explain", run, "zzz")
    assert unknown.code == 65
    assert "does not know a job 'zzz'" in unknown.stderr
    assert batchrun(tmp_path, "explain", tmp_path, "a").code == 65
