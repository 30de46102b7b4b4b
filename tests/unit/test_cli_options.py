from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from batchrunner.cli.main import batchrun
from batchrunner.cli.settings import default_map, unknown_variables
from batchrunner.cli.simulate import SimulatedPlatform
from batchrunner.cli.submit import submit
from batchrunner.config import keys_for
from batchrunner.errors import UsageError
from batchrunner.secret import Secret

OURS = {"EMPIRIOLABS_API_KEY": "sk-empiriolabs-test-ours"}
ANY = {"BATCHRUN_API_KEY": "sk-empiriolabs-test-any"}


class TestConfigurationFile:
    @pytest.fixture(autouse=True)
    def _in_a_directory_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def test_each_option_of_submit_is_a_key(self) -> None:
        """Long names, with either kind of dash; nothing else."""
        Path("batchrun.toml").write_text(
            "run-dir = 'here'\nmax_cost = 2.5\nmax-failures = '5%'\njson = true\nrpm = 7\ndrain_seconds = 3\nmetrics = 9090\n"
        )
        assert default_map(submit.params) == {
            "run_dir": "here",
            "max_cost": 2.5,
            "max_failures": "5%",
            "json": True,
            "rpm": 7,
            "drain_seconds": 3,
            "metrics": 9090,
        }

    @pytest.mark.parametrize(
        ("toml", "named"),
        [
            ("max_costs = 1", "unknown key 'max_costs'. Known are accept_changes, account, base_url,"),
            ("as_json = true", "unknown key 'as_json'"),
            ("api_key = 'x'", "unknown key 'api_key'"),
            ("rpm = 1.5", "rpm: 1.5 is not a whole number"),
            ("rpm = -1", "rpm: -1 is not in the range"),
            ("json = 'yes'", "json: give true or false"),
            ("rpm = true", "rpm: give a number or a text"),
            ("rpm = [1]", "rpm: give a number or a text"),
            ("timeout = nan", "timeout: nan is not a number of seconds"),
            ("max-cost = 'much'", "max-cost: 'much' is not an amount in USD"),
            ("max_failures = 1.5", "max_failures: '1.5' is neither a number of jobs, such as 20, nor a share"),
            ("max_failures = 'some'", "max_failures: 'some' is neither"),
            ("progress = 'loud'", "progress: 'loud' is not one of"),
            ("rpm = ", "is not TOML"),
            ("\udcff = 1", "is not TOML"),
        ],
    )
    def test_what_cannot_be_meant_is_refused_by_its_name(self, toml: str, named: str) -> None:
        """The file, the key and what is wrong with it."""
        Path("batchrun.toml").write_text(toml, errors="surrogateescape")
        with pytest.raises(UsageError) as refused:
            default_map(submit.params)
        assert str(refused.value).startswith(f"batchrun.toml: {named}")


def test_variables_that_mean_nothing_are_named() -> None:
    """Options and the key are known by their names; what only looks like one is not, nor are other programs' variables."""
    known = {
        "BATCHRUN_API_KEY": "",
        "BATCHRUN_RPM": "",
        "BATCHRUN_MAX_COST": "",
        "BATCHRUN_JSON": "",
        "BATCHRUNNER_RPM": "",
        "RPM": "",
    }
    unknown = ["BATCHRUN_AS_JSON", "BATCHRUN_MAX_COSTS", "BATCHRUN_SUBMIT_RPM"]
    assert unknown_variables(known | dict.fromkeys(unknown, ""), submit.params) == unknown


@pytest.mark.parametrize(
    "option",
    [
        ("--rpm", "many"),
        ("--rpm", "-1"),
        ("--max-in-flight", "0"),
        ("--max-attempts", "0"),
        ("--timeout", "0"),
        ("--timeout", "nan"),
        ("--timeout", "inf"),
        ("--drain-seconds", "inf"),
        ("--max-cost", "nan"),
        ("--max-cost", "-1"),
        ("--max-cost", "two"),
        ("--progress", "loud"),
    ],
)
def test_values_that_make_no_sense_are_refused(option: tuple[str, str]) -> None:
    """Before anything is looked at, by the option's name; each would otherwise end up in the manifest."""
    with pytest.raises(click.BadParameter) as refused:
        submit.make_context("submit", ["jobs.jsonl", *option])
    assert option[0] in refused.value.format_message()


@pytest.mark.parametrize("command", [[], ["submit"], ["status"]])
def test_help_fits_a_terminal(command: list[str]) -> None:
    """`--help` goes to stdout, is no error, and stays within 80 columns."""
    shown = CliRunner().invoke(batchrun, [*command, "--help"], prog_name="batchrun", terminal_width=80)
    assert shown.exit_code == 0
    assert shown.output.startswith(" ".join(["Usage: batchrun", *command]))
    assert all(len(line) <= 80 for line in shown.output.splitlines())


@pytest.mark.parametrize(
    "url", ["https://api.empiriolabs.ai/v1", "https://empiriolabs.ai", "http://127.0.0.1:8080", "http://[::1]"]
)
def test_the_platforms_key_goes_to_the_platform_and_to_loopback(url: str) -> None:
    """EMPIRIOLABS_API_KEY is used where it is at home."""
    assert keys_for(url, OURS) == (Secret(OURS["EMPIRIOLABS_API_KEY"]),)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.com",
        "https://empiriolabs.ai.example.com",
        "https://notempiriolabs.ai",
        "https://127.0.0.1.example.com",
        "https://api.example.com/empiriolabs.ai",
        "https://empiriolabs.ai@example.com",
    ],
)
def test_the_platforms_key_goes_to_no_other_host(url: str) -> None:
    """However alike its name; BATCHRUN_API_KEY goes anywhere, and alone."""
    with pytest.raises(UsageError, match="BATCHRUN_API_KEY"):
        keys_for(url, OURS)
    assert keys_for(url, OURS | ANY) == (Secret(ANY["BATCHRUN_API_KEY"]),)


def test_several_keys_keep_their_order() -> None:
    """Separated by commas, blanks around them ignored."""
    found = keys_for("http://localhost", {"BATCHRUN_API_KEY": " sk-empiriolabs-test-a, ,sk-empiriolabs-test-b,"})
    assert found == (Secret("sk-empiriolabs-test-a"), Secret("sk-empiriolabs-test-b"))


@pytest.mark.parametrize(
    "key", ["sk-empiriolabs-test-\nb", "sk-empiriolabs-test-\x7f", "sk-empiriolabs-test-ł", "sk-test-\udcff"]
)
def test_what_cannot_be_a_key_is_refused_unshown(key: str) -> None:
    """A file's line end that came along is told by the variable's name; the value is not shown."""
    with pytest.raises(UsageError) as refused:
        keys_for("http://localhost", {"BATCHRUN_API_KEY": key})
    assert "BATCHRUN_API_KEY" in str(refused.value)
    assert "sk-" not in str(refused.value)


def test_simulate_options_are_split_as_by_a_shell() -> None:
    """A quote that is left open is the caller's mistake, told as one."""
    with pytest.raises(UsageError, match="--simulate-options"):
        SimulatedPlatform(rpm=0, tpm=0, options="--key 'sk")
