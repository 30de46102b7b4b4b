"""Faults put into the system calls of a real process by strace: the Nth call on its run directory fails, or kills it.

strace counts the calls of each thread by themselves, and a run has two that touch its files: one writes, one syncs. So a start
has two phases, traced apart: in the first, up to the end of recovery, only the main thread does anything; in the second,
`live`, each kind of call is one thread's alone. That way each call there is has a number, and none has two.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from tests.e2e.cli_support import until
from tests.e2e.harness import PATIENCE_SECONDS, Submit
from tests.e2e.preforked import Child, Launcher
from tests.e2e.proc import status_of, until_stopped

WRITES = ("write", "pwrite64", "ftruncate")
SYNCS = ("fsync", "fdatasync")
OPENS = ("openat",)
RENAMES = ("rename", "mkdir", "unlink")
READS = ("read", "pread64", "getdents64")
PHASES = {"start": "tests.e2e.preludes:stopped", "live": "tests.e2e.preludes:stopped_before_work"}

_FILES = ("run.json", "status.json", "journal.jsonl", "results.jsonl", "errors.jsonl", "costs.jsonl", "results.cut", "lock")
_CALL = re.compile(r"^(?P<thread>\d+) +(?P<name>\w+)\((?P<rest>.*)$")
_FILE = re.compile(r"^\w*<(?P<path>[^>]*)>|\"(?P<named>[^\"]*)\"|AT_FDCWD[^,]*, \"(?P<at>[^\"]*)\"")


class Fault(NamedTuple):
    """What befalls the nth call of a name in a phase: `error=ENOSPC`, `signal=SIGKILL`; nothing where it is empty."""

    phase: str
    call: str
    nth: int
    what: str

    def __str__(self) -> str:
        return f"{self.what} at {self.phase} {self.call} {self.nth}"


class Call(NamedTuple):
    """A system call on one of the run's files."""

    name: str
    #: of the file, without its directory; "" for the directory itself
    file: str
    #: the line as strace wrote it
    text: str

    @property
    def injected(self) -> bool:
        return self.text.endswith("(INJECTED)")


@functools.cache
def why_not() -> str | None:
    """Why strace cannot be used here, or None where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        command = ["strace", "-p", str(process.pid), "-o", os.devnull]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
            try:
                _until_traced(process.pid, tracer)
            except AssertionError:
                return "strace may not trace here"
            finally:
                process.kill()
                tracer.wait(PATIENCE_SECONDS)
    return None


@contextlib.contextmanager
def traced(run: Submit, launcher: Launcher, fault: Fault) -> Iterator[Child]:
    """A start of the run that the fault will befall. Once it has ended, `calls` tells what it did in the phase."""
    child = run.start_by(launcher, (PHASES[fault.phase], {}))
    try:
        until_stopped(child.pid)
        with subprocess.Popen(_command(run, child.pid, fault)) as tracer:
            _until_traced(child.pid, tracer)
            os.kill(child.pid, signal.SIGCONT)
            yield child
            tracer.wait(PATIENCE_SECONDS)
    finally:
        if child.poll() is None:
            run.kill(child)


def calls(run: Submit) -> list[Call]:
    """Of the newest traced start, those on the run's files that came to be, in their order."""
    found = []
    unfinished: dict[tuple[str, str], str] = {}
    for line in _trace_file(run).read_text().splitlines():
        call = _CALL.match(line)
        if call is None:
            resumed = re.match(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$", line)
            if resumed is None:
                continue
            thread, name = resumed[1], resumed[2]
            text = unfinished.pop((thread, name)) + resumed[3]
        else:
            thread, name, text = call["thread"], call["name"], call["rest"]
            if text.endswith("<unfinished ...>"):
                unfinished[thread, name] = text.removesuffix("<unfinished ...>")
                continue
        path = _FILE.search(text)
        assert path is not None, line
        whole = path["path"] or path["at"] or path["named"] or ""
        found.append(Call(name, "" if whole == str(run.run_dir) else Path(whole).name, f"{name}({text}"))
    return found


def counted(run: Submit, launcher: Launcher, phase: str) -> Counter[str]:
    """How often each call is made in a phase of a start that nothing befalls, which is carried to its end."""
    with traced(run, launcher, Fault(phase, "", 0, "")) as child:
        run.finish(child)
    seen = calls(run)
    if phase == "start":  # what comes behind recovery begins with the figures of a run at work
        seen = list(takewhile(lambda call: ".status.json.new" not in call.text, seen))
    return Counter(call.name for call in seen)


def _command(run: Submit, pid: int, fault: Fault) -> list[str]:
    names = (*WRITES, *SYNCS, *OPENS, *RENAMES, *READS)
    paths = [run.run_dir, *(run.run_dir / name for name in _FILES), *(run.run_dir / f".{name}.new" for name in _FILES)]
    command = ["strace", "-f", "-qqq", "-y", "-s", "60", "-o", str(_trace_file(run)), "-p", str(pid)]
    command += [part for path in paths for part in ("-P", str(path))]
    command += ["-e", f"trace={','.join(names)}", "-e", "signal=none"]
    if fault.what:
        command += ["-e", f"inject={fault.call}:{fault.what}:when={fault.nth}"]
    return ["/bin/sh", "-c", 'exec "$@" 2>/dev/null', "sh", *command]


def _trace_file(run: Submit) -> Path:
    return run.run_dir.with_suffix(".strace")


def _until_traced(pid: int, tracer: subprocess.Popen[bytes]) -> None:
    until(lambda: tracer.poll() is not None or status_of(pid, "TracerPid") not in ("0", ""), "strace to take hold")
    assert tracer.poll() is None, "strace may not trace here"
