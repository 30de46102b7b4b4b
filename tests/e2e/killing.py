"""A run that is killed at random moments and started again, and what must hold of it in the end."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.e2e.books import Books, attempt_of, prove
from tests.e2e.harness import Process, Submit, wait_until

#: less than what the journal grows by for a job that goes well: two records
JOURNAL_BYTES_A_JOB = 400


class KilledRun:
    """A run, and what was seen of it between its starts. `start` begins one; `most_bytes`: the journal grows by at most so much
    before a kill by its size.
    """

    def __init__(self, run: Submit, start: Callable[[], Process], rng: random.Random, most_bytes: int) -> None:
        self.run = run
        self.kills = 0
        #: attempts that a kill found in flight
        self.in_flight: set[tuple[str, int]] = set()
        self._start = start
        self._rng = rng
        self._most_bytes = most_bytes
        self._kept: set[bytes] = set()

    def kill_somewhere(self) -> None:
        """Start it and kill it at a random moment: once the journal has grown by so much, or earlier by the clock, so that
        starts and recoveries are hit too.
        """
        run, rng = self.run, self._rng
        target = run.size("journal.jsonl") + rng.randrange(self._most_bytes)
        polls = iter(range(rng.randrange(600)) if rng.random() < 0.3 else itertools.count())
        process = self._start()
        try:
            wait_until(process, lambda: next(polls, None) is None or run.size("journal.jsonl") > target, "the journal to grow")
        finally:
            run.kill(process)
        self.kills += 1
        self.in_flight |= attempts_in_flight(run)
        self._kept.update(whole_lines(run.run_dir / "results.jsonl"))

    def prove(self, books: Books, ids: list[str], *, faults: bool) -> set[tuple[str, int]]:
        """Only what was in flight at a kill was sent again, and each such attempt is listed; the attempts that were lost.

        `faults`: the platform had some, so that jobs may also be repeated, and bills unknown, for another reason.
        """
        run = self.run
        assert len(run.records("started")) > self.kills // 2, "hardly a kill found the run at work"
        lost = {(record["id"], record["attempt"]) for record in run.records("ended") if record["what"] == "lost"}
        concluded = {attempt_of(line) for line in (*books.results, *books.errors)}
        prove(books, ids)
        assert self._kept <= set(whole_lines(run.run_dir / "results.jsonl")), "a result that had been written is gone"
        assert lost <= self.in_flight
        assert self.in_flight - lost <= concluded, "attempts that were in flight at a kill and left no trace"
        assert all(books.costs[custom_id][attempt]["state"] == "maybe_billed" for custom_id, attempt in lost)
        if not faults:
            assert len(books.results) == len(ids)
            assert len(books.lines_in("maybe_billed")) == len(lost)
            times_lost = Counter(custom_id for custom_id, _ in lost)
            for custom_id, entries in books.ledger.items():
                assert len(entries) - 1 <= times_lost[custom_id], f"{custom_id!r} was sent again without a kill"
        return lost


def attempts_in_flight(run: Submit) -> set[tuple[str, int]]:
    """What was sent and not ended, as the journal stands."""
    sent = {(record["id"], record["attempt"]) for record in run.records("sent")}
    return sent - {(record["id"], record["attempt"]) for record in run.records("ended")}


def repeats(books: Books) -> int:
    """Bills beyond one for each job."""
    return sum(len(entries) - 1 for entries in books.ledger.values())


def whole_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")] if path.exists() else []
