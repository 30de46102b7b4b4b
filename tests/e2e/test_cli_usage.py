"""`batchrun usage` as a process, beside a platform that has been used: rows of the platform's "Usage and balance"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli_support import Ended, Platform, batchrun, job, platform, server

TOOLS = [{"type": "web_search"}]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Platform]]:
    """A platform on which 40 jobs were run, some with tools, one of which failed."""
    home = tmp_path_factory.mktemp("used")
    lines = [job(f"small-{number}") for number in range(20)]
    lines += [job(f"large-{number}", text=f"number {number}", model="simulated-large", tools=TOOLS) for number in range(20)]
    (home / "jobs.jsonl").write_bytes(b"".join(lines))
    options = ("--discount", "0.1", "--strangers", "0.5", "--playground-share", "1", "--fault-on", "small-3=upstream_error")
    with platform(home, *options) as running:
        assert running.submit(home, "jobs.jsonl", "--progress", "none").code == 0
        yield home, running


def usage(used: tuple[Path, Platform], *arguments: object) -> Ended:
    home, running = used
    return batchrun(home, "usage", "--base-url", running.url, *arguments, env=running.env)


def exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def test_usage_and_balance(used: tuple[Path, Platform]) -> None:
    """All events by default; amounts add up to what the balance lacks, to the last digit."""
    found = exact(usage(used, "--json", "--by", "model", "--by", "status").stdout)
    total = found["total"]
    assert found["complete"] is True
    assert total["events"] >= 41
    assert total["failed"] == 1
    assert 10_000 - found["balance"] == total["billed"] == total["list"] - total["discount"]
    assert total["discount"] * 10 == total["list"]
    assert {row["model"] for row in found["by"]["model"]} == {"simulated-small", "simulated-large"}
    for rows in found["by"].values():
        assert sum(row["billed"] for row in rows) == total["billed"]


def test_usage_for_people(used: tuple[Path, Platform]) -> None:
    """Balance, sums, the discount, each tool with its surcharge, and a table for each way of summing up."""
    ended = usage(used, "--by", "endpoint", "--by", "tool", "--by", "day")
    lines = ended.stdout.splitlines()
    assert (ended.code, ended.stderr) == (0, "")
    assert lines[0].startswith("balance   $99")
    assert " 1 failed, from 20" in lines[1]
    assert " less a discount of $" in lines[2]
    assert lines[3].startswith("tool      web_search: ")
    assert lines[3].endswith(" by the catalog, in what was billed")
    assert any(line.startswith("/v1/chat/completions ") for line in lines)
    assert any(line.startswith("web_search ") for line in lines)


@pytest.mark.parametrize(
    ("filters", "field", "value"),
    [
        (("--model", "simulated-large"), "model", "simulated-large"),
        (("--status", "failed"), "status", "failed"),
        (("--source", "api"), "source", "api"),
        (("--from", "2000-01-01", "--to", "2100-01-01T00:00:00Z"), "object", "usage_event"),
    ],
)
def test_usage_filters(used: tuple[Path, Platform], filters: tuple[str, ...], field: str, value: str) -> None:
    """Each leaves the events that it names, one JSON line each, and nothing else on stdout."""
    events = [exact(line) for line in usage(used, "--events", *filters).stdout.splitlines()]
    assert events
    assert {event[field] for event in events} == {value}


def test_usage_filters_by_time_and_place(used: tuple[Path, Platform]) -> None:
    """`--to` leaves out what is later, `--before` goes on behind an event, `--limit` stops."""
    assert usage(used, "--events", "--to", "2000-01-01").stdout == ""
    newest = [exact(line)["id"] for line in usage(used, "--events", "--limit", "5").stdout.splitlines()]
    assert len(newest) == 5
    behind = usage(used, "--events", "--limit", "3", "--before", newest[1]).stdout.splitlines()
    assert [exact(line)["id"] for line in behind] == newest[2:5]


def test_usage_without_events(used: tuple[Path, Platform]) -> None:
    ended = usage(used, "--to", "2000-01-01")
    assert ended.stdout.splitlines()[1] == "events    none"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "yesterday"), "--from yesterday: is no time."),
        (("--to", ""), "--to : is no time."),
        (("--before", "yesterday"), "status 400 (invalid_request: before:"),
        (("--events", "--json"), "leave one of them out"),
        (("--by", "weather"), "Invalid value for '--by'"),
        (("--account", "a,b"), "one account at a time"),
    ],
)
def test_usage_refuses_what_makes_no_sense(used: tuple[Path, Platform], arguments: tuple[str, ...], words: str) -> None:
    ended = usage(used, *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert words in ended.stderr


def test_usage_with_a_key_that_is_refused(used: tuple[Path, Platform]) -> None:
    """Exit code 69, the platform's code, and no key."""
    home, running = used
    ended = batchrun(home, "usage", "--base-url", running.url, env={"BATCHRUN_API_KEY": "sk-empiriolabs-test-unknown-0001"})
    assert ended.code == 69
    assert "status 401 (invalid_api_key" in ended.stderr
    assert "unknown-0001" not in ended.stderr


def test_usage_goes_by_the_configured_account(used: tuple[Path, Platform], tmp_path: Path) -> None:
    """Server and keys of a table, as submit has them; keys of submit's own are no hindrance."""
    home, running = used
    config = tmp_path / "accounts.toml"
    config.write_text(f'max_cost = 5\n[accounts.night]\nbase_url = "{running.url}"\nkeys = ["env:NIGHT_KEY"]\n')
    env = {"NIGHT_KEY": running.env["BATCHRUN_API_KEY"]}
    ended = batchrun(home, "usage", "--config", config, "--account", "night", "--json", env=env)
    assert exact(ended.stdout)["server"] == running.url


def test_usage_by_x_api_key_and_a_base_url_with_its_v1(used: tuple[Path, Platform], tmp_path: Path) -> None:
    """Row "Addresses and authentication": both are as good as what is usual."""
    home, running = used
    config = tmp_path / "accounts.toml"
    config.write_text(f'[accounts.night]\nbase_url = "{running.url}/v1"\nauth = "x-api-key"\nkeys = ["env:NIGHT_KEY"]\n')
    ended = batchrun(home, "usage", "--config", config, "--json", env={"NIGHT_KEY": running.env["BATCHRUN_API_KEY"]})
    assert exact(ended.stdout)["total"]["events"] >= 41


@pytest.mark.parametrize(
    ("balance", "shown"),
    [
        ('"0.00"', "$0 (calls fail until the account is topped up)"),
        ("-0.5", "$-0.5 (calls fail until the account is topped up)"),
        ("0.000001", "$0.000001"),
        ("null", "not told"),
    ],
)
def test_balance_that_is_empty(tmp_path: Path, balance: str, shown: str) -> None:
    """Row "Usage and balance": credits are prepaid, and what that means is said where there are none."""
    with server(200, b'{"balance":%b,"data":[]}' % balance.encode()) as url:
        ended = batchrun(tmp_path, "usage", "--base-url", url)
        document = batchrun(tmp_path, "usage", "--base-url", url, "--json")
    assert ended.stdout == f"balance   {shown}\nevents    none\n"
    assert exact(document.stdout)["balance"] == (None if balance == "null" else Decimal(balance.strip('"')))


def test_usage_on_a_server_that_has_none(tmp_path: Path) -> None:
    """A page of HTML is no usage, and is not shown."""
    with server(200, b"<html>\x1b[31mhello</html>") as url:
        ended = batchrun(tmp_path, "usage", "--base-url", url)
    assert ended.code == 69
    assert "the server sent a page of HTML; check --base-url" in ended.stderr


def test_usage_shows_nothing_with_power_over_a_terminal(tmp_path: Path) -> None:
    """Whatever stands in names; unknown costs are counted apart, and a list that cannot be had whole is no success."""
    events = [{"id": f"e{number}", "model": "\x1b[31mred\n", "cost": None} for number in range(3)]
    with server(200, json.dumps({"balance": "1.50", "data": events, "has_more": True}).encode()) as url:
        shown = batchrun(tmp_path, "usage", "--base-url", url)
        lines = batchrun(tmp_path, "usage", "--base-url", url, "--events")
    assert shown.code == 69
    assert "these are not all" in shown.stderr
    assert "\x1b" not in shown.stdout + lines.stdout
    assert "balance   $1.5" in shown.stdout
    assert "unknown for 3 events without a cost" in shown.stdout
    assert "\\x1b[31mred" in shown.stdout
    assert [json.loads(line)["model"] for line in lines.stdout.splitlines()] == ["\x1b[31mred\n"] * 3
