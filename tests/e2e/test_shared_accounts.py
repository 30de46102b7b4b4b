"""B-12: several runs at the same time on one account share its limits, whoever is killed; and one right after another."""

from __future__ import annotations

import bisect
import itertools
import os
import signal
import stat
from functools import partial
from pathlib import Path

import pytest

from batchrunner.budget.pacer import LATENESS_NS, NS, interval_ns
from tests.e2e.cli_support import finals, job, platform, write_jobs
from tests.e2e.harness import PATIENCE_SECONDS, Submit, simulated, wait_until

RPM = 600
RUNS = 3
#: more than three minutes' worth, so that nobody starts fast; never all sent
JOBS = 1_900


def runs_of(home: Path, url: str, seconds: float) -> list[Submit]:
    """Runs of one account, each with jobs of its own for longer than that."""
    count = max(JOBS, round(seconds * RPM / 60))
    runs = []
    for number in range(RUNS):
        name = f"run-{number}"
        write_jobs(home, [f"{name}-{n}" for n in range(count)], f"{name}.jsonl")
        runs.append(Submit(home, home / f"{name}.jsonl", url, "--rpm", str(RPM), "--tpm", "0", name=name))
    return runs


def sends_of(run: Submit) -> list[int]:
    """When it has sent, on the clock that all processes of this machine share."""
    return [record["mono_ns"] for record in run.records("sent")] if run.size("journal.jsonl") else []


def most_in(times_ns: list[int], window_ns: int) -> int:
    return max(number + 1 - bisect.bisect_right(times_ns, at_ns - window_ns) for number, at_ns in enumerate(times_ns))


def sent_by(runs: list[Submit], count: int) -> bool:
    return all(len(sends_of(run)) >= count for run in runs)


@pytest.mark.parametrize(
    "each", [pytest.param(20, id="12-seconds"), pytest.param(500, id="4-minutes", marks=pytest.mark.campaign)]
)
def test_B12_three_runs_share_an_account_and_one_is_killed(tmp_path: Path, each: int) -> None:
    """A server with a small bucket refuses none of them: together they keep the pace of one, share it evenly, and go on when one
    is killed.
    """
    patience_seconds = max(PATIENCE_SECONDS, each)
    with simulated(tmp_path, "--rpm", str(RPM), "--window", "bucket", "--burst", "20", "--latency", "0.05") as server:
        runs = runs_of(tmp_path, server.url, 20 * each)
        processes = [run.start() for run in runs]
        wait_until(processes[0], partial(sent_by, runs, each), "all to have sent", 0.05, patience_seconds)
        runs[0].kill(processes[0])
        killed_ns = max(sends_of(runs[0]))
        left = [len(sends_of(run)) + each for run in runs[1:]]
        for run, process, count in zip(runs[1:], processes[1:], left, strict=True):
            wait_until(process, partial(sent_by, [run], count), "the others to go on", 0.05, patience_seconds)
        for run, process in zip(runs[1:], processes[1:], strict=True):
            process.send_signal(signal.SIGINT)
            run.finish(process, (130,))
        said = server.statistics()
    sends = [sends_of(run) for run in runs]
    together = sorted(itertools.chain(*sends))
    assert "429" not in said["statuses"]
    assert said["accounts"]["default"]["peak_requests"]["sliding"] <= RPM
    assert most_in(together, 60 * NS) <= RPM
    assert most_in(together, 5 * NS) <= 5 * RPM / 60 + 10, "faster than one run may be"
    began_ns, ended_ns = max(times[0] for times in sends), killed_ns
    shares = [sum(began_ns <= at_ns <= ended_ns for at_ns in times) for times in sends]
    assert max(shares) - min(shares) <= max(4, 0.05 * sum(shares))
    assert len(list(tmp_path.glob("state/accounts/*/*.sqlite"))) == 1
    print(f"B-12: {shares} sent at the same time, then {[sum(at_ns > ended_ns for at_ns in times) for times in sends]}")


def test_B12_the_next_run_knows_the_minute_before_it(tmp_path: Path) -> None:
    """A run of another job file right after one of 40 jobs, which start at once, does not start at once again."""
    with simulated(tmp_path, "--latency", "0") as server:
        first = Submit(tmp_path, write_jobs(tmp_path, [f"a-{n}" for n in range(40)], "a.jsonl"), server.url, name="a")
        second = Submit(tmp_path, write_jobs(tmp_path, [f"b-{n}" for n in range(40)], "b.jsonl"), server.url, name="b")
        first.run()
        process = second.start()
        wait_until(process, partial(sent_by, [second], 4), "four requests", 0.05)
        second.kill(process)
    gaps = [later - earlier for earlier, later in itertools.pairwise([*sends_of(first)[-1:], *sends_of(second)])]
    assert sum(gaps) >= len(gaps) * (interval_ns(50) - LATENESS_NS) - interval_ns(50)
    assert sends_of(first)[39] - sends_of(first)[0] < 20 * interval_ns(50), "the first one did not start fast"


def test_the_next_run_knows_what_answers_take(tmp_path: Path) -> None:
    """A cap of 128,000 tokens is set aside for the first jobs of the first run, and for no job of the second."""
    with simulated(tmp_path, "--latency", "0", "--output-tokens", "100", "--output-sigma", "0") as server:
        reserves = []
        for name in ("a", "b"):
            path = tmp_path / f"{name}.jsonl"
            path.write_bytes(b"".join(job(f"{name}-{n}", max_tokens=128_000) for n in range(15)))
            run = Submit(tmp_path, path, server.url, "--rpm", "0", "--tpm", "0", "--max-in-flight", "1", name=name)
            run.run()
            reserves.append([record["reserve"] for record in run.records("sent")])
    first, second = reserves
    assert first[0] >= 128_000
    assert max(first[-3:]) < 200
    assert len(second) == 15
    assert all(100 <= tokens < 200 for tokens in second)


def test_smaller_limits_of_another_run_hold_and_are_told(tmp_path: Path) -> None:
    """Two runs that give one account different limits: the larger one is told of it, and of the other's end."""
    with simulated(tmp_path, "--latency", "0") as server:
        large = Submit(
            tmp_path, write_jobs(tmp_path, [f"a-{n}" for n in range(JOBS)], "a.jsonl"), server.url, "--rpm", "600", name="a"
        )
        small = Submit(
            tmp_path, write_jobs(tmp_path, [f"b-{n}" for n in range(3)], "b.jsonl"), server.url, "--rpm", "300", name="b"
        )
        process = large.start()
        wait_until(process, partial(sent_by, [large], 5), "five requests", 0.05)
        small.run()
        wait_until(process, lambda: "its limits are those of this run (600" in large.said(), "the news", 0.05)
        process.send_signal(signal.SIGINT)
        ended = large.finish(process, (130,))
    assert "warning: another run gives this account smaller limits: 300 requests a minute" in ended.stderr


def test_a_state_directory_that_cannot_be_used_is_a_warning(tmp_path: Path) -> None:
    """The run goes on to its end by itself, and says which option helps."""
    (tmp_path / "in-the-way").write_text("")
    with platform(tmp_path) as server:
        ended = server.submit(tmp_path, write_jobs(tmp_path, ["one", "two"]), "--state-dir", tmp_path / "in-the-way")
    assert ended.code == 0
    assert "in-the-way" in ended.stderr
    assert "choose another one with --state-dir" in ended.stderr
    assert finals(tmp_path / "jobs.run").total() == 2


def test_only_the_user_can_look_into_it(tmp_path: Path) -> None:
    """The file of an account is its user's alone, and so is the directory, which has the machine's name."""
    with platform(tmp_path) as server:
        assert server.submit(tmp_path, write_jobs(tmp_path, ["one"]), "--state-dir", tmp_path / "mine").code == 0
    (file,) = tmp_path.glob("mine/accounts/*/*")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert file.parent.name == os.uname().nodename


def test_a_simulated_run_keeps_its_account_to_itself(tmp_path: Path) -> None:
    """`--simulate` leaves nothing in the state directory."""
    (tmp_path / "jobs.jsonl").write_bytes(job("one"))
    run = Submit(tmp_path, tmp_path / "jobs.jsonl", None, "--simulate", environment={})
    run.run()
    assert not (tmp_path / "state").exists()
