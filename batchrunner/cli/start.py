"""Starts a run: index, prices, recovery, and the parts put together."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from functools import partial
from typing import NamedTuple, Protocol

import trio

from batchrunner import __version__, dialect
from batchrunner.account import Account
from batchrunner.account_store import AccountStore
from batchrunner.budget import Limits, Open, PastSend
from batchrunner.cli.output import say
from batchrunner.cli.sharing import own_account, shared_account
from batchrunner.cli.signals import Signals
from batchrunner.cli.watching import last_scrape, watch
from batchrunner.clock import Clock
from batchrunner.config import Options
from batchrunner.costs import timestamp
from batchrunner.errors import AccountError, InvalidInput, UnreachableError, UsageError
from batchrunner.estimate import Estimator
from batchrunner.events import Event, Onlookers, Sink
from batchrunner.heads import Heads
from batchrunner.index import Index
from batchrunner.inputs import BadLines, Inputs, index_inputs
from batchrunner.journal import Facts, Journal, Recovered, Tariff, recover
from batchrunner.lifecycle import State
from batchrunner.metrics import Metrics
from batchrunner.parts import Parts
from batchrunner.platform.catalog import fetch_prices
from batchrunner.pricing import PriceTable
from batchrunner.progress import Mode, Progress
from batchrunner.run_directory import RunDirectory
from batchrunner.runner import Run
from batchrunner.spending import Spending
from batchrunner.status import Status
from batchrunner.tally import Tally
from batchrunner.transport import Origin, Pool

#: Failures that are told one by one; all of them stand in errors.jsonl.
FAILURES_TOLD = 10


class _SharedAccount(Protocol):
    """Opens the account that a run shares with others."""

    def __call__(self, *, limits: Limits, say: Callable[[str], None]) -> AbstractAsyncContextManager[AccountStore]: ...


def carry_out(
    options: Options,
    *,
    clock: Clock,
    directory: RunDirectory,
    inputs: Inputs,
    account: Account,
    signals: Signals,
    metrics: Metrics | None,
    progress_mode: Mode,
    accept_changes: bool,
    retry_failed: bool,
    strict: bool,
    local_prices: PriceTable | None,
    state_dir: str | None,
) -> Status:
    """Bring a run to where it stands and go on to its end; its last status.

    Raises: UsageError, ChangedLines, JournalDamaged, InvalidInput before anything is sent; DiskError any time.
    """
    heads = Heads(Origin.parse(options.base_url), account.keys, auth=account.auth, headers=account.headers)
    bad_lines = BadLines()
    index = index_inputs(inputs, bad_lines.append)
    _tell_of_input(inputs, index, bad_lines)
    if strict and bad_lines:
        raise InvalidInput(_strictly(inputs, options.run_dir, len(bad_lines)))
    prices = _prices(options, local_prices, directory, heads, clock)
    assert directory.manifest is not None
    recovered = recover(
        directory.disk,
        run_id=directory.manifest.run_id,
        index=index,
        clock=clock,
        tariff=_tariff(inputs, index, prices.table),
        pid=os.getpid(),
        version=__version__,
        bad_lines=bad_lines,
        accept_changes=accept_changes,
        retry_failed=retry_failed,
    )
    bad_lines.close()
    for warning in recovered.warnings:
        say(f"warning: {warning}")
    shared = None if options.simulate else partial(shared_account, account.identity, clock=clock, state_dir=state_dir)
    return trio.run(
        _live, options, clock, directory, inputs, index, recovered, prices, heads, signals, metrics, progress_mode, shared
    )


def _tell_of_input(inputs: Inputs, index: Index, bad_lines: BadLines) -> None:
    """What people should know of the job files before anything is sent."""
    for bad in itertools.islice(bad_lines, FAILURES_TOLD):
        say(bad.message)
    if len(bad_lines) > FAILURES_TOLD:
        say(f"{len(bad_lines) - FAILURES_TOLD:,} more lines are no jobs; a run lists all of them in errors.jsonl.")
    if not len(index) and not bad_lines:
        say(f"warning: no job in {', '.join(file.name for file in inputs.files)}.")


def _strictly(inputs: Inputs, run_dir: str, bad_lines: int) -> str:
    """Why the run is not started, and where its lines can be mended."""
    kept = [f"{file.name} is read from {os.path.join(run_dir, file.kept_as)} now" for file in inputs.files if file.kept_as]
    where = f" ({'; '.join(kept)})" if kept else ""
    return (
        f"{bad_lines:,} of the input's lines are no jobs, and with --strict nothing is sent then. Mend them{where}, or leave "
        "--strict out: the others run."
    )


async def _live(
    options: Options,
    clock: Clock,
    directory: RunDirectory,
    inputs: Inputs,
    index: Index,
    recovered: Recovered,
    prices: _Prices,
    heads: Heads,
    signals: Signals,
    metrics: Metrics | None,
    progress_mode: Mode,
    shared: _SharedAccount | None,
) -> Status:
    """Put the parts together and let them run, with everything that looks on. `shared`: None where the account is its own."""
    assert directory.manifest is not None
    tally = _tally(recovered)
    sinks: list[Sink] = [tally.add]
    journal = Journal(recovered.files, clock, sink=_to_all(sinks), totals=recovered.totals)
    progress = Progress(lambda: run.status(), mode=progress_mode)  # noqa: PLW0108 - the run is made below, and told of it
    limits = Limits(options.rpm, options.tpm)
    async with own_account(limits) if shared is None else shared(limits=limits, say=progress.say) as store:
        await store.step(clock.monotonic_ns(), Open(_last_minute(recovered), jobs=index.state.count(State.PENDING)))
        pool = Pool(Origin.parse(options.base_url))
        run = Run(
            Parts(
                options=options,
                run_id=directory.manifest.run_id,
                clock=clock,
                disk=directory.disk,
                rng=random.Random(),
                inputs=inputs,
                index=index,
                bad_lines=recovered.bad_lines,
                histories=recovered.histories,
                tally=tally,
                journal=journal,
                store=store,
                pool=pool,
                heads=heads,
                spending=Spending(prices.table, recovered.totals, options.max_cost_usd),
                estimator=Estimator(),
                unreached_since_ns=prices.unreached_since_ns,
                say=progress.say,
            )
        )
        onlookers = Onlookers(progress.say)
        onlookers.add(_Failures(progress, index).on_event)
        sinks.append(onlookers.on_event)
        if metrics is not None:
            watch(metrics, run, onlookers)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(signals.watch, run, progress, options.drain_seconds)
                await nursery.start(progress.run)
                status = await run.run()
                if metrics is not None and status.stopped_by != "signal":
                    await last_scrape(metrics.scrapes, clock, progress.say)
                nursery.cancel_scope.cancel()
        finally:
            await pool.aclose()
        return status


class _Prices(NamedTuple):
    table: PriceTable
    #: monotonic time since which the server was asked for them and not reached; None where it was
    unreached_since_ns: int | None = None


def _prices(options: Options, local: PriceTable | None, directory: RunDirectory, heads: Heads, clock: Clock) -> _Prices:
    """Local prices, else the catalog's, kept in the manifest with their date; those kept before where there is no catalog now.

    Raises: where there are none at all and a spend cap rests on them, UsageError, or UnreachableError.
    """
    assert directory.manifest is not None
    if local is not None:
        directory.keep_prices(local)
        return _Prices(local)
    kept = directory.manifest.prices
    began_ns = clock.monotonic_ns()
    try:
        prices = trio.run(_fetch, Origin.parse(options.base_url), heads, timestamp(clock.wall_ns()))
    except AccountError as error:
        unreachable = isinstance(error, UnreachableError)
        since_ns = began_ns if unreachable else None
        if kept is not None:
            say(f"warning: {error} Prices are those of {kept.fetched_at}.")
            return _Prices(kept, since_ns)
        if options.max_cost_usd is not None:
            if unreachable:
                raise
            raise UsageError(
                f"--max-cost needs prices, and there are none: {error} Check --base-url, give prices of your own "
                "(--prices FILE), or leave --max-cost out."
            ) from error
        say(f"warning: {error} Costs are unknown; tokens are counted all the same.")
        return _Prices(PriceTable(), since_ns)
    directory.keep_prices(prices)
    return _Prices(prices)


async def _fetch(origin: Origin, heads: Heads, fetched_at: str) -> PriceTable:
    pool = Pool(origin)
    try:
        return await fetch_prices(pool, heads, fetched_at=fetched_at, say=say)
    finally:
        await pool.aclose()


def _tariff(inputs: Inputs, index: Index, prices: PriceTable) -> Tariff:
    """How recovery prices what an earlier process did not get to write down."""

    def request(number: int) -> tuple[str, str]:
        job = inputs.load(index, number)
        return job.url, dialect.of(job).size(job.body).model

    def facts(endpoint: str, body: bytes) -> dialect.ReplyFacts | None:
        return dialect.for_url(endpoint).read(body)

    def price(model: str, facts: Facts) -> Decimal | None:
        return prices.cost(model, facts.usage, facts.tool_usage, opaque=facts.opaque)

    return Tariff(request=request, facts=facts, price=price, ceiling=prices.ceiling)


def _tally(recovered: Recovered) -> Tally:
    """What earlier processes of the run did."""
    totals = recovered.totals
    return Tally(
        completed=recovered.completed,
        failed=recovered.failed + recovered.bad_lines,
        attempts=totals.attempts,
        rate_limited=totals.rate_limited,
        input_tokens=totals.input_tokens,
        cached_tokens=totals.cached_tokens,
        output_tokens=totals.output_tokens,
        reasoning_tokens=totals.reasoning_tokens,
        billed_usd=totals.billed,
        maybe_billed_usd=totals.maybe_billed,
        unpriced_attempts=totals.unpriced,
        finish_length=totals.finishes.get(dialect.Finish.LENGTH, 0),
        finish_refusal=totals.finishes.get(dialect.Finish.REFUSAL, 0),
        finish_empty=totals.finishes.get(dialect.Finish.EMPTY, 0),
    )


def _last_minute(recovered: Recovered) -> tuple[PastSend, ...] | None:
    """The run's own sends of the last minute; None where they cannot be known."""
    if not recovered.fresh and not recovered.same_boot:
        return None
    return tuple(PastSend(sent_ns, tokens) for sent_ns, tokens in recovered.recent_sends)


def _to_all(sinks: list[Sink]) -> Sink:
    def publish(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return publish


class _Failures:
    """Tells people of the first few jobs that fail, while it is still time to stop."""

    def __init__(self, progress: Progress, index: Index) -> None:
        self._progress = progress
        self._index = index
        self._told = 0

    def on_event(self, event: Event) -> None:
        if not event.final or event.succeeded or self._told > FAILURES_TOLD:
            return
        self._told += 1
        if self._told > FAILURES_TOLD:
            self._progress.say("more jobs fail; all of them stand in errors.jsonl.")
        else:
            self._progress.say(f"job {event.custom_id} ({self._index.place(event.line)}) failed: {event.message}")
