"""`batchrun reconcile` as a process of its own: what it says, when it refuses, and that it leaves a live run alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e import canary
from tests.e2e.cli_support import Ended, batchrun, ending, finals, job, line_with, platform, server, started, until, write_jobs
from tests.e2e.test_cli_several_accounts import ENV, platform_of_two, write

KEY = {"BATCHRUN_API_KEY": canary.KEY}
#: times are told in milliseconds, and nothing is uncertain in these runs
AT_ONCE = ("--settle-after", "0")


def reconcile(home: Path, *options: object, **env: str) -> Ended:
    return batchrun(home, "reconcile", home / "r.run", *options, env=KEY | env)


def write_various(home: Path, count: int) -> Path:
    """Prompts of many lengths: each answer has tokens of its own."""
    path = home / "jobs.jsonl"
    path.write_bytes(b"".join(job(f"job-{number}", "why " * (number + 1)) for number in range(count)))
    return path


def test_books_that_agree(tmp_path: Path) -> None:
    """All events are ours, nothing is to be settled, and no file is touched."""
    with platform(tmp_path) as running:
        assert running.submit(tmp_path, write_various(tmp_path, 8), "-o", tmp_path / "r.run").code == 0
        before = {file.name: file.read_bytes() for file in (tmp_path / "r.run").iterdir() if file.name != "lock"}
        shown = reconcile(tmp_path)
        document = reconcile(tmp_path, "--json")
        events = reconcile(tmp_path, "--events")
    assert (shown.code, document.code, events.code) == (0, 0, 0), shown.stderr
    assert "ours                8 events" in shown.stdout
    assert "undecided           0 events" in shown.stdout
    assert "nothing to settle" in shown.stdout
    (account,) = json.loads(document.stdout)["accounts"]
    assert (account["ours"]["events"], account["theirs"]["events"], account["settled"]) == (8, 8, 0)
    lines = [json.loads(line) for line in events.stdout.splitlines()]
    assert sorted(line["attempts"][0]["custom_id"] for line in lines) == [f"job-{number}" for number in range(8)]
    assert {(line["whose"], line["reason"]) for line in lines} == {("ours", "matched")}
    assert {file.name: file.read_bytes() for file in (tmp_path / "r.run").iterdir() if file.name != "lock"} == before


def test_a_discount_is_settled_once_and_the_same_submit_shows_it(tmp_path: Path) -> None:
    """The platform's own figures take the place of the catalog's; the run is as finished as before."""
    with platform(tmp_path, "--discount", "0.25") as running:
        jobs = write_various(tmp_path, 8)
        first = running.submit(tmp_path, jobs, "-o", tmp_path / "r.run", "--json")
        dry = reconcile(tmp_path, "--dry-run")
        shown = reconcile(tmp_path)
        again = reconcile(tmp_path)
        after = running.submit(tmp_path, jobs, "-o", tmp_path / "r.run", "--json")
    assert "Settled 8 attempts, not written:" in dry.stdout
    assert "Settled 8 attempts, written to costs.jsonl:" in shown.stdout
    assert "job-0, attempt 1: billed $" in shown.stdout
    assert "nothing to settle" in again.stdout
    assert after.summary["attempts"] == first.summary["attempts"] == 8, "it was run again"
    assert after.summary["cost"]["amount"] == pytest.approx(0.75 * first.summary["cost"]["amount"])
    verified = batchrun(tmp_path, "verify", tmp_path / "r.run", "--json")
    assert (verified.code, verified.summary["report"]["finished"], verified.summary["report"]["notes"]) == (0, True, [])
    told = batchrun(tmp_path, "explain", tmp_path / "r.run", "job-0")
    assert "settled by the platform's usage events" in told.stdout


def test_a_killed_run_is_first_brought_to_where_a_start_would(tmp_path: Path) -> None:
    """What was in flight is lost, and then settled by its event, without another submit."""
    with platform(tmp_path, "--fault-on", "job-3=silent") as running:
        arguments = ("submit", write_various(tmp_path, 8), "-o", tmp_path / "r.run", *running.options)
        with started(tmp_path, *arguments, env=running.env) as process:
            running.until_silent(1)
            until(lambda: sum(finals(tmp_path / "r.run").values()) == 7, "the ends of all others")
            process.kill()
            process.wait()
        shown = reconcile(tmp_path, *AT_ONCE)
    assert shown.code == 0, shown.stderr
    assert "1 attempt(s) were in flight" in shown.stderr
    assert batchrun(tmp_path, "verify", tmp_path / "r.run").code == 0


def test_a_run_at_work_is_refused_or_watched_to_its_end(tmp_path: Path) -> None:
    """75 without --watch. With it: a line now and then, nothing written meanwhile, and the settlement at the end."""
    with platform(tmp_path, "--latency", "1.5", "--discount", "0.5") as running:
        arguments = ("submit", write_various(tmp_path, 6), "-o", tmp_path / "r.run", "--max-in-flight", "2")
        with started(tmp_path, *arguments, *running.options, env=running.env) as submit:
            running.until_in_flight(2)
            refused = reconcile(tmp_path)
            with started(tmp_path, "reconcile", tmp_path / "r.run", "--watch", "--every", "1", env=KEY) as watching:
                assert "may have been billed" in line_with(watching, "events: ours")
                assert submit.poll() is None
                assert b"usage_event" not in (tmp_path / "r.run" / "costs.jsonl").read_bytes()
                assert ending(submit).code == 0
                watched = ending(watching)
    assert refused.code == 75
    assert watched.code == 0
    assert "Settled 6 attempts, written to costs.jsonl:" in watched.stdout


def test_a_run_is_watched_on_through_an_outage_of_the_account(tmp_path: Path) -> None:
    """While it is at work there is nothing to lose; once it has ended, nothing can be settled, and that is 69."""
    with platform(tmp_path, "--latency", "2") as running, server(403, b'{"error":{"code":"forbidden","message":"no"}}') as url:
        arguments = ("submit", write_various(tmp_path, 6), "-o", tmp_path / "r.run", "--max-in-flight", "2")
        with started(tmp_path, *arguments, *running.options, env=running.env) as submit:
            running.until_in_flight(2)
            options = ("--watch", "--every", "1", "--base-url", url)
            with started(tmp_path, "reconcile", tmp_path / "r.run", *options, env=KEY) as watching:
                for _ in range(2):
                    line_with(watching, "the account's usage cannot be fetched")
                assert submit.poll() is None
                assert ending(submit).code == 0
                assert ending(watching).code == 69


def test_each_account_of_a_run_has_its_own_events(tmp_path: Path) -> None:
    with platform_of_two(tmp_path) as _:
        jobs = write(tmp_path, [*["a"] * 6, *["b"] * 7])
        arguments = ("--account", "a", "--account", "b", "-o", "r.run")
        assert batchrun(tmp_path, "submit", jobs, *arguments, env=ENV).code == 0
        shown = batchrun(tmp_path, "reconcile", "r.run", "--json", env=ENV)
    assert shown.code == 0, shown.stderr
    accounts = json.loads(shown.stdout)["accounts"]
    assert [(account["account"], account["ours"]["events"], account["theirs"]["events"]) for account in accounts] == [
        ("a", 6, 6),
        ("b", 7, 7),
    ]


def test_one_of_a_runs_accounts_settles_its_own_attempts_alone(tmp_path: Path) -> None:
    """That the other's attempts have no event there says nothing of what they cost."""
    with platform_of_two(tmp_path) as _:
        jobs = write(tmp_path, [*["a"] * 6, *["b"] * 7])
        arguments = ("--account", "a", "--account", "b", "-o", "r.run")
        assert batchrun(tmp_path, "submit", jobs, *arguments, env=ENV).code == 0
        costs = (tmp_path / "r.run" / "costs.jsonl").read_bytes()
        shown = batchrun(tmp_path, "reconcile", "r.run", "--account", "a", env=ENV)
    assert shown.code == 0, shown.stderr
    assert "warning: 7 attempts went under 'b', and stay as they are" in shown.stderr
    assert "ours                6 events" in shown.stdout
    assert (tmp_path / "r.run" / "costs.jsonl").read_bytes() == costs


def test_another_accounts_events_settle_nothing(tmp_path: Path) -> None:
    """Nothing of the run is among them: that is no reason to call it free. The other key is told of."""
    with platform(tmp_path) as running, platform(make(tmp_path / "other")) as other:
        assert running.submit(tmp_path, write_various(tmp_path, 3), "-o", tmp_path / "r.run").code == 0
        costs = (tmp_path / "r.run" / "costs.jsonl").read_bytes()
        shown = reconcile(tmp_path, "--base-url", other.url)
    assert shown.code == 0
    assert "warning: the run went under" in shown.stderr
    assert (tmp_path / "r.run" / "costs.jsonl").read_bytes() == costs
    assert "nothing to settle" in shown.stdout


def make(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_platform_that_is_gone_is_69_and_changes_nothing(tmp_path: Path) -> None:
    with platform(tmp_path) as running:
        assert running.submit(tmp_path, write_various(tmp_path, 2), "-o", tmp_path / "r.run").code == 0
    with server(403, b'{"error":{"code":"forbidden","message":"no"}}') as url:
        refused = reconcile(tmp_path, "--base-url", url)
    assert refused.code == 69
    assert "the account's usage" in refused.stderr


def test_what_makes_no_sense(tmp_path: Path) -> None:
    """2 for options and for a run that was simulated, 65 for what is no run directory or is damaged."""
    jobs = write_jobs(tmp_path, ["a"])
    assert batchrun(tmp_path, "submit", jobs, "--simulate", "-o", "s.run").code == 0
    simulated = batchrun(tmp_path, "reconcile", "s.run")
    assert simulated.code == 2
    assert "there is nobody to ask" in simulated.stderr
    assert batchrun(tmp_path, "reconcile", "s.run", "--json", "--events").code == 2
    assert batchrun(tmp_path, "reconcile", tmp_path).code == 65
    with platform(tmp_path) as running:
        assert running.submit(tmp_path, jobs, "-o", tmp_path / "r.run").code == 0
        journal = (tmp_path / "r.run" / "journal.jsonl").read_bytes()
        (tmp_path / "r.run" / "journal.jsonl").write_bytes(journal.replace(b'"t":"sent"', b'"t":"tnes"', 1))
        damaged = reconcile(tmp_path)
    assert damaged.code == 65
    assert "damaged" in damaged.stderr


def test_a_run_that_sent_nothing_has_nothing_to_settle(tmp_path: Path) -> None:
    (tmp_path / "jobs.jsonl").write_bytes(b"nonsense\n")
    with platform(tmp_path) as running:
        assert running.submit(tmp_path, tmp_path / "jobs.jsonl", "-o", tmp_path / "r.run").code == 1
        shown = reconcile(tmp_path)
    assert shown.code == 0, shown.stderr
    assert "nothing to settle" in shown.stdout
