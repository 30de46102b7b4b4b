"""Holds the coverage of each module: `python -m tests.covered REPORT.json`, which `make coverage` calls with coverage's own.

Pure modules are covered whole, every line and every branch; any other one to LEAST_PERCENT of its lines and branches. What is
pure is said in one place: it is the layer of cores in pyproject.toml, and the few records and parsers that stand in other layers.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import msgspec

LEAST_PERCENT = 95
#: lines and branches, of a module that is below its bound
MOST_NAMED = 20
#: records and parsers, without clock, task or file as the cores are, whose layer holds others too
ALSO_PURE = frozenset(
    {
        "account",
        "account_table",
        "errors",
        "events",
        "exchange",
        "job",
        "status",
        "story_text",
        "transport.wire",
        "simulator.window_shapes",
        "simulator.windows",
    }
)


class Summary(msgspec.Struct, frozen=True):
    """Of one file, as coverage counts."""

    num_statements: int
    missing_lines: int
    num_branches: int
    missing_branches: int

    @property
    def percent(self) -> float:
        """Lines and branches together; an empty file is covered."""
        whole = self.num_statements + self.num_branches
        return 100 * (1 - (self.missing_lines + self.missing_branches) / whole) if whole else 100


class File(msgspec.Struct, frozen=True):
    summary: Summary
    missing_lines: list[int]
    #: from line, to line; a negative one leaves the function that begins there
    missing_branches: list[tuple[int, int]]


class Report(msgspec.Struct, frozen=True):
    files: dict[str, File]


def main() -> int:
    """Print the table, and say what is below its bound. The exit code."""
    report = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Report)
    files = {_module(path): file for path, file in report.files.items()}
    pure = _pure()
    low = []
    print(f"{'module':40}{'lines':>7}{'missed':>8}{'branches':>10}{'missed':>8}{'covered':>10}")
    for module, file in sorted(files.items()):
        found, is_pure = file.summary, _is_below(module, pure)
        print(
            f"{module + (' *' if is_pure else ''):40}{found.num_statements:7}{found.missing_lines:8}{found.num_branches:10}"
            f"{found.missing_branches:8}{found.percent:9.1f}%"
        )
        if found.percent < (100 if is_pure else LEAST_PERCENT):
            low.append(f"{module}: {found.percent:.1f} %: {_missed(file)}")
    whole = Summary(*(sum(getattr(file.summary, field) for file in files.values()) for field in Summary.__struct_fields__))
    print(f"{len(files)} modules, {whole.percent:.1f} % of {whole.num_statements:,} lines and {whole.num_branches:,} branches")
    print(f"* pure: to be covered whole. The others: {LEAST_PERCENT} % at least.")
    unknown = sorted(name for name in pure if not any(_is_below(module, {name}) for module in files))
    print("\n".join(f"below its bound: {words}" for words in low) or "No module is below its bound.")
    if unknown:
        print(f"pure, and nowhere to be found: {', '.join(unknown)}")
    return bool(low or unknown)


def _module(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[parts.index("batchrunner") + 1 :]).removesuffix("__init__").rstrip(".") or "batchrunner"


def _pure() -> set[str]:
    """The names of the pure modules and packages: the layer in which the budget stands, and ALSO_PURE."""
    contracts = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    cores = next(layer for layer in layers if "(budget)" in layer)
    return {name.strip(" ()") for name in cores.split(":")} | ALSO_PURE


def _is_below(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def _missed(file: File) -> str:
    """The lines, and the branches from lines that were reached."""
    lines = [str(line) for line in file.missing_lines]
    branches = [f"{a}->{'exit' if b < 0 else b}" for a, b in file.missing_branches if a not in file.missing_lines]
    missed = [*lines, *branches]
    more = f" and {len(missed) - MOST_NAMED} more" if len(missed) > MOST_NAMED else ""
    return ", ".join(missed[:MOST_NAMED]) + more


if __name__ == "__main__":
    sys.exit(main())
