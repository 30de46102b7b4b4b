"""Four processes on one account, one of them killed in the middle, beside one process that has the account for itself.

Each is a run's own dispatcher (`ours`); what they share is the account of `budget.holders`, stepped as the transactions of a
shared store step it. That a transaction takes no time here is the one difference.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from batchrunner import budget
from batchrunner.budget import holders
from batchrunner.budget.holders import Shared
from batchrunner.clock import NS_PER_SECOND
from batchrunner.estimate import Estimator
from benchmarks.limiter.cells import Cell
from benchmarks.limiter.measures import most_per_minute
from benchmarks.limiter.network import Network, Send
from benchmarks.limiter.ours import Client, Stepped, step_through
from benchmarks.limiter.timers import HeapTimers
from benchmarks.limiter.workloads import Work

#: among the cells, on the command line
NAME = "together"
PROCESSES = 4
MINUTE_NS = 60 * NS_PER_SECOND
#: all of them are at work, then all but one
BEGINS_NS = 2 * MINUTE_NS
KILLED_NS = 12 * MINUTE_NS
ENDS_NS = 22 * MINUTE_NS
#: more than could be sent
JOBS = 1_500


class HolderStore:
    """One process's view of an account in memory that others hold too."""

    def __init__(self, shared: Shared, name: str, limits: budget.Limits) -> None:
        self.alive = True
        self._shared = shared
        self._name = name
        self._limits = limits

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        if not self.alive:
            return None
        holders.meet(self._shared, self._name, self._limits, now_ns)
        return holders.step(self._shared, self._name, now_ns, event)

    def statistics(self, now_ns: int) -> budget.Statistics:
        return budget.statistics(self._shared.state, now_ns)

    def lengths(self) -> Estimator | None:
        return None

    def keep_lengths(self, lengths: Estimator) -> None:
        """Each process learns its own."""


class Sharing(msgspec.Struct, frozen=True):
    """What four processes on an account came to, summed over seeds."""

    title: str
    #: accepted of the four together, and of one alone in the same time
    together: int
    alone: int
    #: rejections of either
    refused: int
    refused_alone: int
    #: how far any process was from its fair share, at the most
    unfair_share: float
    #: most sends of all in any 60 s, in multiples of the limit
    peak: float

    @property
    def used_share(self) -> float:
        return self.together / self.alone

    @property
    def refused_on_top(self) -> int:
        return max(0, self.refused - self.refused_alone)


def cells() -> list[tuple[Cell, tuple[str, ...]]]:
    """Which server, and what each of the four has to send: all the same, or one of them with jobs that need tokens most."""
    alike = ("short",) * PROCESSES
    one_large = ("heavy", *alike[1:])
    servers = ("sliding", "fixed", "two-bucket", "bucket-2")
    cells = [(Cell("steady-50", server, "short", JOBS), alike) for server in servers]
    cells += [(Cell("steady-600", "sliding", "short", 10 * JOBS, rpm=600), alike)]
    return [*cells, (Cell("steady-50", "sliding", "short", JOBS), one_large)]


def measured(seeds: Sequence[int]) -> list[Sharing]:
    return [_pooled([_share(cell, workloads, seed) for seed in seeds]) for cell, workloads in cells()]


def _share(cell: Cell, workloads: tuple[str, ...], seed: int) -> Sharing:
    four = _run(cell, workloads, seed)
    alike = len(set(workloads)) == 1
    one = _run(cell, workloads[:1], seed) if alike else four
    sent_ns = sorted(send.sent_ns for process in four for _, send in process)
    title = f"{cell.server} at {cell.rpm} RPM" + ("" if alike else ", one with large jobs")
    return Sharing(
        title=title,
        together=_accepted(four),
        alone=_accepted(one),
        refused=_refused(four),
        refused_alone=_refused(one),
        unfair_share=max(_unfair(cell, four, BEGINS_NS, KILLED_NS), _unfair(cell, four[1:], KILLED_NS + MINUTE_NS, ENDS_NS)),
        peak=most_per_minute(sent_ns) / cell.rpm,
    )


_Sends = list[tuple[Work, Send]]


def _run(cell: Cell, workloads: tuple[str, ...], seed: int) -> list[_Sends]:
    """What each of them sent; the first is killed where there are others."""
    timers = HeapTimers()
    server = cell.opened(seed)
    limits = budget.Limits(cell.rpm, cell.tpm)
    shared = Shared(budget.State(limits))
    networks = []
    for number, workload in enumerate(workloads):
        jobs = msgspec.structs.replace(cell, workload=workload).work(seed * PROCESSES + number)
        network = Network(timers, server, jobs, random.Random(f"{seed} network {number}"))
        store = HolderStore(shared, str(number), limits)
        client = Client(timers, network, limits, random.Random(f"{seed} client {number}"), Stepped, store)
        stop = step_through(timers, client)
        if number == 0 and len(workloads) > 1:
            timers.at(KILLED_NS, partial(_kill, store, stop))
        networks.append(network)
    timers.run(ENDS_NS)
    return [[(network.jobs[send.number], send) for send in network.sends] for network in networks]


def _kill(store: HolderStore, stop: Callable[[], None]) -> None:
    store.alive = False
    stop()


def _accepted(processes: list[_Sends]) -> int:
    return sum(send.accepted and BEGINS_NS <= send.arrived_ns < ENDS_NS for sends in processes for _, send in sends)


def _refused(processes: list[_Sends]) -> int:
    return sum(send.replied_ns >= 0 and not send.accepted for sends in processes for _, send in sends)


def _unfair(cell: Cell, processes: list[_Sends], from_ns: int, to_ns: int) -> float:
    """By the larger part of either limit that each had."""
    parts = []
    for sends in processes:
        works = [work for work, send in sends if from_ns <= send.sent_ns < to_ns]
        parts.append(max(len(works) / cell.rpm, sum(work.used for work in works) / cell.tpm))
    fair = sum(parts) / len(parts)
    return max(abs(part / fair - 1) for part in parts)


def _pooled(runs: Sequence[Sharing]) -> Sharing:
    sums = {name: sum(getattr(run, name) for run in runs) for name in ("together", "alone", "refused", "refused_alone")}
    worst = {name: max(getattr(run, name) for run in runs) for name in ("unfair_share", "peak")}
    return Sharing(title=runs[0].title, **sums, **worst)
