"""How each end of a run shows in the exit code, and that the same command goes on from there."""

from __future__ import annotations

import resource
import shutil
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli_support import (
    UNLIMITED,
    Platform,
    batchrun,
    ending,
    finals,
    job,
    line_with,
    maybe_billed,
    platform,
    server,
    started,
    write_jobs,
)

IDS = [f"job-{number}" for number in range(6)]
WRITES_BYTES = 12_000


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform without a fault, for all tests here; what it counted before does not matter to them."""
    with platform(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture(scope="module")
def unfinished(healthy: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a run that has ended, and one more job in its input."""
    home = tmp_path_factory.mktemp("unfinished")
    jobs = write_jobs(home, IDS)
    assert healthy.submit(home, jobs).code == 0
    with open(jobs, "ab") as file:
        file.write(job("appended"))
    return home


@pytest.fixture
def home(unfinished: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to."""
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    return tmp_path


# ------------------------------------------------------------------------------------------------ 2: usage, configuration


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "EMPIRIOLABS_API_KEY"),
        (("--nope",), "--nope"),
        (("--base-url", "http://api.example.com"), "https"),
        (("--simulate", "--metrics", "nowhere"), "--metrics"),
    ],
)
def test_an_option_that_cannot_work_ends_with_2_and_leaves_nothing(tmp_path: Path, options: tuple[str, ...], named: str) -> None:
    """The message names what is wrong; no run directory is made."""
    ended = batchrun(tmp_path, "submit", write_jobs(tmp_path, IDS), *options)
    assert ended.code == 2
    assert named in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "jobs.run").exists()


def test_a_metrics_port_that_is_taken_ends_with_2_before_anything_is_sent(tmp_path: Path) -> None:
    """Nothing is paid for a run that nobody could watch as they meant to; it can be started again."""
    with platform(tmp_path) as running, socket.create_server(("127.0.0.1", 0)) as taken:
        jobs = write_jobs(tmp_path, IDS)
        port = taken.getsockname()[1]
        ended = running.submit(tmp_path, jobs, "--metrics", port)
        assert ended.code == 2
        assert f"127.0.0.1:{port}" in ended.stderr
        assert running.statistics()["requests"] == 0
        assert running.submit(tmp_path, jobs, "--metrics", "0").code == 0


def test_a_spend_cap_without_prices_ends_with_2(tmp_path: Path) -> None:
    """Where there is no catalog, `--max-cost` cannot be kept: it is refused, and the message says what would do."""
    with server(404, b'{"error":{"code":"not_found","message":"no such page"}}') as url:
        ended = batchrun(tmp_path, "submit", write_jobs(tmp_path, IDS), "--base-url", url, "--max-cost", "1", *UNLIMITED)
    assert ended.code == 2
    assert "--max-cost needs prices" in ended.stderr


# ------------------------------------------------------------------------------------------------------- 3: the spend cap


def test_the_spend_cap_ends_with_3_and_a_higher_one_goes_on(tmp_path: Path, healthy: Platform) -> None:
    """What was spent stays below the cap; with a higher one the rest runs, each job once."""
    jobs = write_jobs(tmp_path, IDS)
    cut = healthy.submit(tmp_path, jobs, "--json", "--max-cost", "0.00002")
    assert cut.code == 3
    assert (cut.summary["status"], cut.summary["stopped_by"]) == ("stopped", "max_cost")
    assert 0 < cut.summary["cost"]["amount"] <= 0.00002
    assert 0 < cut.summary["request_counts"]["completed"] < len(IDS)
    assert "--max-cost 0.00002" in cut.stderr
    assert "Raise --max-cost, then run the same command again to resume" in cut.stderr
    assert healthy.submit(tmp_path, jobs, "--max-cost", "1").code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


# ------------------------------------------------------------------------------------------- 65: input and run directory


def test_a_missing_result_ends_with_65(home: Path, healthy: Platform) -> None:
    """A line that was once safely on disk and is gone stops the run, by the id of its job."""
    results = home / "jobs.run" / "results.jsonl"
    results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[1:]))
    ended = healthy.submit(home, "jobs.jsonl")
    assert ended.code == 65
    assert "results.jsonl" in ended.stderr
    assert "missing or altered" in ended.stderr


def test_a_missing_result_of_a_finished_run_ends_with_65(home: Path, healthy: Platform) -> None:
    """That nothing is left to do does not hide it."""
    assert healthy.submit(home, "jobs.jsonl").code == 0
    results = home / "jobs.run" / "results.jsonl"
    results.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[1:]))
    assert healthy.submit(home, "jobs.jsonl").code == 65


def test_a_damaged_journal_ends_with_65_and_its_offset(home: Path, healthy: Platform) -> None:
    """Nothing is guessed: the file and the byte are named, and nothing is touched."""
    journal = home / "jobs.run" / "journal.jsonl"
    data = bytearray(journal.read_bytes())
    data[len(data) // 2] ^= 1
    journal.write_bytes(data)
    ended = healthy.submit(home, "jobs.jsonl")
    assert ended.code == 65
    assert "journal.jsonl: damaged at byte " in ended.stderr
    assert journal.read_bytes() == data


def test_a_manifest_that_cannot_be_read_ends_with_65(home: Path, healthy: Platform) -> None:
    """A run of which it is not known what it is does not go on."""
    (home / "jobs.run" / "run.json").write_bytes(b"{")
    ended = healthy.submit(home, "jobs.jsonl")
    assert ended.code == 65
    assert "run.json" in ended.stderr


def test_a_simulated_run_is_not_mixed_with_a_real_one(home: Path) -> None:
    """`--simulate` on a real run's directory is refused, and nothing is sent anywhere."""
    ended = batchrun(home, "submit", "jobs.jsonl", "--simulate", "-o", "jobs.run")
    assert ended.code == 65
    assert "not mixed" in ended.stderr


def test_a_directory_of_somebody_else_ends_with_65(tmp_path: Path) -> None:
    """A directory with other people's files in it is left as it is."""
    foreign = tmp_path / "home"
    foreign.mkdir()
    (foreign / "letters.txt").write_text("Dear all")
    ended = batchrun(tmp_path, "submit", write_jobs(tmp_path, IDS), "--simulate", "-o", foreign)
    assert ended.code == 65
    assert "no run directory and not empty" in ended.stderr
    assert [path.name for path in foreign.iterdir()] == ["letters.txt"]


# -------------------------------------------------------------------------------------------- 69: the account, the server


def test_keys_that_are_all_refused_end_with_69(tmp_path: Path, healthy: Platform) -> None:
    """Each key is tried once and no job fails over it; with a good one the run goes on."""
    jobs = write_jobs(tmp_path, IDS)
    bad = {"BATCHRUN_API_KEY": "sk-empiriolabs-test-one, sk-empiriolabs-test-two"}
    refused = healthy.submit(tmp_path, jobs, "--json", "--max-in-flight", "1", env=bad)
    assert refused.code == 69
    assert (refused.summary["stopped_by"], refused.summary["attempts"]) == ("keys", 2)
    assert refused.summary["request_counts"] == {"total": 6, "completed": 0, "failed": 0}
    assert "stopping: The API key is not valid." in refused.stderr
    assert "Give a valid key, then run the same command again to resume" in refused.stderr
    assert healthy.submit(tmp_path, jobs).code == 0
    assert finals(tmp_path / "jobs.run") == Counter(IDS)


def test_a_key_that_stands_by_takes_over(tmp_path: Path, healthy: Platform) -> None:
    """A dead key ahead of a good one costs a request and no job."""
    keys = {"BATCHRUN_API_KEY": "sk-empiriolabs-test-dead," + healthy.env["BATCHRUN_API_KEY"]}
    assert healthy.submit(tmp_path, write_jobs(tmp_path, IDS), env=keys).code == 0


@pytest.mark.campaign
def test_a_server_that_cannot_be_reached_ends_with_69(tmp_path: Path) -> None:
    """After half a minute of refused connections; nothing was sent, nothing failed."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    ended = batchrun(tmp_path, "submit", write_jobs(tmp_path, IDS), "--base-url", f"http://127.0.0.1:{port}", "--json")
    assert ended.code == 69
    assert ended.summary["stopped_by"] == "unreachable"
    assert ended.summary["attempts"] == 0


# --------------------------------------------------------------------------------------------------------------- 74, 75


def test_a_write_that_fails_ends_with_74_and_the_run_goes_on_where_it_stood(tmp_path: Path, healthy: Platform) -> None:
    """A full disk ends the run by its name; with room again each job ends once, and nothing is sent for the finished."""
    ids = [f"job-{number}" for number in range(60)]
    jobs = write_jobs(tmp_path, ids)
    # Of a file's size, not of the file system's room: the system call fails in the same way.
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (WRITES_BYTES, WRITES_BYTES))  # noqa: E731
    full = healthy.submit(tmp_path, jobs, "--json", preexec_fn=limit)
    assert full.code == 74
    assert full.summary["stopped_by"] == "disk"
    assert "journal.jsonl: writing failed: File too large" in full.stderr
    done = finals(tmp_path / "jobs.run")
    sent_before = healthy.statistics()["requests"]
    assert healthy.submit(tmp_path, jobs).code == 0
    assert finals(tmp_path / "jobs.run") == Counter(ids)
    assert healthy.statistics()["requests"] - sent_before <= len(ids) - len(done)


def test_a_second_process_on_the_same_directory_ends_with_75(tmp_path: Path) -> None:
    """It names the first one by its pid, sends nothing, and does the first one no harm."""
    jobs = write_jobs(tmp_path, IDS[:2])
    with platform(tmp_path, "--fault-on", "job-0=silent*0") as running:
        arguments = ("submit", jobs, *running.options)
        with started(tmp_path, *arguments, env=running.env) as first:
            running.until_silent(1)
            second = running.submit(tmp_path, jobs)
            assert second.code == 75
            assert f"pid {first.pid}" in second.stderr
            assert running.statistics()["requests"] == 2
            first.send_signal(signal.SIGINT)
            line_with(first, "interrupted")
            first.send_signal(signal.SIGINT)
            assert ending(first).code == 130
    assert maybe_billed(tmp_path / "jobs.run") == {"job-0"}
