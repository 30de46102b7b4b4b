"""Small runs that something befalls, and that then go on to their end; what must hold of each of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.e2e.books import prove, read_books
from tests.e2e.cli_support import job
from tests.e2e.harness import PATIENCE_SECONDS, Outcome, Process, Simulated, Submit, read_lines, simulated
from tests.e2e.mixed_jobs import UNKNOWN_MODEL
from tests.e2e.preforked import Launcher

JOBS = 7
IN_FLIGHT = 2
#: the one that fails, and is the first to end
FAILS = 0


class Faulty(NamedTuple):
    """A run that something befell and that then went on to its end."""

    what: str
    run: Submit
    ids: list[str]
    #: of the start that it befell
    code: int
    said: str
    #: custom_ids in errors.jsonl after it
    failed: set[str]
    outcome: Outcome


@contextlib.contextmanager
def quick_platform(home: Path) -> Iterator[Simulated]:
    """One for many small runs: each has ids of its own."""
    with simulated(home, "--latency", "0.03", "--latency-sigma", "0", "--output-tokens", "5") as running:
        yield running


def small_run(home: Path, platform: Simulated, what: str, *options: str) -> tuple[Submit, list[str]]:
    """Jobs of which one fails, for a run of their own, with ids of their own; failed ones are tried again with each start."""
    name = re.sub(r"\W+", "-", what)
    ids = [f"{home.name}-{name}-{number}" for number in range(JOBS)]
    lines = [job(custom_id, model=UNKNOWN_MODEL) if number == FAILS else job(custom_id) for number, custom_id in enumerate(ids)]
    (home / f"{name}.jsonl").write_bytes(b"".join(lines))
    options = ("--rpm", "0", "--tpm", "0", "--max-in-flight", str(IN_FLIGHT), "--retry-failed", *options)
    return Submit(home, home / f"{name}.jsonl", platform.url, *options, name=name), ids


def carried_on(what: str, run: Submit, ids: list[str], process: Process, mine: Launcher) -> Faulty:
    """Wait for the end of the start that something befalls, then let the run go on without it to its end."""
    code = process.wait(PATIENCE_SECONDS)
    failed = {line["custom_id"] for line in read_lines(run.run_dir / "errors.jsonl")}
    return Faulty(what, run, ids, code, run.said(), failed, run.finish(run.start_by(mine)))


def prove_books(platform: Simulated, faulty: Sequence[Faulty]) -> str:
    """Every run has ended whole, each of its bills owned up to; what there was of it, for people."""
    repeats = maybe = 0
    for one in faulty:
        books = read_books(one.run, platform, one.outcome, ids=set(one.ids))
        again = len(books.entries()) - len(books.ledger)
        try:
            prove(books, one.ids)
            assert {line["custom_id"] for line in books.errors} == {one.ids[FAILS]}
            assert len(books.lines_in("maybe_billed")) <= IN_FLIGHT * 2, "more than there were in flight at two stops"
            assert again <= len(books.lost), "something was sent again that no stop had found in flight"
        except AssertionError as error:
            raise AssertionError(f"{one.what}: {error}\n{one.said}") from error
        repeats += again
        maybe += len(books.lines_in("maybe_billed"))
    return f"{len(faulty)} runs, {repeats} repeats, {maybe} maybe_billed; 0 jobs lost, 0 twice; each verified"


def wrong_with(one: Faulty) -> Iterator[str]:
    """What a stop over a disk owes and this one did not do: 74, the cause by its name, no job that failed over it."""
    if one.code != 74:
        yield f"it ended with {one.code}"
    if "Traceback" in one.said:
        yield "a traceback was shown"
    if not re.search(r"\.run(/[\w.]+)?: [\w ]+ failed: [A-Z][\w /-]+\. Remove the cause, then run the same", one.said):
        yield "it was not said what failed"
    if not one.failed <= {one.ids[FAILS]}:
        yield f"failed over it: {one.failed}"
