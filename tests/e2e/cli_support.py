"""The command line as a process of its own, a simulated platform beside it, and what a run leaves behind."""

from __future__ import annotations

import collections
import http.server
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.e2e import canary
from tests.e2e.harness import Simulated, read_lines, simulated
from tests.e2e.preforked import Order, any_launcher

ROOT = Path(__file__).parents[2]
#: for whatever a process should have done by then; nothing is measured by it
PATIENCE_SECONDS = 60
UNLIMITED = ("--rpm", "0", "--tpm", "0")


class Ended(msgspec.Struct, frozen=True):
    """A process that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        """What `--json` printed: one document and nothing else."""
        return msgspec.json.decode(self.stdout, type=dict[str, Any])

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON lines on stderr."""
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in self.stderr.splitlines() if line.startswith("{")]


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which nobody's configuration or key is found."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "COVERAGE_PROCESS_CONFIG") if name in os.environ}
    canary.watch(home, more)
    return kept | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"), "PYTHONPATH": str(ROOT)} | more


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "batchrunner", *map(str, arguments)]


def batchrun(home: Path, *arguments: object, env: Mapping[str, str] = {}, **popen: Any) -> Ended:
    """Run a command in `home` to its end: a process of its own, and where `popen` asks for anything, an interpreter too."""
    if popen:
        return _executed(home, *arguments, env=env, **popen)
    with tempfile.TemporaryDirectory(prefix="batchrun-said-") as directory, any_launcher() as launcher:
        stdout, stderr = Path(directory, "stdout"), Path(directory, "stderr")
        for stream in (stdout, stderr):
            stream.touch()
        order = Order([*map(str, arguments)], environment(home, **env), str(home), os.devnull, str(stdout), str(stderr))
        child = launcher.start(order)
        try:
            code = child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            raise AssertionError(f"{arguments}: had not ended after {PATIENCE_SECONDS} s: {stderr.read_text()[-1500:]}") from None
        return _heard(Ended(code, stdout.read_text(), stderr.read_text()))


def _executed(home: Path, *arguments: object, env: Mapping[str, str], **popen: Any) -> Ended:
    settings: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
    done = subprocess.run(
        command(*arguments),
        cwd=home,
        env=environment(home, **env),
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        **settings,
    )
    return _heard(Ended(done.returncode, done.stdout or "", done.stderr or ""))


@contextmanager
def started(
    home: Path, *arguments: object, env: Mapping[str, str] = {}, stderr: int = subprocess.PIPE, **popen: Any
) -> Iterator[subprocess.Popen[str]]:
    """A command at work in `home`; killed where it outlives the block."""
    settings: dict[str, Any] = {"stdin": subprocess.DEVNULL} | popen
    process = subprocess.Popen(
        command(*arguments),
        cwd=home,
        env=environment(home, **env),
        text=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
        **settings,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ending(process: subprocess.Popen[str]) -> Ended:
    """What a process that is about to end leaves."""
    stdout, stderr = process.communicate(timeout=PATIENCE_SECONDS)
    return _heard(Ended(process.returncode, stdout, stderr or ""))


def _heard(ended: Ended) -> Ended:
    canary.heard("stdout", ended.stdout)
    canary.heard("stderr", ended.stderr)
    return ended


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line of a process's stderr that holds `text`."""
    assert process.stderr is not None
    for line in process.stderr:
        canary.heard("stderr", line)
        if text in line:
            return line
    raise AssertionError(f"the process ended without saying {text!r}")


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that another process is about to do."""
    for _ in range(PATIENCE_SECONDS * 50):
        if condition():
            return
        select.select([], [], [], 0.02)
    raise AssertionError(f"in vain: {what}")


class Platform:
    """A simulated platform, and how a run reaches it."""

    def __init__(self, simulated: Simulated, key: str) -> None:
        self.url = simulated.url
        self.statistics = simulated.statistics
        self.env = {"BATCHRUN_API_KEY": key}
        #: of a run against it, as fast as it goes
        self.options = ("--base-url", self.url, *UNLIMITED)

    def submit(self, home: Path, *arguments: object, env: Mapping[str, str] = {}, **popen: Any) -> Ended:
        """Run `batchrun submit` against it to its end."""
        return batchrun(home, "submit", *arguments, *self.options, env={**self.env, **env}, **popen)

    def until_in_flight(self, number: int) -> None:
        until(lambda: self.statistics()["in_flight"] == number, f"{number} requests in flight")

    def until_silent(self, number: int) -> None:
        """Until so many requests wait for an answer that never comes."""
        until(lambda: self.statistics()["faults"].get("silent") == number, f"{number} requests that are never answered")


@contextmanager
def platform(home: Path, *options: object, key: str = canary.KEY) -> Iterator[Platform]:
    """A platform that answers at once, unless `options` say otherwise."""
    with simulated(home, "--key", key, "--latency", "0", *map(str, options)) as running:
        yield Platform(running, key)


@contextmanager
def server(status: int, body: bytes) -> Iterator[str]:
    """A server that gives each request the same answer; its base URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", "0")))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - the base class's names

        def log_message(self, *_: Any) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def job(custom_id: str, text: str = "How high is the moon?", **body: object) -> bytes:
    """A job line. The platform's faults find it by its id."""
    asked = {"model": "simulated-small", "messages": [{"role": "user", "content": text}], "max_tokens": 8, "user": custom_id}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": asked | body}
    return msgspec.json.encode(line) + b"\n"


def write_jobs(home: Path, ids: Sequence[str], name: str = "jobs.jsonl") -> Path:
    path = home / name
    path.write_bytes(b"".join(map(job, ids)))
    return path


def finals(run_dir: Path) -> collections.Counter[str]:
    """How many final lines each custom_id has."""
    ended = read_lines(run_dir / "results.jsonl") + read_lines(run_dir / "errors.jsonl")
    return collections.Counter(str(line["custom_id"]) for line in ended)


def maybe_billed(run_dir: Path) -> set[str]:
    """Jobs with an attempt that may have been billed, as it stands now."""
    newest = {(line["custom_id"], line["attempt"]): line for line in read_lines(run_dir / "costs.jsonl")}
    return {custom_id for (custom_id, _), line in newest.items() if line["state"] == "maybe_billed"}


def count_once(ids: Sequence[str]) -> collections.Counter[str]:
    """What `finals` gives for a run in which each of these jobs has ended."""
    return collections.Counter(ids)
