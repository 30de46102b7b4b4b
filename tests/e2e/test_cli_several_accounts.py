"""Several accounts in one real run, named by several --account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.e2e.cli_support import batchrun, finals, job
from tests.e2e.harness import Simulated, simulated

KEYS = {name: f"sk-empiriolabs-test-several-{name}" for name in "ab"}


@contextmanager
def platform_of_two(home: Path, **special: Any) -> Iterator[Simulated]:
    """A platform with accounts a and b, and a batchrun.toml that names them."""
    (server := home / "server").mkdir()
    named = [{"name": name, "keys": [key], **special.get(name, {})} for name, key in KEYS.items()]
    (server / "accounts.json").write_bytes(msgspec.json.encode({"accounts": named}))
    with simulated(server, "--accounts", str(server / "accounts.json"), "--latency", "0") as platform:
        tables = [
            f"[accounts.{name}]\nbase_url = '{platform.url}'\nkeys = ['env:KEY_{name.upper()}']\nrpm = 0\n" for name in KEYS
        ]
        (home / "batchrun.toml").write_text("".join(tables))
        yield platform


ENV = {f"KEY_{name.upper()}": key for name, key in KEYS.items()}


def write(home: Path, accounts: list[str | None]) -> str:
    lines = [
        msgspec.json.decode(job(f"job-{n}")) | ({"batchrun": {"account": account}} if account else {})
        for n, account in enumerate(accounts)
    ]
    (home / "jobs.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return "jobs.jsonl"


def manifest(home: Path) -> dict[str, Any]:
    return msgspec.json.decode((home / "jobs.run" / "run.json").read_bytes(), type=dict[str, Any])


def senders(home: Path) -> Counter[str]:
    """How many requests went out under which account, as the journal has it."""
    records = [msgspec.json.decode(line) for line in (home / "jobs.run" / "journal.jsonl").read_bytes().splitlines()]
    return Counter(account for record in records for account in _account(record))


def _account(record: Any) -> list[str]:
    """Wherever in the record it stands."""
    if isinstance(record, dict):
        own = [record["account"]] if isinstance(record.get("account"), str) else []
        return own + [account for value in record.values() for account in _account(value)]
    return [account for value in record for account in _account(value)] if isinstance(record, list) else []


def test_two_accounts_share_the_jobs(tmp_path: Path) -> None:
    """Each job ends once; those that name an account went under it; a name that the run has not fails. verify finds it whole."""
    jobs = write(tmp_path, [*["a"] * 10, *["b"] * 10, *[None] * 20, "c"])
    with platform_of_two(tmp_path):
        ended = batchrun(tmp_path, "submit", jobs, "--account", "a", "--account", "b", "--json", env=ENV)
        again = batchrun(tmp_path, "submit", jobs, "--account", "a", "--account", "b", "--json", env=ENV)
    assert ended.code == 1, ended.stderr
    assert "this run's is 'a' and 'b'" in ended.stderr
    assert ended.summary["request_counts"] == {"total": 41, "completed": 40, "failed": 1}
    assert set(finals(tmp_path / "jobs.run").values()) == {1}
    sent = senders(tmp_path)
    assert min(sent["a"], sent["b"]) >= 10
    assert sum(sent.values()) == 40
    assert manifest(tmp_path)["options"]["account"] == "a,b"
    assert manifest(tmp_path)["identities"][0].count(" and ") == 1
    assert again.summary["request_counts"] == ended.summary["request_counts"]
    assert batchrun(tmp_path, "verify", "jobs.run").code == 0


def test_an_account_without_credits_stops_what_is_bound_to_it(tmp_path: Path) -> None:
    """The others' jobs end; the run is stopped for want of credits (69), and what is bound to the account is kept."""
    jobs = write(tmp_path, [*["a"] * 5, *[None] * 15])
    with platform_of_two(tmp_path, a={"balance_usd": "0"}):
        ended = batchrun(tmp_path, "submit", jobs, "--account", "a", "--account", "b", "--json", env=ENV)
    assert ended.code == 69, ended.stderr
    assert ended.summary["stopped_by"] == "credits"
    assert ended.summary["request_counts"]["completed"] == 15
    assert "account 'a' is not used any more, the others go on" in ended.stderr


def test_a_variable_and_the_file_name_several_too(tmp_path: Path) -> None:
    """Separated by commas, or as a list; the command line goes before them."""
    jobs = write(tmp_path, [None] * 6)
    with platform_of_two(tmp_path):
        by_variable = batchrun(tmp_path, "submit", jobs, "-o", "one.run", env=ENV | {"BATCHRUN_ACCOUNT": "a, b"})
        tables = (tmp_path / "batchrun.toml").read_text()
        (tmp_path / "batchrun.toml").write_text('account = ["b", "a"]\n' + tables)
        by_file = batchrun(tmp_path, "submit", jobs, "-o", "two.run", env=ENV)
        by_hand = batchrun(tmp_path, "submit", jobs, "-o", "three.run", "--account", "a", env=ENV)
    assert [run.code for run in (by_variable, by_file, by_hand)] == [0, 0, 0], by_variable.stderr + by_file.stderr
    kept = [msgspec.json.decode((tmp_path / f"{name}.run" / "run.json").read_bytes()) for name in ("one", "two", "three")]
    assert [one["options"]["account"] for one in kept] == ["a,b", "b,a", "a"]


@pytest.mark.parametrize(
    ("toml", "arguments", "said"),
    [
        ("", ("--account", "a", "--account", "b"), "each need a table [accounts.NAME]"),
        ("[accounts.a]\n[accounts.b]", ("--account", "a", "--account", "c"), "--account c: there is no such account"),
        ("[accounts.a]\n[accounts.b]", ("--account", "a", "--account", "a"), "--account a: is named twice"),
        ("[accounts.a]\n[accounts.b]", ("--account", "a", "--account", "b"), "accounts a and b have a key in common"),
        ("[accounts.a]\n[accounts.b]", ("--account", "a", "--account", "b", "--simulate"), "--simulate is one account"),
        ("[accounts.a]", ("--account", ""), "an account's name is not empty"),
        (
            "\n".join(f"[accounts.a{n}]\nkeys = ['env:KEY_{n}']" for n in range(12)),
            tuple(part for n in range(12) for part in ("--account", f"a{n}")),
            "12 accounts are named; a run works with 11 at the most",
        ),
    ],
)
def test_what_are_no_several_accounts_is_refused(tmp_path: Path, toml: str, arguments: tuple[str, ...], said: str) -> None:
    """Before anything is sent or made, with what to do."""
    (tmp_path / "batchrun.toml").write_text(toml)
    env = {"BATCHRUN_API_KEY": KEYS["a"]} | {f"KEY_{n}": f"{KEYS['a']}-{n}" for n in range(12)}
    ended = batchrun(tmp_path, "submit", write(tmp_path, [None]), *arguments, env=env)
    assert ended.code == 2
    assert said in " ".join(ended.stderr.split())
    assert not list(tmp_path.glob("*.run"))


def test_servers_without_a_common_price_have_unknown_costs(tmp_path: Path) -> None:
    """Two hosts may charge differently for one name: nothing is guessed, and a cap on cost is refused."""
    (tmp_path / "batchrun.toml").write_text(
        "[accounts.a]\nbase_url = 'http://127.0.0.1:9'\nkeys = ['env:KEY_A']\n"
        "[accounts.b]\nbase_url = 'http://127.0.0.1:19'\nkeys = ['env:KEY_B']\n"
    )
    arguments = ("submit", write(tmp_path, []), "--account", "a", "--account", "b")
    capped = batchrun(tmp_path, *arguments, "--max-cost", "1", env=ENV)
    assert capped.code == 2
    assert "accounts of several servers have none in common: give --prices FILE" in capped.stderr
    empty = batchrun(tmp_path, *arguments, env=ENV)
    assert empty.code == 0
    assert "accounts of several servers have no prices in common: costs are unknown" in empty.stderr
