from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from batchrunner.cli.main import batchrun
from batchrunner.cli.settings import Configuration, read, unknown_variables
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
        assert read(submit.params).defaults == {
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
            ("max_costs = 1", "unknown key 'max_costs'. Known are accept_changes, account, accounts, base_url,"),
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
            ("config = 'other.toml'", "unknown key 'config'"),
            ("sk-empiriolabs-test-0123456789 = 1", "unknown key (not shown: it looks like a key)"),
            ("rpm = ", "is not TOML"),
            ("\udcff = 1", "is not TOML"),
        ],
    )
    def test_what_cannot_be_meant_is_refused_by_its_name(self, toml: str, named: str) -> None:
        """The file, the key and what is wrong with it."""
        Path("batchrun.toml").write_text(toml, errors="surrogateescape")
        with pytest.raises(UsageError) as refused:
            read(submit.params)
        assert str(refused.value).startswith(f"batchrun.toml: {named}")

    def test_this_directory_goes_before_the_users_own_key_by_key(self) -> None:
        """And each value is known by its file."""
        users_own = Path("config/batchrun/batchrun.toml").absolute()
        users_own.parent.mkdir(parents=True)
        users_own.write_text("rpm = 1\ntpm = 1")
        Path("batchrun.toml").write_text("rpm = 2")
        found = read(submit.params)
        assert found.files == (str(users_own), "batchrun.toml")
        assert found.defaults == {"rpm": 2, "tpm": 1}
        assert found.origins == {"rpm": "batchrun.toml", "tpm": str(users_own)}

    def test_a_file_that_is_named_is_read_alone(self) -> None:
        Path("batchrun.toml").write_text("rpm = 2\ntpm = 2")
        Path("ci.toml").write_text("rpm = 3")
        assert read(submit.params, named="ci.toml").defaults == {"rpm": 3}

    def test_a_file_that_is_named_and_not_there_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"ci.toml: no such file; it is named by --config or BATCHRUN_CONFIG"):
            read(submit.params, named="ci.toml")

    def test_an_account_is_one_files(self) -> None:
        """A table in this directory replaces the user's of the same name whole; the others stay."""
        users_own = Path("config/batchrun/batchrun.toml")
        users_own.parent.mkdir(parents=True)
        users_own.write_text("[accounts.prod]\nkeys = ['env:PROD']\nrpm = 1\n[accounts.dev]\nrpm = 2")
        Path("batchrun.toml").write_text("[accounts.prod]\nbase_url = 'https://api.example.com'")
        tables = read(submit.params).tables()
        assert list(tables) == ["prod", "dev"]
        assert (tables["prod"].base_url, tables["prod"].keys, tables["prod"].rpm) == ("https://api.example.com", (), None)
        assert tables["dev"].rpm == 2


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
    unknown = ["BATCHRUN_AS_JSON", "BATCHRUN_MAX_COSTS", "BATCHRUN_SUBMIT_RPM", "batchrun_tpm"]
    lines = unknown_variables(known | dict.fromkeys(unknown, "sk-value"), submit.params, Configuration())
    assert [line.split()[0] for line in lines] == unknown
    assert "sk-value" not in str(lines)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("BATCHRUN_MAXCOST", "BATCHRUN_MAX_COST"),
        ("BATCHRUN_MAX_COSTS", "BATCHRUN_MAX_COST"),
        ("BATCHRUN_API_KEYS", "BATCHRUN_API_KEY"),
        ("BATCHRUN_BASEURL", "BATCHRUN_BASE_URL"),
        ("Batchrun_Config", "BATCHRUN_CONFIG"),
    ],
)
def test_a_misspelt_variable_gets_the_nearest_name(name: str, meant: str) -> None:
    (line,) = unknown_variables({name: "1"}, submit.params, Configuration())
    assert line.endswith(f"it is ignored. Did you mean {meant}?")


def test_what_is_like_nothing_gets_no_suggestion() -> None:
    (line,) = unknown_variables({"BATCHRUN_ZZZZZZZZZZZZ": "1"}, submit.params, Configuration())
    assert line.endswith("it is ignored.")


def test_variables_that_accounts_name_are_known() -> None:
    """A table may take its keys from BATCHRUN_PROD_KEY; whatever else it holds, nothing breaks here."""
    prod = {"keys": ["env:BATCHRUN_PROD_KEY"]}
    tables: dict[str, object] = {"batchrun.toml": {"prod": prod, "odd": 1, "odder": [["env:BATCHRUN_OTHER"]]}}
    environment = {"BATCHRUN_PROD_KEY": "", "BATCHRUN_OTHER": "", "BATCHRUN_THIRD": ""}
    (line,) = unknown_variables(environment, submit.params, Configuration(accounts=tables))
    assert line.startswith("BATCHRUN_THIRD ")


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


@pytest.mark.parametrize("command", [[], ["submit"], ["status"], ["config"], ["config", "show"]])
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


def test_help_needs_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for what a file may hold is not told off for what it holds."""
    monkeypatch.chdir(tmp_path)
    Path("batchrun.toml").write_text("this is no TOML")
    assert CliRunner().invoke(batchrun, ["submit", "--help"]).exit_code == 0


def test_config_alone_says_what_is_missing() -> None:
    """It has no output of its own, and does nothing silently."""
    shown = CliRunner().invoke(batchrun, ["config"])
    assert shown.exit_code == 2
    assert "Missing command" in shown.output


def test_simulate_options_are_split_as_by_a_shell() -> None:
    """A quote that is left open is the caller's mistake, told as one."""
    with pytest.raises(UsageError, match="--simulate-options"):
        SimulatedPlatform(rpm=0, tpm=0, options="--key 'sk")
