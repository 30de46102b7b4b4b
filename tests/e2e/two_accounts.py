"""Two accounts at work at the same time on one platform, each stopped and resumed again and again, and watched from outside.

What happens to them in mid-run: a key of the first is deleted, and later restored; some requests of each are refused with a 401;
the balance of the second runs out, and is topped up once the first has come far enough.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from tests.e2e import canary
from tests.e2e.books import costs_of, prove_sums
from tests.e2e.harness import PATIENCE_SECONDS, Outcome, Simulated, Submit, lives_for, simulated
from tests.e2e.mixed_jobs import Inputs

FIRST, SECOND = "first", "second"
ACCOUNTS = (FIRST, SECOND)
#: where each account finds its keys, in the words of batchrun.toml
SOURCES = {FIRST: "env:FIRST_KEYS", SECOND: "file:../platform/second.keys"}
KEYS = {name: tuple(f"sk-empiriolabs-test-{name}-{number}-/+%q7Z{number}" for number in (1, 2, 3)) for name in ACCOUNTS}
#: less than a mixed job costs in the mean
JOB_USD = Decimal("0.0006")
LOOK_SECONDS = 0.05
#: code -> what stopped the run
STOPPED = {69: "credits", 130: "signal", 143: "signal"}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Stop(NamedTuple):
    """A start ends so, once this share of all jobs has."""

    share: float
    signal: signal.Signals


class Shift:
    """The run of one account, over all its starts."""

    def __init__(self, run: Submit, total: int, stops: Sequence[Stop], patience_seconds: float) -> None:
        self.run = run
        #: of each start that ended in order
        self.outcomes: list[Outcome] = []
        self.kills = 0
        #: of each start that could be asked
        self.peak_rss_bytes: list[int] = []
        #: attempts that a kill found in flight
        self.in_flight: set[tuple[str, int]] = set()
        self._total = total
        self._stops = stops
        #: how long one start may take, or the account go without credits
        self._patience_seconds = patience_seconds
        self._files = [_Lines(run.run_dir / name) for name in ("results.jsonl", "errors.jsonl")]
        #: the most that was ever shown as done, and every final line that was ever seen
        self._shown = 0
        self._seen: set[bytes] = set()

    def work(self, platform: Simulated, account: str) -> Outcome:
        """From the first start to the end of the run; how it ended."""
        for stop in self._stops:
            while self._start(stop) == "credits":
                platform.until_topped_up(KEYS[account][-1], self._patience_seconds)
        while self._start(None) == "credits":
            platform.until_topped_up(KEYS[account][-1], self._patience_seconds)
        return self.outcomes[-1]

    def _start(self, stop: Stop | None) -> str | None:
        """Start it and watch it to the stop, or to its own end; what it says it was stopped by."""
        process = self.run.start()
        self.peak_rss_bytes.append(0)
        try:
            ended = self._watch(process, stop)
        finally:
            if process.poll() is None:
                self.run.kill(process)
        if ended is not None:
            self.outcomes.append(ended)
        self._prove_kept(ended)
        return None if ended is None else ended.summary["stopped_by"]

    def _watch(self, process: subprocess.Popen[bytes], stop: Stop | None) -> Outcome | None:
        for _ in range(round(self._patience_seconds / LOOK_SECONDS)):
            if not lives_for(process, LOOK_SECONDS):
                return self.run.finish(process, (0, 1, 69) if stop is None else (69,))
            done = self._look(process)
            if stop is not None and done >= stop.share * self._total:
                return self._stop(process, stop.signal)
        raise AssertionError(f"submit had not ended after {self._patience_seconds:g} s; {self.run.said()}")

    def _stop(self, process: subprocess.Popen[bytes], how: signal.Signals) -> Outcome | None:
        if how is signal.SIGKILL:
            self.run.kill(process)
            self.kills += 1
            sent = {(record["id"], record["attempt"]) for record in self.run.records("sent")}
            self.in_flight |= sent - {(record["id"], record["attempt"]) for record in self.run.records("ended")}
            return None
        process.send_signal(how)
        return self.run.finish(process, (CODES[how],))

    def _look(self, process: subprocess.Popen[bytes]) -> int:
        """What is shown now must be on disk by now. How many jobs have ended."""
        with contextlib.suppress(FileNotFoundError):
            status = json.loads((self.run.run_dir / "status.json").read_bytes())
            self._shown = max(self._shown, status["completed"] + status["failed"])
        done = sum(file.count() for file in self._files)
        assert done >= self._shown, f"{self._shown} jobs were shown as done, and {done} lines are there; {self.run.said()}"
        self.peak_rss_bytes[-1] = max(self.peak_rss_bytes[-1], peak_rss_bytes(process.pid))
        return done

    def _prove_kept(self, ended: Outcome | None) -> None:
        """Between two starts: what was shown is there, what was ever there still is, and the summary counts it."""
        lines = [line for file in self._files for line in file.whole()]
        assert len(lines) >= self._shown
        assert self._seen <= set(lines), "a result that had been written is gone"
        self._seen.update(lines)
        if ended is not None:
            counts = ended.summary["request_counts"]
            assert counts["completed"] + counts["failed"] == len(lines)
            assert ended.summary["stopped_by"] == STOPPED.get(ended.code)
            prove_sums(ended.summary, costs_of(self.run))
            self._shown = len(lines)


class _Lines:
    """The whole lines of a file that others append to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counted_bytes = 0
        self._count = 0

    def count(self) -> int:
        """How many there are, without reading any of them twice."""
        if self._path.exists():
            with open(self._path, "rb") as file:
                file.seek(self._counted_bytes)
                data = file.read()
            self._counted_bytes += data.rfind(b"\n") + 1
            self._count += data.count(b"\n")
        return self._count

    def whole(self) -> list[bytes]:
        data = self._path.read_bytes() if self._path.exists() else b""
        return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def peak_rss_bytes(pid: int) -> int:
    """The most memory that a process has had so far; 0 where the system does not say."""
    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/status", encoding="ascii") as file:
        return int(next(line for line in file if line.startswith("VmHWM:")).split()[1]) * 1024
    return 0


@contextlib.contextmanager
def two_accounts(home: Path, inputs: dict[str, Inputs], rpm: int, *options: str) -> Iterator[Simulated]:
    """The platform, its own files beside `home`; in `home` the configuration that knows it, and how to be both customers."""
    count = len(inputs[FIRST].ids)
    server = home.parent / "platform"
    server.mkdir()
    (server / "second.keys").touch(mode=0o600)
    (server / "second.keys").write_text("".join(f"{key}\n" for key in KEYS[SECOND]))
    accounts = [
        {
            "name": FIRST,
            "keys": KEYS[FIRST],
            "changes": [
                {"at_request": count // 2, "delete_key": 1},
                {"at_request": count * 3 // 2, "restore_key": 1},
            ],
        },
        # The first account alone makes more requests than it has jobs: the day of the top-up comes.
        {
            "name": SECOND,
            "keys": KEYS[SECOND],
            "balance_usd": float(JOB_USD * count / 5),
            "changes": [{"at_request": count * 6 // 10, "top_up_usd": 10_000}],
        },
    ]
    (server / "accounts.json").write_text(json.dumps({"accounts": accounts}))
    # Early ones, which are sure to be sent while the first key is still good; and one that no kill behind them undoes.
    refused = [inputs[FIRST].ids[40], inputs[SECOND].ids[40], inputs[SECOND].ids[count // 2]]
    scripted = [part for custom_id in refused for part in ("--fault-on", f"{custom_id}=invalid_key")]
    canary.own(server / "accounts.json", server / "second.keys")
    with simulated(server, "--accounts", str(server / "accounts.json"), *scripted, *options) as platform:
        toml = [f"[accounts.{name}]\nbase_url = '{platform.url}'\nkeys = ['{SOURCES[name]}']\nrpm = {rpm}\n" for name in ACCOUNTS]
        (home / "batchrun.toml").write_text("tpm = 0\n" + "".join(toml))
        yield platform


def shift_of(
    home: Path, account: str, inputs: Inputs, stops: Sequence[Stop], *options: str, patience_seconds: float = PATIENCE_SECONDS
) -> Shift:
    """The run of one of the accounts."""
    environment = {"FIRST_KEYS": ",".join(KEYS[FIRST])} if account == FIRST else {}
    options = ("--account", account, *options)
    run = Submit(home, inputs.names, None, *options, name=account, stdin=home / inputs.stdin, environment=environment)
    return Shift(run, len(inputs.ids), stops, patience_seconds)
