"""kill -9 at any moment: nothing is lost, nothing is paid for twice unseen, and the rate limit holds over all restarts.

The platform survives, and works on what a killed runner had in flight to its end, and charges for it.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.books import Books, attempt_of, prove, read_books
from tests.e2e.harness import Submit, lives_for, simulated, wait_until
from tests.e2e.mixed_jobs import write_jobs

#: less than what the journal grows by for a job that goes well: two records
JOURNAL_BYTES_A_JOB = 400
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
def test_killed_again_and_again(tmp_path: Path, kills: int, count: int, faults: str, seed: int) -> None:
    """Killed at random moments and resumed each time, a run ends whole; only what was in flight at a kill was sent again."""
    rng = random.Random(seed)
    ids = write_jobs(tmp_path / "jobs.jsonl", count, seed)
    # Kept small enough in sum that the run cannot end before the last kill.
    most_bytes = count * JOURNAL_BYTES_A_JOB // kills
    kept: set[bytes] = set()
    in_flight: set[tuple[str, int]] = set()
    with simulated(tmp_path, "--seed", str(seed), "--latency", "0.05", "--faults", faults) as platform:
        run = Submit(tmp_path, tmp_path / "jobs.jsonl", platform.url, "--rpm", "30000", "--tpm", "0")
        for _ in range(kills):
            kill_somewhere(run, rng, most_bytes)
            in_flight |= attempts_in_flight(run)
            kept.update(whole_lines(run.run_dir / "results.jsonl"))
        books = read_books(run, platform, run.run())
        ended = run.records("ended")
        assert len(run.records("started")) > kills // 2, "hardly a kill found the run at work"
    lost = {(record["id"], record["attempt"]) for record in ended if record["what"] == "lost"}
    concluded = {attempt_of(line) for line in (*books.results, *books.errors)}
    print(
        f"{kills} kills: {len(lost)} attempts lost, {len(in_flight - lost)} adopted, {repeats(books)} repeats;", books.figures()
    )
    prove(books, ids)
    assert kept <= set(whole_lines(run.run_dir / "results.jsonl")), "a result that had been written is gone"
    assert lost, "kills that interrupt nothing prove nothing"
    assert lost <= in_flight
    assert in_flight - lost <= concluded, "attempts that were in flight at a kill and left no trace"
    assert all(books.costs[custom_id][attempt]["state"] == "maybe_billed" for custom_id, attempt in lost)
    if not faults:
        assert len(books.results) == count
        assert len(books.lines_in("maybe_billed")) == len(lost)
        times_lost = Counter(custom_id for custom_id, _ in lost)
        for custom_id, entries in books.ledger.items():
            assert len(entries) - 1 <= times_lost[custom_id], f"{custom_id!r} was sent again without a kill"


def kill_somewhere(run: Submit, rng: random.Random, most_bytes: int) -> None:
    """Start it and kill it at a random moment: once the journal has grown by so much, or earlier by the clock, so that
    starts and recoveries are hit too.
    """
    target = run.size("journal.jsonl") + rng.randrange(most_bytes)
    polls = iter(range(rng.randrange(600)) if rng.random() < 0.3 else itertools.count())
    process = run.start()
    try:
        wait_until(process, lambda: next(polls, None) is None or run.size("journal.jsonl") > target, "the journal to grow")
    finally:
        run.kill(process)


def attempts_in_flight(run: Submit) -> set[tuple[str, int]]:
    """What was sent and not ended, as the journal stands."""
    sent = {(record["id"], record["attempt"]) for record in run.records("sent")}
    return sent - {(record["id"], record["attempt"]) for record in run.records("ended")}


def repeats(books: Books) -> int:
    """Bills beyond one for each job."""
    return sum(len(entries) - 1 for entries in books.ledger.values())


def whole_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if path.exists() else []


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
