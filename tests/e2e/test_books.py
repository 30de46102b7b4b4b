"""Thousands of jobs through every transient fault: the run's files and the platform's ledger tell the same story."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from batchrunner.simulator.faults import KINDS
from tests.e2e.books import Books, attempt_of, bill_of, prove, prove_sends, read_books
from tests.e2e.harness import Simulated, Submit, simulated
from tests.e2e.mixed_jobs import UNKNOWN_EVERY, Inputs, mixed_lines, write_inputs, write_jobs
from tests.e2e.test_cli_secrets import assert_clean
from tests.e2e.test_kills import most_in_a_minute
from tests.e2e.two_accounts import ACCOUNTS, FIRST, KEYS, Shift, Stop, shift_of, two_accounts

#: answers without end: each takes until the timeout, or 64 MiB, and is met below in a run of its own
WITHOUT_END = {"endless", "endless_length", "endless_drip", "oversize", "oversize_chunked"}
#: faults that another attempt, another key or more credits would not mend
PERMANENT = {
    *("error400", "error403", "error413", "error422", "html413", "unknown_model", "gpu_limit", "agent_limit"),
    *("missing_key", "invalid_key", "no_credits"),
}
#: faults that pass: another attempt may succeed, or the reply is only late
TRANSIENT = KINDS.keys() - {"ok"} - WITHOUT_END - PERMANENT
#: after these nobody but the platform knows whether it charged
UNTOLD = {
    *("error408", "error504", "html504", "silent", "reset_before", "closed_before", "reset_headers", "reset_body"),
    *("truncated", "long_length", "short_length", "garbage", "garbage_headers", "empty", "html200", "gzip"),
    *("stream_cut", "stream_stalls"),
}
#: whole answers with status 200 that cannot be read: to ask again would be to pay again
UNREADABLE = {"garbage", "empty", "html200", "short_length", "gzip", "stream_cut"}
#: both are 429s
REFUSED = {"rate_limited", "html429"}

PLATFORM = ("--latency", "0.08", "--output-tokens", "20", "--jitter", "0.02")
OPTIONS = ("--timeout", "3", "--max-attempts", "10", "--drain-seconds", "1")
PEAK_RSS_BYTES = 100 * 1_000_000


class Size(NamedTuple):
    """How much is to be proved, an account."""

    jobs: int
    rpm: int
    stops: tuple[signal.Signals, ...]
    patience_seconds: float
    #: of requests, to each transient fault. A 429 stops the whole account for a while: of two kinds one may be rarer
    share: float = 0.01
    html429_share: float = 0.002

    @property
    def platform(self) -> tuple[str, ...]:
        shares = dict.fromkeys(sorted(TRANSIENT), self.share) | {"html429": self.html429_share}
        return (*PLATFORM, "--faults", ",".join(f"{kind}={share}" for kind, share in shares.items()))


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
SMALL = Size(1_000, 6_000, (KILL, TERM, KILL), 60)
#: so many a minute as two cores can serve with all this going on: runs and platform share them
WHOLE = Size(10_000, 4_500, (KILL, KILL, TERM, KILL, INT, KILL, KILL), 900, html429_share=0.01)


@pytest.mark.parametrize(
    ("size", "seed"),
    [pytest.param(SMALL, 1, id="2000-jobs"), pytest.param(WHOLE, 2, id="20000-jobs", marks=pytest.mark.campaign)],
)
def test_mixed_jobs_of_two_accounts_through_every_transient_fault(tmp_path: Path, size: Size, seed: int) -> None:
    """Every promise, from outside: killed, stopped, refused and out of credits in turn, both runs end whole and account for
    every bill.
    """
    home = tmp_path / "home"
    home.mkdir()
    inputs = {name: mixed_inputs(home, name, size.jobs, seed) for name in ACCOUNTS}
    with two_accounts(home, inputs, size.rpm, "--seed", str(seed), *size.platform) as platform:
        shifts = {name: a_shift(home, name, inputs[name], size, seed) for name in ACCOUNTS}
        books = at_work(platform, shifts)
    statistics = books[FIRST].statistics
    print_figures(shifts, books)
    for name in ACCOUNTS:
        prove(books[name], inputs[name].ids)
        prove_account(name, shifts[name], books[name], size.rpm)
    prove_faults_are_listed(list(books.values()), statistics["faults"])
    assert statistics["faults"].keys() == TRANSIENT | {"invalid_key"}, "faults that never fired prove nothing"
    prove_no_key_is_seen(home, tmp_path / "platform" / "ledger.jsonl")
    assert statistics["statuses"]["402"], "the second account's balance never ran out"


def test_a_platform_that_honours_idempotency_keys_is_paid_once(tmp_path: Path) -> None:
    """What is repeated because nobody knows what became of it is told again, and costs nothing; the books show both."""
    home = tmp_path / "home"
    home.mkdir()
    inputs = {name: mixed_inputs(home, name, 200, seed=3) for name in ACCOUNTS}
    size = Size(200, 6_000, (KILL, KILL), 60)
    with two_accounts(home, inputs, size.rpm, "--seed", "3", "--idempotency", *size.platform) as platform:
        shifts = {name: a_shift(home, name, inputs[name], size, seed=3) for name in ACCOUNTS}
        books = at_work(platform, shifts)
    print_figures(shifts, books)
    for name in ACCOUNTS:
        prove(books[name], inputs[name].ids)
        entries = books[name].entries()
        replays = [entry for entry in entries if entry["replay"]]
        assert replays
        assert all(Decimal(entry["cost"]["amount"]) == 0 for entry in replays)
        paid = Counter(entry["idempotency_key"] for entry in entries if not entry["replay"])
        assert set(paid.values()) == {1}, "a repeat under the same key was paid for again"
        assert {entry["idempotency_key"] for entry in replays if entry["status"] == 200} <= paid.keys()


def mixed_inputs(home: Path, account: str, count: int, seed: int) -> Inputs:
    """Jobs over all shapes, some for a model that does not exist; some of the first account's are very long."""
    lines = mixed_lines(count, seed, name=account, unknown_models=True, long_prompts=account == FIRST)
    return write_inputs(home, lines, account)


def a_shift(home: Path, account: str, inputs: Inputs, size: Size, seed: int) -> Shift:
    """Its stops are anywhere, but for the last: behind it little is left to wait for."""
    rng = random.Random(f"{seed} {account}")
    shares = sorted(rng.uniform(0.02, 0.9) for _ in size.stops[1:])
    stops = [Stop(share, how) for share, how in zip([*shares, 0.96], size.stops, strict=True)]
    return shift_of(home, account, inputs, stops, *OPTIONS, patience_seconds=size.patience_seconds)


def at_work(platform: Simulated, shifts: dict[str, Shift]) -> dict[str, Books]:
    """Both at the same time, to their ends; their books."""
    with ThreadPoolExecutor(len(shifts)) as threads:
        work = {name: threads.submit(shift.work, platform, name) for name, shift in shifts.items()}
        ended = {name: future.result() for name, future in work.items()}
    return {name: read_books(shift.run, platform, ended[name], name) for name, shift in shifts.items()}


def prove_account(name: str, shift: Shift, books: Books, rpm: int) -> None:
    """The limit over all starts, what was in flight at a kill, memory, and the platform's own sum."""
    said = books.statistics["accounts"][name]
    assert said["peak_requests"]["sliding"] <= rpm
    assert most_in_a_minute(shift.run) <= rpm
    concluded = {attempt_of(line) for line in (*books.results, *books.errors)}
    killed = shift.in_flight & books.lost
    assert shift.in_flight - killed <= concluded, "attempts that were in flight at a kill and left no trace"
    assert all(books.costs[custom_id][attempt]["state"] == "maybe_billed" for custom_id, attempt in killed)
    assert killed, "kills that interrupt nothing prove nothing"
    assert max(shift.peak_rss_bytes) < PEAK_RSS_BYTES
    assert sum(bill_of(entry)[3] for entry in books.entries()) == Decimal(str(said["billed_usd"]))
    assert len({entry["key_fingerprint"] for entry in books.entries()}) > 1, "no key ever stood in for another"
    unknown = [line for line in books.errors if line["response"] and line["response"]["status_code"] == 404]
    assert len(unknown) == (len(books.results) + len(books.errors)) // UNKNOWN_EVERY


def prove_faults_are_listed(books: list[Books], met: Mapping[str, int]) -> None:
    """Each fault that leaves a bill unknown has its `maybe_billed` line; beyond these only what a stop found in flight, what met
    a dead connection, and what was given up as too slow has one.
    """
    why = Counter(why for own in books for why in own.failed.values())
    lost = sum(len(own.lost) for own in books)
    too_slow = max(0, why["attempt_timeout"] - met["silent"] - met["long_length"] - met["stream_stalls"] + lost)
    maybe = sum(len(own.lines_in("maybe_billed")) for own in books)
    untold = sum(met[kind] for kind in UNTOLD)
    assert untold <= maybe <= untold + lost + why["stale"] + too_slow
    assert why["stale"], "no connection was found dead"
    unreadable = sum(met[kind] for kind in UNREADABLE)
    assert unreadable - lost - too_slow <= why["unreadable_reply"] + why["compressed"] <= unreadable
    refused = sum(met[kind] for kind in REFUSED)
    assert refused - lost <= sum(own.summary["rate_limited"] for own in books) <= refused
    prove_sends(books)


def prove_no_key_is_seen(home: Path, *more: Path) -> None:
    """Neither in what the runs wrote and printed, nor in the configuration, nor in the platform's ledger."""
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {"results.jsonl", "journal.jsonl", "run.json", "status.json", "batchrun.toml"} <= {path.name for path in files}
    for path in (*files, *more):
        data = path.read_bytes()
        for key in (key for keys in KEYS.values() for key in keys):
            assert_clean(data, path.name, key)


def print_figures(shifts: dict[str, Shift], books: dict[str, Books]) -> None:
    for name, shift in shifts.items():
        ended, own = books[name], books[name].statistics["accounts"][name]
        adopted = shift.in_flight - ended.lost
        codes = [outcome.code for outcome in shift.outcomes]
        peak = max(shift.peak_rss_bytes)
        print(f"\n{name}: {ended.figures()}")
        print(f"  {shift.kills} kills found {len(shift.in_flight)} attempts in flight, of which {len(adopted)} were adopted")
        print(f"  ends in order {codes}, {len(shift.peak_rss_bytes)} starts, peak memory {peak / 1e6:.1f} MB")
        print(f"  at most {own['peak_requests']['sliding']} accepted in 60 s, {most_in_a_minute(shift.run)} sent")
        print(
            f"  billed {ended.summary['cost']}, {own['doubles']} doubles; why attempts failed: {Counter(ended.failed.values())}"
        )
    print(f"faults {books[FIRST].statistics['faults']}; statuses {books[FIRST].statistics['statuses']}")


def test_connections_that_do_not_last(tmp_path: Path) -> None:
    """Closed when idle, or dead when used again: no attempt is lost, no bill is missing, every job has its answer."""
    ids = write_jobs(tmp_path / "jobs.jsonl", 600, seed=3)
    with simulated(tmp_path, "--seed", "3", "--latency", "0.01", "--faults", "stale=0.1,closes_idle=0.1") as platform:
        options = ("--rpm", "60000", "--tpm", "0", "--max-in-flight", "20", "--max-attempts", "1")
        run = Submit(tmp_path, tmp_path / "jobs.jsonl", platform.url, *options)
        books = read_books(run, platform, run.run())
    print(books.figures())
    prove(books, ids)
    assert not books.errors
    assert len(books.entries()) == len(ids), "a request that met a dead connection was never read"
    assert {"stale", "closes_idle"} <= books.statistics["faults"].keys()
    assert len(books.sent) > len(ids), "no connection was found dead: nothing was proved"


def test_answers_without_end_or_measure(tmp_path: Path) -> None:
    """What is larger than 64 MiB, or never ends, is given up in time, and listed as what it may have cost."""
    ids = write_jobs(tmp_path / "jobs.jsonl", 120, seed=4)
    kinds = ("endless", "endless_length", "endless_drip", "oversize", "oversize_chunked")
    faults = ",".join(f"{kind}=0.04" for kind in kinds)
    with simulated(tmp_path, "--seed", "4", "--latency", "0.05", "--faults", faults) as platform:
        run = Submit(tmp_path, tmp_path / "jobs.jsonl", platform.url, "--rpm", "60000", "--tpm", "0", "--timeout", "5")
        books = read_books(run, platform, run.run())
    print(books.figures())
    prove(books, ids)
    met = books.statistics["faults"]
    assert met.keys() == set(kinds), "faults that never fired prove nothing"
    assert len(books.lines_in("maybe_billed")) == sum(met.values())
    too_large = [line for line in books.errors if line["error"]["code"] == "too_large"]
    assert met["endless_length"] + met["oversize"] <= len(too_large)
