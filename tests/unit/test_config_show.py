"""`batchrun config show`: what is in force, where it comes from, and never a key."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from batchrunner.cli.config_show import config
from batchrunner.cli.settings import key
from batchrunner.cli.submit import submit
from batchrunner.errors import UsageError

CANARY = "sk-empiriolabs-test-canary-7Qz"
TABLES = """
rpm = 1
tpm = 2
max_cost = 2.50
[accounts.prod]
base_url = "https://api.example.com/v2"
keys = ["env:PROD_KEY", "file:prod.key"]
headers = { "x-title" = "night" }
rpm = 7
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one account and its key file, and an environment with its key."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("BATCHRUN_") or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PROD_KEY", f"{CANARY}-1,{CANARY}-2")
    (tmp_path / "batchrun.toml").write_text(TABLES)
    (tmp_path / "prod.key").write_text(CANARY)
    (tmp_path / "prod.key").chmod(0o600)
    return tmp_path


def shown(*arguments: str, problem: str | None = None) -> Any:
    """The JSON document of `config show`, which ends well unless there is a problem that is told besides."""
    result = CliRunner().invoke(config, ["show", "--json", *arguments])
    if problem is None:
        assert result.exception is None, result.output
    else:
        assert isinstance(result.exception, UsageError)
        assert problem in str(result.exception)
    assert CANARY not in result.output + str(result.exception)
    return msgspec.json.decode(result.stdout)


def settings(*arguments: str, problem: str | None = None) -> dict[str, tuple[Any, str]]:
    """Value and origin of each setting."""
    document = shown("--origin", *arguments, problem=problem)
    return {name: (setting["value"], setting["origin"]) for name, setting in document["settings"].items()}


def test_each_setting_and_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables go before tables, tables before the files' top level, and that before defaults."""
    monkeypatch.setenv("BATCHRUN_MAX_IN_FLIGHT", "9")
    found = settings()
    table = "batchrun.toml [accounts.prod]"
    assert (
        found
        | {
            "account": ("prod", f"{table}, the only one"),
            "base_url": ("https://api.example.com/v2", table),
            "keys": (["env:PROD_KEY, 2 keys", "file:prod.key, 1 key"], table),
            "headers": ({"x-title": "night"}, table),
            "auth": ("bearer", "default"),
            "rpm": (7, table),
            "tpm": (2, "batchrun.toml"),
            "max_cost": (2.5, "batchrun.toml"),
            "max_in_flight": (9, "BATCHRUN_MAX_IN_FLIGHT"),
            "run_dir": (None, "default"),
            "timeout": (960.0, "default"),
        }
        == found
    )


def test_a_variable_goes_before_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHRUN_RPM", "3")
    assert settings()["rpm"] == (3, "BATCHRUN_RPM")


def test_every_option_of_submit_is_there() -> None:
    """And what only an account has; each once."""
    options = {key(option) for option in submit.params if isinstance(option, click.Option)} - {"config"}
    assert set(settings()) == options | {"keys", "auth", "headers"}


def test_the_users_own_file_is_named_with_its_path(home: Path) -> None:
    users_own = home / "config" / "batchrun" / "batchrun.toml"
    users_own.parent.mkdir(parents=True)
    users_own.write_text("timeout = 5\n[accounts.dev]\nkeys = ['env:PROD_KEY']")
    assert settings("--account", "prod")["timeout"] == (5.0, str(users_own))
    assert settings("--account", "dev")["account"] == ("dev", "--account")
    document = shown("--account", "dev")
    assert (document["files"], document["accounts"]) == ([str(users_own), "batchrun.toml"], ["dev", "prod"])


@pytest.mark.parametrize("by", ["option", "variable"])
def test_one_file_instead_of_both(home: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """--config, or BATCHRUN_CONFIG for jobs of a CI; the files of a table lie beside its own file."""
    other = home / "ci" / "ci.toml"
    other.parent.mkdir()
    other.write_text("[accounts.ci]\nkeys = ['file:ci.key']")
    (other.parent / "ci.key").write_text(CANARY)
    (other.parent / "ci.key").chmod(0o600)
    if by == "variable":
        monkeypatch.setenv("BATCHRUN_CONFIG", str(other))
    found = settings(*(["--config", str(other)] if by == "option" else []))
    assert found["keys"] == (["file:ci.key, 1 key"], f"{other} [accounts.ci]")
    assert found["rpm"] == (50, "default")


def test_without_a_table_the_variable_of_the_keys_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPIRIOLABS_API_KEY", f"{CANARY},{CANARY}2")
    found = settings("--config", os.devnull)
    assert found["keys"] == (["env:EMPIRIOLABS_API_KEY, 2 keys"], "EMPIRIOLABS_API_KEY")
    assert found["account"] == (None, "default")


def test_a_rehearsal_has_an_account_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No table, no variable and no key file is looked at, not even to find fault with it."""
    monkeypatch.setenv("BATCHRUN_SIMULATE", "1")
    Path("batchrun.toml").write_text("rpm = 1\n[accounts.prod]\nrpm = 'many'")
    found = settings()
    assert (found["rpm"], found["account"], found["keys"]) == (
        (1, "batchrun.toml"),
        (None, "default"),
        (["built in, 1 key"], "default"),
    )


def test_what_keeps_keys_away_is_told_beside_all_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at the configuration may do so since it does not work; 2, as submit would end."""
    monkeypatch.delenv("PROD_KEY")
    found = settings(problem="batchrun.toml: [accounts.prod]: keys: env:PROD_KEY: the variable is not set")
    assert found["keys"][0] == ["env:PROD_KEY", "file:prod.key"]
    assert found["rpm"][0] == 7


def test_no_key_at_all() -> None:
    """A fresh machine has no key yet, and sees its settings all the same."""
    assert settings("--config", os.devnull, problem="no key for api.empiriolabs.ai. Set ")["keys"] == ([], "default")


def test_a_server_by_hand_is_about_no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """No account's limits or headers go there unasked; that an account could be named is said where a key is missing."""
    monkeypatch.setenv("BATCHRUN_BASE_URL", "https://api.example.com")
    found = settings(problem="Accounts that are configured (prod) are used with --base-url where --account names one.")
    assert found["account"] == (None, "default")
    assert found["headers"] == ({}, "default")
    assert settings("--account", "prod")["base_url"] == ("https://api.example.com", "BATCHRUN_BASE_URL")


@pytest.mark.parametrize("simulate", ["0", "1"])
def test_a_password_in_a_url_is_refused_unshown(monkeypatch: pytest.MonkeyPatch, simulate: str) -> None:
    """Also where the URL is not going to be used: it would be written down."""
    monkeypatch.setenv("BATCHRUN_SIMULATE", simulate)
    monkeypatch.setenv("BATCHRUN_BASE_URL", "https://somebody:hunter2@api.example.com")
    result = CliRunner().invoke(config, ["show"])
    assert isinstance(result.exception, UsageError)
    assert "hunter2" not in result.output + str(result.exception)


def test_what_looks_like_a_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was pasted where it does not belong."""
    monkeypatch.setenv("BATCHRUN_RUN_DIR", CANARY)
    monkeypatch.setenv("BATCHRUN_SIMULATE_OPTIONS", f"--key {CANARY}")
    found = settings()
    assert found["run_dir"] == ("(not shown: it looks like a key)", "BATCHRUN_RUN_DIR")
    assert found["simulate_options"][0] == "(not shown: it looks like a key)"


@pytest.mark.parametrize(
    "toml",
    [
        f"[accounts.prod]\nkeys = ['{CANARY}']",
        f"[accounts.prod]\nheaders = {{ authorization = 'Bearer {CANARY}' }}",
        f"[accounts.prod]\nbase_url = 'https://{CANARY}@api.example.com'",
        f"[accounts.prod]\nbase_url = 'https://api.example.com?key={CANARY}'",
        f"[accounts.prod]\nkeys = [{CANARY}]",
        f"account = '{CANARY}'\n[accounts.prod]",
    ],
)
def test_a_key_in_the_file_is_refused_unshown(toml: str) -> None:
    """By the file's name."""
    Path("batchrun.toml").write_text(toml)
    result = CliRunner().invoke(config, ["show"])
    assert isinstance(result.exception, UsageError)
    assert re.match(r"batchrun.toml: |--account", str(result.exception))
    assert CANARY not in result.output + str(result.exception)


def test_people_get_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a setting; origins only where they are asked for; nothing with power over a terminal."""
    monkeypatch.setenv("BATCHRUN_RUN_DIR", "a\x1b[31mb")
    bare, full = (CliRunner().invoke(config, ["show", *more]).stdout for more in ([], ["--origin"]))
    assert re.search(r"^keys +env:PROD_KEY, 2 keys; file:prod.key, 1 key$", bare, re.MULTILINE)
    assert re.search(r"^tpm +2 +batchrun.toml$", full, re.MULTILINE)
    assert re.search(r"^headers +x-title: night +batchrun.toml \[accounts.prod\]$", full, re.MULTILINE)
    assert re.search(r"^accounts: prod$", full, re.MULTILINE)
    assert "a\\x1b[31mb" in bare
    assert "\x1b" not in bare
