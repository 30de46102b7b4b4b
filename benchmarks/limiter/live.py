"""What `batchrun submit` and two clients in use make of a paid limit, over real sockets, as the server counts it.

    python -m benchmarks.limiter.live [--windows calendar sliding two-bucket] [--rpm 200] [--jobs 640] [--output FILE]

Each client is a process of its own with a server of its own, the embedded platform, and sends the same jobs; all windows and
clients run beside each other. 640 jobs at 200 a minute are more than three minutes: no client comes through on the burst that
its first minute allows. Requests take 10 to 200 ms more to reach the server's limits, and every answer 3 s.

What is shown is the server's own: its ledger (an entry for each answer, at the time when it was billed) and its counts of what
it let in and turned away. Nobody is told of limits by headers.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec

from batchrunner.clock import NS_PER_SECOND
from batchrunner.simulator.settings import TEST_KEY, WindowShape
from benchmarks.limiter.live_peers import CLIENTS, KEY_VARIABLE, MODEL
from benchmarks.limiter.measures import STEADY
from benchmarks.limiter.tables import line

OURS = "batchrun"
NAMES = (OURS, *CLIENTS)
WINDOWS = (WindowShape.CALENDAR, WindowShape.SLIDING, WindowShape.TWO_BUCKET)
TPM = 2_000_000
JITTER = "0.01-0.2"
#: a client that takes so much longer than the limit needs is cut off
PATIENCE = 1.3
PATIENCE_SECONDS = 30.0


class Load(msgspec.Struct, frozen=True):
    """What every client is given to do."""

    rpm: int
    jobs: int
    latency_seconds: float

    @property
    def until_seconds(self) -> float:
        return PATIENCE * self.jobs / self.rpm * 60 + self.latency_seconds + PATIENCE_SECONDS


class Counted(msgspec.Struct, frozen=True):
    """What the server counted."""

    #: when each answer was billed, in order
    billed_ns: tuple[int, ...]
    #: of them, those for what had been answered before
    doubles: int
    rejected: int
    #: the client ended by itself
    finished: bool

    def steady_share(self, rpm: int) -> float | None:
        """Of the limit, between 20 % and 95 % of what was billed. Answers take the same time: so were they let in."""
        first, last = (int(share * len(self.billed_ns)) for share in STEADY)
        if last <= first:
            return None
        minutes = (self.billed_ns[last] - self.billed_ns[first]) / (60 * NS_PER_SECOND)
        return (last - first) / (minutes * rpm)

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        return (self.billed_ns[-1] - self.billed_ns[0]) / NS_PER_SECOND if self.billed_ns else 0.0


class _Billed(msgspec.Struct):
    at_ns: int


class _Statistics(msgspec.Struct):
    rejected: int
    doubles: int


def job_lines(load: Load) -> bytes:
    """Small jobs, no two alike: the server tells a double by its body."""
    lines = []
    for number in range(load.jobs):
        messages = [{"role": "user", "content": f"How high is mountain {number}?"}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 50}
        lines.append({"custom_id": f"job-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})
    return b"".join(msgspec.json.encode(one) + b"\n" for one in lines)


def measured(window: str, client: str, load: Load) -> Counted:
    """Let one client send the jobs to a server of its own; what that counted."""
    with tempfile.TemporaryDirectory(prefix="batchrun-live-") as name:
        folder = Path(name)
        jobs, ledger = folder / "jobs.jsonl", folder / "ledger.jsonl"
        jobs.write_bytes(job_lines(load))
        with _server(window, ledger, load, folder) as url:
            finished = _carried_out(_command(client, url, jobs, load), folder, load.until_seconds)
            statistics = _statistics(url)
        billed = [msgspec.json.decode(one, type=_Billed).at_ns for one in ledger.read_bytes().splitlines()]
    return Counted(tuple(sorted(billed)), statistics.doubles, statistics.rejected, finished)


def _command(client: str, url: str, jobs: Path, load: Load) -> list[str]:
    if client == OURS:
        limits = ["--rpm", str(load.rpm), "--tpm", str(TPM)]
        return ["batchrunner", "submit", str(jobs), "--base-url", url, *limits, "--progress", "none", "--json"]
    options = ["--rpm", str(load.rpm), "--tpm", str(TPM), "--latency", str(load.latency_seconds)]
    return ["benchmarks.limiter.live_peers", client, url, str(jobs), *options]


def _carried_out(command: Sequence[str], folder: Path, seconds: float) -> bool:
    """Whether the client ended by itself. What it says goes to a file, its state to a home of its own."""
    environment = os.environ | {KEY_VARIABLE: TEST_KEY, "HOME": str(folder), "XDG_STATE_HOME": str(folder), "NO_PROXY": "*"}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=said, stderr=said)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return False
    return process.returncode in (0, 1)


@contextmanager
def _server(window: str, ledger: Path, load: Load, folder: Path) -> Iterator[str]:
    """The embedded platform's address; it ends with the block."""
    limits = ["--rpm", str(load.rpm), "--tpm", str(TPM), "--window", window, "--jitter", JITTER]
    times = ["--latency", str(load.latency_seconds), "--latency-sigma", "0"]
    command = [sys.executable, "-m", "batchrunner", "simulate", "--exit-with-stdin", "--ledger", str(ledger), *limits, *times]
    with (folder / "server").open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield msgspec.json.decode(process.stdout.readline())["url"]
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait()


def _statistics(url: str) -> _Statistics:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/simulator/statistics") as reply:
        return msgspec.json.decode(reply.read(), type=_Statistics)


def report(command: str, load: Load, found: dict[tuple[str, str], Counted]) -> Iterable[str]:
    """All that is printed: where and how it was measured, and a table of clients down and windows across."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("trio", "lm-deluge", "openai"))
    yield "# The limiter beside others, over real sockets\n"
    yield f"    {command}\n"
    yield f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {packages}."
    answers = f"answers of {load.latency_seconds:g} s"
    yield f"{load.jobs:,} jobs at {load.rpm} a minute, {answers}; one run each, as the server counts it.\n"
    yield "% of the limit in the steady state (20 to 95 % of what was answered) / 429 per 1,000 jobs / seconds from the first"
    yield "answer to the last\n"
    windows = list(dict.fromkeys(window for window, _ in found))
    yield line(["", *windows])
    yield line(["---"] * (len(windows) + 1))
    for client in NAMES:
        if any((window, client) in found for window in windows):
            yield line([client, *(_shown(found[window, client], load) for window in windows)])


def _shown(counted: Counted, load: Load) -> str:
    share = counted.steady_share(load.rpm)
    steady = "-" if share is None else f"{100 * share:.1f}"
    shown = f"{steady} / {1_000 * counted.rejected / load.jobs:.1f} / {counted.seconds:.0f} s"
    lost = load.jobs - len(counted.billed_ns) + counted.doubles
    if not counted.finished:
        return f"{shown}, cut off with {lost} jobs undone"
    return f"{shown}, loses {lost} jobs" if lost else shown


def main() -> None:
    of = argparse.ArgumentParser(
        prog="python -m benchmarks.limiter.live", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    of.add_argument("--windows", nargs="+", default=WINDOWS, choices=[*WindowShape], metavar="KIND", help=", ".join(WindowShape))
    of.add_argument("--clients", nargs="+", default=NAMES, choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    of.add_argument("--rpm", type=int, default=200, metavar="N")
    of.add_argument("--jobs", type=int, default=640, metavar="N")
    of.add_argument("--latency", type=float, default=3.0, metavar="SECONDS")
    of.add_argument("--output", type=Path, metavar="FILE", help="write what is printed to this file too")
    options = of.parse_args()
    load = Load(options.rpm, options.jobs, options.latency)
    pairs = [(str(window), client) for window in options.windows for client in options.clients]
    with ThreadPoolExecutor(len(pairs)) as threads:
        counted = threads.map(lambda pair: measured(pair[0], pair[1], load), pairs)
        found = dict(zip(pairs, counted, strict=True))
    windows = " ".join(dict.fromkeys(window for window, _ in pairs))
    command = f"python -m benchmarks.limiter.live --windows {windows} --rpm {load.rpm} --jobs {load.jobs}"
    text = "\n".join(report(command, load, found))
    print(text)
    if options.output:
        options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
