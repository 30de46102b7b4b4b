"""What a run tells Prometheus: counters from events, gauges from the run's status, served over HTTP on loopback.

Every label comes from a closed set, the model's being closed at 50 values. Counters begin at 0 with each process, as
Prometheus expects of a restart; gauges show the whole run. Dollars are floats here, as everything is in Prometheus: the
exact amounts are in `costs.jsonl`.
"""

from __future__ import annotations

import io
import math
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from batchrunner import __version__
from batchrunner.clock import NS_PER_SECOND, Clock, SystemClock
from batchrunner.errors import UsageError
from batchrunner.events import Billing, Event
from batchrunner.status import Status

LOOPBACK = "127.0.0.1"
MODELS_MAX = 50
MODEL_CHARACTERS = 100
FINISHES = frozenset({"stop", "length", "refusal", "tool", "empty"})

#: Seconds. The GenAI conventions' buckets (doubling from 10 ms), doubled on to eleven minutes: an attempt may take 15.
DURATION_BUCKETS = tuple(0.01 * 2**power for power in range(17))
#: Seconds. Admission waits are anything from nothing to a night.
WAIT_BUCKETS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400)
#: Seconds. An SSD syncs in a millisecond, a busy network disk in a second.
SYNC_BUCKETS = tuple(0.0005 * 2**power for power in range(14))


class JournalStatistics(Protocol):
    """What is read of the journal's own statistics: counts since this process opened it, and the newest commit's length."""

    @property
    def commits(self) -> int: ...
    @property
    def bytes_written(self) -> int: ...
    @property
    def last_sync_seconds(self) -> float: ...


class Metrics:
    """The metrics of one run: a sink of events, and the HTTP server that Prometheus scrapes.

    `status` and `journal` are called from the server's thread, once a scrape, and `journal` also with each event: they
    must be cheap and only read. `account` is the account's alias, never a key.
    """

    def __init__(
        self,
        status: Callable[[], Status],
        *,
        account: str = "default",
        journal: Callable[[], JournalStatistics] | None = None,
        clock: Clock | None = None,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._clock = clock or SystemClock()
        self._models: set[str] = set()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._declare()
        self._app = make_wsgi_app(self.registry)
        self._syncs = None if journal is None else _SyncHistogram(journal)
        if self._syncs is not None:
            self.registry.register(self._syncs)
        self.registry.register(_RunCollector(status, account))
        ProcessCollector(registry=self.registry)

    def _declare(self) -> None:
        registry = self.registry

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(f"batchrun_{name}", documentation, labels, registry=registry)

        self._jobs = counter("jobs_total", "Jobs that reached their end in this process.", "outcome")
        for outcome in ("succeeded", "failed"):
            self._jobs.labels(outcome)  # a rate needs its zero
        self._attempts = counter("attempts_total", "Attempts that ended in this process.", "result")
        self._replies = counter("replies_total", "Successful replies by the way in which the model finished.", "finish")
        self._tokens = counter("tokens_total", "Tokens used; input includes cached.", "model", "type")
        self._cost = counter("cost_dollars_total", "US dollars billed, by usage and catalog.", "model")
        self._maybe = counter(
            "maybe_billed_dollars_total", "US dollars that attempts of unknown outcome may have cost at the most.", "model"
        )
        self._unpriced = counter(
            "unpriced_attempts_total", "Attempts billed or maybe billed at an unknown price: missing from both sums.", "model"
        )
        self._duration = Histogram(
            "batchrun_request_duration_seconds",
            "From the first byte written to the last byte read, one attempt.",
            ("model", "result"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._wait = Histogram(
            "batchrun_admission_wait_seconds",
            "From a slot's being asked for to the send.",
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self._last_outcome = Gauge(
            "batchrun_last_outcome_timestamp_seconds", "Unix time of the last event; 0 before the first.", registry=registry
        )

    def on_event(self, event: Event) -> None:
        """Count one event. A job that was never sent counts as a job, not as an attempt."""
        self._last_outcome.set(self._clock.wall_ns() / NS_PER_SECOND)
        if event.final:
            self._jobs.labels("succeeded" if event.succeeded else "failed").inc()
        if event.attempt > 0:
            self._count_attempt(event, self._model_label(event.model))
        if self._syncs is not None:
            self._syncs.catch_up()

    def _count_attempt(self, event: Event, model: str) -> None:
        self._attempts.labels(event.result.value).inc()
        self._wait.observe(event.admission_wait_seconds)
        if event.seconds > 0:
            self._duration.labels(model, event.result.value).observe(event.seconds)
        if event.finish is not None:
            self._replies.labels(event.finish if event.finish in FINISHES else "other").inc()
        if event.usage is not None:
            self._tokens.labels(model, "input").inc(event.usage.input_tokens)
            self._tokens.labels(model, "output").inc(event.usage.output_tokens)
            self._tokens.labels(model, "cached").inc(event.usage.cached_tokens)
        if event.billing is Billing.NOT:
            return
        if event.cost_usd is None:
            self._unpriced.labels(model).inc()
        else:
            (self._cost if event.billing is Billing.BILLED else self._maybe).labels(model).inc(float(event.cost_usd))

    def _model_label(self, model: str) -> str:
        """The model's name, printable and short; "other" for whatever comes after the first 50 of them.

        Names come from job files: one lone surrogate would fail every later scrape, a different name a line fill memory.
        """
        label = "".join(c if c.isprintable() else "?" for c in model[:MODEL_CHARACTERS]) or "unknown"
        if label not in self._models:
            if len(self._models) >= MODELS_MAX:
                return "other"
            self._models.add(label)
        return label

    def serve(self, host: str = LOOPBACK, port: int = 0) -> int:
        """Answer scrapes on `host`:`port` from a thread until `close()`; port 0 takes a free one. The port in use.

        Raises: UsageError where the address cannot be bound.
        """
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            server = _Server(family, address)
        except OSError as cause:
            raise UsageError(
                f"metrics: cannot listen on {_spell(host, port)}: {cause.strerror or cause}. Choose another address with "
                "--metrics HOST:PORT, a free port with --metrics 0, or leave the option out."
            ) from cause
        server.set_app(self._answer)
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="batchrun-metrics", daemon=True)
        self._thread.start()
        return server.server_port

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        """One scrape, in the text format whatever the scraper prefers.

        In OpenMetrics a counter's family goes without its `_total`, so that `jobs_total` and the gauge `jobs` would clash.
        """
        return self._app(environ | {"HTTP_ACCEPT": "text/plain"}, start_response)

    def close(self) -> None:
        """Stop the server and free its port; nothing where none was started."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()
            server.server_close()


def parse_address(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, `[V6]:PORT`, or a bare port, which means loopback.

    Raises: UsageError. An empty host is refused: whoever wants every interface says 0.0.0.0.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    good_host = host == "" if not colon else host != "" and (bracketed or ":" not in host)
    if not good_host or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise UsageError(
            f"--metrics {text!r}: give HOST:PORT with a port of 0 to 65535 ([...] around an IPv6 host), or a bare PORT for "
            f"{LOOPBACK}; port 0 takes a free one."
        )
    return host or LOOPBACK, int(port)


def _spell(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _SyncHistogram(Collector):
    """The journal's syncs as a histogram, read off its statistics.

    The count is exact. Each commit that ends an attempt is looked at on its own, by the events that it lets out; of several
    commits between two looks (those of records alone) all count as long as the newest.
    """

    def __init__(self, journal: Callable[[], JournalStatistics]) -> None:
        self._journal = journal
        self._lock = threading.Lock()  # the loop looks with every event, the server's thread with every scrape
        self._commits = 0
        self._bytes_seen = 0
        self._seconds = Histogram(
            "batchrun_journal_sync_seconds",
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


class _RunCollector(Collector):
    """Gauges of the whole run, made from its status at the moment of the scrape."""

    def __init__(self, status: Callable[[], Status], account: str) -> None:
        self._status = status
        self._account = account

    def collect(self) -> Iterator[Metric]:
        status = self._status()
        yield InfoMetricFamily("batchrun_build", "The program.", {"version": __version__})
        yield InfoMetricFamily("batchrun_run", "The run.", {"run_id": status.run_id, "simulated": str(status.simulated).lower()})
        yield self._jobs(status)
        yield from self._budget(status)
        yield self._cost(status)

    @staticmethod
    def _jobs(status: Status) -> Metric:
        family = GaugeMetricFamily("batchrun_jobs", "Jobs of the run by state; they add up to all of them.", labels=["state"])
        for state in ("pending", "in_flight", "backing_off"):
            family.add_metric([state], getattr(status, state))
        family.add_metric(["succeeded"], status.completed)
        family.add_metric(["failed"], status.failed)
        return family

    def _budget(self, status: Status) -> Iterator[Metric]:
        limit = GaugeMetricFamily(
            "batchrun_budget_limit", "What the account may use a minute; +Inf without a limit.", labels=["account", "kind"]
        )
        used = GaugeMetricFamily("batchrun_budget_used", "Used in the last 60 seconds.", labels=["account", "kind"])
        limit.add_metric([self._account, "requests_per_minute"], status.rpm_limit or math.inf)
        limit.add_metric([self._account, "tokens_per_minute"], status.tpm_limit or math.inf)
        used.add_metric([self._account, "requests_per_minute"], status.requests_last_minute)
        used.add_metric([self._account, "tokens_per_minute"], status.tokens_last_minute)
        yield limit
        yield used

    @staticmethod
    def _cost(status: Status) -> Metric:
        family = GaugeMetricFamily(
            "batchrun_run_cost_dollars", "US dollars of the whole run, earlier processes included.", labels=["billing"]
        )
        family.add_metric([Billing.BILLED.value], float(status.billed_usd))
        family.add_metric([Billing.MAYBE.value], float(status.maybe_billed_usd))
        return family


class _Handler(WSGIRequestHandler):
    """One scrape. Nothing is logged: stderr belongs to the progress display."""

    timeout = 10  # seconds that a silent client may hold its thread

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def get_stderr(self) -> io.StringIO:
        return io.StringIO()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread a scrape, on one address. (`start_http_server` would bind every interface and print tracebacks.)"""

    daemon_threads = True

    def __init__(self, family: socket.AddressFamily, address: tuple[Any, ...]) -> None:
        self.address_family = family
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse look-up of the host's name, which can hang for seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that hangs up is no news."""
