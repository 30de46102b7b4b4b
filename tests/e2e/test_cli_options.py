"""Where options come from: the command line, then the environment, then batchrun.toml here, then the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tests.e2e.cli_support import Ended, batchrun, server, write_jobs

USERS_OWN = Path("config") / "batchrun" / "batchrun.toml"


def submit(home: Path, *arguments: object, toml: str = "", **variables: str) -> Ended:
    """A submit that gets no further than what it was asked for: its key is refused."""
    if toml:
        (home / "batchrun.toml").write_text(toml)
    with server(401, b'{"error":{"code":"invalid_api_key","message":"The API key is not valid."}}') as url:
        env = {"BATCHRUN_API_KEY": "sk-empiriolabs-test-options"} | variables
        return batchrun(home, "submit", write_jobs(home, ["job"]), "--base-url", url, *arguments, env=env)


def options_of(home: Path, run_dir: str = "jobs.run") -> dict[str, Any]:
    """What run.json says the run was asked for."""
    manifest = msgspec.json.decode((home / run_dir / "run.json").read_bytes(), type=dict[str, Any])
    options: dict[str, Any] = manifest["options"]
    return options


def test_each_source_goes_before_the_next(tmp_path: Path) -> None:
    """One option from each: the command line, a variable, the file here, the user's own; each also stands in all later ones."""
    users_own = tmp_path / USERS_OWN
    users_own.parent.mkdir(parents=True)
    users_own.write_text("rpm = 4\ntpm = 4\nmax_attempts = 4\naccount = '4'")
    toml = "rpm = 3\ntpm = 3\nmax-attempts = 3"
    ended = submit(tmp_path, "--rpm", "1", toml=toml, BATCHRUN_RPM="2", BATCHRUN_TPM="2")
    assert ended.code == 69
    found = options_of(tmp_path)
    assert (found["rpm"], found["tpm"], found["max_attempts"], found["account"]) == (1, 2, 3, "4")


def test_flags_and_paths_can_be_variables(tmp_path: Path) -> None:
    """`BATCHRUN_JSON=1`, `BATCHRUN_RUN_DIR`, `BATCHRUN_DRAIN_SECONDS`: as on the command line."""
    ended = submit(tmp_path, BATCHRUN_JSON="1", BATCHRUN_RUN_DIR="elsewhere", BATCHRUN_DRAIN_SECONDS="7.5")
    assert ended.summary["stopped_by"] == "keys"
    assert options_of(tmp_path, "elsewhere")["drain_seconds"] == 7.5


def test_a_key_is_never_taken_for_an_option(tmp_path: Path) -> None:
    """BATCHRUN_API_KEY is neither an option nor an unknown one, and stands nowhere in the manifest."""
    ended = submit(tmp_path, "--progress", "none")
    assert ended.code == 69
    assert "BATCHRUN_API_KEY" not in ended.stderr
    assert "sk-empiriolabs" not in (tmp_path / "jobs.run" / "run.json").read_text()


def test_a_misspelt_variable_is_named(tmp_path: Path) -> None:
    """A spend cap that does not count because of its spelling does not go unseen; its value is not shown."""
    ended = submit(tmp_path, BATCHRUN_MAX_COSTS="1.2345")
    assert "BATCHRUN_MAX_COSTS is set, and no option" in ended.stderr
    assert "Did you mean BATCHRUN_MAX_COST?" in ended.stderr
    assert "1.2345" not in ended.stderr


def test_a_bad_configuration_file_ends_with_2(tmp_path: Path) -> None:
    """The message names the file and the key; nothing is run."""
    (tmp_path / "batchrun.toml").write_text("max_costs = 1")
    ended = batchrun(tmp_path, "submit", write_jobs(tmp_path, ["job"]), "--simulate")
    assert ended.code == 2
    assert "batchrun.toml: unknown key 'max_costs'" in ended.stderr
    assert not list(tmp_path.glob("*.run"))


def test_a_priority_is_kept_and_bounded(tmp_path: Path) -> None:
    """`--priority` stands in the manifest, and as a key of the file; beyond ten steps it is refused, with the range."""
    assert submit(tmp_path, "--priority", "-3").code == 69
    assert options_of(tmp_path)["priority"] == -3
    refused = submit(tmp_path, "--priority", "11")
    assert refused.code == 2
    assert "-10<=x<=10" in refused.stderr
