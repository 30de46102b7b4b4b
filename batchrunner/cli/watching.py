"""Puts metrics before a run: what they are to watch, and the scrape that sees how it ended."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable

import trio

from batchrunner.clock import NS_PER_SECOND, Clock
from batchrunner.events import Onlookers
from batchrunner.metrics import Metrics, Scrapes, families
from batchrunner.runner import Run

LOOK_SECONDS = 0.05


def watch(metrics: Metrics, run: Run, onlookers: Onlookers) -> None:
    """Let each scrape read the run and its parts. A new part is a line here, and a table in `metrics.families`."""
    parts, resilience = run.parts, run.resilience_statistics
    account = parts.options.account or "default"
    simulated = str(parts.options.simulate).lower()
    metrics.watch(families.RUN_INFO, lambda: None, run_id=parts.run_id, simulated=simulated)
    metrics.watch(families.RUN, run.status)
    metrics.watch(families.ADMISSION, run.admission_statistics)
    metrics.watch(families.BUDGET, lambda: parts.store.statistics(parts.clock.monotonic_ns()), account=account)
    metrics.watch(families.CIRCUITS, lambda: [resilience().health.server], target="server")
    metrics.watch(families.CIRCUITS, lambda: list(resilience().health.models.values()), target="model")
    metrics.watch(families.MODELS, lambda: resilience().health.models)
    metrics.watch(families.KEYS, lambda: resilience().keys, account=account)
    metrics.watch(families.RETRIES, run.retries_statistics)
    metrics.watch(families.PREDICTIONS, parts.estimator.statistics)
    metrics.watch(families.ADVICE, run.advice_statistics)
    metrics.watch(families.REFUNDS, lambda: resilience().refunded)
    metrics.watch(families.POOL, parts.pool.statistics)
    metrics.watch(families.REPLY_BUDGET, parts.pool.reply_budget.statistics)
    metrics.watch(families.DISK, parts.disk.free_bytes)
    metrics.watch(families.ONLOOKERS, onlookers.statistics)
    metrics.watch_journal(parts.journal.statistics)
    onlookers.add(metrics.on_event)


async def last_scrape(scrapes: Scrapes, clock: Clock, say: Callable[[str], None]) -> None:
    """Where somebody scrapes regularly, wait until they have seen how the run ended; else what was last counted is lost.

    No longer than half an interval past the time at which they are due. SIGINT or SIGTERM ends the wait and nothing else.
    """
    ended_ns = clock.monotonic_ns()
    by_ns = scrapes.next_by_ns(ended_ns)
    if by_ns is None:
        return
    seconds = (by_ns - ended_ns) / NS_PER_SECOND
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received, trio.move_on_after(seconds):
        say(f"the run has ended; its metrics wait for one more scrape, {seconds:.0f} s at the most. Ctrl-C ends the wait.")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_signal, received, nursery.cancel_scope)
            while not scrapes.since(ended_ns):  # noqa: ASYNC110 - noted by the server's threads, which know no trio
                await trio.sleep(LOOK_SECONDS)
            nursery.cancel_scope.cancel()


async def _cancel_on_signal(received: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in received:
        scope.cancel()
