"""`batchrun` without the cost of its imports: a process that has them behind it forks once for each start.

What is forked is a process like any other: a session, streams, environment and directory of its own, and the program's own
`main`. It shares with the next one nothing but what was imported before either began. Thousands of starts can be had this way in
the time of some hundred.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import select
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

#: "module:function" and its arguments, called in the child before the program begins
Prelude = tuple[str, dict[str, int | str]]

_ROOT = str(Path(__file__).parents[2])
#: that have behind them what most starts import
_IMPORTED = ("main", "submit", "watching", "plan", "reconcile", "status", "usage", "chats", "models", "verify", "explain", "ctl")


class Order(msgspec.Struct, frozen=True):
    """What is to be run, and how."""

    arguments: list[str]
    environment: dict[str, str]
    directory: str
    #: paths
    stdin: str
    stdout: str
    stderr: str
    prelude: Prelude | None = None


class _Began(msgspec.Struct, tag=True, frozen=True):
    pid: int


class _Ended(msgspec.Struct, tag=True, frozen=True):
    code: int


class Child:
    """A forked process, seen as `subprocess.Popen` shows one."""

    def __init__(self, launcher: Launcher, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._launcher = launcher

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float) -> int:
        if self.returncode is None:
            self.returncode = self._launcher.code_of_child(timeout)
        return self.returncode


class Launcher:
    """The process that forks. One child at a time: whoever wants two at once takes two of these."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders = process.stdin.fileno()
        self._replies = process.stdout.fileno()
        self._unread = b""

    def start(self, order: Order) -> Child:
        os.write(self._orders, msgspec.json.encode(order) + b"\n")
        began = self._reply(None)
        assert isinstance(began, _Began), "the child before is still there"
        return Child(self, began.pid)

    def code_of_child(self, timeout: float) -> int:
        ended = self._reply(timeout)
        assert isinstance(ended, _Ended)
        return ended.code

    def _reply(self, timeout: float | None) -> _Began | _Ended:
        while b"\n" not in self._unread:
            if not select.select([self._replies], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("batchrun", timeout or 0)
            more = os.read(self._replies, 4096)
            assert more, "the launcher has ended"
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return msgspec.json.decode(line, type=_Began | _Ended)


@contextlib.contextmanager
def launcher() -> Iterator[Launcher]:
    """A launcher, which ends with the block."""
    with _server() as process:
        try:
            yield Launcher(process)
        finally:
            process.kill()


#: nobody uses them at the moment
_idle: list[Launcher] = []


@contextlib.contextmanager
def any_launcher() -> Iterator[Launcher]:
    """One that nobody else uses, kept for the next one if all has gone well: its child has ended then."""
    mine = _idle.pop() if _idle else _lasting()
    yield mine
    _idle.append(mine)


def _lasting() -> Launcher:
    """A launcher that ends with this process."""
    process = _server()

    def end() -> None:
        process.kill()
        process.communicate()

    atexit.register(end)
    return Launcher(process)


def _server() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.e2e.preforked"]
    environment = {name: value for name, value in os.environ.items() if "API_KEY" not in name and "BATCHRUN" not in name}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_ROOT, env=environment | {"PYTHONPATH": _ROOT}
    )


def serve() -> None:
    """Fork for each order that comes, and tell of the child's beginning and end."""
    for name in _IMPORTED:  # here, not where the tests import this module
        importlib.import_module(f"batchrunner.cli.{name}")
    with open(0, "rb", buffering=0, closefd=False) as orders:  # nothing read ahead that a child would inherit
        for line in orders:
            order = msgspec.json.decode(line, type=Order)
            pid = os.fork()
            if pid == 0:
                _become(order)
            _, status = os.waitpid(pid, 0)
            _tell(_Ended(os.waitstatus_to_exitcode(status)))


def _become(order: Order) -> NoReturn:
    """Be what was ordered, to its end."""
    code = 1
    try:
        os.setsid()
        _tell(_Began(os.getpid()))
        os.chdir(order.directory)
        os.environ.clear()
        os.environ.update(order.environment)
        _redirect(0, order.stdin, os.O_RDONLY)
        _redirect(1, order.stdout, os.O_WRONLY)
        _redirect(2, order.stderr, os.O_WRONLY)
        sys.argv = ["batchrun", *order.arguments]
        if order.prelude is not None:
            module, _, function = order.prelude[0].partition(":")
            getattr(importlib.import_module(module), function)(**order.prelude[1])
        importlib.import_module("batchrunner.cli").main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _redirect(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags)
    os.dup2(opened, descriptor)
    os.close(opened)


def _tell(what: _Began | _Ended) -> None:
    os.write(1, msgspec.json.encode(what) + b"\n")


if __name__ == "__main__":
    serve()
