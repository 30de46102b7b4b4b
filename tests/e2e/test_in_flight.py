"""Thousands of requests in flight at once, from one small process."""

from __future__ import annotations

import re
import resource
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from batchrunner.simulator.answers import Answer
from batchrunner.simulator.main import HOST
from batchrunner.simulator.platform import Platform
from batchrunner.simulator.server import BACKLOG, serve_tcp
from batchrunner.simulator.settings import Settings
from tests.e2e import canary
from tests.e2e.harness import Submit
from tests.e2e.mixed_jobs import write_jobs

IN_FLIGHT = 2_000
PEAK_RSS_BYTES = 150 * 1_000_000


class Gathering(Platform):
    """Works on nothing until so many requests wait at once: how many are in flight is then no matter of speed."""

    def __init__(self, settings: Settings, count: int) -> None:
        super().__init__(settings)
        self.waiting = 0
        self._count = count
        self._everyone = trio.Event()

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "POST":
            self.waiting += 1
            if self.waiting == self._count:
                self._everyone.set()
            await self._everyone.wait()
        return await super().answer(method, target, headers, body)


async def test_two_thousand_in_flight(tmp_path: Path) -> None:
    """All wait together for a server that takes a second, all are answered, and the process stays below 150 MB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IN_FLIGHT + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"only {hard} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    ids = write_jobs(tmp_path / "jobs.jsonl", 2 * IN_FLIGHT, seed=31)
    platform = Gathering(Settings(keys=(canary.KEY,), latency_median_seconds=1.0, latency_sigma=0.0), IN_FLIGHT)
    try:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host=HOST, backlog=BACKLOG)
            nursery.start_soon(serve_tcp, platform, listeners)
            url = f"http://{HOST}:{listeners[0].socket.getsockname()[1]}"
            run = Submit(tmp_path, tmp_path / "jobs.jsonl", url, *f"--rpm 0 --tpm 0 --max-in-flight {IN_FLIGHT}".split())
            process = run.start(measured=True)
            try:
                outcome = await trio.to_thread.run_sync(run.finish, process)
            except AssertionError as error:
                error.add_note(f"{platform.waiting} requests of {IN_FLIGHT} had come")
                raise
            nursery.cancel_scope.cancel()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = re.search(r"^peak_rss_bytes=(\d+)$", outcome.stderr, re.MULTILINE)
    assert found is not None
    print(f"peak RSS {int(found[1]) / 1e6:.1f} MB; {outcome.summary}; {platform.counters.statistics()}")
    assert int(found[1]) < PEAK_RSS_BYTES
    assert Counter(line["custom_id"] for line in run.lines("results.jsonl")) == Counter(ids)
    assert platform.counters.requests == len(ids)
