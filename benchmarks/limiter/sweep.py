"""All cells by all clients over all seeds, in several processes; a record of it lets a long sweep go on later."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeAlias

import msgspec

from benchmarks.limiter.cells import Cell, run
from benchmarks.limiter.measures import Figures, best_of, measure, pooled

#: a cell, a seed, and the clients that are to be measured
_Task: TypeAlias = tuple[Cell, int, tuple[str, ...]]


class Measured(msgspec.Struct, frozen=True):
    """A line of the record: one run's figures."""

    cell: str
    policy: str
    seed: int
    figures: Figures


def sweep(
    cells: Sequence[Cell], policies: Sequence[str], seeds: Iterable[int], *, workers: int, record: Path | None
) -> dict[tuple[str, str], Figures]:
    """The pooled figures by cell and client. A dot on stderr for each cell and seed.

    `record`: a file of what was measured before, which is added to. It knows nothing of the code that was measured: who changes
    that begins a new one. Without `workers` nothing is measured, and only what the record has of every seed is there.
    """
    known = {(line.cell, line.policy, line.seed): line.figures for line in _read(record)}
    wanted = [
        (cell, seed, tuple(p for p in policies if p in cell.policies and (cell.name, p, seed) not in known))
        for cell in cells
        for seed in seeds
    ]
    for lines in _all_measured([task for task in wanted if task[2]], workers):
        if record:
            with record.open("ab") as file:
                file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        known |= {(line.cell, line.policy, line.seed): line.figures for line in lines}
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        (cell.name, policy): pooled(known[cell.name, policy, seed] for seed in seeds)
        for cell in cells
        for policy in policies
        if all((cell.name, policy, seed) in known for seed in seeds)
    }


def _read(record: Path | None) -> list[Measured]:
    if record is None or not record.exists():
        return []
    return msgspec.json.decode(b"[" + b",".join(record.read_bytes().splitlines()) + b"]", type=list[Measured])


def _all_measured(tasks: Sequence[_Task], workers: int) -> Iterator[list[Measured]]:
    if workers == 1:
        yield from map(_measured, tasks)
    elif workers:
        with ProcessPoolExecutor(workers) as pool:
            yield from pool.map(_measured, tasks)


def _measured(task: _Task) -> list[Measured]:
    """One cell with one seed by each of the clients."""
    cell, seed, policies = task
    best, promised = best_of(cell, seed)
    found = {policy: measure(cell, seed, run(cell, policy, seed), best, promised) for policy in policies}
    return [Measured(cell.name, policy, seed, figures) for policy, figures in found.items()]
