"""`batchrun submit`: run a job file to its end, or go on where an earlier start stopped."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from batchrunner.account import Account
from batchrunner.cli.accounts import Names, accounts_of, joined, simulated_account
from batchrunner.cli.core_dumps import forbid_core_dumps
from batchrunner.cli.help_text import Sectioned
from batchrunner.cli.output import exit_code, print_json, print_text, say, summary
from batchrunner.cli.part import Part
from batchrunner.cli.price_file import read_prices
from batchrunner.cli.settings import CONFIG_OPTION, PREFIX
from batchrunner.cli.signals import Signals, terminable
from batchrunner.cli.simulate import SimulatedPlatform
from batchrunner.cli.start import carry_out
from batchrunner.clock import NS_PER_SECOND, Clock, SystemClock
from batchrunner.config import (
    DEFAULT_BASE_URL,
    DEFAULT_DRAIN_SECONDS,
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_RPM,
    DEFAULT_TIMEOUT_SECONDS,
    DEFAULT_TPM,
    MOST_A_MINUTE,
    MaxFailures,
    Options,
    default_run_dir,
    in_flight_cap,
)
from batchrunner.downloads import Folder
from batchrunner.errors import UsageError
from batchrunner.job import MAX_STEPS
from batchrunner.progress import MODES
from batchrunner.run_directory import RunDirectory
from batchrunner.runner import FREE_BYTES
from batchrunner.sources import STDIN, opened
from batchrunner.status import Status, sum_of_limits
from batchrunner.wording import next_step, summary_text

if TYPE_CHECKING:
    from batchrunner.cli.watching import Watching

_COUNT = click.IntRange(min=0, max=MOST_A_MINUTE)
_AT_LEAST_ONE = click.IntRange(min=1)
SIMULATED_IDENTITY = "simulated"
#: headings of `--help`, by the option that comes first under each
_SECTIONS = {
    "run_dir": "Files",
    "base_url": "Server and account",
    "rpm": "Limits",
    "max_attempts": "Attempts",
    "max_cost": "When to stop",
    "retry_failed": "Jobs that failed, changed, or are none",
    "metrics": "What is shown",
}


class _Seconds(click.FloatRange):
    """A finite number of seconds; NaN and infinity have no place in `run.json`."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds: float = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a number of seconds.", param, ctx)
        return seconds


class Usd(click.ParamType):  # type: ignore[type-arg]  # generic in the newest versions alone
    """A sum of money, kept exact."""

    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(str(value))
        except InvalidOperation:
            amount = Decimal("NaN")
        if not amount.is_finite() or amount < 0:
            self.fail(f"{value!r} is not an amount in USD, such as 2.50.", param, ctx)
        return amount


class _MaxFailures(click.ParamType):  # type: ignore[type-arg]  # generic in the newest versions alone
    """A number of jobs, or a share of them."""

    name = "failures"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> MaxFailures:
        try:
            return MaxFailures.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


# Option `--max-cost` is also the variable BATCHRUN_MAX_COST, and the key max_cost of batchrun.toml; see `settings`.
@click.command(
    cls=Sectioned,
    sections=_SECTIONS,
    short_help="Run job files to the end, or resume.",
    context_settings={"auto_envvar_prefix": PREFIX},
)
@click.argument("jobs", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--run-dir",
    type=click.Path(readable=False),
    metavar="DIR",
    help="The run directory.  [default: beside the first job file, its name with .run]",
)
@click.option("--base-url", default=DEFAULT_BASE_URL, show_default=True, metavar="URL", help="The server; with or without /v1.")
@click.option("--simulate", is_flag=True, help="Run against the embedded platform: no key, no network, no cost.")
@click.option(
    "--simulate-options", default="", metavar="OPTIONS", help="For --simulate: options of `batchrun simulate`, in one text."
)
@click.option(
    "--account",
    type=Names(),
    multiple=True,
    callback=joined,
    metavar="NAME",
    help="An account of batchrun.toml; where that has none, no more than a name. Several share the jobs, each within its limits.",
)
@CONFIG_OPTION
@click.option(
    "--state-dir",
    type=click.Path(),
    metavar="DIR",
    help="Where runs on this machine that use one account share its limits.  [default: the user's own state directory]",
)
@click.option("--rpm", type=_COUNT, default=DEFAULT_RPM, show_default=True, metavar="N", help="Requests a minute; 0: no limit.")
@click.option("--tpm", type=_COUNT, default=DEFAULT_TPM, show_default=True, metavar="N", help="Tokens a minute; 0: no limit.")
@click.option(
    "--limit",
    type=click.Choice(["configured", "auto"]),
    default="configured",
    show_default=True,
    help="auto: go beyond --rpm and --tpm where the server says that there is more, or lets more through.",
)
@click.option(
    "--priority",
    type=click.IntRange(-MAX_STEPS, MAX_STEPS),
    default=0,
    show_default=True,
    metavar="N",
    help="Of jobs that name none; each step doubles their share of requests and tokens beside others.",
)
@click.option(
    "--max-in-flight", type=_AT_LEAST_ONE, metavar="N", help="Requests in flight.  [default: 10,000, or what open files allow]"
)
@click.option(
    "--max-attempts",
    type=_AT_LEAST_ONE,
    default=DEFAULT_MAX_ATTEMPTS,
    show_default=True,
    metavar="N",
    help="Of a job; a 429, a crash of ours and an outage cost none.",
)
@click.option(
    "--timeout",
    type=_Seconds(min=0, min_open=True),
    default=DEFAULT_TIMEOUT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="For one attempt.",
)
@click.option(
    "--idempotency-keys/--no-idempotency-keys",
    default=True,
    show_default=True,
    help="Send an Idempotency-Key, the same for a repeat of what may have been done.",
)
@click.option(
    "--download",
    type=click.Path(),
    metavar="DIR",
    help="Save the pictures, sounds and films that answers name here.",
)
@click.option("--max-cost", type=Usd(), metavar="USD", help="Send nothing more once this is spent or predicted to be.")
@click.option("--prices", type=click.Path(), metavar="FILE", help="Prices of your own, as JSON; the server is asked for none.")
@click.option(
    "--max-failures", type=_MaxFailures(), metavar="N|P%", help="Stop once more jobs than this have failed; 0: at the first."
)
@click.option(
    "--wait-for-credits",
    is_flag=True,
    help="Without credits, wait for the account to be topped up; without this the run stops at once, to be resumed.",
)
@click.option(
    "--drain-seconds",
    type=_Seconds(min=0),
    default=DEFAULT_DRAIN_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="After a SIGTERM, what is in flight has this long to end.",
)
@click.option("--retry-failed", is_flag=True, help="Run the jobs of errors.jsonl again.")
@click.option("--accept-changes", is_flag=True, help="Run changed lines that have not succeeded; without it they stop the run.")
@click.option("--strict", is_flag=True, help="Send nothing where a line of the input is no job, or repeats an id.")
@click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics; a bare port means loopback, 0 a free one.")
@click.option("--progress", type=click.Choice(MODES), default="auto", show_default=True, help="How to show progress on stderr.")
@click.option("--json", is_flag=True, help="Print one JSON document on stdout at the end.")
@click.pass_context
def submit(context: click.Context, /, **given: Any) -> None:
    """Run the job files JOBS to the end, or resume: the same command again goes on where the run stood.

    JOBS are JSON Lines, a request each, also packed with gzip or through a pipe; - is standard input, and needs --run-dir.
    What comes packed or through a pipe is kept in the run directory, and a pipe is not read again.

    In the run directory (jobs.run for jobs.jsonl) results are in results.jsonl, failures in errors.jsonl, costs in
    costs.jsonl. `batchrun status jobs.run` tells how the run stands.

    The key comes from EMPIRIOLABS_API_KEY, or from BATCHRUN_API_KEY for any other server; several are separated by commas.
    --simulate needs none.

    Each option is also an environment variable (--max-cost is BATCHRUN_MAX_COST) and a key of batchrun.toml (max_cost), in
    this directory or in the user's own configuration. The command line goes first, then the environment, then the file.
    Its tables [accounts.NAME] hold a server, its keys (env:NAME or file:PATH) and its limits; `batchrun config show` tells.

    \b
    Exit codes:
      0    all jobs succeeded
      1    finished, some jobs failed
      2    an option, a key or a price is missing or makes no sense
      3    stopped by --max-cost or --max-failures, or as all jobs failed alike
      65   the job file or the run directory cannot be trusted
      69   stopped by the account or the server
      70   a defect of ours
      74   a write failed
      75   another process is at work on the run directory
      130  interrupted; 143 by SIGTERM

    After all but 2 and 65 the same command resumes the run.
    """  # noqa: D301 - click reads the backspace: the table stays a table
    # A terminal that hangs up ends its display and nothing else, from the first moment to the last.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    forbid_core_dumps()
    began_ns = (clock := SystemClock()).monotonic_ns()
    signals = Signals()
    status = run_jobs(context, clock, signals)
    wall_seconds = (clock.monotonic_ns() - began_ns) / NS_PER_SECOND
    if given["json"]:
        print_json(summary(status, wall_seconds))
        if status.stopped_by is not None:  # of which the document has only the name
            say(f"batchrun: {next_step(status)}")
    else:
        print_text(summary_text(status))
    context.exit(exit_code(status, terminated=signals.terminated))


def run_jobs(context: click.Context, clock: Clock, signals: Signals, part: Part | None = None) -> Status:
    """Prepare a run and carry it or a part of it out; its last status. What can be refused is refused before anything is sent."""
    given = context.params
    with contextlib.ExitStack() as held:
        accounts = (simulated_account(context),) if given["simulate"] else accounts_of(context, os.environ)
        options = options_of(given, accounts)
        watching = None if given["metrics"] is None else _watching(clock, given["metrics"])
        local_prices = None if given["prices"] is None else read_prices(given["prices"])
        sources = held.enter_context(opened(options.inputs))
        directory = held.enter_context(contextlib.closing(RunDirectory(Path(options.run_dir), clock)))
        finished = directory.finished(directory.copies.identity(sources), options)
        if finished is not None and not (given["retry_failed"] and finished.failed) and given["download"] is None:
            return finished
        folder = None if given["download"] is None else held.enter_context(_folder(given["download"]))
        if watching is not None:
            held.enter_context(watching.served())
        directory.begin(options, _told_identity(directory, accounts, simulate=options.simulate))
        with terminable():
            inputs = held.enter_context(directory.copies.inputs(sources, spare_bytes=FREE_BYTES, say=say))
        if options.simulate:
            platform = SimulatedPlatform(rpm=options.rpm, tpm=options.tpm, options=given["simulate_options"])
            options = msgspec.structs.replace(options, base_url=held.enter_context(platform).url)
        return carry_out(
            options,
            clock=clock,
            directory=directory,
            inputs=inputs,
            accounts=accounts,
            signals=signals,
            watching=watching,
            progress_mode=given["progress"],
            accept_changes=given["accept_changes"],
            retry_failed=given["retry_failed"],
            strict=given["strict"],
            local_prices=local_prices,
            state_dir=given["state_dir"],
            part=part,
            folder=folder,
        )


def _told_identity(directory: RunDirectory, accounts: Sequence[Account], *, simulate: bool) -> str:
    """Whose requests this start sends. People are told where earlier ones of the run were another account's."""
    # The embedded platform has another port each time, and is the same account all the same.
    identity = SIMULATED_IDENTITY if simulate else " and ".join(account.identity for account in accounts)
    earlier = directory.manifest.identities[-1:] if directory.manifest is not None else ()
    if earlier not in ((), (identity,)):
        say(
            f"warning: {directory.path}: this run went under {earlier[0]} until now, and goes on under {identity}: its results "
            "and costs are from two accounts, unless only the key is another one. A named account (--account) survives its keys."
        )
    return identity


@contextlib.contextmanager
def _folder(path: str) -> Iterator[Folder]:
    """The directory that media are saved in. Raises: UsageError where there can be none."""
    try:
        folder = Folder(path)
    except OSError as error:
        raise UsageError(f"--download {path}: {error.strerror}.") from error
    with contextlib.closing(folder):
        yield folder


def _watching(clock: Clock, address: str) -> Watching:
    """Metrics for those who ask for them. Raises: UsageError."""
    from batchrunner.cli.watching import Watching  # noqa: PLC0415 - Prometheus' library takes its time

    return Watching(clock, address)


def options_of(given: dict[str, Any], accounts: Sequence[Account]) -> Options:
    """What a run is asked to do."""
    jobs: tuple[str, ...] = given["jobs"]
    return Options(
        inputs=jobs,
        run_dir=given["run_dir"] or default_run_dir(STDIN if STDIN in jobs else jobs[0], simulate=given["simulate"]),
        base_url=accounts[0].base_url,
        simulate=given["simulate"],
        account=given["account"] if len(accounts) > 1 else accounts[0].name,
        rpm=sum_of_limits(account.rpm for account in accounts),
        tpm=sum_of_limits(account.tpm for account in accounts),
        limit=given["limit"],
        priority=given["priority"],
        max_in_flight=in_flight_cap(given["max_in_flight"], _raise_descriptor_limit()),
        max_attempts=given["max_attempts"],
        timeout_seconds=given["timeout"],
        max_cost_usd=given["max_cost"],
        max_failures=given["max_failures"],
        wait_for_credits=given["wait_for_credits"],
        drain_seconds=given["drain_seconds"],
        idempotency_keys=given["idempotency_keys"],
    )


def _raise_descriptor_limit() -> int:
    """Let this process open as many files as it may; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1 << 16 if hard == resource.RLIM_INFINITY else hard
    with contextlib.suppress(OSError, ValueError):  # fewer connections then
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft
