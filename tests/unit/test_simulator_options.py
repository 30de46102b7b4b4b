"""What the command line of the simulated platform makes of limits and accounts."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from batchrunner.simulator.main import main
from batchrunner.simulator.options import parser, settings_of
from batchrunner.simulator.settings import (
    TEST_KEY,
    AccountSettings,
    Change,
    Foreign,
    LogAt,
    RateHeaders,
    RetryAfter,
    Rule,
    Settings,
    WindowShape,
)

TOML = """
[[accounts]]
name = "day"
keys = ["sk-empiriolabs-test-one", "sk-empiriolabs-test-two"]
balance_usd = 0.1
rpm = 50
changes = [{at_seconds = 600, rpm = 25}, {at_request = 7, delete_key = 2}]
foreign = [{rpm = 25, until_seconds = 1500}]

[[accounts]]
name = "night"
keys = ["sk-empiriolabs-test-three"]
"""
JSON = '{"accounts": [{"name": "day", "keys": ["sk-empiriolabs-test-one"], "tpm": 7, "balance_usd": 0.1}]}'


def settings(*arguments: str) -> Settings:
    return settings_of(parser().parse_args(arguments))


def test_nothing_said_is_the_default() -> None:
    """The options' defaults are those of the settings."""
    assert settings() == Settings()


def test_each_policy_option_sets_its_field() -> None:
    """Windows, counting, headers, jitter and idempotency."""
    made = settings(
        *("--window", "two-bucket-strict", "--count-rejected", "--log-at", "completion", "--rate-headers", "groq"),
        *("--retry-after", "date", "--jitter", "0.01-0.2", "--idempotency"),
    )
    assert made == Settings(
        window=WindowShape.TWO_BUCKET_STRICT,
        count_rejected=True,
        log_at=LogAt.COMPLETION,
        rate_headers=RateHeaders.GROQ,
        retry_after=RetryAfter.DATE,
        jitter_seconds=(0.01, 0.2),
        idempotency=True,
    )


def test_short_forms() -> None:
    """--retry-after alone is in seconds; one number of jitter is the most of it."""
    assert settings("--retry-after", "--jitter", "0.2") == Settings(retry_after=RetryAfter.SECONDS, jitter_seconds=(0.0, 0.2))


def test_changes_and_other_programs_of_the_one_account() -> None:
    """Each as often as wanted."""
    made = settings(
        *("--change", "600=rpm:25,tpm:1000", "--change", "@100=delete-key:1", "--change", "1.5=top-up:0.10,restore-key:1"),
        *("--foreign", "25", "--foreign", "6:600*3@10-20", "--foreign", "1@5-"),
    )
    assert made.keys == (TEST_KEY,)
    assert made.changes == (
        Change(at_seconds=600, rpm=25, tpm=1_000),
        Change(at_request=100, delete_key=1),
        Change(at_seconds=1.5, top_up_usd=Decimal("0.10"), restore_key=1),
    )
    assert made.foreign == (
        Foreign(rpm=25),
        Foreign(rpm=6, tpm=600, burst=3, from_seconds=10, until_seconds=20),
        Foreign(rpm=1, from_seconds=5),
    )


def test_faults_by_chance_by_order_and_by_tag() -> None:
    """Each says which kind; a rule is for once, where it does not say how often."""
    said = settings("--faults", "error500=0.25, silent=0.5", "--script", "ok, silent", "--fault-on", "a=b=silent*3")
    assert said.faults == {"error500": 0.25, "silent": 0.5}
    assert said.script == ("ok", "silent")
    assert said.rules == (Rule(kind="silent", tag="a=b", times=3),)
    assert settings("--fault-on", "a=silent").rules[0].times == 1


def test_accounts_from_a_file(tmp_path: Path) -> None:
    """TOML, or JSON where the name says so; amounts are exact."""
    (tmp_path / "accounts.toml").write_text(TOML)
    (tmp_path / "accounts.json").write_text(JSON)
    day, night = settings("--accounts", str(tmp_path / "accounts.toml")).accounts
    assert day.balance_usd == Decimal("0.1")
    assert day.changes == (Change(at_seconds=600, rpm=25), Change(at_request=7, delete_key=2))
    assert day.foreign == (Foreign(rpm=25, until_seconds=1_500),)
    assert night == AccountSettings(name="night", keys=("sk-empiriolabs-test-three",))
    (same,) = settings("--accounts", str(tmp_path / "accounts.json")).accounts
    assert (same.tpm, same.balance_usd) == (7, Decimal("0.1"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--change", "5=foo:1"), "WHAT one of rpm, tpm, top-up"),
        (("--change", "=rpm:1"), "say AT=WHAT:N"),
        (("--change", "@x=rpm:1"), "say AT=WHAT:N"),
        (("--change", "5=top-up:much"), "say AT=WHAT:N"),
        (("--change", "5=rpm:-1"), "rpm must be 0 or more"),
        (("--change", "5=delete-key:2"), "a key's number from 1 to 1"),
        (("--foreign", "x"), "say RPM"),
        (("--foreign", "0"), "at least one request a minute"),
        (("--jitter", "3-1"), "LOW-HIGH"),
        (("--faults", "sulks=0.1"), "no such kind of fault: 'sulks'. There are: "),
        (("--faults", "error500=1.1"), "must lie between 0 and 1"),
        (("--faults", "error500=0.6,error504=0.6"), "add up to more than 1"),
        (("--script", "ok,sulks"), "no such kind of fault: 'sulks'"),
        (("--fault-on", "error500"), "say TAG=KIND, or TAG=KIND*N"),
        (("--fault-on", "job-1=error500*x"), "'x' is no whole number from 0 on"),
        (("--balance", "much"), "'much' is no amount"),
        (("--balance", "inf"), "'inf' is no amount"),
        (("--port", "65536"), "'65536' is no port"),
        (("--output-tokens", "0"), "must be at least 1"),
        (("--latency", "soon"), "'soon' is no number"),
        (("--latency=-1",), "'-1' must be 0 or more"),
        (("--window", "hourly"), "'hourly': say one of sliding, calendar, "),
        (("--rate-headers", "somebody"), "say one of none, openai, "),
        (("--accounts", "nowhere.toml"), "nowhere.toml cannot be read: No such file"),
        (("--accounts", "good.toml", "--key", "sk-empiriolabs-test-four"), "leave out the options"),
        (("--accounts", "empty.toml"), "there is no account in it"),
        (("--accounts", "bad.json"), "`$.accounts[0]`"),
        (("--accounts", "torn.json"), "JSON is malformed"),
        (("--accounts", "twice.json"), "several of that name"),
    ],
)
def test_what_makes_no_sense_ends_with_2_and_a_word(
    arguments: tuple[str, ...],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is served, and no key is shown."""
    monkeypatch.chdir(tmp_path)
    Path("good.toml").write_text(TOML)
    Path("empty.toml").write_text("accounts = []")
    Path("bad.json").write_text(JSON.replace("tpm", "tqm"))
    Path("torn.json").write_text(JSON[:-4])
    Path("twice.json").write_text(f"{JSON[:-2]}, {JSON[14:-2].replace('one', 'two')}]}}")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert complaint in " ".join(said.split())
    assert "sk-empiriolabs-test-one" not in said
