"""What events add up to."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from batchrunner.clock import NS_PER_SECOND
from batchrunner.dialect import Finish
from batchrunner.events import AttemptResult, Billing, Event

MODELS_MAX: Final = 50
LABEL_CHARACTERS: Final = 100
FINISHES: Final = frozenset(finish.value for finish in Finish)
#: What the platform documents that a job can be sent to. A job's url may be any path: all others are "other".
ENDPOINTS: Final = frozenset(
    {
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/completions",
        "/v1/reranks",
        "/v1/images/generations",
        "/v1/videos/generations",
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/search",
        "/v1/detect",
    }
)

#: Seconds. The GenAI conventions' buckets (doubling from 10 ms), doubled on to eleven minutes: an attempt may take 15.
DURATION_BUCKETS: Final = tuple(0.01 * 2**power for power in range(17))
#: Seconds. Admission waits are anything from nothing to a night.
WAIT_BUCKETS: Final = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 14400)


class EventCounts:
    """Counters and histograms of one process, fed one event at a time."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._models: set[str] = set()
        self._endpoints: set[str] = set()
        self._jobs = self._counter("jobs_total", "Jobs that reached their end in this process.", "outcome")
        self._attempts = self._counter("attempts_total", "Attempts that ended in this process.", "endpoint", "result")
        self._replies = self._counter("replies_total", "Successful replies by the way in which the model finished.", "finish")
        self._tokens = self._counter("tokens_total", "Tokens used; input includes cached, output reasoning.", "model", "type")
        self._cost = self._counter("cost_dollars_total", "US dollars billed, by usage and catalog.", "model")
        self._maybe = self._counter(
            "maybe_billed_dollars_total", "US dollars that attempts of unknown outcome may have cost at the most.", "model"
        )
        self._unpriced = self._counter(
            "unpriced_attempts_total", "Attempts billed or maybe billed at an unknown price: missing from both sums.", "model"
        )
        self._duration = Histogram(
            "batchrun_request_duration_seconds",
            "From the first byte written to the last byte read, one attempt.",
            ("model", "result"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._first_token = Histogram(
            "batchrun_first_token_seconds",
            "Of streamed answers: from the send to the first of their words.",
            ("model",),
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
        # A rate needs the zero that it rose from.
        for outcome in ("succeeded", "failed"):
            self._jobs.labels(outcome)
        for finish in Finish:
            self._replies.labels(finish.value)

    def add(self, event: Event, wall_ns: int) -> None:
        """Count one event. A job that was never sent counts as a job, not as an attempt."""
        self._last_outcome.set(wall_ns / NS_PER_SECOND)
        if event.final:
            self._jobs.labels("succeeded" if event.succeeded else "failed").inc()
        if event.attempt > 0:
            self._add_attempt(event, self._model_label(event.model))

    def _add_attempt(self, event: Event, model: str) -> None:
        self._attempts.labels(self._endpoint_label(event.endpoint), event.result.value).inc()
        self._wait.observe(event.admission_wait_seconds)
        if event.seconds > 0:
            self._duration.labels(model, event.result.value).observe(event.seconds)
        if event.first_token_seconds is not None:
            self._first_token.labels(model).observe(event.first_token_seconds)
        if event.finish is not None:
            self._replies.labels(event.finish if event.finish in FINISHES else Finish.OTHER.value).inc()
        if event.usage is not None:
            self._tokens.labels(model, "input").inc(event.usage.input_tokens)
            self._tokens.labels(model, "cached").inc(event.usage.cached_tokens)
            self._tokens.labels(model, "output").inc(event.usage.output_tokens)
            self._tokens.labels(model, "reasoning").inc(event.usage.reasoning_tokens)
        if event.billing is Billing.NOT:
            return
        if event.cost_usd is None:
            self._unpriced.labels(model).inc()
        else:
            (self._cost if event.billing is Billing.BILLED else self._maybe).labels(model).inc(float(event.cost_usd))

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"batchrun_{name}", documentation, labels, registry=self._registry)

    def _model_label(self, model: str) -> str:
        """The model's name, printable and short; "other" for whatever comes after the first 50 of them."""
        label = label_text(model) or "unknown"
        if label not in self._models:
            if len(self._models) >= MODELS_MAX:
                return "other"
            self._models.add(label)
        return label

    def _endpoint_label(self, endpoint: str) -> str:
        label = endpoint if endpoint in ENDPOINTS else "other"
        if label not in self._endpoints:
            self._endpoints.add(label)
            for result in AttemptResult:
                self._attempts.labels(label, result.value)
        return label


def label_text(text: str) -> str:
    """Text of people or of job files as a label: printable and short. One lone surrogate would fail every later scrape."""
    return "".join(c if c.isprintable() else "?" for c in text[:LABEL_CHARACTERS])
