"""R-08, R-10, with real processes: people's clock is set while they work; they are stopped, and go on."""

from __future__ import annotations

import os
import signal
from itertools import accumulate, pairwise
from pathlib import Path

from batchrunner.budget.pacer import LATENESS_NS, interval_ns
from tests.e2e.books import prove, read_books
from tests.e2e.cli_support import batchrun, write_jobs
from tests.e2e.faulty_runs import quick_platform
from tests.e2e.harness import PATIENCE_SECONDS, Submit, lives_for, wait_until
from tests.e2e.preforked import launcher

DAY_SECONDS = 86_400
JUMPS = [10 * DAY_SECONDS, -25 * 365 * DAY_SECONDS, 3_600]
RPM = 600


def test_R08_a_clock_that_is_set_while_a_run_is_killed_and_resumed(tmp_path: Path) -> None:
    """Ten days on, 25 years back, an hour: books, check from outside and the story of a job are those of any other run."""
    ids = [f"job-{number}" for number in range(60)]
    with quick_platform(tmp_path) as platform, launcher() as mine:
        run = Submit(tmp_path, write_jobs(tmp_path, ids), platform.url, "--rpm", "0", "--tpm", "0", "--max-in-flight", "3")
        for seconds in JUMPS:
            child = run.start_by(mine, ("tests.e2e.preludes:wall_clock_jumps", {"readings": 8, "seconds": seconds}))
            target = run.size("journal.jsonl") + 5_000
            wait_until(child, lambda target=target: run.size("journal.jsonl") > target, "a dozen jobs")  # type: ignore[misc]
            run.kill(child)
        books = read_books(run, platform, run.finish(run.start_by(mine)))
    prove(books, ids)
    days = sorted({line["at"][:10] for line in books.lines()})
    assert len({day[:4] for day in days}) > 1, "the clock was never wrong"
    told = batchrun(tmp_path, "explain", str(run.run_dir), min(books.lost)[0])
    assert told.code == 0, told.stderr
    print(f"R-08: {len(JUMPS)} clocks set, cost lines of {days};", books.figures())


def test_R10_a_process_that_was_stopped_catches_up_on_nothing(tmp_path: Path) -> None:
    """SIGSTOP for three seconds, in which 30 requests would have gone out: from SIGCONT on they go out at their pace."""
    ids = [f"job-{number}" for number in range(4 * RPM)]  # too many for a fast start
    with quick_platform(tmp_path) as platform, launcher() as mine:
        run = Submit(tmp_path, write_jobs(tmp_path, ids), platform.url, "--rpm", str(RPM), "--tpm", "0")
        child = run.start_by(mine)
        wait_until(child, lambda: len(run.records("sent")) >= 10, "ten requests", poll_seconds=0.05)
        os.kill(child.pid, signal.SIGSTOP)
        before = len(run.records("sent"))
        assert lives_for(child, 3.0)
        assert len(run.records("sent")) == before
        os.kill(child.pid, signal.SIGCONT)
        wait_until(child, lambda: len(run.records("sent")) >= before + 15, "fifteen more", poll_seconds=0.05)
        os.kill(child.pid, signal.SIGINT)
        assert child.wait(PATIENCE_SECONDS) == 130
        sent_ns = [record["mono_ns"] for record in run.records("sent")]
    spacing_ns = interval_ns(RPM)
    slack_ns = [at_ns - number * spacing_ns for number, at_ns in enumerate(sent_ns)]
    ahead_ns = max(latest - own for own, latest in zip(slack_ns, accumulate(slack_ns, max), strict=True))
    print(f"R-10: {len(sent_ns)} requests, never more than {ahead_ns / 1e6:.0f} ms before the pace of {spacing_ns / 1e6:.0f} ms")
    assert max(later - earlier for earlier, later in pairwise(sent_ns)) > 2.9e9, "it never stood still"
    # A request that is late, by what a busy machine is, delays none behind it.
    assert ahead_ns <= spacing_ns + 2 * LATENESS_NS
