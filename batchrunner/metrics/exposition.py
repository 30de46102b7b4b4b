"""All metrics of one process in one registry, and the server in front of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics, make_wsgi_app

from batchrunner import __version__
from batchrunner.clock import Clock, SystemClock
from batchrunner.events import Event
from batchrunner.journal import JournalStatistics
from batchrunner.metrics.counting import EventCounts
from batchrunner.metrics.families import BUILD, JOURNAL, Record, Table, Watched
from batchrunner.metrics.server import LOOPBACK, Scrapes, Server
from batchrunner.metrics.syncs import SyncHistogram


class Metrics:
    """The metrics of one run: a sink of events, an onlooker of parts, and the HTTP server that Prometheus scrapes.

    It can be served before there is a run to look at: then its counters stand at 0. What is watched is read in the server's
    thread, which the run never waits for.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.scrapes = Scrapes()
        self._clock = clock or SystemClock()
        self._counts = EventCounts(self.registry)
        self._watched = Watched()
        self._syncs: SyncHistogram | None = None
        self._app = make_wsgi_app(self.registry)
        self._server: Server | None = None
        self.registry.register(self._watched)
        ProcessCollector(registry=self.registry)
        self.watch(BUILD, lambda: None, version=__version__)

    def on_event(self, event: Event) -> None:
        """Count one event."""
        self._counts.add(event, self._clock.wall_ns())
        if self._syncs is not None:
            self._syncs.catch_up()

    def watch(self, table: Table[Record], statistics: Callable[[], Record], **labels: str) -> None:
        """Show what `statistics` says from the next scrape on, as `table` reads it, with these constant labels."""
        self._watched.watch(table, statistics, **labels)

    def watch_journal(self, statistics: Callable[[], JournalStatistics]) -> None:
        """Show the journal: its figures, and each of its syncs as it comes by with an event."""
        self.watch(JOURNAL, statistics)
        self._syncs = SyncHistogram(statistics)
        self.registry.register(self._syncs)

    def serve(self, host: str = LOOPBACK, port: int = 0) -> int:
        """Answer scrapes on `host`:`port` from a thread until `close()`; port 0 takes a free one. The port in use.

        Raises: UsageError where the address cannot be bound.
        """
        self._server = Server(host, port, self._answer)
        return self._server.port

    def close(self) -> None:
        """Answer what is being answered, stop the server and free its port; nothing where none was started."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        """One scrape, in the text format whatever the scraper prefers (see the package)."""
        if environ.get("PATH_INFO") == "/metrics":
            self.scrapes.note(self._clock.monotonic_ns())
        return self._app(environ | {"HTTP_ACCEPT": "text/plain"}, start_response)
