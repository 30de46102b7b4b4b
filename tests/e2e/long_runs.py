"""Runs too large for whoever proves them to hold in memory: their job files, their processes, and their files counted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from statistics import linear_regression
from typing import TypeVar

import msgspec
import pytest
from _pytest.mark.structures import ParameterSet

from tests.e2e.harness import Submit

T = TypeVar("T", bound=msgspec.Struct)

MIB = 1 << 20
#: of a line that `write_lines` writes
LINE_BYTES = 152
#: what a run leaves for each job that goes well: two records, a result, a cost line; and the platform's ledger
RUN_BYTES_A_JOB = 1_900
#: for a start, a recovery or a whole run of any size; the proof's own timeout comes first
PATIENCE_SECONDS = 24 * 3600.0
POLL_SECONDS = 0.05


def size(name: str, default: int) -> int:
    """How large a proof is to be: SIZE_LINES=1000000 in the environment makes `lines` a million."""
    return int(os.environ.get(f"SIZE_{name.upper()}", default))


def whole(*sizes: int, minutes: float) -> ParameterSet:
    """A proof at its whole size, which the campaign alone runs, and no longer than this."""
    return pytest.param(*sizes, marks=[pytest.mark.campaign, pytest.mark.timeout(60 * minutes)])


@contextmanager
def scratch(lines: int, jobs: int) -> Iterator[Path]:
    """A directory for so many lines, so many of which are run; it is gone at once when the proof is over.

    Not pytest's own, which keeps those of the last three runs.
    """
    with tempfile.TemporaryDirectory(prefix="batchrun-size-") as directory:
        needed = lines * LINE_BYTES + jobs * RUN_BYTES_A_JOB + 256 * MIB
        free = shutil.disk_usage(directory).free
        if free < needed:
            pytest.skip(f"{needed // MIB:,} MiB are needed where temporary files go, and {free // MIB:,} MiB are free")
        yield Path(directory)


def write_lines(path: Path, count: int) -> None:
    """Short jobs, `job-00000000` on. Each names its number to the platform's ledger."""
    line = (
        b'{"custom_id":"job-%08d","params":{"model":"simulated-small","metadata":{"user_id":"%d"},'
        b'"max_tokens":1,"messages":[{"role":"user","content":"Go."}]}}\n'
    )
    with path.open("wb") as file:
        for start in range(0, count, 10_000):
            file.write(b"".join(line % (number, number) for number in range(start, min(start + 10_000, count))))


@contextmanager
def working(run: Submit) -> Iterator[subprocess.Popen[bytes]]:
    """A start of the run, which does not outlive whoever looks at it."""
    process = run.start()
    try:
        yield process
    finally:
        if process.poll() is None:
            run.kill(process)


# What a process holds ------------------------------------------------------------------------------------------------


class Vitals(msgspec.Struct, frozen=True):
    """A process as the kernel sees it."""

    #: its own memory: neither files nor code
    own_bytes: int
    peak_bytes: int
    descriptors: int


def vitals(process: subprocess.Popen[bytes]) -> Vitals:
    """Of a process at work. `submit` is closed to others of its user: to see its descriptors takes root."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    figures = {name: int(kib) << 10 for name, kib in re.findall(r"^(RssAnon|VmHWM):\s+(\d+) kB$", status, re.MULTILINE)}
    return Vitals(figures["RssAnon"], figures["VmHWM"], len(os.listdir(f"/proc/{process.pid}/fd")))


needs_proc = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="reads /proc/PID/fd of a process that only root may look into"
)


def slope(points: list[tuple[float, float]]) -> float:
    """By how much the second figure grows with the first: least squares."""
    return linear_regression(*zip(*points, strict=True)).slope


# What a run has written ----------------------------------------------------------------------------------------------


class Follower:
    """Counts the records of a journal as it grows, over kills and resumes. A torn tail, which a start cuts, is not counted."""

    def __init__(self, run: Submit) -> None:
        self._path = run.run_dir / "journal.jsonl"
        self._offset = 0
        self.sent = 0
        self.ended = 0
        self.lost = 0

    @property
    def in_flight(self) -> int:
        return self.sent - self.ended

    def catch_up(self) -> None:
        """Count what has been appended since."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            while data := file.read(8 * MIB):
                whole = data[: data.rfind(b"\n") + 1]
                if not whole:
                    return
                self._offset += len(whole)
                file.seek(self._offset)
                self.sent += whole.count(b',"t":"sent",')
                self.ended += whole.count(b',"t":"ended",')
                self.lost += whole.count(b',"what":"lost",')


def until_it_sends(run: Submit, process: subprocess.Popen[bytes], follower: Follower) -> float:
    """Seconds from now to the first request that this start sends."""
    began, sent = time.monotonic(), follower.sent
    until_sent(run, process, follower, sent + 1)
    return time.monotonic() - began


def until_sent(
    run: Submit, process: subprocess.Popen[bytes], follower: Follower, sent: int, seconds: float = PATIENCE_SECONDS
) -> bool:
    """Wait until so many requests have been sent; False where the time is over first."""
    for _ in range(int(seconds / POLL_SECONDS)):
        follower.catch_up()
        if follower.sent >= sent:
            return True
        try:
            process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"submit ended with {process.returncode}; {run.said()}")
    return False


class _Line(msgspec.Struct):
    custom_id: str


class _Cost(msgspec.Struct):
    amount: Decimal


class _CostLine(msgspec.Struct):
    custom_id: str
    attempt: int
    state: str
    cost: _Cost


class _Entry(msgspec.Struct):
    tag: str
    cost: _Cost


class Counted(msgspec.Struct):
    """A run's files and the platform's ledger, counted line by line: a few bytes a job."""

    #: final lines of each job
    finals: bytearray
    #: the attempts of each job that have a cost line, a bit each
    charged: array[int]
    #: bills of each job
    bills: bytearray
    billed_usd: Decimal = Decimal(0)
    maybe_usd: Decimal = Decimal(0)
    paid_usd: Decimal = Decimal(0)


def counted(run: Submit, ledger: Path, count: int) -> Counted:
    """Read everything once. A job's number is the end of its custom_id."""
    found = Counted(bytearray(count), array("Q", bytes(8 * count)), bytearray(count))
    for name in ("results.jsonl", "errors.jsonl"):
        for line in _decoded(run.run_dir / name, _Line):
            found.finals[_number(line.custom_id)] += 1
    for cost in _decoded(run.run_dir / "costs.jsonl", _CostLine):
        number, bit = _number(cost.custom_id), 1 << cost.attempt
        assert not found.charged[number] & bit, f"{cost.custom_id}: two cost lines for attempt {cost.attempt}"
        found.charged[number] |= bit
        if cost.state == "billed":
            found.billed_usd += cost.cost.amount
        else:
            found.maybe_usd += cost.cost.amount
    for entry in _decoded(ledger, _Entry):
        found.bills[int(entry.tag)] += 1
        found.paid_usd += entry.cost.amount
    return found


def _number(custom_id: str) -> int:
    return int(custom_id.removeprefix("job-"))


def _decoded(path: Path, kind: type[T]) -> Iterator[T]:
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as file:
        for line in file:
            yield decoder.decode(line)
