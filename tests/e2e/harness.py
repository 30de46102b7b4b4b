"""What proofs on real processes share: the simulated platform, and `submit` to run, stop and resume.

All waits are bounded, and a wait that ends in vain says for what. Waiting is `Popen.wait` with a timeout, never a sleep:
a process that ends early is noticed at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import batchrunner
from batchrunner.simulator.settings import TEST_KEY
from tests.e2e import canary
from tests.e2e.preforked import Child, Launcher, Order, Prelude, any_launcher

#: how long anything may take before a proof calls it hung; the runs themselves take seconds
PATIENCE_SECONDS = 100.0
POLL_SECONDS = 0.002

#: where the code under test lies: children run the same as these tests
_SOURCE = str(Path(batchrunner.__file__).parents[1])

# Runs `submit` as its child and prints the child's peak memory: `ru_maxrss` would count a parent's pages as the child's,
# and pytest has more of them than the child ever will.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
sys.stderr.write(f"\\npeak_rss_bytes={peak if sys.platform == 'darwin' else peak * 1024}\\n")
sys.exit(code)
"""


class Process(Protocol):
    """What proofs ask of a process: a `subprocess.Popen`, or a `Child`."""

    pid: int
    returncode: Any

    def poll(self) -> int | None: ...

    def wait(self, timeout: float) -> int: ...


class Outcome(NamedTuple):
    """How a start of `submit` ended."""

    code: int
    #: the `--json` document, money as Decimal
    summary: dict[str, Any]
    stderr: str


class Simulated:
    """A simulated platform in a process of its own, which outlives every kill of the runner."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, ledger_path: Path) -> None:
        self.url = url
        self._process = process
        self._ledger_path = ledger_path

    def statistics(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/simulator/statistics", timeout=PATIENCE_SECONDS) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def balance_usd(self, key: str) -> float:
        """What the account of this key has left."""
        asked = urllib.request.Request(f"{self.url}/v1/account/usage?limit=1", headers={"authorization": f"Bearer {key}"})
        with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as reply:
            amount: float = json.load(reply)["balance"]["amount"]
        return amount

    def until_topped_up(self, key: str, patience_seconds: float) -> None:
        """Until that account has credits."""
        wait_until(self._process, lambda: self.balance_usd(key) > 0, "credits", 0.1, patience_seconds)

    def ledger(self) -> list[dict[str, Any]]:
        """What was billed, once nothing is being worked on any more."""
        wait_until(self._process, lambda: self.statistics()["in_flight"] == 0, "the platform to have nothing in flight")
        return read_lines(self._ledger_path)


@contextlib.contextmanager
def simulated(directory: Path, *options: str) -> Iterator[Simulated]:
    """A platform with these options of `batchrun simulate`, and a ledger in `directory`."""
    ledger_path = directory / "ledger.jsonl"
    if not {"--key", "--accounts"} & set(options):
        options = (*options, "--key", TEST_KEY, "--key", canary.KEY)
    command = [sys.executable, "-m", "batchrunner.simulator", "--exit-with-stdin", "--ledger", str(ledger_path), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"the simulated platform did not start: {command}"
            yield Simulated(process, json.loads(line)["url"], ledger_path)
        finally:
            end_in_order(process)


def end_in_order(process: subprocess.Popen[bytes]) -> None:
    """Let a platform end by itself, or else by force: what is killed cannot say what it covered."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    process.kill()


class Submit:
    """`submit` of the same jobs into one run directory, started as often as a proof likes.

    `jobs` may be several inputs, one of them `-`: each start is then given the file `stdin` anew. `url` None: batchrun.toml in
    `directory` knows it. Two in one directory need names.
    """

    def __init__(
        self,
        directory: Path,
        jobs: Path | Sequence[str],
        url: str | None,
        *options: str,
        name: str = "books",
        stdin: Path | None = None,
        environment: Mapping[str, str] = {"BATCHRUN_API_KEY": canary.KEY},
    ) -> None:
        self.name = name
        self.run_dir = directory / f"{name}.run"
        self._directory = directory
        inputs = [str(jobs)] if isinstance(jobs, Path) else list(jobs)
        server = [] if url is None else ["--base-url", url]
        self._inputs = inputs
        self._command = [sys.executable, "-m", "batchrunner", "submit", *inputs, *server]
        self._command += ["-o", str(self.run_dir), "--json", "--progress", "none", *options]
        self._stdin = os.devnull if stdin is None else stdin
        self._more = environment
        self._starts = 0

    def start(self, *, measured: bool = False) -> subprocess.Popen[bytes]:
        """A process with streams of its own. `measured`: as the child of one that prints its peak memory."""
        environment = self._begin()
        command = [sys.executable, "-c", _MEASURED, *self._command] if measured else self._command
        with (
            open(self._stdin, "rb") as stdin,
            open(self._stream("stdout"), "wb") as stdout,
            open(self._stream("stderr"), "wb") as stderr,
        ):
            return subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                cwd=self._directory,
                start_new_session=True,
            )

    def start_by(self, launcher: Launcher, prelude: Prelude | None = None) -> Child:
        """As `start`, without the cost of imports; `prelude` is called in the process before the program."""
        environment = self._begin()
        streams = {name: str(self._stream(name)) for name in ("stdout", "stderr")}
        for path in streams.values():
            Path(path).touch()
        return launcher.start(
            Order(
                self._command[3:],  # behind `python -m batchrunner`
                environment,
                directory=str(self._directory),
                stdin=str(self._stdin),
                prelude=prelude,
                **streams,
            )
        )

    def finish(self, process: Process, codes: Container[int] = (0, 1)) -> Outcome:
        """Wait for its own end, which must be with one of these exit codes."""
        try:
            code = process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill(process)
            raise AssertionError(f"submit had not ended after {PATIENCE_SECONDS:g} s; {self.said()}") from None
        stdout = self._stream("stdout").read_text()
        assert code in codes, f"submit ended with {code}; {self.said()}"
        return Outcome(code, json.loads(stdout, parse_float=Decimal), self._stream("stderr").read_text())

    def run(self) -> Outcome:
        """From a start to its end."""
        with any_launcher() as launcher:
            return self.finish(self.start_by(launcher))

    def kill(self, process: Process) -> None:
        """End it as a power cut would. It must be alive: what has ended by itself proves nothing."""
        assert process.poll() is None, f"submit ended with {process.returncode} before it was killed; {self.said()}"
        self._kill(process)

    def said(self) -> str:
        """The end of the newest start's stderr, for messages."""
        return f"start {self._starts} said: ...{self._stream('stderr').read_text()[-1500:]}"

    def size(self, name: str) -> int:
        """Bytes of one of the run's files; 0 where it is not there yet."""
        try:
            return (self.run_dir / name).stat().st_size
        except FileNotFoundError:
            return 0

    def job_files(self) -> list[Path]:
        """The job files as anybody can read them: plain ones as they are, others by the copies that the run made of them."""
        plain = [name for name in self._inputs if name != "-" and not name.endswith(".gz")]
        return [*(self._directory / name for name in plain), *sorted(self.run_dir.glob("input*.jsonl"))]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of one of the run's files, numbers as Decimal; each must be JSON."""
        return read_lines(self.run_dir / name)

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The journal's records of one kind: started, sent, ended..."""
        return [record for record in self.lines("journal.jsonl") if record.get("t") == kind]

    def _begin(self) -> dict[str, str]:
        """One more start; its environment."""
        self._starts += 1
        private = {"XDG_CONFIG_HOME": str(self._directory), "BATCHRUN_STATE_DIR": str(self._directory / "state")}
        environment = _environment() | private | dict(self._more)
        canary.watch(self._directory, environment)
        return environment

    def _kill(self, process: Process) -> None:
        os.killpg(process.pid, signal.SIGKILL)  # a measured one has a child
        process.wait(PATIENCE_SECONDS)

    def _stream(self, name: str) -> Path:
        return self._directory / f"{self.name}.{name}.{self._starts}"


def _environment() -> dict[str, str]:
    """Without settings or keys of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if "API_KEY" not in name and "BATCHRUN" not in name}
    return kept | {"PYTHONPATH": _SOURCE}


def wait_until(
    process: Process,
    happened: Callable[[], bool],
    what: str,
    poll_seconds: float = POLL_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Wait while the process lives; it must not end before `happened`."""
    for _ in range(int(patience_seconds / poll_seconds)):
        if happened():
            return
        if not lives_for(process, poll_seconds):
            raise AssertionError(f"waited for {what}; the process ended with {process.returncode} before")
    raise AssertionError(f"waited for {what} in vain")


def lives_for(process: Process, seconds: float) -> bool:
    """Let that much time pass; whether the process has not ended by itself."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file, fractions as Decimal. A torn last line, as a kill may leave it, is left out."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line, parse_float=Decimal) for line in data[: data.rfind(b"\n") + 1].splitlines()]
