"""How much of a rate limit is used, and at how many 429s: our admission beside aiolimiter, against three kinds of window.

Hours of requests in virtual time: the real `Admission` under trio's MockClock, the real `aiolimiter.AsyncLimiter` in an
asyncio loop whose clock jumps. Each request reaches the server 10 to 200 ms after it was sent; a refused one is sent again
when its client's own rule says so (ours: its gate; aiolimiter has none: full-jitter backoff from 1 to 60 s).

    python -m benchmarks.bench_rate [--hours 10] [--seed 0]
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import random
import selectors
from collections.abc import Callable
from typing import Any

import msgspec
import trio
from aiolimiter import AsyncLimiter
from trio.testing import MockClock

from batchrunner import budget
from batchrunner.account_store import MemoryStore
from batchrunner.admission import Admission, Candidate, Ticket
from batchrunner.clock import NS_PER_SECOND, VirtualClock
from batchrunner.fair import FairQueue
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.simulator.windows import CalendarMinute, SlidingLog, TokenBucket, Window

RPM = 50
WINDOWS: dict[str, Callable[[], Window]] = {
    "sliding": lambda: SlidingLog(RPM),
    "calendar": lambda: CalendarMinute(RPM),
    "bucket of 50": lambda: TokenBucket(RPM, RPM),
    "bucket of 10": lambda: TokenBucket(RPM, 10),
}
DELAY_SECONDS = (0.010, 0.200)
ANSWER_SECONDS = (1.0, 30.0)


class Server(msgspec.Struct):
    """A window, a phase of its minute, and a count of what it said."""

    window: Window
    phase_ns: int
    accepted: int = 0
    refused: int = 0
    #: accepted in the first 60 s
    first_minute: int = 0

    def accepts(self, seconds: float) -> bool:
        now_ns = self.phase_ns + round(seconds * NS_PER_SECOND)
        if self.window.wait_ns(now_ns, 1):
            self.refused += 1
            return False
        self.window.take(now_ns, 1)
        self.accepted += 1
        self.first_minute += seconds < 60
        return True


def ours(server: Server, hours: float, rng: random.Random) -> None:
    """The admission of a run, with as many jobs as could ever be sent."""

    def candidate(number: int) -> Candidate:
        job = Job(number, number, str(number), "/v1/chat/completions", b"{}", number)
        return Candidate(job, RequestSize("m", 1, None), Usage(1, 0))

    async def main() -> None:
        clock = VirtualClock(trio.current_time)
        began = trio.current_time()
        jobs = round(hours * 60 * RPM * 2)
        store = MemoryStore(budget.Limits(RPM, 0))
        await store.step(clock.monotonic_ns(), budget.Open(past=(), jobs=jobs))
        queue = FairQueue(iter(range(jobs)))
        admission = Admission(store, queue, clock, load=candidate, max_in_flight=10_000, tpm=0, rng=rng)

        async def attempt(ticket: Ticket) -> None:
            await trio.sleep(rng.uniform(*DELAY_SECONDS))
            if server.accepts(trio.current_time() - began):
                await trio.sleep(rng.uniform(*ANSWER_SECONDS))
                await admission.settle(ticket, 1)
            else:
                await trio.sleep(rng.uniform(*DELAY_SECONDS))
                await admission.refused(ticket, None)

        with trio.move_on_after(hours * 3600):
            async with trio.open_nursery() as nursery:
                while ticket := await admission.admit():
                    nursery.start_soon(attempt, ticket)

    trio.run(main, clock=MockClock(autojump_threshold=0))


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: it moves the loop's clock on by as much as it was to wait."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        # Each turn of a real loop takes time too; without it the limiter would ask again and again for a moment too short
        # to change a float.
        self.seconds += max(timeout or 0.0, 1e-6)
        ready: list[Any] = super().select(0)
        return ready


def aiolimiter(server: Server, hours: float, rng: random.Random) -> None:
    """`async with AsyncLimiter(50, 60)` around each request, as its documentation shows."""
    selector = _JumpingSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.seconds  # type: ignore[method-assign]

    async def job(limiter: AsyncLimiter, places: asyncio.Semaphore) -> None:
        tries = 0
        while True:
            async with limiter:
                pass
            await asyncio.sleep(rng.uniform(*DELAY_SECONDS))
            if server.accepts(loop.time()):
                break
            tries += 1
            await asyncio.sleep(rng.uniform(0, min(60, 2 ** min(tries, 10))))
        places.release()

    async def main() -> None:
        limiter = AsyncLimiter(RPM, 60)
        places = asyncio.Semaphore(200)
        tasks: set[asyncio.Task[None]] = set()
        while loop.time() < hours * 3600:
            await places.acquire()
            task = loop.create_task(job(limiter, places))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def main() -> None:
    of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of.add_argument("--hours", type=float, default=10.0)
    of.add_argument("--seed", type=int, default=0)
    options = of.parse_args()
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}, {options.hours:g} virtual hours at {RPM} RPM, seed {options.seed}")
    print(f"{'window':<14} {'client':<12} {'of the rate':>12} {'429 per 1,000':>14} {'first minute':>13}")
    for name, window in WINDOWS.items():
        for client in (ours, aiolimiter):
            rng = random.Random(f"{options.seed} {name}")
            server = Server(window(), rng.randrange(60 * NS_PER_SECOND))
            client(server, options.hours, rng)
            share = server.accepted / (options.hours * 60 * RPM)
            refused = 1000 * server.refused / server.accepted
            label = "batchrun" if client is ours else client.__name__
            print(f"{name:<14} {label:<12} {share:>11.2%} {refused:>14.2f} {server.first_minute:>13}", flush=True)


if __name__ == "__main__":
    main()
