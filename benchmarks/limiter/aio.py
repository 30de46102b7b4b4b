"""aiolimiter itself, in an asyncio loop whose clock jumps."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from aiolimiter import AsyncLimiter

from batchrunner.clock import NS_PER_SECOND
from benchmarks.limiter.network import Network, Reply

#: a turn of a real loop takes time too; without it the limiter would ask again and again for a moment too short for a float
TURN_SECONDS = 1e-6
#: jobs that are under way at once, as a program with a semaphore around the limiter would have it
PLACES = 1_000


class VirtualLoop(asyncio.BaseEventLoop):
    """Never waits: what it was to wait for is added to its clock. It has no sockets, threads or signals."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = 0.0
        self._selector = self  # the base class asks its selector to wait

    def time(self) -> float:
        return self._seconds

    def select(self, timeout: float | None) -> list[Any]:
        """Wait, as a selector does: None would be for ever."""
        assert timeout is not None, "nothing left that could ever happen"
        self._seconds += max(timeout, TURN_SECONDS)
        return []

    def _process_events(self, events: list[Any]) -> None:
        """No file ever becomes ready."""


class LoopTimers:
    """Timers of an asyncio loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    @property
    def now_ns(self) -> int:
        return round(self._loop.time() * NS_PER_SECOND)

    def at(self, at_ns: int, call: Callable[[], None]) -> None:
        self._loop.call_at(at_ns / NS_PER_SECOND, call)


async def client(network: Network, rpm: int, tpm: int, rng: random.Random, seconds: float) -> None:
    """`async with AsyncLimiter(rpm, 60)` around each request, and another for its tokens; backoff from 1 to 60 s, full jitter."""
    loop = asyncio.get_running_loop()
    requests, tokens = AsyncLimiter(rpm, 60), AsyncLimiter(tpm, 60)
    places = asyncio.Semaphore(PLACES)

    async def answered(number: int) -> Reply:
        reply: asyncio.Future[Reply] = loop.create_future()
        network.send(number, lambda what: None if reply.done() else reply.set_result(what))
        return await reply

    async def run(number: int) -> None:
        tries = 0
        while True:
            await tokens.acquire(min(network.jobs[number].reserved, tpm))
            async with requests:
                pass
            if (await answered(number)).accepted:
                places.release()
                return
            tries += 1
            await asyncio.sleep(rng.uniform(0, min(60, 2 ** min(tries, 10))))

    async def all_jobs() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(len(network.jobs)):
                await places.acquire()
                group.create_task(run(number))

    try:
        async with asyncio.timeout(seconds):
            await all_jobs()
    except TimeoutError:
        return
