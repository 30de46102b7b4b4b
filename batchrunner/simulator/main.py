"""The simulated platform as a process: descriptors, signals, and one line on stdout when it is ready."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence

import msgspec
import trio

from batchrunner.simulator.ledger import FileLedger, Ledger, LedgerError, NoLedger
from batchrunner.simulator.options import parser, settings_of
from batchrunner.simulator.platform import Platform, trio_now_ns
from batchrunner.simulator.server import BACKLOG, serve_tcp
from batchrunner.simulator.settings import Settings

HOST = "127.0.0.1"
#: where the hard limit is no number
MANY_DESCRIPTORS = 1 << 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to end; `arguments` as on the command line, by default its own.

    The exit code: 0, 2 where the port cannot be had, 74 where the ledger cannot be written.
    """
    known = parser()
    options = known.parse_args(arguments)
    try:
        settings = settings_of(options)
    except ValueError as error:
        known.error(str(error))
    raise_descriptor_limit()
    code = 0
    try:
        with contextlib.ExitStack() as stack:
            ledger: Ledger = NoLedger()
            if options.ledger:
                ledger = stack.enter_context(contextlib.closing(FileLedger(options.ledger)))
            trio.run(run, settings, ledger, options.port, options.exit_with_stdin)
    except* LedgerError as errors:
        code = _complain(errors, "The ledger cannot be written", 74)
    except* OSError as errors:
        code = _complain(errors, f"Cannot listen on port {options.port}", 2)
    return code


def _complain(errors: BaseExceptionGroup[OSError], what: str, code: int) -> int:
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    sys.stderr.write(f"{what}: {first}.\n")
    return code


async def run(settings: Settings, ledger: Ledger, port: int, exit_with_stdin: bool) -> None:  # noqa: FBT001 - trio.run
    """Serve until SIGTERM, SIGINT, or the end of stdin where `exit_with_stdin`; what is in flight then is not billed.

    With `exit_with_stdin` SIGINT is ignored: the terminal sends Ctrl-C to the whole group, and a runner that drains
    what is in flight needs its platform until it closes the pipe.
    """
    end = {signal.SIGTERM} if exit_with_stdin else {signal.SIGTERM, signal.SIGINT}
    if exit_with_stdin:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with trio.open_signal_receiver(*end) as signals:
        async with trio.open_nursery() as nursery:
            url: str = await nursery.start(serve, settings, ledger, port)
            sys.stdout.write(msgspec.json.encode({"url": url, "pid": os.getpid()}).decode() + "\n")
            sys.stdout.flush()
            if exit_with_stdin:
                nursery.start_soon(_cancel_at_end_of_stdin, nursery.cancel_scope)
            async for _ in signals:
                nursery.cancel_scope.cancel()


async def serve(
    settings: Settings,
    ledger: Ledger,
    port: int = 0,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on loopback until cancelled; reports its URL once it listens. Port 0 takes any that is free.

    The platform's clock is the wall clock as it stood at the start, and steady from then on: calendar minutes are
    those on the wall. Raises: OSError where the port is taken.
    """
    listeners = await trio.open_tcp_listeners(port, host=HOST, backlog=BACKLOG)
    offset_ns = time.time_ns() - trio_now_ns()
    platform = Platform(settings, ledger=ledger, now_ns=lambda: trio_now_ns() + offset_ns)
    platform.url = f"http://{HOST}:{listeners[0].socket.getsockname()[1]}"
    task_status.started(platform.url)
    await serve_tcp(platform, listeners)


async def _cancel_at_end_of_stdin(scope: trio.CancelScope) -> None:
    """Whoever started this process holds the other end of its stdin, and its death closes it."""
    while True:
        # What is no pipe, socket or terminal cannot be waited for, and never blocks either.
        with contextlib.suppress(PermissionError):
            await trio.lowlevel.wait_readable(0)
        if not os.read(0, 1 << 16):
            scope.cancel()
            return


def raise_descriptor_limit() -> None:
    """Let this process open as many connections as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # fewer connections then
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
