"""Run the cells, print the goals and the tables, and write them to a file."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import benchmarks.limiter
from benchmarks.limiter import cost, together
from benchmarks.limiter.cells import OURS, POLICIES, Cell, all_cells
from benchmarks.limiter.goals import Whole, verdicts
from benchmarks.limiter.measures import Figures
from benchmarks.limiter.sweep import sweep
from benchmarks.limiter.tables import goals_table, tables

#: nothing is tuned on these
PROOF_SEEDS = range(1000, 1010)


def seeds_of(text: str) -> range:
    """`7` or `FIRST:END`, END not included."""
    first, _, end = text.partition(":")
    return range(int(first), int(end) if end else int(first) + 1)


def report(command: str, seeds: range, cells: list[Cell], found: dict[tuple[str, str], Figures], whole: Whole) -> Iterable[str]:
    """All that is printed: where it was measured and how, the goals, the tables."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("trio", "msgspec", "aiolimiter"))
    yield "# The limiter beside others, in virtual time\n"
    yield f"    {command}\n"
    yield f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {packages}."
    yield f"Seeds {seeds.start} to {seeds.stop - 1}, pooled.\n"
    policies = {policy for _, policy in found}
    pairs = sum(len(policies.intersection(cell.policies)) for cell in cells)
    if len(found) < pairs:
        yield f"{pairs - len(found)} of {pairs} pairs of a cell and a client were not measured, and are blank.\n"
    yield (
        f"One admission and its settling take {whole.cost.admission_us:.1f} us of CPU, from a shared account "
        f"{whole.shared_cost.admission_us:.1f} us, a bare trio task {whole.cost.task_us:.1f} us.\n"
    )
    yield "## Goals\n"
    yield from goals_table(verdicts({name: figures for (name, policy), figures in found.items() if policy == OURS}, whole))
    yield from tables(cells, found)


def main() -> None:
    of = argparse.ArgumentParser(
        prog="python -m benchmarks.limiter",
        description=benchmarks.limiter.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    of.add_argument("--seeds", type=seeds_of, default=PROOF_SEEDS, metavar="FIRST:END", help="default: 1000:1010")
    of.add_argument("--cells", nargs="+", default=[], metavar="NAME", help="those whose names begin so; see --list")
    of.add_argument("--policies", nargs="+", default=POLICIES, choices=POLICIES, metavar="NAME", help=", ".join(POLICIES))
    of.add_argument("--output", type=Path, metavar="FILE", help="write what is printed to this file too")
    of.add_argument("--record", type=Path, metavar="FILE", help="keep each run's figures here, and measure none that it has")
    of.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count(),
        metavar="N",
        help="processes at once; default: one a core; 0: show what is on record",
    )
    of.add_argument("--list", action="store_true", help="print the names of the cells")
    options = of.parse_args()
    cells = [cell for cell in all_cells() if cell.name.startswith(tuple(options.cells) or "")]
    if options.list:
        print(*(cell.name for cell in cells), together.NAME, sep="\n")
        return
    sharing = together.measured(options.seeds) if not options.cells or together.NAME in options.cells else ()
    whole = Whole(cost.measured(), cost.measured(cost.shared), sharing)
    found = sweep(cells, options.policies, options.seeds, workers=options.workers, record=options.record)
    parts = [f"--seeds {options.seeds.start}:{options.seeds.stop}"]
    parts += [f"--cells {' '.join(options.cells)}"] if options.cells else []
    parts += [f"--policies {' '.join(options.policies)}"] if tuple(options.policies) != POLICIES else []
    command = " ".join(("python -m benchmarks.limiter", *parts))
    text = "\n".join(report(command, options.seeds, cells, found, whole))
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
