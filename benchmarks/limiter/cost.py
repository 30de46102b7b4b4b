"""What one admission takes of the CPU, beside the least that a run does for a job: a trio task that begins and ends."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from operator import truediv
from pathlib import Path

import msgspec
import trio

from batchrunner import budget
from batchrunner.account_file import AccountFile
from batchrunner.account_store import AccountStore, MemoryStore
from batchrunner.admission import Admission
from batchrunner.clock import Clock, SystemClock
from batchrunner.fair import FairQueue
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.lanes import Lane
from batchrunner.shared_account import SharedAccount
from batchrunner.shared_store import SharedStore
from batchrunner.tickets import Candidate

#: requests in the budget's window at once; above 1,000 they share cells
JOBS = 20_000
ROUNDS = 9
#: so high that nothing is ever waited for
RPM = 10**9
TPM = 10**12


class Cost(msgspec.Struct, frozen=True):
    """Microseconds of CPU at the least: an admission with its settling, without a task; a bare task. And their ratio: the median
    over pairs of rounds, since what else the machine does slows down both of a pair.
    """

    admission_us: float
    task_us: float
    ratio: float


def measured(admit: Callable[[], Awaitable[float]] | None = None) -> Cost:
    """Alternating rounds of either. `admit`: by default from a budget in memory."""
    admissions, tasks = [], []
    for _ in range(ROUNDS):
        tasks.append(trio.run(_bare_tasks))
        admissions.append(trio.run(admit or _in_memory))
    scale = 1e6 / JOBS
    return Cost(min(admissions) * scale, min(tasks) * scale, statistics.median(map(truediv, admissions, tasks)))


async def _bare_tasks() -> float:
    """Seconds to spawn one after the other, as a dispatcher does."""

    async def task() -> None:
        await trio.lowlevel.checkpoint()

    began = time.process_time()
    async with trio.open_nursery() as nursery:
        for _ in range(JOBS):
            nursery.start_soon(task)
            await trio.lowlevel.checkpoint()
    return time.process_time() - began


async def _in_memory() -> float:
    return await _admissions(SystemClock(), MemoryStore(budget.Limits(RPM, TPM)))


async def shared() -> float:
    """From a file that other processes could use too: its transactions, its thread and its writing are in it."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as directory:
        file = AccountFile(Path(directory) / "account.sqlite")
        account = SharedAccount(file, budget.Limits(RPM, TPM), clock, name="benchmark", say=print)
        async with SharedStore(account, clock) as store:
            return await _admissions(clock, store)


async def _admissions(clock: Clock, store: AccountStore) -> float:
    """Seconds to admit and settle, in flight one at a time, each with a request slot and a charge of tokens."""
    await store.step(clock.monotonic_ns(), budget.Open(past=(), jobs=JOBS))
    size, predicted = RequestSize("m", 900, 100), Usage(900, 100)
    candidates = [Candidate(Job(number, number, "", "/", b"{}", 0), size, predicted) for number in range(JOBS)]
    admission = Admission(
        store,
        FairQueue([Lane(iter(range(JOBS)))], limits=budget.Limits(RPM, TPM)),
        clock,
        load=candidates.__getitem__,
        max_in_flight=JOBS,
        tpm=TPM,
        rng=random.Random(0),
    )
    began = time.process_time()
    while (ticket := await admission.admit()) is not None:
        await admission.succeeded(ticket, 950)
    return time.process_time() - began
