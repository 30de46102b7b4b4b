"""The example jobs, run as the README shows them: each command of its block, and what comes of each file."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from batchrunner.jobfile import BadLineCode
from tests.e2e.cli_support import PATIENCE_SECONDS, ROOT, Ended, environment, finals
from tests.e2e.harness import read_lines

README = ROOT / "README.md"
JOBS = ROOT / "jobs"
#: the README's commands, and in each the exit code that it is said to have
BLOCK = re.compile(r"^### Examples\n.*?^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?P<text>\S.*?) +# (?P<code>\d+): \S.*")
#: has a run of its own, with `make demo`
ELSEWHERE = {"demo.jsonl"}
#: a line of that length would be larger than the whole repository
NOT_SHOWN = {BadLineCode.LINE_TOO_LONG}
#: what nobody need wait for here: the pace of the default limit, and answers that take their time
AT_ONCE = {"BATCHRUN_RPM": "0", "BATCHRUN_SIMULATE_OPTIONS": "--latency 0 --work-seconds 1"}
#: a file by itself, all of which succeeds
PLAIN = re.compile(r"batchrun submit jobs/(\S+\.jsonl) --simulate")
ENDPOINTS: dict[str, set[str | None]] = {
    "chat": {"/v1/chat/completions"},
    "responses": {"/v1/responses"},
    "messages": {"/v1/messages"},
    "anthropic": {None},
    "embeddings": {"/v1/embeddings"},
    "completions": {"/v1/completions"},
    "reranks": {"/v1/reranks"},
}


class Example(NamedTuple):
    """A command of the README."""

    text: str
    #: as the README says
    code: int

    @property
    def run_dir(self) -> str:
        """Where its results are: as `-o` says, or beside the first job file."""
        named = re.search(r"-o (\S+)", self.text)
        first = re.search(r"submit (\S+?)\.jsonl", self.text)
        if named is not None:
            return named[1]
        assert first is not None, self.text
        return f"{first[1]}.simulated.run"


class Shown(NamedTuple):
    """What the commands of one run directory left there, and what they said."""

    run_dir: Path
    ended: list[Ended]

    def lines(self, name: str) -> list[dict[str, Any]]:
        return read_lines(self.run_dir / name)

    def succeeded(self) -> list[str]:
        return sorted(line["custom_id"] for line in self.lines("results.jsonl"))


def examples() -> list[Example]:
    """The commands of the README's block; each of its lines must be one."""
    block = BLOCK.search(README.read_text())
    assert block is not None, "the README has no block of examples any more"
    matches = [(line, COMMAND.fullmatch(line)) for line in block[1].splitlines()]
    assert all(match is not None for _, match in matches), [line for line, match in matches if match is None]
    return [Example(match["text"], int(match["code"])) for _, match in matches if match is not None]


def plain_files() -> list[str]:
    """The files that the README runs by themselves, and that succeed."""
    matches = [PLAIN.fullmatch(example.text) for example in examples() if example.code == 0]
    return [match[1] for match in matches if match is not None]


def run_dirs() -> list[str]:
    """Of the commands that show something else."""
    plain = {Example(f"batchrun submit jobs/{name} --simulate", 0) for name in plain_files()}
    return list(dict.fromkeys(example.run_dir for example in examples() if example not in plain))


def ids(*names: str) -> list[str]:
    """The custom_ids of examples that hold nothing but jobs."""
    lines = [line for name in names for line in (JOBS / name).read_bytes().splitlines()]
    return sorted(msgspec.json.decode(line)["custom_id"] for line in lines)


def run_in_a_shell(home: Path, text: str) -> Ended:
    """Run a command as it stands in the README, in a copy of the repository's jobs."""
    done = subprocess.run(
        ["/bin/sh", "-c", text],
        cwd=home,
        env=environment(home, **AT_ONCE) | {"PATH": f"{home / 'bin'}:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory with the jobs and a `batchrun`, as after a clone and an install."""
    shutil.copytree(JOBS, tmp_path / "jobs", ignore=shutil.ignore_patterns("*.run"))  # somebody may have tried them there
    program = tmp_path / "bin" / "batchrun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m batchrunner "$@"\n')
    program.chmod(0o755)
    return tmp_path


def test_each_file_is_run_by_a_command() -> None:
    """A file of `jobs/` that the README runs nowhere is no example, and one that is not there cannot be run."""
    named = {Path(word).name for example in examples() for word in re.findall(r"jobs/\S+\.jsonl?\b", example.text)}
    assert named | ELSEWHERE == {path.name for path in JOBS.iterdir() if path.is_file()}


def test_the_demo_is_that_of_make() -> None:
    """The one file that is run elsewhere is run there, and the README says so."""
    assert "submit jobs/demo.jsonl --simulate" in (ROOT / "Makefile").read_text()
    assert "`jobs/demo.jsonl` is what `make demo` runs" in README.read_text()


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_file_named_after_a_shape_shows_no_other(name: str) -> None:
    """`None`: Anthropic's own lines, which have no url."""
    assert {line.get("url") for line in read_lines(JOBS / f"{name}.jsonl")} == ENDPOINTS[name]


def test_other_endpoints_are_others() -> None:
    """Those that have no shape of their own."""
    urls = {line["url"] for line in read_lines(JOBS / "other-endpoints.jsonl")}
    assert len(urls) > 2
    assert urls.isdisjoint(set().union(*ENDPOINTS.values()))


def test_plain_files_succeed(home: Path) -> None:
    """Each job has one whole answer, and a bill at a known price. They run together, as that takes the time of one."""
    names = plain_files()
    together = " ".join(f"jobs/{name}" for name in names)
    ended = run_in_a_shell(home, f"batchrun submit {together} --simulate -o plain.run")
    assert ended.code == 0, ended.stderr
    shown = Shown(home / "plain.run", [ended])
    assert shown.succeeded() == ids(*names)
    assert {line["response"]["status_code"] for line in shown.lines("results.jsonl")} == {200}
    assert {(line["state"], line["source"]) for line in shown.lines("costs.jsonl")} == {("billed", "catalog")}


@pytest.mark.parametrize("run_dir", run_dirs())
def test_the_other_commands_do_what_the_readme_says(home: Path, run_dir: str) -> None:
    """Each ends with the code that stands beside it, and leaves what its feature is there for."""
    together = [example for example in examples() if example.run_dir == run_dir]
    ended = [run_in_a_shell(home, example.text) for example in together]
    assert [end.code for end in ended] == [example.code for example in together], [end.stderr for end in ended]
    assert all("Traceback" not in end.stderr for end in ended)
    FEATURES[run_dir](Shown(home / run_dir, ended))


# ------------------------------------------------------------------------------------------ what a feature is there for


def two_files_are_one_run(shown: Shown) -> None:
    """Beside the first of them, with the jobs of both."""
    assert shown.succeeded() == ids("two-files-1.jsonl", "two-files-2.jsonl")


def what_was_packed_is_kept_as_it_was(shown: Shown) -> None:
    """The unpacked copy stands in the run directory, and is run."""
    assert (shown.run_dir / "input.jsonl").read_bytes() == (JOBS / "chat.jsonl").read_bytes()
    assert shown.succeeded() == ids("chat.jsonl")


def what_came_through_a_pipe_is_kept(shown: Shown) -> None:
    """The first three jobs, and no more."""
    lines = (JOBS / "chat.jsonl").read_bytes().splitlines(keepends=True)[:3]
    assert (shown.run_dir / "input.jsonl").read_bytes() == b"".join(lines)
    assert len(shown.succeeded()) == 3


def a_line_for_another_account_fails_unsent(shown: Shown) -> None:
    """Those with other wishes, and those for this account or for any, run."""
    (failed,) = shown.lines("errors.jsonl")
    assert (failed["custom_id"], failed["error"]["code"]) == ("for-day-alone", "unknown_account")
    others = [custom_id for custom_id in ids("extras.jsonl") if custom_id != "for-day-alone"]
    assert shown.succeeded() == sorted(line["custom_id"] for line in shown.lines("costs.jsonl")) == others


def each_kind_of_bad_line_is_named(shown: Shown) -> None:
    """With its file, its line and what to do; the lines that are jobs run."""
    errors = shown.lines("errors.jsonl")
    assert [line["line"] for line in errors] == list(range(2, 18))
    assert {line["error"]["code"] for line in errors} == set(BadLineCode) - NOT_SHOWN
    assert all(f"bad-lines.jsonl line {line['line']} is no job: " in line["error"]["message"] for line in errors)
    assert shown.succeeded() == ["also good", "good"]


def strict_sends_nothing(shown: Shown) -> None:
    """Of a file with bad lines; it says how many there are."""
    assert "16 of the input's lines are no jobs" in shown.ended[0].stderr
    assert (shown.succeeded(), shown.lines("costs.jsonl")) == ([], [])


def a_changed_line_is_named_and_then_accepted(shown: Shown) -> None:
    """What failed for a misspelt model is run as it is now; what had succeeded is not sent again."""
    failed, refused, _ = shown.ended
    assert "'simulated-smal' does not exist" in failed.stderr
    assert "changed-after.jsonl line 2 ('sun')" in refused.stderr
    assert finals(shown.run_dir) == dict.fromkeys(ids("changed-after.jsonl"), 1)
    assert shown.succeeded() == sorted(line["custom_id"] for line in shown.lines("costs.jsonl")) == ["fog", "rain", "sun"]


def what_was_made_is_saved(shown: Shown) -> None:
    """The film, by the job's name; a transcript is a text, and stands in the results."""
    (film,) = (shown.run_dir.parent.parent / "media").iterdir()
    assert (film.name.startswith("lighthouse-"), film.suffix) == (True, ".mp4")
    texts = {line["custom_id"]: line["response"]["body"] for line in shown.lines("results.jsonl")}
    assert texts["lecture"]["result"]["text"]


def the_prices_are_those_of_the_file(shown: Shown) -> None:
    """USD per token as `jobs/prices.json` has them, and not as the server's catalog does."""
    price = msgspec.json.decode((JOBS / "prices.json").read_bytes(), type=dict[str, Any])["simulated-large"][0]
    costs = shown.lines("costs.jsonl")
    assert sorted(line["custom_id"] for line in costs) == ids("anthropic.jsonl")
    for line in costs:
        tokens = line["tokens"]
        expected = tokens["input"] * float(price["prompt"]) + tokens["output"] * float(price["completion"])
        assert float(line["cost"]["amount"]) == pytest.approx(expected)


#: by run directory
FEATURES: dict[str, Callable[[Shown], None]] = {
    "jobs/two-files-1.simulated.run": two_files_are_one_run,
    "chat.simulated.run": what_was_packed_is_kept_as_it_was,
    "piped.run": what_came_through_a_pipe_is_kept,
    "jobs/extras.simulated.run": a_line_for_another_account_fails_unsent,
    "jobs/bad-lines.simulated.run": each_kind_of_bad_line_is_named,
    "strict.run": strict_sends_nothing,
    "changed.run": a_changed_line_is_named_and_then_accepted,
    "jobs/films.simulated.run": what_was_made_is_saved,
    "priced.run": the_prices_are_those_of_the_file,
}
