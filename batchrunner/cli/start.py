"""Starts a run: index, prices, recovery, and the parts put together."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from batchrunner import __version__, dialect, lengths, live_socket
from batchrunner.account import Account, names_to_bind_to
from batchrunner.budget import Limits, Open, PastSend
from batchrunner.cli.controls import Controls
from batchrunner.cli.output import say
from batchrunner.cli.part import Part
from batchrunner.cli.run_prices import RunPrices, prices_of
from batchrunner.cli.sharing import OpenedAccount, own_account, shared_account
from batchrunner.cli.signals import Signals
from batchrunner.clock import Clock
from batchrunner.config import Options
from batchrunner.downloads import Downloads, Folder
from batchrunner.errors import BatchrunError, InvalidInput
from batchrunner.events import Event, Onlookers, Sink
from batchrunner.heads import Heads
from batchrunner.index import Index
from batchrunner.inputs import BadLines, Inputs, index_inputs
from batchrunner.journal import Facts, Journal, Recovered, Tariff, recover
from batchrunner.lifecycle import State
from batchrunner.parts import AccountParts, Parts
from batchrunner.platform.balance import fetch_balance
from batchrunner.platform.control import ControlPlane
from batchrunner.pricing import PriceTable
from batchrunner.progress import Mode, Progress
from batchrunner.run_directory import RunDirectory
from batchrunner.runner import Run
from batchrunner.spending import Spending
from batchrunner.status import Status
from batchrunner.tally import Tally
from batchrunner.transport import Origin, Pool
from batchrunner.wording import counted

if TYPE_CHECKING:  # what it imports is for those who ask for metrics
    from batchrunner.cli.watching import Watching

#: Failures that are told one by one; all of them stand in errors.jsonl.
FAILURES_TOLD = 10


def carry_out(
    options: Options,
    *,
    clock: Clock,
    directory: RunDirectory,
    inputs: Inputs,
    accounts: Sequence[Account],
    signals: Signals,
    watching: Watching | None,
    progress_mode: Mode,
    accept_changes: bool,
    retry_failed: bool,
    strict: bool,
    local_prices: PriceTable | None,
    state_dir: str | None,
    part: Part | None = None,
    folder: Folder | None = None,
) -> Status:
    """Bring a run to where it stands and go on to its end, or to that of a part of it; its last status.

    Raises: UsageError, ChangedLines, JournalDamaged, InvalidInput before anything is sent; DiskError any time.
    """
    if options.simulate:  # its address is known only now
        accounts = [msgspec.structs.replace(account, base_url=options.base_url) for account in accounts]
    heads = [
        Heads(Origin.parse(account.base_url), account.keys, auth=account.auth, headers=account.headers) for account in accounts
    ]
    bad_lines = BadLines()
    index = index_inputs(inputs, bad_lines.append, priority=options.priority, accounts=names_to_bind_to(accounts))
    _tell_of_input(inputs, index, bad_lines)
    if strict and bad_lines:
        raise InvalidInput(_strictly(inputs, options.run_dir, len(bad_lines)))
    prices = prices_of(options, accounts, local_prices, directory, clock)
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
    if part is not None:
        part.set_others_aside(index)
    opened = own_account if options.simulate else partial(shared_account, clock=clock, state_dir=state_dir)
    live = partial(_live, accounts=accounts, heads=heads, opened=opened, progress_mode=progress_mode, part=part, folder=folder)
    return trio.run(live, options, clock, directory, inputs, index, recovered, prices, signals, watching)


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
    prices: RunPrices,
    signals: Signals,
    watching: Watching | None,
    *,
    accounts: Sequence[Account],
    heads: Sequence[Heads],
    opened: OpenedAccount,
    progress_mode: Mode,
    part: Part | None,
    folder: Folder | None,
) -> Status:
    """Put the parts together and let them run, with everything that looks on."""
    assert directory.manifest is not None
    tally = _tally(recovered)
    sinks: list[Sink] = [tally.add]
    journal = Journal(recovered.files, clock, sink=_to_all(sinks), totals=recovered.totals)
    progress = Progress(lambda: run.status(), mode=progress_mode)  # noqa: PLW0108 - the run is made below, and told of it
    async with AsyncExitStack() as stack:
        parts = [
            await _account_parts(
                stack, opened, account, of_it, clock, index, recovered, prices, progress.say, auto=options.limit == "auto"
            )
            for account, of_it in zip(accounts, heads, strict=True)
        ]
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
                accounts=tuple(parts),
                spending=Spending(prices.table, recovered.totals, options.max_cost_usd),
                estimator=lengths.known([account.store for account in parts]),
                say=progress.say,
            )
        )
        onlookers = Onlookers(progress.say)
        onlookers.add(_Failures(progress, index).on_event)
        sinks.append(onlookers.on_event)
        downloads = None if folder is None else _downloads(folder, directory, inputs, index, accounts, progress.say)
        if downloads is not None:
            onlookers.add(downloads.on_event)
        if watching is not None:
            watching.watch(run, onlookers)
        async with trio.open_nursery() as nursery:
            await nursery.start(signals.watch, run, progress, options.drain_seconds)
            await nursery.start(progress.run)
            controls = Controls(run, progress, signals)
            await nursery.start(live_socket.serve, directory.path, controls.respond, progress.say)
            nursery.start_soon(lengths.keep, run.parts.estimator, [account.store for account in parts])
            if downloads is not None:
                nursery.start_soon(downloads.run)
            status = await run.run()
            if downloads is not None:
                await _saved(downloads, status, progress.say, signals.hurried)
            if watching is not None and status.stopped_by != "signal":
                await watching.last_scrape(progress.say)
            nursery.cancel_scope.cancel()
        if part is not None:
            part.lengths = run.parts.estimator
    return status


def _downloads(
    folder: Folder, directory: RunDirectory, inputs: Inputs, index: Index, accounts: Sequence[Account], say: Callable[[str], None]
) -> Downloads:
    """What saves media. This machine is asked for them only where a server of the run is on it."""

    def endpoint_of(custom_id: str) -> str | None:
        with contextlib.suppress(BatchrunError):  # the file was changed: the run itself tells of it
            number = index.find(custom_id)
            return None if number is None else inputs.load(index, number).url
        return None

    loopback = any(Origin.parse(account.base_url).is_loopback for account in accounts)
    assert directory.manifest is not None
    return Downloads(folder, directory.manifest.run_id, directory.disk, endpoint_of, say, loopback=loopback)


async def _saved(downloads: Downloads, status: Status, say: Callable[[str], None], hurried: trio.Event) -> None:
    """Wait for the last files, unless somebody is in a hurry, or gets into one; say how many there are."""
    finished = False
    if status.stopped_by != "signal":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_once, hurried, nursery.cancel_scope)
            await downloads.finish()
            finished = True
            nursery.cancel_scope.cancel()
    found = downloads.statistics()
    failed = f", {found.failed:,} could not be had: the same command tries again" if found.failed else ""
    left = "" if finished else "; the rest is left to the same command"
    say(f"{counted(found.files, 'file')} saved, {found.bytes:,} bytes{failed}{left}.")


async def _cancel_once(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _account_parts(
    stack: AsyncExitStack,
    opened: OpenedAccount,
    account: Account,
    heads: Heads,
    clock: Clock,
    index: Index,
    recovered: Recovered,
    prices: RunPrices,
    say: Callable[[str], None],
    *,
    auto: bool,
) -> AccountParts:
    """What an account of the run is made of, its budget as its last minute has left it. `stack` closes it."""
    limits = Limits(account.rpm, account.tpm, auto=auto)
    store = await stack.enter_async_context(opened(account.identity, limits=limits, say=say))
    now_ns = clock.monotonic_ns()
    past, jobs = _last_minute(recovered, account.name), index.state.count(State.PENDING) - index.aside
    await store.step(now_ns, Open(past, jobs=jobs, wall_offset_ns=clock.wall_ns() - now_ns))
    pool = Pool(Origin.parse(account.base_url))
    stack.push_async_callback(pool.aclose)
    return AccountParts(
        name=account.name,
        server=account.base_url,
        limits=limits,
        store=store,
        pool=pool,
        heads=heads,
        balance=partial(fetch_balance, ControlPlane(pool, heads, lambda _text: None)) if account.keys else None,
        unreached_since_ns=prices.unreached_since_ns,
    )


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
        removed=recovered.removed,
        attempts=totals.attempts - sum(history.submission is not None for history in recovered.histories.values()),
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


def _last_minute(recovered: Recovered, account: str | None = None) -> tuple[PastSend, ...] | None:
    """The run's own sends of the last minute under an account; None where they cannot be known.

    Those under no name may have been any account's, and so may all others for an account without one.
    """
    if not recovered.fresh and not recovered.same_boot:
        return None
    sends = recovered.recent_sends
    return tuple(PastSend(at_ns, tokens) for at_ns, tokens, name in sends if None in (name, account) or name == account)


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
