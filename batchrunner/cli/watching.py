"""Puts metrics before a run: what they are to watch, and the scrape that sees how it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import trio

from batchrunner.cli.output import say as tell
from batchrunner.cli.signals import until_interrupted
from batchrunner.clock import NS_PER_SECOND, Clock
from batchrunner.dispatcher import Dispatcher
from batchrunner.events import Onlookers
from batchrunner.metrics import Metrics, Scrapes, families, parse_address, url
from batchrunner.runner import Run

LOOK_SECONDS = 0.05


class Watching:
    """Metrics of a run that is to come, at `address`. Raises: UsageError where that is none."""

    def __init__(self, clock: Clock, address: str) -> None:
        self._clock = clock
        self._host, self._port = parse_address(address)
        self._metrics = Metrics(clock)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """They can be scraped from now on, before there is a run to look at. Raises: UsageError where the address is taken."""
        with contextlib.closing(self._metrics):
            tell(f"metrics on {url(self._host, self._metrics.serve(self._host, self._port))}")
            yield

    def watch(self, run: Run, onlookers: Onlookers) -> None:
        """Here is the run."""
        watch(self._metrics, run, onlookers)

    async def last_scrape(self, say: Callable[[str], None]) -> None:
        """The run has ended, see `last_scrape` below."""
        await last_scrape(self._metrics.scrapes, self._clock, say)


def watch(metrics: Metrics, run: Run, onlookers: Onlookers) -> None:
    """Let each scrape read the run and its parts. A new part is a line here, and a table in `metrics.families`."""
    parts = run.parts
    simulated = str(parts.options.simulate).lower()
    metrics.watch(families.RUN_INFO, lambda: None, run_id=parts.run_id, simulated=simulated)
    metrics.watch(families.RUN, run.status)
    for dispatcher in run.dispatchers:
        _watch_account(metrics, dispatcher, parts.clock, several=len(run.dispatchers) > 1)
    metrics.watch(families.RETRIES, run.retries_statistics)
    metrics.watch(families.PREDICTIONS, parts.estimator.statistics)
    metrics.watch(families.ADVICE, run.advice_statistics)
    metrics.watch(families.DISK, parts.disk.free_bytes)
    metrics.watch(families.ONLOOKERS, onlookers.statistics)
    metrics.watch_journal(parts.journal.statistics)
    onlookers.add(metrics.on_event)


def _watch_account(metrics: Metrics, dispatcher: Dispatcher, clock: Clock, *, several: bool) -> None:
    """An account's own parts. What only tells accounts apart is a label where there are several."""
    account, resilience = dispatcher.account, dispatcher.attempts.statistics
    named = {"account": account.name or "default"}
    which = named if several else {}
    metrics.watch(families.ADMISSION, dispatcher.admission.statistics, **which)
    metrics.watch(families.BUDGET, lambda: account.store.statistics(clock.monotonic_ns()), **named)
    metrics.watch(families.CIRCUITS, lambda: [resilience().health.server], target="server", **which)
    metrics.watch(families.CIRCUITS, lambda: list(resilience().health.models.values()), target="model", **which)
    metrics.watch(families.MODELS, lambda: resilience().health.models, **which)
    metrics.watch(families.KEYS, lambda: resilience().keys, **named)
    metrics.watch(families.CREDITS, lambda: resilience().credits, **named)
    metrics.watch(families.REFUNDS, lambda: resilience().refunded, **which)
    metrics.watch(families.POOL, account.pool.statistics, **which)
    metrics.watch(families.REPLY_BUDGET, account.pool.reply_budget.statistics, **which)


async def last_scrape(scrapes: Scrapes, clock: Clock, say: Callable[[str], None]) -> None:
    """Where somebody scrapes regularly, wait until they have seen how the run ended; else what was last counted is lost.

    No longer than half an interval past the time at which they are due. SIGINT or SIGTERM ends the wait and nothing else.
    """
    ended_ns = clock.monotonic_ns()
    by_ns = scrapes.next_by_ns(ended_ns)
    if by_ns is None:
        return
    seconds = (by_ns - ended_ns) / NS_PER_SECOND

    async def scrape() -> None:
        say(f"the run has ended; its metrics wait for one more scrape, {seconds:.0f} s at the most. Ctrl-C ends the wait.")
        while not scrapes.since(ended_ns):  # noqa: ASYNC110 - noted by the server's threads, which know no trio
            await trio.sleep(LOOK_SECONDS)

    with trio.move_on_after(seconds):
        await until_interrupted(scrape)
