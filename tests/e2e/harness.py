"""What proofs on real processes share: the simulated platform, job files in every dialect, and `submit` to run, kill and resume.

All waits are bounded, and a wait that ends in vain says for what. Waiting is `Popen.wait` with a timeout, never a sleep:
a process that ends early is noticed at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import batchrunner
from batchrunner.simulator.settings import TEST_KEY
from tests.e2e import canary

#: how long anything may take before a proof calls it hung; the runs themselves take seconds
PATIENCE_SECONDS = 100.0
POLL_SECONDS = 0.002

#: where the code under test lies: children run the same as these tests
_SOURCE = str(Path(batchrunner.__file__).parents[1])

MODELS = ("simulated-small", "simulated-large", "simulated-reasoner", "simulated-per-request")
#: a prompt beyond the first price tier of `simulated-large`
LONG_PROMPT = "tier " * 170_000

# Runs `submit` as its child and prints the child's peak memory: `ru_maxrss` would count a parent's pages as the child's,
# and pytest has more of them than the child ever will.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
sys.stderr.write(f"\\npeak_rss_bytes={peak if sys.platform == 'darwin' else peak * 1024}\\n")
sys.exit(code)
"""


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

    def ledger(self) -> list[dict[str, Any]]:
        """What was billed, once nothing is being worked on any more."""
        wait_until(self._process, lambda: self.statistics()["in_flight"] == 0, "the platform to have nothing in flight")
        return read_lines(self._ledger_path)


@contextlib.contextmanager
def simulated(directory: Path, *options: str) -> Iterator[Simulated]:
    """A platform with these options of `batchrun simulate`, and a ledger in `directory`."""
    ledger_path = directory / "ledger.jsonl"
    if not {"--key", "--config"} & set(options):
        options = (*options, "--key", TEST_KEY, "--key", canary.KEY)
    command = [sys.executable, "-m", "batchrunner.simulator", "--exit-with-stdin", "--ledger", str(ledger_path), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"the simulated platform did not start: {command}"
            yield Simulated(process, json.loads(line)["url"], ledger_path)
        finally:
            process.kill()


class Submit:
    """`submit` of one job file into one run directory, started as often as a proof likes."""

    def __init__(self, directory: Path, jobs: Path, url: str, *options: str) -> None:
        self.run_dir = directory / "books.run"
        self._directory = directory
        self._command = [sys.executable, "-m", "batchrunner", "submit", str(jobs), "--base-url", url]
        self._command += ["-o", str(self.run_dir), "--json", "--progress", "none", *options]
        self._starts = 0

    def start(self, *, measured: bool = False) -> subprocess.Popen[bytes]:
        """A process with streams of its own. `measured`: as the child of one that prints its peak memory."""
        self._starts += 1
        environment = _environment() | {"BATCHRUN_API_KEY": canary.KEY, "XDG_CONFIG_HOME": str(self._directory)}
        canary.watch(self._directory, environment)
        command = [sys.executable, "-c", _MEASURED, *self._command] if measured else self._command
        with open(self._stream("stdout"), "wb") as stdout, open(self._stream("stderr"), "wb") as stderr:
            return subprocess.Popen(
                command, stdout=stdout, stderr=stderr, env=environment, cwd=self._directory, start_new_session=True
            )

    def finish(self, process: subprocess.Popen[bytes]) -> Outcome:
        """Wait for its own end."""
        try:
            code = process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill(process)
            raise AssertionError(f"submit had not ended after {PATIENCE_SECONDS:g} s; {self.said()}") from None
        stdout = self._stream("stdout").read_text()
        assert code in (0, 1), f"submit ended with {code}; {self.said()}"
        return Outcome(code, json.loads(stdout, parse_float=Decimal), self._stream("stderr").read_text())

    def run(self) -> Outcome:
        """From a start to its end."""
        return self.finish(self.start())

    def kill(self, process: subprocess.Popen[bytes]) -> None:
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

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of one of the run's files, numbers as Decimal; each must be JSON."""
        return read_lines(self.run_dir / name)

    def records(self, kind: str) -> list[dict[str, Any]]:
        """The journal's records of one kind: started, sent, ended..."""
        return [record for record in self.lines("journal.jsonl") if record.get("t") == kind]

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        os.killpg(process.pid, signal.SIGKILL)  # a measured one has a child
        process.wait(PATIENCE_SECONDS)

    def _stream(self, name: str) -> Path:
        return self._directory / f"{name}.{self._starts}"


def _environment() -> dict[str, str]:
    """Without settings or keys of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if "API_KEY" not in name and "BATCHRUN" not in name}
    return kept | {"PYTHONPATH": _SOURCE}


def wait_until(process: subprocess.Popen[bytes], happened: Callable[[], bool], what: str) -> None:
    """Wait while the process lives; it must not end before `happened`."""
    for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
        if happened():
            return
        if not lives_for(process, POLL_SECONDS):
            raise AssertionError(f"waited for {what}; the process ended with {process.returncode} before")
    raise AssertionError(f"waited for {what} in vain")


def lives_for(process: subprocess.Popen[bytes], seconds: float) -> bool:
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


def write_jobs(path: Path, count: int, seed: int, *, unknown_models: bool = False, long_prompts: bool = False) -> list[str]:
    """A job file over three dialects, four models, capped and not; the custom_ids, each named in its body for the ledger.

    `unknown_models`: every 97th job asks for a model that does not exist. `long_prompts`: every 2,000th is in the second
    price tier.
    """
    rng = random.Random(seed)
    ids: list[str] = []
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            custom_id = f'job {number}: "żółw"\\🐢' if number % 11 == 0 else f"job-{number:06}"
            ids.append(custom_id)
            model = rng.choice(MODELS)
            prompt = rng.choice(("Say why. ", "Dlaczego żółw? ", "为什么? ", "🐢 ")) * rng.randint(1, 60)
            if unknown_models and number % 97 == 96:
                model = "simulated-none"
            if long_prompts and number % 2000 == 1500:
                model, prompt = "simulated-large", LONG_PROMPT
            line = _SHAPES[number % len(_SHAPES)](custom_id, model, prompt, rng)
            file.write(json.dumps(line, ensure_ascii=rng.random() < 0.5) + "\n")
    return ids


def _line(custom_id: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def _chat(custom_id: str, model: str, prompt: str, rng: random.Random) -> dict[str, Any]:
    turns = [{"role": "system", "content": "Be brief."}] * rng.randint(0, 1) + [{"role": "user", "content": prompt}]
    body: dict[str, Any] = {"model": model, "messages": turns, "metadata": {"custom_id": custom_id}}
    cap = rng.choice((None, "max_tokens", "max_completion_tokens"))
    if cap is not None:
        body |= {cap: rng.choice((1, 40, 900)), "n": rng.choice((1, 1, 3))}
    return _line(custom_id, "/v1/chat/completions", body)


def _response(custom_id: str, model: str, prompt: str, rng: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"model": model, "input": prompt, "user": custom_id}
    if rng.random() < 0.7:
        body["max_output_tokens"] = rng.choice((1, 40, 900))
    return _line(custom_id, "/v1/responses", body)


def _message(custom_id: str, model: str, prompt: str, rng: random.Random) -> dict[str, Any]:
    turns = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    return _line(custom_id, "/v1/messages", _params(custom_id, model, turns, rng))


def _anthropic(custom_id: str, model: str, prompt: str, rng: random.Random) -> dict[str, Any]:
    params = _params(custom_id, model, [{"role": "user", "content": prompt}], rng)
    return {"custom_id": custom_id, "params": params | {"system": "Be brief."}}


def _params(custom_id: str, model: str, turns: list[dict[str, Any]], rng: random.Random) -> dict[str, Any]:
    cap = rng.choice((1, 40, 900))
    return {"model": model, "max_tokens": cap, "messages": turns, "metadata": {"user_id": custom_id}}


_SHAPES = (_chat, _response, _message, _anthropic)
