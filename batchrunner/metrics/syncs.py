"""The journal's syncs as a histogram, read off its statistics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import Counter, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from batchrunner.journal import JournalStatistics

#: Seconds. An SSD syncs in a millisecond, a busy network disk in a second.
SYNC_BUCKETS: Final = tuple(0.0005 * 2**power for power in range(14))


class SyncHistogram(Collector):
    """How long commits take, and the bytes that they put on disk.

    The count is exact. Each commit that ends an attempt is looked at on its own, by the events that it lets out; of several
    commits between two looks (those of records alone) all count as long as the newest.
    """

    def __init__(self, journal: Callable[[], JournalStatistics]) -> None:
        self._journal = journal
        self._lock = threading.Lock()  # the loop looks with every event, the server's thread with every scrape
        self._commits = 0
        self._bytes_seen = 0
        self._seconds = Histogram(
            "batchrun_journal_fsync_seconds",
            "One group commit's sync of results, errors, costs and journal.",
            buckets=SYNC_BUCKETS,
            registry=None,
        )
        self._bytes = Counter(
            "batchrun_journal_bytes_total", "Bytes written to journal, results, errors and costs.", registry=None
        )

    def collect(self) -> Iterator[Metric]:
        self.catch_up()
        yield from self._seconds.collect()
        yield from self._bytes.collect()

    def catch_up(self) -> None:
        """Take in what happened since the last look."""
        with self._lock:
            now = self._journal()
            for _ in range(now.commits - self._commits):
                self._seconds.observe(now.last_sync_seconds)
            self._bytes.inc(now.bytes_written - self._bytes_seen)
            self._commits, self._bytes_seen = now.commits, now.bytes_written
