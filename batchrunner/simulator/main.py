"""The simulated platform as a process: options, descriptors, signals, and one line on stdout when it is ready."""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

import msgspec
import trio

from batchrunner.simulator.faults import KINDS, check_rates, kind_named
from batchrunner.simulator.ledger import FileLedger, Ledger, LedgerError, NoLedger
from batchrunner.simulator.platform import Platform, trio_now_ns
from batchrunner.simulator.server import BACKLOG, serve_tcp
from batchrunner.simulator.settings import TEST_KEY, Charging, Rule, Settings, WindowShape

HOST = "127.0.0.1"
#: where the hard limit is no number
MANY_DESCRIPTORS = 1 << 16
_DEFAULTS = Settings()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to end; `arguments` as on the command line, by default its own.

    The exit code: 0, 2 where the port cannot be had, 74 where the ledger cannot be written.
    """
    options = parser().parse_args(arguments)
    raise_descriptor_limit()
    code = 0
    try:
        with contextlib.ExitStack() as stack:
            ledger: Ledger = NoLedger()
            if options.ledger:
                ledger = stack.enter_context(contextlib.closing(FileLedger(options.ledger)))
            trio.run(run, settings_of(options), ledger, options.port, options.exit_with_stdin)
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
    task_status.started(f"http://{HOST}:{listeners[0].socket.getsockname()[1]}")
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


def parser() -> argparse.ArgumentParser:
    """The options. Each has the default of the setting that it stands for."""
    of = argparse.ArgumentParser(
        prog="batchrun simulate",
        description="A simulated EmpirioLabs on loopback. Prints one JSON line with its url and pid when it is ready.",
    )
    of.add_argument("--port", type=_port, default=0, help="0 takes any that is free (default)")
    of.add_argument("--key", action="append", dest="keys", metavar="KEY", help=f"an accepted test key (default {TEST_KEY})")
    of.add_argument("--seed", type=int, default=_DEFAULTS.seed, metavar="N", help="the same seed, the same answers and faults")
    of.add_argument("--balance", type=_amount, default=_DEFAULTS.balance_usd, metavar="USD", help="credits (default %(default)s)")
    of.add_argument("--ledger", metavar="FILE", help="append a JSON line for each request that was billed")
    of.add_argument("--exit-with-stdin", action="store_true", help="end when stdin does; then SIGINT is ignored")

    limits = of.add_argument_group("limits (0: none)")
    limits.add_argument("--rpm", type=_count, default=_DEFAULTS.rpm, metavar="N", help="requests a minute (default none)")
    limits.add_argument("--tpm", type=_count, default=_DEFAULTS.tpm, metavar="N", help="tokens a minute (default none)")
    limits.add_argument(
        "--window",
        type=WindowShape,
        choices=list(WindowShape),
        default=_DEFAULTS.window,
        help="what a minute is (default %(default)s)",
    )
    limits.add_argument("--burst", type=_count, default=_DEFAULTS.burst, metavar="N", help="a bucket's size in requests")
    limits.add_argument(
        "--burst-tokens", type=_count, default=_DEFAULTS.burst_tokens, metavar="N", help="a bucket's size in tokens"
    )
    limits.add_argument(
        "--charge",
        type=Charging,
        choices=list(Charging),
        default=_DEFAULTS.charging,
        help="tokens count as estimated when a request comes, as used when it has ended, or as the one corrected to the other "
        "(default %(default)s)",
    )
    limits.add_argument("--retry-after", action="store_true", help="send Retry-After with a 429")

    times = of.add_argument_group("answers (lognormal: a median, and how far it scatters)")
    times.add_argument(
        "--latency",
        type=_positive,
        default=_DEFAULTS.latency_median_seconds,
        metavar="SECONDS",
        help="how long one takes, the median (default %(default)s)",
    )
    times.add_argument(
        "--latency-sigma", type=_positive, default=_DEFAULTS.latency_sigma, metavar="SIGMA", help="0: always the median"
    )
    times.add_argument(
        "--latency-per-token",
        type=_positive,
        default=_DEFAULTS.latency_per_token_seconds,
        metavar="SECONDS",
        help="on top of it, for each token of output (default %(default)s)",
    )
    times.add_argument(
        "--output-tokens",
        type=_positive_count,
        default=_DEFAULTS.output_median_tokens,
        metavar="N",
        help="how long one is without a cap, the median (default %(default)s)",
    )
    times.add_argument(
        "--output-sigma", type=_positive, default=_DEFAULTS.output_sigma, metavar="SIGMA", help="0: always the median"
    )
    times.add_argument(
        "--cached-share",
        type=_share,
        default=_DEFAULTS.cached_share,
        metavar="SHARE",
        help="of requests with part of the prompt cached (default %(default)s)",
    )

    faults = of.add_argument_group("faults", f"What can go wrong: {', '.join(KINDS)}.")
    faults.add_argument(
        "--faults", type=_rates, default={}, metavar="KIND=SHARE,...", help="at random, such as error500=0.05,silent=0.01"
    )
    faults.add_argument("--script", type=_script, default=(), metavar="KIND,...", help="by order of arrival; ok: none")
    faults.add_argument(
        "--fault-on",
        type=_rule,
        action="append",
        default=[],
        metavar="TAG=KIND[*N]",
        help="for the first N requests (1; 0: all) whose metadata.tag, metadata.custom_id or user is TAG",
    )
    return of


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings(
        seed=options.seed,
        keys=tuple(options.keys or _DEFAULTS.keys),
        balance_usd=options.balance,
        rpm=options.rpm,
        tpm=options.tpm,
        window=options.window,
        burst=options.burst,
        burst_tokens=options.burst_tokens,
        charging=options.charge,
        retry_after=options.retry_after,
        latency_median_seconds=options.latency,
        latency_sigma=options.latency_sigma,
        latency_per_token_seconds=options.latency_per_token,
        output_median_tokens=options.output_tokens,
        output_sigma=options.output_sigma,
        cached_share=options.cached_share,
        faults=options.faults,
        script=options.script,
        rules=tuple(options.fault_on),
    )


def _rates(text: str) -> dict[str, float]:
    rates: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        kind, _, rate = part.partition("=")
        rates[kind.strip()] = _share(rate)
    try:
        check_rates(rates)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return rates


def _script(text: str) -> tuple[str, ...]:
    return tuple(_kind(part.strip()) for part in text.split(",") if part.strip())


def _rule(text: str) -> Rule:
    tag, _, rest = text.rpartition("=")
    kind, _, times = rest.partition("*")
    if not tag:
        raise argparse.ArgumentTypeError(f"{text!r}: say TAG=KIND, or TAG=KIND*N")
    return Rule(kind=_kind(kind), tag=tag, times=_count(times) if times else 1)


def _kind(text: str) -> str:
    try:
        return kind_named(text).kind
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount") from error
    if not amount.is_finite():
        raise argparse.ArgumentTypeError(f"{text!r} is no amount")
    return amount


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _port(text: str) -> int:
    if _count(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _positive_count(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} must be 0 or more")
    return number


def _share(text: str) -> float:
    number = _positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text!r} must lie between 0 and 1")
    return number
