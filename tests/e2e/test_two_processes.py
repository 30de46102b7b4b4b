"""R-09: two processes on one run directory, started at the same moment, each time after the one before was killed."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.books import prove, read_books
from tests.e2e.cli_support import until, write_jobs
from tests.e2e.faulty_runs import quick_platform
from tests.e2e.harness import Submit, wait_until
from tests.e2e.many_runs import Pair, two_launchers
from tests.e2e.preforked import Child
from tests.e2e.proc import until_stopped

RACES = 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process has stopped itself")
def test_R09_of_two_processes_one_is_refused(tmp_path: Path) -> None:
    """The one that comes too late ends with 75 and names the other, 20 times of 20; a kill leaves no lock; the run ends whole."""
    ids = [f"job-{number}" for number in range(240)]
    with quick_platform(tmp_path) as platform, two_launchers() as launchers:
        run = Submit(tmp_path, write_jobs(tmp_path, ids), platform.url, "--rpm", "0", "--tpm", "0", "--max-in-flight", "2")
        for number in range(RACES):
            winner, loser = race(run, launchers)
            assert loser.returncode == 75
            assert f"(pid {winner.pid}, since " in heard(tmp_path)
            wait_until(winner, partial(has_started, run, number + 1), "the winner to get to work", poll_seconds=0.01)
            run.kill(winner)
        books = read_books(run, platform, run.finish(run.start_by(launchers[0])))
    prove(books, ids)
    assert len(run.records("started")) == RACES + 1, "one that was refused has left a trace"
    print(f"R-09: of two processes one was refused {RACES} times of {RACES};", books.figures())


def race(run: Submit, launchers: Pair) -> tuple[Child, Child]:
    """Two starts that set off at the same moment: the one that is at work, and the one that has ended."""
    racers = [run.start_by(mine, ("tests.e2e.preludes:stopped", {})) for mine in launchers]
    for racer in racers:
        until_stopped(racer.pid)
    for racer in racers:
        os.kill(racer.pid, signal.SIGCONT)
    until(lambda: any(racer.poll() is not None for racer in racers), "one of them to be refused")
    winner, loser = sorted(racers, key=lambda racer: racer.returncode is not None)
    return winner, loser


def has_started(run: Submit, times: int) -> bool:
    return run.size("journal.jsonl") > 0 and len(run.records("started")) == times


def heard(home: Path) -> str:
    """What both of the newest starts have said."""
    newest = sorted(home.glob("books.stderr.*"), key=lambda path: int(path.suffix[1:]))[-2:]
    return "".join(path.read_text() for path in newest)
