"""The same command again: what runs, what is kept, what stops it."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli_support import Platform, finals, job, platform, write_jobs
from tests.e2e.harness import read_lines

#: the platform fails the second one the first time that it is asked
IDS = ["first", "second", "third"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One platform for all tests here; they look at what it counted meanwhile."""
    with platform(tmp_path_factory.mktemp("platform"), "--fault-on", "second=error400*1") as found:
        yield found


@pytest.fixture(scope="module")
def ended(running: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that has finished, with one job failed."""
    home = tmp_path_factory.mktemp("ended")
    done = running.submit(home, write_jobs(home, IDS), "--json")
    assert done.code == 1
    assert done.summary["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    return home


@pytest.fixture
def home(ended: Path, tmp_path: Path) -> Path:
    """A copy of it to go on with."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    return tmp_path


def sent_for(running: Platform, before: int) -> int:
    return int(running.statistics()["requests"]) - before


def test_an_unchanged_finished_run_sends_nothing(ended: Path, running: Platform) -> None:
    """It answers with the same summary and exit code as the run itself, and asks the server for nothing."""
    before = running.statistics()
    again = running.submit(ended, "jobs.jsonl", "--json")
    assert again.code == 1
    assert again.summary["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert again.stderr == ""
    after = running.statistics()
    assert after["requests"] == before["requests"]
    assert after["connections_opened"] == before["connections_opened"] + 1, "more than the one that asks for statistics"


def test_an_appended_file_runs_its_new_lines(home: Path, running: Platform) -> None:
    """What has ended is not sent again, be it well or badly."""
    with open(home / "jobs.jsonl", "ab") as file:
        file.write(job("fourth"))
    before = running.statistics()["requests"]
    assert running.submit(home, "jobs.jsonl").code == 1
    assert sent_for(running, before) == 1
    assert finals(home / "jobs.run") == Counter([*IDS, "fourth"])


def test_jobs_are_known_by_their_ids_and_not_by_position(home: Path, running: Platform) -> None:
    """A file in another order, with blank lines between, is the same file."""
    (home / "jobs.jsonl").write_bytes(b"\n".join(map(job, ["third", "second", "first"])))
    before = running.statistics()["requests"]
    assert running.submit(home, "jobs.jsonl").code == 1
    assert sent_for(running, before) == 0


def test_retry_failed_runs_what_failed(home: Path, running: Platform) -> None:
    """Only the failed job is sent; it leaves errors.jsonl, and the run is a success after all."""
    before = running.statistics()["requests"]
    again = running.submit(home, "jobs.jsonl", "--retry-failed", "--json")
    assert again.code == 0
    assert sent_for(running, before) == 1
    assert again.summary["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert (home / "jobs.run" / "errors.jsonl").read_bytes() == b""
    assert finals(home / "jobs.run") == Counter(IDS)


def test_a_changed_line_that_failed_stops_with_65_and_its_name(home: Path, running: Platform) -> None:
    """Nothing is sent; the message names line and id, and the option that runs it as it is now. That option then does."""
    (home / "jobs.jsonl").write_bytes(job("first") + job("second", "And how deep is the sea?") + job("third"))
    before = running.statistics()["requests"]
    stopped = running.submit(home, "jobs.jsonl")
    assert stopped.code == 65
    assert "jobs.jsonl line 2 ('second')" in stopped.stderr
    assert "--accept-changes" in stopped.stderr
    assert sent_for(running, before) == 0
    assert running.submit(home, "jobs.jsonl", "--accept-changes").code == 0
    assert sent_for(running, before) == 1
    assert finals(home / "jobs.run") == Counter(IDS)


@pytest.mark.parametrize("options", [(), ("--accept-changes",)])
def test_a_changed_line_that_succeeded_keeps_its_result(home: Path, running: Platform, options: tuple[str, ...]) -> None:
    """What was paid for stays, byte for byte, and a warning says that it belongs to the line as it was."""
    results = (home / "jobs.run" / "results.jsonl").read_bytes()
    (home / "jobs.jsonl").write_bytes(job("first", "And how deep is the sea?") + job("second") + job("third"))
    before = running.statistics()["requests"]
    again = running.submit(home, "jobs.jsonl", *options)
    assert again.code == 1
    assert "1 changed line(s) of the input keep the result of what they were" in again.stderr
    assert sent_for(running, before) == 0
    assert (home / "jobs.run" / "results.jsonl").read_bytes() == results


def test_a_job_taken_out_of_the_file_keeps_its_line(home: Path, running: Platform) -> None:
    """Its result stays and a warning says so; the run is now the smaller one."""
    (home / "jobs.jsonl").write_bytes(job("second") + job("third"))
    again = running.submit(home, "jobs.jsonl", "--json")
    assert again.code == 1
    assert again.summary["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert "1 job(s) of this run are not in the input any more; their lines stay" in again.stderr
    assert finals(home / "jobs.run") == Counter(IDS)


def test_results_are_what_the_server_sent(ended: Path) -> None:
    """A result line has the batch output shape, with the server's own body and request id in it."""
    line = next(line for line in read_lines(ended / "jobs.run" / "results.jsonl") if line["custom_id"] == "first")
    assert line.keys() == {"id", "custom_id", "response", "error"}
    assert line["error"] is None
    assert line["response"].keys() == {"status_code", "request_id", "body"}
    assert line["response"]["status_code"] == 200
    assert line["response"]["request_id"].startswith("req_")
    assert line["response"]["body"]["object"] == "chat.completion"


def test_a_failure_keeps_the_servers_words(ended: Path) -> None:
    """An error line holds the server's answer as it came, and a code and message beside it."""
    (line,) = read_lines(ended / "jobs.run" / "errors.jsonl")
    assert line["custom_id"] == "second"
    assert line["response"]["status_code"] == 400
    assert line["response"]["body"]["error"]["code"] == "invalid_request"
    assert line["error"] == {"code": "invalid_request", "message": "The request is not valid."}
