"""A key goes to the server that it is for, and nowhere else."""

from __future__ import annotations

import os
import stat
import urllib.request
from pathlib import Path

import pytest

from tests.e2e import canary
from tests.e2e.canary import KEY as CANARY
from tests.e2e.cli_support import UNLIMITED, batchrun, ending, line_with, platform, server, started, write_jobs

FAULTS = "error500=0.15,reset_before=0.1,garbage=0.1,truncated=0.1,error400=0.1,html=0.1,error408=0.1"
IDS = [f"job-{number}" for number in range(40)]


def assert_clean(data: bytes, where: str, key: str = CANARY) -> None:
    assert not list(canary.forms_in(data, key)), where


def test_a_key_is_seen_nowhere(tmp_path: Path) -> None:
    """Not in any file of the run, on stdout or stderr, in its metrics, nor in the arguments of a process, whatever goes wrong."""
    home = tmp_path / "home"
    home.mkdir()
    jobs = write_jobs(home, [*IDS, "hang"])
    with platform(tmp_path, "--faults", FAULTS, "--fault-on", "hang=silent*0", key=CANARY) as running:
        arguments = ("submit", jobs, *running.options, "--max-attempts", "2", "--drain-seconds", "0")
        with started(home, *arguments, "--metrics", "0", env=running.env) as process:
            message = line_with(process, "metrics on ")
            running.until_silent(1)
            with urllib.request.urlopen(message.split()[-1], timeout=60) as reply:
                scraped = reply.read()
            assert b"batchrun_attempts_total" in scraped
            assert_clean(scraped + message.encode(), "the metrics")
            if os.path.isdir("/proc"):
                assert_clean(Path(f"/proc/{process.pid}/cmdline").read_bytes(), "the argument list")
            process.terminate()
            ended = ending(process)
        assert ended.code == 143
        again = running.submit(home, jobs, "--timeout", "0.5", "--max-attempts", "2")
        assert again.code == 1, again.stderr
    for name, text in {"stdout": ended.stdout + again.stdout, "stderr": ended.stderr + again.stderr}.items():
        assert_clean(text.encode(), name)
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {"results.jsonl", "errors.jsonl", "costs.jsonl", "journal.jsonl", "run.json", "status.json"} <= {f.name for f in files}
    for path in files:
        assert_clean(path.read_bytes(), path.name)


@pytest.mark.parametrize(("status", "code"), [(200, 1), (400, 1), (401, 69)])
def test_a_key_that_the_server_repeats_is_blotted_out(tmp_path: Path, status: int, code: int) -> None:
    """A server that spells out the key it was sent, refused or not, does not bring it into a file or onto a terminal."""
    with server(status, b'{"error": {"message": "Incorrect API key: Bearer %b."}}' % CANARY.encode()) as url:
        arguments = ("submit", write_jobs(tmp_path, IDS[:2]), "--base-url", url, *UNLIMITED)
        ended = batchrun(tmp_path, *arguments, env={"BATCHRUN_API_KEY": f"sk-empiriolabs-test-first,{CANARY}"})
    assert ended.code == code
    assert_clean((ended.stdout + ended.stderr).encode(), "what was printed")
    for path in (tmp_path / "jobs.run").iterdir():
        assert_clean(path.read_bytes(), path.name)


def test_the_platforms_key_is_not_sent_to_another_host(tmp_path: Path) -> None:
    """EMPIRIOLABS_API_KEY alone does not do for somebody else's server; 2 before anything is sent."""
    env = {"EMPIRIOLABS_API_KEY": CANARY}
    ended = batchrun(tmp_path, "submit", write_jobs(tmp_path, IDS), "--base-url", "https://api.example.com", env=env)
    assert ended.code == 2
    assert "EMPIRIOLABS_API_KEY is not sent to api.example.com. Set BATCHRUN_API_KEY" in ended.stderr
    assert_clean(ended.stderr.encode(), "stderr")


def test_no_key_goes_out_in_clear(tmp_path: Path) -> None:
    """http is for this machine; to another one it is refused, with either key set."""
    env = {"EMPIRIOLABS_API_KEY": CANARY, "BATCHRUN_API_KEY": CANARY}
    ended = batchrun(tmp_path, "submit", write_jobs(tmp_path, IDS), "--base-url", "http://api.empiriolabs.ai", env=env)
    assert ended.code == 2
    assert "in clear" in ended.stderr


def test_simulate_uses_no_key_of_the_environment(tmp_path: Path) -> None:
    """A rehearsal works with a wrong key set, since it sends the built-in one."""
    env = {"EMPIRIOLABS_API_KEY": CANARY, "BATCHRUN_API_KEY": CANARY}
    arguments = ("submit", write_jobs(tmp_path, IDS[:2]), "--simulate", "--simulate-options", "--latency 0", "--rpm", "0")
    assert batchrun(tmp_path, *arguments, env=env).code == 0


def test_a_run_directory_is_its_owners_alone(tmp_path: Path) -> None:
    """0700 and 0600, even where the umask would give everything away: prompts and answers are people's own."""
    with platform(tmp_path) as running:
        assert running.submit(tmp_path, write_jobs(tmp_path, IDS), umask=0).code == 0
    run_dir = tmp_path / "jobs.run"
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in run_dir.iterdir()} == dict.fromkeys(
        os.listdir(run_dir), 0o600
    )
