"""Indexing a job file against the least that any reader must do: read each line and decode it.

    python -m benchmarks.bench_index [--jobs N] [--rounds N]

Both loops run over the same generated file of chat jobs of about 1 KB, each time in a process of its own, alternating. Prints the
jobs a second of CPU time in each round, the ratio of the medians, and the largest memory of the indexing process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from batchrunner.inputs import Inputs, index_inputs
from batchrunner.sources import opened

PROSE = str.split(
    "the report says that deliveries to the northern depots were late in three of the last five weeks and asks whether a "
    "second carrier should be hired before winter or the schedule changed so that trucks leave at night when roads are clear; "
    "customers wrote about cold meals, missing parts and friendly drivers, while the warehouse counted fewer returns than in "
    "any quarter since the move, which nobody there can explain beyond better labels and a new shelf plan"
)


def write_jobs(path: Path, jobs: int) -> None:
    """Chat jobs with a system message, two turns and a question; every line about 1 KB, none like another."""
    rng = random.Random(20)

    def sentences(words: int) -> str:
        return " ".join(rng.choices(PROSE, k=words)).capitalize() + "."

    bodies = []
    for _ in range(997):
        messages = [
            {"role": "system", "content": "You sort letters of customers.\n" + sentences(18)},
            {"role": "user", "content": sentences(50)},
            {"role": "assistant", "content": 'Label: "' + sentences(12) + '"'},
            {"role": "user", "content": sentences(40)},
        ]
        body = {"model": "qwen3-5-flash", "messages": messages, "max_tokens": 256, "temperature": 0.2}
        bodies.append(json.dumps(body))
    with path.open("w") as file:
        for number in range(jobs):
            file.write(
                f'{{"custom_id": "letter-{number:08d}", "method": "POST", "url": "/v1/chat/completions", '
                f'"body": {bodies[number % len(bodies)]}}}\n'
            )


def run_bare(path: str) -> int:
    """The yardstick."""
    decode = msgspec.json.decode
    jobs = 0
    with open(path, "rb") as file:
        for line in file:
            decode(line)
            jobs += 1
    return jobs


def run_index(path: str) -> int:
    bad: list[object] = []
    with opened([path]) as (source,):
        plain = source.as_it_is()
        assert plain is not None
        index = index_inputs(Inputs([plain]), bad.append)
    assert not bad
    return len(index)


def child(kind: str, path: str) -> None:
    """One loop in this process; prints jobs, seconds of CPU time (which a busy machine does not change) and peak memory."""
    started = time.process_time()
    jobs = run_bare(path) if kind == "bare" else run_index(path)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"jobs": jobs, "seconds": seconds, "peak_bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    rates: dict[str, list[float]] = {"bare": [], "index": []}
    peaks: dict[str, int] = {"bare": 0, "index": 0}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "jobs.jsonl"
        write_jobs(path, options.jobs)
        size = path.stat().st_size
        print(f"{options.jobs:,} jobs, {size / 1e6:,.0f} MB, {size / options.jobs:,.0f} bytes a line")
        print(f"{'round':>5} {'bare loop, jobs/s':>18} {'index, jobs/s':>14} {'ratio':>6}")
        for turn in range(1, options.rounds + 1):
            for kind in ("bare", "index") if turn % 2 else ("index", "bare"):
                command = [sys.executable, "-m", "benchmarks.bench_index", "--child", kind, str(path)]
                answer = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True)
                figures = json.loads(answer.stdout)
                assert figures["jobs"] == options.jobs
                rates[kind].append(figures["jobs"] / figures["seconds"])
                peaks[kind] = max(peaks[kind], figures["peak_bytes"])
            bare, index = rates["bare"][-1], rates["index"][-1]
            print(f"{turn:>5} {bare:>18,.0f} {index:>14,.0f} {index / bare:>6.2f}")
    ratio = statistics.median(rates["index"]) / statistics.median(rates["bare"])
    print(f"index runs at {ratio:.0%} of the bare loop (medians of {options.rounds}; floor 40%)")
    print(f"peak memory: index {peaks['index'] / 1e6:.0f} MB, bare loop {peaks['bare'] / 1e6:.0f} MB (ceiling 150 MB a million)")
    print(f"machine: {platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}, Python {platform.python_version()}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
