"""Mutation scores of what decides about money and loss: `python -m tests.mutation [MODULE...]`; `make mutation` runs them all.

Each module is broken in every way that mutmut knows, one at a time, and the tests that are about it are run; a break that none
of them notices has survived. Prints what survived, then a table; fails where a score is below LEAST_PERCENT. What mutmut leaves,
for `mutmut show NAME` and the like, stands in `.mutation/MODULE`. Needs the extra `mutation`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec

LEAST_PERCENT = 85
SCRATCH = Path(".mutation")
MUTMUT = Path(sys.executable).parent / "mutmut"
#: what the tests read besides the package and themselves
COPIED = ("batchrunner", "tests", "jobs", "Makefile", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md")
DESELECTED = (
    "tests/unit/test_lifecycle.py::test_nothing_else_assigns_a_state",  # looks at the source, which a mutant's is not
    "tests/crash/test_torn_journal.py::test_a_journal_torn_at_any_byte_keeps_exactly_its_whole_records",  # takes too long
)

#: module -> its files, and the tests that are about it: those of whole runs notice more, and take a hundred times as long
MODULES = {
    "outcome": (["batchrunner/outcome.py"], ["tests/unit/test_outcome*.py", "tests/unit/test_same_error.py"]),
    "hints": (
        ["batchrunner/rate_hints.py", "batchrunner/retry_after.py"],
        ["tests/unit/test_rate_hints.py", "tests/unit/test_retry_after.py"],
    ),
    "lifecycle": (["batchrunner/lifecycle.py"], ["tests/unit/test_lifecycle.py"]),
    "budget": (["batchrunner/budget/*.py"], ["tests/unit/test_budget*.py", "tests/unit/test_choice.py"]),
    # What is learned of a server alone, by the tests of its parts: minutes instead of hours.
    "learned": (
        [f"batchrunner/budget/{part}.py" for part in ("charging", "effective", "two_bucket", "tokens", "learned")],
        [f"tests/unit/test_budget_{part}.py" for part in ("charging", "effective", "two_bucket", "tokens", "learned")],
    ),
    "journal": (
        ["batchrunner/journal/*.py"],
        [
            "tests/unit/test_records.py",
            "tests/unit/test_journal_*.py",
            "tests/unit/test_replay.py",
            "tests/unit/test_tariff.py",
            "tests/unit/test_errors.py",
            "tests/unit/test_spending.py",
            "tests/unit/test_lifecycle.py",
            "tests/sim/test_journal_*.py",
            "tests/crash/test_inputs_and_disks.py",
            "tests/crash/test_lock.py",
            "tests/crash/test_settling*.py",
            "tests/crash/test_torn_journal.py",
        ],
    ),
}


class Score(msgspec.Struct, frozen=True):
    """How many mutants there were, and what became of them. One that never ends is noticed, too."""

    total: int
    killed: int
    timeout: int
    survived: int
    no_tests: int

    @property
    def percent(self) -> float:
        """Whatever was not noticed counts against it: also what no test reaches."""
        return 100 * (self.killed + self.timeout) / self.total


def main() -> int:
    """Score the modules that are named, or all of them. The exit code."""
    scores = {name: scored(name) for name in sys.argv[1:] or MODULES}
    print(f"\n{'module':12}{'mutants':>9}{'killed':>9}{'for ever':>9}{'survived':>9}{'no test':>9}{'score':>9}")
    for name, score in scores.items():
        counts = "".join(f"{count:9,}" for count in (score.total, score.killed, score.timeout, score.survived, score.no_tests))
        print(f"{name:12}{counts}{score.percent:8.1f}%")
    low = [name for name, score in scores.items() if score.percent < LEAST_PERCENT]
    if low:
        print(f"below {LEAST_PERCENT} %: {', '.join(low)}")
    return bool(low)


def scored(name: str) -> Score:
    """Break one module at each place in turn, in a copy of its own."""
    sources, tests = MODULES[name]
    directory = SCRATCH / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for copied in COPIED:
        (shutil.copytree if Path(copied).is_dir() else shutil.copy)(copied, directory / copied)
    selected = sorted(str(path) for pattern in tests for path in Path().glob(pattern))
    (directory / "pyproject.toml").write_text(configuration(sources, selected))
    run(directory, "run", "--max-children", os.environ.get("CHILDREN", "1"))
    run(directory, "results")
    run(directory, "export-cicd-stats")
    return msgspec.json.decode((directory / "mutants/mutmut-cicd-stats.json").read_bytes(), type=Score)


def configuration(sources: list[str], tests: list[str]) -> str:
    """The copy's pyproject.toml: pytest as everywhere else, and what mutmut is to do."""
    pytest = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    mutmut = {
        "source_paths": ["batchrunner"],
        "only_mutate": sources,
        "also_copy": COPIED,
        "pytest_add_cli_args": ["-p", "no:cacheprovider", "-m", "not campaign", *(f"--deselect={test}" for test in DESELECTED)],
        "pytest_add_cli_args_test_selection": tests,
        "use_git_change_detection": False,
    }
    # JSON's strings, numbers and lists of them are TOML's, too.
    tables = {"tool.pytest.ini_options": pytest, "tool.mutmut": mutmut}
    return "\n".join(
        f"[{table}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for table, values in tables.items()
    )


def run(directory: Path, *arguments: str) -> None:
    subprocess.run([MUTMUT.absolute(), *arguments], cwd=directory, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
