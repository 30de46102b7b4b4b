"""What is printed where: one document on stdout, progress on stderr, nothing with power over a terminal, figures to scrape."""

from __future__ import annotations

import os
import pty
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.cli_support import (
    UNLIMITED,
    Platform,
    batchrun,
    ending,
    job,
    line_with,
    platform,
    server,
    started,
    write_jobs,
)

IDS = [f"job-{number}" for number in range(4)]
SUMMARY: dict[str, Any] = {
    "run_dir": str,
    "status": str,
    "stopped_by": (str, type(None)),
    "request_counts": {"total": int, "completed": int, "failed": int},
    "usage": {"input_tokens": int, "cached_tokens": int, "output_tokens": int},
    "cost": {"amount": (int, float), "currency": str, "maybe_billed": (int, float)},
    "attempts": int,
    "rate_limited": int,
    "wall_seconds": (int, float),
}
HOSTILE_ID = "\x1b[2Jevil\x07\u202egpj"
HOSTILE_MESSAGE = "\x1b]0;pwned\x07 you\r\nlose \x9b31m"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("platform")) as found:
        yield found


def assert_shape(found: dict[str, Any], shape: dict[str, Any]) -> None:
    for name, kind in shape.items():
        if isinstance(kind, dict):
            assert_shape(found[name], kind)
        else:
            assert isinstance(found[name], kind), name


def test_json_prints_one_document_and_progress_as_json_lines(tmp_path: Path, running: Platform) -> None:
    """stdout is one line with the contract's fields; each line of stderr is a JSON object."""
    ended = running.submit(tmp_path, write_jobs(tmp_path, IDS), "--json")
    assert ended.code == 0
    assert ended.stdout.count("\n") == 1
    assert_shape(ended.summary, SUMMARY)
    assert ended.summary["run_dir"] == str(tmp_path / "jobs.run")
    assert len(ended.events) == ended.stderr.count("\n") > 0
    assert {event["event"] for event in ended.events} == {"progress"}
    assert ended.events[-1]["completed"] == len(IDS)


def test_status_prints_one_document(tmp_path: Path, running: Platform) -> None:
    """`status --json`, from any working directory; of no run at all it is 65 and no document."""
    assert running.submit(tmp_path, write_jobs(tmp_path, IDS)).code == 0
    found = batchrun(Path("/"), "status", tmp_path / "jobs.run", "--json")
    assert (found.code, found.stderr) == (0, "")
    assert (found.summary["state"], found.summary["completed"]) == ("completed", 4)
    missing = batchrun(tmp_path, "status", "nowhere", "--json")
    assert (missing.code, missing.stdout) == (65, "")
    assert "nowhere" in missing.stderr


def test_progress_none_is_silent(tmp_path: Path, running: Platform) -> None:
    """A run in which nothing goes wrong has nothing to say on stderr; people get their summary on stdout."""
    ended = running.submit(tmp_path, write_jobs(tmp_path, IDS), "--progress", "none")
    assert ended.stderr == ""
    assert ended.stdout.startswith("Completed: 4 jobs, all succeeded.\n")


def test_nothing_hostile_reaches_a_terminal(tmp_path: Path) -> None:
    """On a terminal the live display works, and ids and servers' messages show as escapes."""
    (tmp_path / "jobs.jsonl").write_bytes(job(HOSTILE_ID))
    body = msgspec.json.encode({"error": {"code": "invalid_request", "message": HOSTILE_MESSAGE}})
    ours, theirs = pty.openpty()
    with server(400, body) as url:
        arguments = ("submit", "jobs.jsonl", "--base-url", url, *UNLIMITED)
        with started(tmp_path, *arguments, env={"TERM": "xterm", "COLUMNS": "120"}, stderr=theirs) as process:
            os.close(theirs)
            shown = read_terminal(ours)
            assert ending(process).code == 1
    text = shown.decode()
    assert r"\x1b[2Jevil\x07\u202egpj (jobs.jsonl line 1) failed: \x1b]0;pwned\x07 you\r\nlose \x9b31m" in text
    assert "\x1b[1mjobs.run" in text, "no live display"
    unknown = re.sub(r"\x1b\[[0-9;]*[mAJK]", "", text)
    assert not any(unicode_control(character) for character in unknown)


def read_terminal(descriptor: int) -> bytes:
    """All that is written to a terminal until its last writer has gone."""
    shown = b""
    try:
        while more := os.read(descriptor, 1 << 16):
            shown += more
    except OSError:  # Linux says EIO at the end
        pass
    finally:
        os.close(descriptor)
    return shown


def unicode_control(character: str) -> bool:
    return character not in "\r\n" and (ord(character) < 32 or 127 <= ord(character) < 160 or character == "\u202e")


def test_metrics_are_served_during_a_run(tmp_path: Path) -> None:
    """`--metrics 0` names its port on stderr; a scrape is valid exposition, and the jobs by state add up to all of them."""
    with platform(tmp_path, "--fault-on", "job-3=silent*0") as running:
        arguments = ("submit", write_jobs(tmp_path, IDS), *running.options, "--metrics", "0")
        with started(tmp_path, *arguments, env=running.env) as process:
            message = line_with(process, "metrics on ")
            found = re.search(r"http://127\.0\.0\.1:\d+/metrics", message)
            assert found is not None
            running.until_silent(1)
            with urllib.request.urlopen(found[0], timeout=60) as reply:
                scraped = reply.read().decode()
    families = {family.name: family for family in text_string_to_metric_families(scraped)}
    jobs = {sample.labels["state"]: sample.value for sample in families["batchrun_jobs"].samples}
    assert sum(jobs.values()) == len(IDS)
    assert jobs["in_flight"] >= 1
    assert families["batchrun_run_info"].samples[0].labels["simulated"] == "false"


def test_help_of_the_simulator_goes_to_stdout(tmp_path: Path) -> None:
    """It is another parser's, and behaves like the others: 0, and within 80 columns."""
    ended = batchrun(tmp_path, "simulate", "--help", env={"COLUMNS": "80"})
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: batchrun simulate ")
    assert all(len(line) <= 80 for line in ended.stdout.splitlines())


def test_without_a_command_the_commands_are_listed(tmp_path: Path) -> None:
    """Line by line on stderr; it is not what was meant, so 2."""
    ended = batchrun(tmp_path)
    assert (ended.code, ended.stdout) == (2, "")
    assert re.search(r"^  submit ", ended.stderr, re.MULTILINE)
