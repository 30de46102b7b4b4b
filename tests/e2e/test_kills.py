"""kill -9 at any moment: nothing is lost, nothing is paid for twice unseen, and the rate limit holds over all restarts.

The platform survives, and works on what a killed runner had in flight to its end, and charges for it.
"""

from __future__ import annotations

import bisect
import random
from pathlib import Path

import pytest

from tests.e2e.books import prove_sends, read_books
from tests.e2e.harness import Outcome, Submit, lives_for, simulated, wait_until
from tests.e2e.killing import JOURNAL_BYTES_A_JOB, KilledRun, repeats
from tests.e2e.many_runs import customers, two_at_a_time, two_launchers
from tests.e2e.mixed_jobs import write_jobs
from tests.e2e.preforked import Launcher

#: of a small run
JOBS_A_KILL = 8
FEW_FAULTS = "error500=0.02,error504=0.02,rate_limited=0.005,reset_body=0.02,truncated=0.02,slow=0.02"
WINDOW_NS = 60 * 1_000_000_000

long = pytest.mark.campaign


@pytest.mark.parametrize(
    ("kills", "count", "faults", "seed"),
    [
        pytest.param(8, 400, "", 11, id="8-kills"),
        pytest.param(5, 300, FEW_FAULTS, 12, id="5-kills-and-faults"),
        pytest.param(30, 3_000, "", 13, id="30-kills", marks=long),
        pytest.param(30, 3_000, FEW_FAULTS, 14, id="30-kills-and-faults", marks=long),
    ],
)
def test_R01_killed_again_and_again(tmp_path: Path, kills: int, count: int, faults: str, seed: int) -> None:
    """Killed at random moments and resumed each time, a run ends whole; only what was in flight at a kill was sent again."""
    ids = write_jobs(tmp_path / "jobs.jsonl", count, seed)
    # Kept small enough in sum that the run cannot end before the last kill.
    most_bytes = count * JOURNAL_BYTES_A_JOB // kills
    with simulated(tmp_path, "--seed", str(seed), "--latency", "0.05", "--faults", faults) as platform:
        run = Submit(tmp_path, tmp_path / "jobs.jsonl", platform.url, "--rpm", "30000", "--tpm", "0")
        killed = KilledRun(run, run.start, random.Random(seed), most_bytes)
        for _ in range(kills):
            killed.kill_somewhere()
        books = read_books(run, platform, run.run())
    lost = killed.prove(books, ids, faults=bool(faults))
    adopted = len(killed.in_flight - lost)
    print(f"R-01: {kills} kills: {len(lost)} attempts lost, {adopted} adopted, {repeats(books)} repeats;", books.figures())
    assert lost, "kills that interrupt nothing prove nothing"


@pytest.mark.parametrize(
    ("runs", "kills", "faults", "seed"),
    [
        pytest.param(2, 5, "", 31, id="10-kills"),
        pytest.param(2, 4, FEW_FAULTS, 32, id="8-kills-and-faults"),
        pytest.param(30, 10, "", 33, id="300-kills", marks=long),
        pytest.param(20, 10, FEW_FAULTS, 34, id="200-kills-and-faults", marks=long),
    ],
)
def test_R01_many_small_runs_killed(tmp_path: Path, runs: int, kills: int, faults: str, seed: int) -> None:
    """The same of many runs, two at a time: their starts, recoveries and ends are hit as often as their work."""
    accounts = {f"run-{number}": f"sk-empiriolabs-test-{seed}-{number}-/+%q" for number in range(runs)}
    with customers(tmp_path, accounts, "--seed", str(seed), "--latency", "0.03", "--faults", faults) as platform:

        def carry_out(name: str, launcher: Launcher) -> tuple[KilledRun, Outcome, list[str]]:
            rng = random.Random(f"{seed} {name}")
            ids = write_jobs(tmp_path / f"{name}.jsonl", JOBS_A_KILL * kills, rng.randrange(1 << 30), name)
            key = {"BATCHRUN_API_KEY": accounts[name]}
            options = ("--rpm", "30000", "--tpm", "0", "--max-in-flight", "6")
            run = Submit(tmp_path, tmp_path / f"{name}.jsonl", platform.url, *options, name=name, environment=key)
            killed = KilledRun(run, lambda: run.start_by(launcher), rng, JOBS_A_KILL * JOURNAL_BYTES_A_JOB)
            for _ in range(kills):
                killed.kill_somewhere()
            return killed, run.finish(run.start_by(launcher)), ids

        with two_launchers() as launchers:
            ended = two_at_a_time(carry_out, list(accounts), launchers)
        everybody = [read_books(killed.run, platform, outcome, name) for name, (killed, outcome, _) in ended.items()]
    lost = 0
    for books, (killed, _, ids) in zip(everybody, ended.values(), strict=True):
        lost += len(killed.prove(books, ids, faults=bool(faults)))
    prove_sends(everybody)
    found = sum(len(killed.in_flight) for killed, _, _ in ended.values())
    bills = sum(len(books.entries()) for books in everybody)
    lines = [len([line for books in everybody for line in books.lines_in(state)]) for state in ("billed", "maybe_billed")]
    print(
        f"R-01: {runs * kills} kills of {runs} runs found {found} attempts in flight: {lost} lost, {found - lost} adopted; "
        f"{bills} bills, {sum(map(repeats, everybody))} of them repeats; {lines[0]} billed, {lines[1]} maybe_billed; "
        f"{len(everybody) * JOBS_A_KILL * kills} jobs, 0 lost, 0 twice"
    )
    assert lost, "kills that interrupt nothing prove nothing"


# The rate limit over restarts ---------------------------------------------------------------------------------------


def test_the_limit_holds_over_kills_in_a_fast_start(tmp_path: Path) -> None:
    """A run that had all but used up its minute in a fast start sends no second minute's worth when it is started again."""
    write_jobs(tmp_path / "jobs.jsonl", 150, seed=21)
    with simulated(tmp_path, "--latency", "0.1") as platform:
        run = Submit(tmp_path, tmp_path / "jobs.jsonl", platform.url, "--rpm", "50", "--tpm", "0")
        process = run.start()
        wait_until(process, lambda: len(run.records("sent")) >= 45, "the fast start to send 45 requests")
        run.kill(process)
        for starts in range(1, 5):
            kill_at_work(run, starts + 1, seconds=0.7)
        platform.ledger()
        accepted = platform.statistics()["peak_accepted_per_minute"]
    assert 45 <= most_in_a_minute(run) <= 50
    assert accepted <= 50


@long
def test_the_limit_holds_over_a_kill_every_five_seconds(tmp_path: Path) -> None:
    """At 50 RPM, no 60 s hold more than 50 sends, by the platform's clock and by ours, and the pace is kept all the same."""
    write_jobs(tmp_path / "jobs.jsonl", 150, seed=22)
    with simulated(tmp_path, "--latency", "0.5") as platform:
        run = Submit(tmp_path, tmp_path / "jobs.jsonl", platform.url, "--rpm", "50", "--tpm", "0")
        for starts in range(1, 19):
            kill_at_work(run, starts, seconds=5)
        platform.ledger()
        statistics = platform.statistics()
    sent = run.records("sent")
    print(f"{len(sent)} sent, {most_in_a_minute(run)} in a minute; {statistics['peak_accepted_per_minute']} accepted in one")
    assert most_in_a_minute(run) <= 50
    assert statistics["peak_accepted_per_minute"] <= 50
    assert len(sent) > 50, "the second minute never came"


def kill_at_work(run: Submit, starts: int, seconds: float) -> None:
    """Start it for the `starts`th time, let it work for so long after its recovery, and kill it."""
    process = run.start()
    try:
        wait_until(process, lambda: len(run.records("started")) == starts, f"start {starts} to recover")
        lives_for(process, seconds)
    finally:
        run.kill(process)


def most_in_a_minute(run: Submit) -> int:
    """The most sends that any 60 s saw, by the journal's monotonic times."""
    times = sorted(record["mono_ns"] for record in run.records("sent"))
    return max(number + 1 - bisect.bisect_right(times, at_ns - WINDOW_NS) for number, at_ns in enumerate(times))
