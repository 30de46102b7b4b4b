"""Thousands of jobs through every transient fault: the run's files and the platform's ledger tell the same story."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.books import prove, read_books
from tests.e2e.harness import Submit, simulated, write_jobs

#: faults that pass: another attempt may succeed, or the reply is only late
TRANSIENT = (
    "error500",
    "upstream_error",
    "model_unavailable",
    "overloaded",
    "error408",
    "error409",
    "error504",
    "rate_limited",
    "html",
    "html429",
    "html503",
    "html504",
    "reset_before",
    "closed_before",
    "reset_headers",
    "reset_body",
    "truncated",
    "short_length",
    "garbage",
    "garbage_headers",
    "empty",
    "html200",
    "gzip",
    "slow",
    "drip",
)
#: of these, answers that come whole and can be read
ANSWERED = {"ok", "slow", "drip"}
#: both are 429s
REFUSED = {"rate_limited", "html429"}
#: after these nobody but the platform knows whether it charged
UNTOLD = {
    "error408",
    "error504",
    "html504",
    "reset_before",
    "closed_before",
    "reset_headers",
    "reset_body",
    "truncated",
    "short_length",
    "garbage",
    "garbage_headers",
    "empty",
    "html200",
    "gzip",
}
#: whole answers with status 200 that cannot be read: to ask again would be to pay again
UNREADABLE = {"garbage", "empty", "html200", "short_length"}


def test_five_thousand_jobs_through_every_transient_fault(tmp_path: Path) -> None:
    """Each job ends once; each bill has its line, exact where its reply was read and bounded where it was not."""
    # Each 429 is waited out by the whole account: one kind of them comes often enough.
    faults = ",".join(f"{kind}={0.002 if kind == 'html429' else 0.01}" for kind in TRANSIENT)
    ids = write_jobs(tmp_path / "jobs.jsonl", 5_000, seed=1, unknown_models=True, long_prompts=True)
    with simulated(tmp_path, "--seed", "1", "--latency", "0.1", "--output-tokens", "20", "--faults", faults) as platform:
        # Without a limit a 429 is waited out by the second; with one, by the interval between sends.
        run = Submit(tmp_path, tmp_path / "jobs.jsonl", platform.url, "--rpm", "60000", "--tpm", "0")
        outcome = run.run()
        books = read_books(run, platform, outcome)
    print(books.figures(), f"in {outcome.summary['wall_seconds']} s")
    prove(books, ids)
    met = books.statistics["faults"]
    assert met.keys() == set(TRANSIENT), "faults that never fired prove nothing"
    assert len(books.sent) == books.statistics["requests"]
    assert outcome.summary["rate_limited"] == sum(met[kind] for kind in REFUSED)
    # With nobody killed it is known of each attempt whether its reply was seen: then the two kinds of lines are exact too.
    assert len(books.lines_in("billed")) == sum(entry["fault"] in ANSWERED for entry in books.entries())
    assert len(books.lines_in("maybe_billed")) == sum(met[kind] for kind in UNTOLD)
    codes = [line["error"]["code"] for line in books.errors]
    assert codes.count("unreadable_reply") == sum(met[kind] for kind in UNREADABLE)
    assert sum(line["response"] is not None and line["response"]["status_code"] == 404 for line in books.errors) == 51


def test_answers_that_come_too_late_or_never(tmp_path: Path) -> None:
    """What we gave up on and the platform charged for all the same is owned up to, attempt by attempt."""
    ids = write_jobs(tmp_path / "jobs.jsonl", 300, seed=2)
    with simulated(tmp_path, "--seed", "2", "--latency", "0.15", "--faults", "silent=0.03,slow=0.05") as platform:
        run = Submit(tmp_path, tmp_path / "jobs.jsonl", platform.url, "--rpm", "60000", "--tpm", "0", "--timeout", "1")
        books = read_books(run, platform, run.run())
    print(books.figures())
    prove(books, ids)
    assert {"silent", "slow"} <= {entry["fault"] for entry in books.entries()}
    assert books.lines_in("maybe_billed")


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
    kinds = ("endless", "endless_length", "endless_drip", "oversize", "oversize_chunked", "long_length")
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
