"""`batchrun plan`: what a run would meet with and take, before it is paid for."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchrunner.account_file import file_name
from batchrunner.cli.sharing import accounts_directory
from tests.e2e.cli_support import Ended, batchrun, job, platform, server
from tests.e2e.harness import read_lines


def jobs_file(home: Path, count: int = 60) -> None:
    """Jobs of two models and sizes."""
    lines = [
        job(
            f"job-{number}",
            "word " * (5 + number % 40),
            model=("simulated-small", "simulated-reasoner")[number % 3 == 0],
            max_tokens=300,
        )
        for number in range(count)
    ]
    (home / "jobs.jsonl").write_bytes(b"".join(lines))


def plan(home: Path, url: str, *arguments: object, env: Mapping[str, str] = {}) -> Ended:
    return batchrun(home, "plan", *arguments, "--base-url", url, env=env)


def codes(ended: Ended) -> dict[str, int]:
    return {problem["code"]: problem["jobs"] for problem in ended.summary["problems"]}


def test_a_file_without_fault(tmp_path: Path) -> None:
    """0; nothing is sent, nothing is left behind, no key is needed; the interval is honest about what it does not know."""
    jobs_file(tmp_path)
    with platform(tmp_path) as running:
        ended = plan(tmp_path, running.url, "jobs.jsonl", "--json")
        told = plan(tmp_path, running.url, "jobs.jsonl", "--rpm", "10")
        assert running.statistics()["requests"] == 0
    assert (ended.code, ended.stderr, told.code) == (0, "", 0)
    document = ended.summary
    assert (document["jobs"], document["invalid"], document["problems"], document["balance"]) == (60, 0, [], None)
    assert [row["model"] for row in document["models"]] == ["simulated-reasoner", "simulated-small"]
    cost = document["total"]["cost_usd"]
    assert cost["low"] == 0
    assert cost["high"] > cost["expected"] > 0
    assert (document["total"]["basis"], document["binding"]) == ("guess", "requests")
    assert "about 5:56, limited by requests (--rpm), the answers' own time not counted" in told.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["jobs.jsonl", "ledger.jsonl"]


def test_lines_and_jobs_that_cannot_work(tmp_path: Path) -> None:
    """Each with its file and line; 65 where a line is no job, else 1 where a job is certain to fail."""
    lines = [
        job("a", model="nobody's"),
        job("b", temperature=3),
        job("b"),
        b"{\n",
        job("c", model="simulated-offline"),
        job("d", "word " * 30_000, model="simulated-custom"),
        job("e", frequency_penalty=1),
    ]
    (tmp_path / "jobs.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "wrong.jsonl").write_bytes(lines[0] + lines[1])
    with platform(tmp_path) as running:
        bad = plan(tmp_path, running.url, "jobs.jsonl", "--json")
        wrong = plan(tmp_path, running.url, "wrong.jsonl")
        told = plan(tmp_path, running.url, "jobs.jsonl")
    assert (bad.code, wrong.code) == (65, 1)
    assert [(line["code"], line["file"], line["line"]) for line in bad.summary["invalid_lines"]] == [
        ("duplicate_custom_id", "jobs.jsonl", 3),
        ("invalid_json", "jobs.jsonl", 4),
    ]
    assert codes(bad) == {
        "unknown_model": 1,
        "context_exceeded": 1,
        "model_unavailable": 1,
        "parameter_value": 1,
        "price_unknown": 1,
        "unknown_parameter": 1,
    }
    (unknown,) = [problem for problem in bad.summary["problems"] if problem["level"] == "error"]
    assert unknown["places"] == [{"file": "jobs.jsonl", "line": 1, "custom_id": "a"}]
    assert (bad.summary["jobs"], bad.summary["failing"]) == (5, 1)
    assert "error    nobody's: the catalog has no such model" in wrong.stdout
    assert "1 job, at wrong.jsonl 1" in wrong.stdout
    assert "unknown" in told.stdout


def test_a_sample_is_kept_and_not_paid_for_twice(tmp_path: Path) -> None:
    """It is run where submit would run it; the same again sends nothing; submit sends the rest; the bill is as forecast."""
    jobs_file(tmp_path, 120)
    with platform(tmp_path) as running:
        env = running.env
        arguments = ("jobs.jsonl", *running.options[2:], "--progress", "none", "--sample", "40", "--json")
        first = plan(tmp_path, running.url, *arguments, env=env)
        assert first.code == 0, first.stderr
        assert running.statistics()["requests"] == 40
        again = plan(tmp_path, running.url, *arguments, env=env)
        assert running.statistics()["requests"] == 40
        ended = running.submit(tmp_path, "jobs.jsonl", "--json")
        assert running.statistics()["requests"] == 120
    document = first.summary
    assert document["sample"] == {"run_dir": "jobs.run", "jobs": 40, "measured": 40, "spent_usd": document["sample"]["spent_usd"]}
    assert document["total"]["basis"] == "sample"
    assert again.summary["total"] == document["total"]
    assert (ended.code, ended.summary["request_counts"]["completed"]) == (0, 120)
    billed = json.loads(ended.stdout, parse_float=Decimal)["cost"]["amount"]
    cost = document["total"]["cost_usd"]
    assert cost["low"] * 0.8 <= billed <= cost["high"] * 1.2  # one in ten lies outside
    assert cost["high"] - cost["low"] < cost["expected"]
    assert document["balance"] == {"amount": 10_000.0, "verdict": "enough"}
    assert len({line["custom_id"] for line in read_lines(tmp_path / "jobs.run" / "results.jsonl")}) == 120


def test_a_sample_that_is_stopped(tmp_path: Path) -> None:
    """Exits as submit does, after what is known: nothing of what was not measured is made up."""
    jobs_file(tmp_path, 60)
    with platform(tmp_path) as running:
        arguments = ("jobs.jsonl", *running.options[2:], "--progress", "none", "--sample", "30", "--max-cost", "0", "--json")
        ended = plan(tmp_path, running.url, *arguments, env=running.env)
        assert running.statistics()["requests"] == 0
    assert ended.code == 3
    assert "the sample was stopped. Raise --max-cost" in ended.stderr
    assert (ended.summary["sample"]["measured"], ended.summary["total"]["basis"]) == (0, "guess")


def test_jobs_of_a_sample_that_fail_cost_what_they_cost(tmp_path: Path) -> None:
    """Nothing, where the server refused them; they count all the same, and so does what has no known price, as unknown."""
    jobs_file(tmp_path, 40)
    with platform(tmp_path, "--faults", "error400=0.5") as running:
        arguments = ("jobs.jsonl", *running.options[2:], "--progress", "none", "--sample", "20", "--json")
        ended = plan(tmp_path, running.url, *arguments, env=running.env)
        counts = running.statistics()["faults"]
        (tmp_path / "prices.json").write_text(json.dumps({"simulated-reasoner": {"prompt": "1", "completion": "1"}}))
        unpriced = plan(tmp_path, running.url, *arguments, "--prices", "prices.json", "-o", "other.run", env=running.env)
    assert ended.summary["sample"]["measured"] == 20
    assert 0 < counts["error400"] < 20
    assert ended.summary["total"]["basis"] == "sample"
    assert unpriced.summary["sample"]["measured"] < 20
    assert unpriced.summary["total"]["basis"] == "unknown"


def test_what_a_run_has_learned_is_gone_by(tmp_path: Path) -> None:
    """Of the same account on this machine: a profile, and the time that answers take."""
    jobs_file(tmp_path, 60)
    with platform(tmp_path) as running:
        assert running.submit(tmp_path, "jobs.jsonl", "--progress", "none").code == 0
        ended = plan(tmp_path, running.url, "jobs.jsonl", "--json", env=running.env)
    assert ended.summary["total"]["basis"] == "profile"
    assert ended.summary["latency_seconds"] is not None
    billed = sum(line["cost"]["amount"] for line in read_lines(tmp_path / "jobs.run" / "costs.jsonl"))
    assert ended.summary["total"]["cost_usd"]["expected"] == pytest.approx(float(billed), rel=0.2)


def test_a_balance_that_will_not_do(tmp_path: Path) -> None:
    """It is held against what is forecast."""
    jobs_file(tmp_path, 50)
    with platform(tmp_path, "--balance", "0.000001") as running:
        ended = plan(tmp_path, running.url, "jobs.jsonl", "--json", env=running.env)
        told = plan(tmp_path, running.url, "jobs.jsonl", env=running.env)
    assert ended.summary["balance"]["verdict"] == "perhaps"
    assert "perhaps not enough" in told.stdout


def test_packed_files_and_standard_input(tmp_path: Path) -> None:
    """Read as submit reads them, and nothing is kept; a sample cannot be run of what is gone afterwards."""
    (tmp_path / "jobs.jsonl.gz").write_bytes(gzip.compress(job("a") + job("b")))
    (tmp_path / "more").write_bytes(job("c"))
    with platform(tmp_path) as running, (tmp_path / "more").open("rb") as more:
        ended = batchrun(tmp_path, "plan", "jobs.jsonl.gz", "-", "-o", "x.run", "--json", "--base-url", running.url, stdin=more)
        refused = plan(tmp_path, running.url, "-", "-o", "x.run", "--sample", "1", env=running.env)
    assert (ended.code, ended.summary["jobs"]) == (0, 3)
    assert refused.code == 2
    assert "--sample: standard input cannot be read again" in refused.stderr
    assert not (tmp_path / "x.run").exists()


def test_without_a_catalog_lines_are_checked_all_the_same(tmp_path: Path) -> None:
    """Costs are unknown, and said to be; with prices of one's own they are not."""
    (tmp_path / "jobs.jsonl").write_bytes(job("a") + job("a"))
    (tmp_path / "prices.json").write_text(json.dumps({"simulated-small": {"prompt": "0.001", "completion": "0.01"}}))
    with server(404, b"{}") as url:
        ended = plan(tmp_path, url, "jobs.jsonl", "--json")
        priced = plan(tmp_path, url, "jobs.jsonl", "--json", "--prices", "prices.json")
    assert (ended.code, ended.summary["prices_of"], codes(ended)) == (65, None, {"price_unknown": 1})
    assert ended.summary["total"]["cost_usd"] == {"low": 0.0, "expected": None, "high": None}
    assert "no catalog is known" in ended.stderr
    assert priced.summary["total"]["cost_usd"]["high"] > 0


def test_what_cannot_be_had_is_a_warning(tmp_path: Path) -> None:
    """Catalog and balance of a server that gives none; lengths of a file that is none; models of servers that differ."""
    (tmp_path / "jobs.jsonl").write_bytes(job("a"))
    env = {"BATCHRUN_API_KEY": "sk-empiriolabs-test-plan"}
    with server(404, b"{}") as url:
        learned = accounts_directory(str(tmp_path / "state")) / file_name(f"{url.removeprefix('http://')}/mine")
        learned.parent.mkdir(parents=True, mode=0o700)
        learned.write_bytes(b"no database")
        learned.chmod(0o600)
        ended = plan(tmp_path, url, "jobs.jsonl", "--account", "mine", "--state-dir", tmp_path / "state", env=env)
        (tmp_path / "batchrun.toml").write_text(
            f'[accounts.a]\nbase_url = "{url}"\nkeys = ["env:A"]\n[accounts.b]\nbase_url = "{url}/v2"\nkeys = ["env:B"]\n'
        )
        keys = {"A": "sk-empiriolabs-test-a", "B": "sk-empiriolabs-test-b"}
        both = batchrun(tmp_path, "plan", "jobs.jsonl", "--account", "a,b", env=keys)
    assert ended.code == both.code == 0
    assert "no catalog is known" in ended.stderr
    assert "the balance is not known: the account's usage cannot be fetched" in ended.stderr
    assert f"{learned}: " in ended.stderr
    assert "accounts of several servers have no catalog in common" in both.stderr


def test_a_sample_needs_a_key(tmp_path: Path) -> None:
    """Said before anything is looked at."""
    (tmp_path / "jobs.jsonl").write_bytes(job("a"))
    ended = batchrun(tmp_path, "plan", "jobs.jsonl", "--sample", "1")
    assert ended.code == 2
    assert "EMPIRIOLABS_API_KEY" in ended.stderr


def test_offline_it_goes_by_what_is_kept(tmp_path: Path) -> None:
    """The catalog as it was last fetched, with its date; no balance; nobody is asked."""
    (tmp_path / "jobs.jsonl").write_bytes(job("a", model="nobody's"))
    with platform(tmp_path) as running:
        url = running.url
        batchrun(tmp_path, "models", "--base-url", url)
    ended = plan(tmp_path, url, "jobs.jsonl", "--offline", "--json", env={"BATCHRUN_API_KEY": "sk-empiriolabs-test-plan"})
    assert (ended.code, codes(ended), ended.summary["balance"]) == (1, {"unknown_model": 1}, None)
    assert "The catalog is that of" in ended.stderr


def test_the_embedded_platform_can_be_planned_for(tmp_path: Path) -> None:
    """As submit --simulate: no key, no network."""
    (tmp_path / "jobs.jsonl").write_bytes(job("a") + job("b"))
    ended = batchrun(tmp_path, "plan", "jobs.jsonl", "--simulate", "--json", "--sample", "2", "--progress", "none")
    assert ended.code == 0, ended.stderr
    assert ended.summary["sample"]["measured"] == 2
    assert (tmp_path / "jobs.simulated.run").is_dir()


def test_several_accounts_share_the_time(tmp_path: Path) -> None:
    """What is bound to one takes its time there; all else goes to whichever is free sooner."""
    lines = [msgspec.json.decode(job(f"job-{number}")) for number in range(200)]
    (tmp_path / "free.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    for line in lines[:60]:
        line["batchrun"] = {"account": "b"}
    (tmp_path / "jobs.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    with platform(tmp_path) as running:
        (tmp_path / "batchrun.toml").write_text(
            "".join(
                f'[accounts.{name}]\nbase_url = "{running.url}"\nkeys = ["env:KEY_{name.upper()}"]\nrpm = 10\n' for name in "ab"
            )
        )
        keys = {f"KEY_{name.upper()}": f"sk-empiriolabs-test-{name}" for name in "ab"}
        ended = batchrun(tmp_path, "plan", "jobs.jsonl", "--account", "a,b", "--json", env=keys)
        one = batchrun(tmp_path, "plan", "free.jsonl", "--account", "a", "--json", "--offline", env=keys)
        lost = batchrun(tmp_path, "plan", "jobs.jsonl", "--account", "a", "--json", "--offline", env=keys)
        told = batchrun(tmp_path, "plan", "jobs.jsonl", "--account", "a,b", env=keys)
    assert ended.code == 0, ended.stderr
    first, second = ended.summary["accounts"]
    assert [(row["account"], row["jobs_bound"], row["binding"]) for row in (first, second)] == [
        ("a", 0, "requests"),
        ("b", 60, "requests"),
    ]
    assert ended.summary["seconds"] == pytest.approx(one.summary["seconds"] / 2, rel=0.05)
    assert [(row["model"], row["account"], row["jobs"]) for row in ended.summary["models"]] == [
        ("simulated-small", None, 140),
        ("simulated-small", "b", 60),
    ]
    assert "simulated-small (b)" in told.stdout
    assert (lost.code, lost.summary["failing"], codes(lost)["unknown_account"]) == (1, 60, 60)


def test_an_account_without_a_limit_takes_jobs_of_any_size(tmp_path: Path) -> None:
    """What is above another's is no trouble then."""
    (tmp_path / "jobs.jsonl").write_bytes(job("a", "word " * 1_000))
    table = '[accounts.{0}]\nbase_url = "http://127.0.0.1:9"\nkeys = ["env:KEY_{1}"]\ntpm = {2}\n'
    (tmp_path / "batchrun.toml").write_text(table.format("a", "A", 0) + table.format("b", "B", 100))
    keys = {"KEY_A": "sk-empiriolabs-test-a", "KEY_B": "sk-empiriolabs-test-b"}
    both = batchrun(tmp_path, "plan", "jobs.jsonl", "--account", "a,b", "--offline", "--json", env=keys)
    one = batchrun(tmp_path, "plan", "jobs.jsonl", "--account", "b", "--offline", "--json", env=keys)
    assert "above_tpm" not in codes(both)
    assert "above_tpm" in codes(one)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument"),
        (("gone.jsonl",), "no such file"),
        (("jobs.jsonl", "--rpm", "x"), "--rpm"),
        (("--sample", "0"), "--sample"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, arguments: tuple[Any, ...], words: str) -> None:
    """2, as submit would have it."""
    (tmp_path / "jobs.jsonl").write_bytes(job("a"))
    ended = batchrun(tmp_path, "plan", *arguments)
    assert ended.code == 2
    assert words in ended.stderr
    assert "`submit --help`" not in ended.stderr
