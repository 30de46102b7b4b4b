"""What is read off the parts' `statistics()` at each scrape.

A part that is to be watched needs two lines: its table here, and where the run is put together

    metrics.watch(BREAKERS, breakers.statistics)

The same table may be watched for several parts that a constant label tells apart: `watch(BUDGET, ..., account="prod")`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Generic, TypeVar, get_args

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from batchrunner import admission, advice, budget, credit, estimate, keyring, retries
from batchrunner.breaker import Circuit
from batchrunner.events import Billing, OnlookersStatistics
from batchrunner.journal import JournalStatistics
from batchrunner.metrics.counting import MODELS_MAX, label_text
from batchrunner.status import Binding, Status
from batchrunner.transport import PoolStatistics, ReplyBudgetStatistics

Record = TypeVar("Record")
#: one number; None for one that is not known now, which is left out; or a number for each value of the label
Reading = float | None | Mapping[str, float]


class Family(msgspec.Struct, Generic[Record], frozen=True):
    """One metric, and how its values are read off a record. `label` goes with readings that have several values."""

    kind: type[GaugeMetricFamily | CounterMetricFamily]
    name: str
    documentation: str
    read: Callable[[Record], Reading]
    label: str | None = None


Table = tuple[Family[Record], ...]


def _gauge(name: str, documentation: str, read: Callable[[Record], Reading], label: str | None = None) -> Family[Record]:
    return Family(GaugeMetricFamily, f"batchrun_{name}", documentation, read, label)


def _counter(name: str, documentation: str, read: Callable[[Record], Reading], label: str | None = None) -> Family[Record]:
    """Of what a record counts from its part's beginning, which is that of the process. `name` ends in `_total`."""
    return Family(CounterMetricFamily, f"batchrun_{name}", documentation, read, label)


# ---------------------------------------------------------------------------------------------------------------- tables

#: constant, and told apart by constant labels alone
BUILD: Final[Table[None]] = (_gauge("build_info", "The program.", lambda _: 1),)

RUN_INFO: Final[Table[None]] = (_gauge("run_info", "The run.", lambda _: 1),)

RUN: Final[Table[Status]] = (
    _gauge(
        "jobs",
        "Jobs of the run by state; they add up to all of them.",
        lambda run: {
            "pending": run.pending,
            "in_flight": run.in_flight,
            "backing_off": run.backing_off,
            "held": run.held,
            "succeeded": run.completed,
            "failed": run.failed,
        },
        "state",
    ),
    _gauge(
        "jobs_submitted", "Jobs that the server works on, of those that are in flight or back off.", lambda run: run.submitted
    ),
    _gauge("run_attempts", "Attempts of the whole run, earlier processes included.", lambda run: run.attempts),
    _gauge(
        "run_tokens",
        "Tokens of the whole run, earlier processes included; input includes cached, output reasoning.",
        lambda run: {
            "input": run.usage.input_tokens,
            "cached": run.usage.cached_tokens,
            "output": run.usage.output_tokens,
            "reasoning": run.usage.reasoning_tokens,
        },
        "type",
    ),
    _gauge(
        "run_cost_dollars",
        "US dollars of the whole run, earlier processes included.",
        lambda run: {Billing.BILLED.value: float(run.billed_usd), Billing.MAYBE.value: float(run.maybe_billed_usd)},
        "billing",
    ),
    _gauge(
        "binding",
        "1 for what holds the run's speed down at the moment, 0 for all else.",
        lambda run: {cause: float(cause == run.binding) for cause in get_args(Binding)},
        "cause",
    ),
    _gauge(
        "run_forecast_dollars",
        "US dollars that the open jobs will cost, by what others have; absent as long as that says little.",
        lambda run: None if run.forecast_usd is None else float(run.forecast_usd),
    ),
    _gauge("paused", "1 while people have the run send nothing, 0 otherwise.", lambda run: run.paused),
    _gauge(
        "run_cost_cap_dollars",
        "The spend cap that holds now; absent where there is none.",
        lambda run: None if run.max_cost_usd is None else float(run.max_cost_usd),
    ),
    _gauge("eta_seconds", "To the run's end at the mean speed so far; absent where there is none.", lambda run: run.eta_seconds),
)

ADMISSION: Final[Table[admission.Statistics]] = (
    _counter(
        "admission_blocked_seconds_total",
        "Time in which no request could be started, by what was waited for.",
        lambda queue: queue.waited_seconds,
        "cause",
    ),
)

BUDGET: Final[Table[budget.Statistics]] = (
    _gauge(
        "budget_limit",
        "What the account may use a minute; +Inf without a limit.",
        lambda account: {
            "requests_per_minute": account.rpm_limit or math.inf,
            "tokens_per_minute": account.tpm_limit or math.inf,
        },
        "kind",
    ),
    _gauge(
        "budget_effective",
        "What the server is found to let through a minute, at most the limit; +Inf without a limit.",
        lambda account: {
            "requests_per_minute": account.rpm_effective or math.inf,
            "tokens_per_minute": account.tpm_effective or math.inf,
        },
        "kind",
    ),
    _gauge(
        "budget_used",
        "Used in the last minute (60.25 s); tokens of requests in flight as predicted.",
        lambda account: {"requests_per_minute": account.requests, "tokens_per_minute": account.tokens},
        "kind",
    ),
    _gauge("budget_unsettled", "Requests whose tokens are still a prediction.", lambda account: account.in_flight),
    _gauge(
        "budget_closed_seconds",
        "How long the account is still closed after a 429; 0 while it is open.",
        lambda account: account.closed_for_seconds,
    ),
    _gauge(
        "budget_consecutive_rejections", "429s in a row, bursts counted once.", lambda account: account.consecutive_rejections
    ),
    _gauge(
        "budget_charging",
        "1 for what a request is taken to be charged: what it used, its cap until it has ended, or its cap; 0 for the others.",
        lambda account: {way: float(way == account.charging) for way in map(str.lower, budget.Charging.__members__)},
        "way",
    ),
    _gauge(
        "budget_two_buckets",
        "1 where the server is taken to count tokens by the minutes of the clock, 0 otherwise.",
        lambda account: account.two_buckets,
    ),
    _gauge("budget_burst", "Requests at once that are known to be let through.", lambda account: account.burst),
)

#: watched twice: the server's own, and those of models
CIRCUITS: Final[Table[Collection[Circuit]]] = (
    _gauge(
        "circuits",
        "Circuits by state: 1 for the server's own; a model has one once it has failed.",
        lambda circuits: {state.value: sum(circuit is state for circuit in circuits) for state in Circuit},
        "state",
    ),
)

#: of those that have failed, in the order in which they first did: it says which of them have a label of their own
MODELS: Final[Table[Mapping[str, Circuit]]] = (
    _gauge(
        "models_offline",
        "1 for a model whose circuit is not closed, 0 for others that have failed; all after the first 50 are counted as other.",
        lambda models: {
            label: sum(circuit is not Circuit.CLOSED for circuit in circuits) for label, circuits in _by_label(models).items()
        },
        "model",
    ),
)

PREDICTIONS: Final[Table[estimate.Statistics]] = tuple(
    _gauge(
        f"{kind}_prediction_error_ratio",
        f"How far predicted {kind} tokens were off, of those used, in about the last 500 answers; models after the first 50 "
        "count as other.",
        read,
        "model",
    )
    for kind, read in (
        ("input", lambda predictions: _error_ratios(predictions.input)),
        ("output", lambda predictions: _error_ratios(predictions.output)),
    )
)

ADVICE: Final[Table[advice.Statistics]] = (
    _counter(
        "oversize_jobs_total",
        "Jobs sent that were expected to take more than a minute's tokens; each goes alone.",
        lambda found: found.oversize,
    ),
    _gauge(
        "generous_caps",
        "Models and classes of output caps whose cap is ten times what any answer has taken.",
        lambda found: found.generous_caps,
    ),
)

KEYS: Final[Table[keyring.Statistics]] = (
    _gauge(
        "keys",
        "The account's keys by state; a suspended one had worked, is refused, and will be tried again.",
        lambda keys: {"live": keys.live, "suspended": keys.suspended, "retired": keys.retired},
        "state",
    ),
)

CREDITS: Final[Table[credit.Statistics]] = (
    _gauge(
        "account_balance_dollars",
        "US dollars that the account has left, as its server last told; absent where it does not.",
        lambda account: None if account.balance_usd is None else float(account.balance_usd),
    ),
    _gauge("account_waits_for_credits", "1 while the account waits to be topped up, 0 otherwise.", lambda account: account.waits),
)

RETRIES: Final[Table[retries.Statistics]] = (
    _gauge("retry_budget_left", "Repeats of failed attempts that may go at once.", lambda budget: budget.left),
)

#: how many of them
REFUNDS: Final[Table[int]] = (
    _counter(
        "attempts_refunded_total",
        "Attempts that an outage took, and that do not count against their jobs' limit of attempts.",
        lambda refunded: refunded,
    ),
)

POOL: Final[Table[PoolStatistics]] = (
    _gauge(
        "connections",
        "Connections to the server by state.",
        lambda pool: {"idle": pool.idle, "active": pool.active, "connecting": pool.connecting},
        "state",
    ),
    _counter("connections_opened_total", "Connections that were opened.", lambda pool: pool.opened),
    _counter("connections_reused_total", "Requests that went on a connection used before.", lambda pool: pool.reused),
    _counter("connections_closed_total", "Connections closed from this side.", lambda pool: pool.closed),
    _counter(
        "connections_stale_total", "Idle connections that the server was found to have closed.", lambda pool: pool.stale_found
    ),
    _counter("connection_failures_total", "Connections that could not be opened.", lambda pool: pool.refused),
)

REPLY_BUDGET: Final[Table[ReplyBudgetStatistics]] = (
    _gauge("reply_budget_limit_bytes", "What replies being read may hold together.", lambda replies: replies.limit_bytes),
    _gauge("reply_budget_held_bytes", "What replies being read hold together.", lambda replies: replies.held_bytes),
    _gauge(
        "reply_budget_waiting", "Replies that wait for others to end before they are read on.", lambda replies: replies.waiting
    ),
)

JOURNAL: Final[Table[JournalStatistics]] = (
    _counter("journal_records_total", "Records written to the journal.", lambda journal: journal.records),
    _gauge("journal_unsynced_records", "Records written and not yet known to be on disk.", lambda journal: journal.pending),
)

#: of a run directory's file system; None where it does not say
DISK: Final[Table[int | None]] = (
    _gauge("disk_free_bytes", "What the run directory's file system still takes.", lambda free_bytes: free_bytes),
)

ONLOOKERS: Final[Table[OnlookersStatistics]] = (
    _counter("sink_errors_total", "Events that a display or a metric could not take in.", lambda onlookers: onlookers.errors),
)


Value = TypeVar("Value")


def _by_label(models: Mapping[str, Value]) -> Mapping[str, list[Value]]:
    """What there is under each label. The first 50 models have their own; names may look alike as labels."""
    shown: dict[str, list[Value]] = {}
    for model, value in models.items():
        label = label_text(model) or "unknown"
        shown.setdefault(label if label in shown or len(shown) < MODELS_MAX else "other", []).append(value)
    return shown


def _error_ratios(shares: Mapping[str, estimate.Share]) -> Mapping[str, float]:
    """Of the models of which anything was used."""
    sums = {label: sum(found, estimate.Share()) for label, found in _by_label(shares).items()}
    return {label: total.off / total.used for label, total in sums.items() if total.used}


# --------------------------------------------------------------------------------------------------------------- reading


class _Source(msgspec.Struct, frozen=True):
    table: Table[Any]
    statistics: Callable[[], Any]
    labels: dict[str, str]


class Watched(Collector):
    """Reads every watched part anew at each scrape, in the thread of the scrape: `statistics()` must be cheap and only read."""

    def __init__(self) -> None:
        self._sources: tuple[_Source, ...] = ()

    def watch(self, table: Table[Record], statistics: Callable[[], Record], **labels: str) -> None:
        """Show what `statistics` says from the next scrape on, each value with these constant `labels`."""
        source = _Source(table, statistics, {name: label_text(value) for name, value in labels.items()})
        self._sources = (*self._sources, source)  # a scrape that is under way goes on with what it has

    def collect(self) -> Iterable[Metric]:
        """Each family once, whoever it was read off: a scraper refuses one that comes twice."""
        shown: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for source in self._sources:
            record = source.statistics()
            for family in source.table:
                reading = family.read(record)
                if reading is None:
                    continue
                if family.name not in shown:
                    names = [*source.labels, *([family.label] if family.label else [])]
                    shown[family.name] = family.kind(family.name, family.documentation, labels=names)
                values = reading.items() if isinstance(reading, Mapping) else ((None, reading),)
                for value, number in values:
                    shown[family.name].add_metric([*source.labels.values(), *([value] if value else [])], number)
        return shown.values()
