"""What events and statistics look like to Prometheus."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import get_args

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from batchrunner import budget, keyring, retries
from batchrunner.breaker import Circuit
from batchrunner.clock import VirtualClock
from batchrunner.events import AttemptResult, Billing, Event
from batchrunner.job import Usage
from batchrunner.journal import JournalStatistics
from batchrunner.metrics import Metrics, families
from batchrunner.metrics.counting import DURATION_BUCKETS, ENDPOINTS, MODELS_MAX
from batchrunner.status import Binding, Status

MakeStatus = Callable[..., Status]
BUDGET = budget.Statistics(
    rpm_limit=50,
    tpm_limit=0,
    requests=49,
    tokens=7,
    in_flight=3,
    closed_for_seconds=1.5,
    consecutive_rejections=2,
    rpm_effective=43,
    tpm_effective=0,
    charging="settle",
    two_buckets=True,
    burst=12,
)


def event(**changes: object) -> Event:
    """An attempt that succeeded and was billed, with `changes`."""
    fields: dict[str, object] = {
        "custom_id": "a",
        "line": 1,
        "attempt": 1,
        "model": "m",
        "endpoint": "/v1/chat/completions",
        "result": AttemptResult.OK,
    }
    return Event(**{**fields, **changes})  # type: ignore[arg-type]


def journal(*, commits: int, bytes_written: int, last_sync_seconds: float) -> JournalStatistics:
    return JournalStatistics(
        records=9, commits=commits, bytes_written=bytes_written, pending=4, last_sync_seconds=last_sync_seconds
    )


def exposed(metrics: Metrics) -> Iterable[Metric]:
    """The families of a scrape, as the official parser reads them."""
    return text_string_to_metric_families(generate_latest(metrics.registry).decode())


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """What a scrape shows, as {(name, label values in order of label name): value}."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in exposed(metrics)
        for sample in family.samples
    }


class TestEvents:
    def test_a_billed_success_counts_job_attempt_tokens_and_dollars(self) -> None:
        """One billed success moves every counter that it concerns by exactly its own amount."""
        metrics = Metrics()
        metrics.on_event(
            event(
                final=True,
                succeeded=True,
                seconds=1.5,
                admission_wait_seconds=2.0,
                usage=Usage(input_tokens=100, output_tokens=20, cached_tokens=40, reasoning_tokens=8),
                billing=Billing.BILLED,
                cost_usd=Decimal("0.25"),
                finish="length",
            )
        )
        shown = samples(metrics)
        assert shown["batchrun_jobs_total", ("succeeded",)] == 1
        assert shown["batchrun_jobs_total", ("failed",)] == 0
        assert shown["batchrun_attempts_total", ("/v1/chat/completions", "ok")] == 1
        assert shown["batchrun_replies_total", ("length",)] == 1
        tokens = [shown["batchrun_tokens_total", ("m", kind)] for kind in ("input", "output", "cached", "reasoning")]
        assert tokens == [100, 20, 40, 8]
        assert shown["batchrun_cost_dollars_total", ("m",)] == 0.25
        assert shown["batchrun_request_duration_seconds_sum", ("m", "ok")] == 1.5
        assert shown["batchrun_admission_wait_seconds_sum", ()] == 2.0
        assert ("batchrun_maybe_billed_dollars_total", ("m",)) not in shown

    def test_a_maybe_billed_attempt_goes_to_a_counter_of_its_own(self) -> None:
        """What may have been billed is never mixed into what was."""
        metrics = Metrics()
        metrics.on_event(event(result=AttemptResult.TIMEOUT, billing=Billing.MAYBE, cost_usd=Decimal("0.5")))
        shown = samples(metrics)
        assert shown["batchrun_maybe_billed_dollars_total", ("m",)] == 0.5
        assert ("batchrun_cost_dollars_total", ("m",)) not in shown

    def test_an_unknown_price_is_counted_and_costs_nothing(self) -> None:
        """A bill without a price shows as an unpriced attempt, never as zero dollars."""
        metrics = Metrics()
        metrics.on_event(event(billing=Billing.BILLED, cost_usd=None))
        shown = samples(metrics)
        assert shown["batchrun_unpriced_attempts_total", ("m",)] == 1
        assert ("batchrun_cost_dollars_total", ("m",)) not in shown

    def test_a_job_that_was_never_sent_is_no_attempt(self) -> None:
        """A line that is no job counts as a failed job and as nothing else."""
        metrics = Metrics()
        metrics.on_event(event(attempt=0, final=True, result=AttemptResult.INVALID))
        shown = samples(metrics)
        assert shown["batchrun_jobs_total", ("failed",)] == 1
        assert not [name for name, _ in shown if name == "batchrun_attempts_total"]
        assert shown["batchrun_admission_wait_seconds_count", ()] == 0

    def test_a_finish_out_of_the_closed_set_is_other(self) -> None:
        """A server's own words never become a label."""
        metrics = Metrics()
        metrics.on_event(event(finish="whatever-the-server-says"))
        assert samples(metrics)["batchrun_replies_total", ("other",)] == 1

    def test_the_heartbeat_is_the_time_of_the_last_event(self) -> None:
        """An alert on a run that hangs needs the moment of the last outcome."""
        metrics = Metrics(VirtualClock(lambda: 0.0, start_ns=7_000_000_000))
        metrics.on_event(event())
        assert samples(metrics)["batchrun_last_outcome_timestamp_seconds", ()] == 7.0


class TestLabels:
    def test_the_fifty_first_model_is_other(self) -> None:
        """A job file with a different model on each line cannot blow up the exposition."""
        metrics = Metrics()
        for number in range(60):
            metrics.on_event(event(model=f"model-{number}", seconds=1.0))
        metrics.on_event(event(model="model-3", seconds=1.0))
        counts = {
            labels[0]: value for (name, labels), value in samples(metrics).items() if name.endswith("_seconds_count") and labels
        }
        assert len(counts) == 51
        assert counts["other"] == 10
        assert counts["model-3"] == 2

    @pytest.mark.parametrize("model", ["\ud800", 'a"b\\c\nd', "\x1b[31m", "", "x" * 10_000])
    def test_a_hostile_model_name_leaves_the_exposition_readable(self, model: str) -> None:
        """Surrogates, quotes, escapes and lengths from a job file never fail a scrape."""
        metrics = Metrics()
        metrics.on_event(event(model=model, usage=Usage(input_tokens=1, output_tokens=1)))
        (label,) = {labels[0] for name, labels in samples(metrics) if name == "batchrun_tokens_total"}
        assert 0 < len(label) <= 100
        assert label.isprintable()

    def test_an_endpoint_that_nobody_documents_is_other(self) -> None:
        """A job's url may be any path: only documented ones become labels, so that a file cannot make new ones."""
        metrics = Metrics()
        for url in (*ENDPOINTS, "/v1/made/up", "/v1/chat/completions?tenant=1", "/v1/\ud800"):
            metrics.on_event(event(endpoint=url))
        counts = {labels: value for (name, labels), value in samples(metrics).items() if name == "batchrun_attempts_total"}
        assert {endpoint for endpoint, _ in counts} == ENDPOINTS | {"other"}
        assert counts["other", "ok"] == 3

    def test_no_job_file_can_make_series_without_end(self) -> None:
        """A hundred models, urls and ways to end, in every combination of results: bounded by the closed sets."""
        metrics = Metrics()
        for number in range(100):
            for result in AttemptResult:
                for billing in (Billing.BILLED, Billing.MAYBE):
                    for cost in (Decimal(1), None):
                        metrics.on_event(
                            event(
                                model=f"model-{number}",
                                endpoint=f"/v1/{number}",
                                finish=f"finish-{number}",
                                result=result,
                                seconds=1.0,
                                usage=Usage(1, 1),
                                billing=billing,
                                cost_usd=cost,
                            )
                        )
        buckets, models, results = len(DURATION_BUCKETS) + 3, MODELS_MAX + 1, len(AttemptResult)
        of_models = models * (results * buckets + 4 + 3)  # durations; tokens by type; dollars, perhaps dollars, unpriced
        counted = [name for name, _ in samples(metrics) if name.startswith("batchrun_")]
        assert len(counted) < of_models + 13 * results + 50

    def test_a_result_stands_at_zero_before_it_first_comes(self) -> None:
        """The first 429 is a rise from 0 that a rate sees, not a series that begins at 1."""
        metrics = Metrics()
        metrics.on_event(event())
        shown = samples(metrics)
        assert [shown["batchrun_attempts_total", ("/v1/chat/completions", result)] for result in AttemptResult] == [1] + [0] * 7

    def test_a_hostile_account_name_leaves_the_exposition_readable(self) -> None:
        """An argument that is no UTF-8 comes as surrogates, which no scrape could be encoded with."""
        metrics = Metrics()
        metrics.watch(families.BUDGET, lambda: BUDGET, account="pr\udcffd")
        assert ("batchrun_budget_unsettled", ("pr?d",)) in samples(metrics)


class TestRun:
    def test_gauges_show_the_whole_run(self, make_status: MakeStatus) -> None:
        """States add up to all jobs of the run, whatever this process did of them."""
        metrics = Metrics()
        metrics.watch(
            families.RUN,
            lambda: make_status(
                total=100,
                completed=50,
                failed=2,
                in_flight=10,
                backing_off=3,
                held=5,
                submitted=2,
                attempts=70,
                usage=Usage(9, 8, 7, 6),
            ),
        )
        shown = samples(metrics)
        states = {labels[0]: value for (name, labels), value in shown.items() if name == "batchrun_jobs"}
        assert states == {"pending": 30, "in_flight": 10, "backing_off": 3, "held": 5, "succeeded": 50, "failed": 2}
        assert (shown["batchrun_run_attempts", ()], shown["batchrun_jobs_submitted", ()]) == (70, 2)
        assert [shown["batchrun_run_tokens", (kind,)] for kind in ("input", "output", "cached", "reasoning")] == [9, 8, 7, 6]

    def test_the_status_is_read_at_each_scrape(self, make_status: MakeStatus) -> None:
        """A gauge is never older than the scrape that asks for it."""
        now = make_status(billed_usd=Decimal("1.5"))
        metrics = Metrics()
        metrics.watch(families.RUN, lambda: now)
        assert samples(metrics)["batchrun_run_cost_dollars", ("billed",)] == 1.5
        now = make_status(billed_usd=Decimal(2))
        assert samples(metrics)["batchrun_run_cost_dollars", ("billed",)] == 2

    def test_an_end_that_nobody_can_tell_is_left_out(self, make_status: MakeStatus) -> None:
        """No estimate is no number: neither 0, which would say that it ends now, nor NaN."""
        eta: float | None = None
        metrics = Metrics()
        metrics.watch(families.RUN, lambda: make_status(eta_seconds=eta))
        assert ("batchrun_eta_seconds", ()) not in samples(metrics)
        eta = 0.0
        assert samples(metrics)["batchrun_eta_seconds", ()] == 0

    def test_what_binds_is_one_and_the_rest_zero(self, make_status: MakeStatus) -> None:
        """A state as Prometheus has it: a series for each, of which one is 1."""
        metrics = Metrics()
        metrics.watch(families.RUN, lambda: make_status(binding="tokens"))
        causes = {labels[0]: value for (name, labels), value in samples(metrics).items() if name == "batchrun_binding"}
        assert {cause for cause, value in causes.items() if value} == {"tokens"}
        assert set(causes) == set(get_args(Binding))


class TestWatched:
    def test_the_budget_is_shown_under_the_accounts_alias(self) -> None:
        """Limit and use stand side by side; no limit is infinite, so that their ratio stays meaningful."""
        metrics = Metrics()
        metrics.watch(families.BUDGET, lambda: BUDGET, account="prod")
        shown = samples(metrics)
        assert shown["batchrun_budget_limit", ("prod", "requests_per_minute")] == 50
        assert shown["batchrun_budget_used", ("prod", "requests_per_minute")] == 49
        assert math.isinf(shown["batchrun_budget_limit", ("prod", "tokens_per_minute")])
        assert shown["batchrun_budget_used", ("prod", "tokens_per_minute")] == 7
        assert shown["batchrun_budget_closed_seconds", ("prod",)] == 1.5
        assert shown["batchrun_budget_consecutive_rejections", ("prod",)] == 2

    def test_what_was_learned_of_the_server_stands_beside_it(self) -> None:
        """What it lets through in the limit's own form, how it counts as one of all ways, and what it takes at once."""
        metrics = Metrics()
        metrics.watch(families.BUDGET, lambda: BUDGET, account="prod")
        shown = samples(metrics)
        assert shown["batchrun_budget_effective", ("prod", "requests_per_minute")] == 43
        assert math.isinf(shown["batchrun_budget_effective", ("prod", "tokens_per_minute")])
        ways = {labels[1]: value for (name, labels), value in shown.items() if name == "batchrun_budget_charging"}
        assert ways == {"actual": 0, "settle": 1, "estimate": 0}
        assert shown["batchrun_budget_two_buckets", ("prod",)] == 1
        assert shown["batchrun_budget_burst", ("prod",)] == 12

    def test_two_accounts_share_a_family(self) -> None:
        """A family that came twice would be refused by the scraper: their samples stand together, told apart by the account."""
        metrics = Metrics()
        metrics.watch(families.BUDGET, lambda: BUDGET, account="prod")
        metrics.watch(families.BUDGET, lambda: BUDGET, account="staging")
        (family,) = [family for family in exposed(metrics) if family.name == "batchrun_budget_unsettled"]
        assert [sample.labels["account"] for sample in family.samples] == ["prod", "staging"]

    def test_a_disk_that_does_not_say_is_left_out(self) -> None:
        """Free space that is unknown is not zero, which would wake somebody up."""
        metrics = Metrics()
        metrics.watch(families.DISK, lambda: None)
        assert ("batchrun_disk_free_bytes", ()) not in samples(metrics)

    def test_before_there_is_a_run_the_program_is_shown(self) -> None:
        """A scrape that comes first finds the version and counters at 0."""
        shown = samples(Metrics())
        assert [value for (name, _), value in shown.items() if name == "batchrun_build_info"] == [1]
        assert shown["batchrun_jobs_total", ("succeeded",)] == 0


class TestOutages:
    def test_circuits_by_state(self) -> None:
        """The server's is 1 where it stands; models' are counted, all states from the beginning on."""
        metrics = Metrics()
        metrics.watch(families.CIRCUITS, lambda: [Circuit.PROBING], target="server")
        metrics.watch(families.CIRCUITS, lambda: [Circuit.OPEN, Circuit.CLOSED, Circuit.OPEN], target="model")
        shown = {labels: value for (name, labels), value in samples(metrics).items() if name == "batchrun_circuits"}
        assert {state: shown[state, "server"] for state in ("closed", "open", "probing")} == {
            "closed": 0,
            "open": 0,
            "probing": 1,
        }
        assert {state: shown[state, "model"] for state in ("closed", "open", "probing")} == {"closed": 1, "open": 2, "probing": 0}

    def test_a_model_keeps_its_series_when_it_is_back(self) -> None:
        """0 for one that answers again, so that an alert on it ends; 1 while it is asked whether it does."""
        metrics = Metrics()
        metrics.watch(families.MODELS, lambda: {"a": Circuit.CLOSED, "b": Circuit.OPEN, "": Circuit.PROBING})
        shown = samples(metrics)
        assert [shown["batchrun_models_offline", (model,)] for model in ("a", "b", "unknown")] == [0, 1, 1]

    def test_thousands_of_models_that_fail_add_no_series(self) -> None:
        """The first fifty to fail have their own, whoever comes after; a hostile name is as harmless as elsewhere."""
        models = {"\ud800": Circuit.OPEN} | {f"{'x' * 200}-{n}\x1b[2J": Circuit.OPEN for n in range(3)}
        metrics = Metrics()
        metrics.watch(families.MODELS, lambda: models)
        seen: set[tuple[str, ...]] = set()
        for number in range(3_000):
            models[f"model-{number}"] = Circuit.CLOSED if number % 2 else Circuit.OPEN
            if number % 500 == 0 or number == 2_999:
                shown = {labels: value for (name, labels), value in samples(metrics).items() if name == "batchrun_models_offline"}
                seen |= set(shown)
        assert len(seen) == MODELS_MAX + 1
        assert shown["?",] == 1
        assert shown["x" * 100,] == 3
        assert sum(shown.values()) == 1_504

    def test_keys_retries_and_refunds(self) -> None:
        """Keys by state under the account's alias; what is left of the retry budget; attempts that count against no job."""
        metrics = Metrics()
        metrics.watch(families.KEYS, lambda: keyring.Statistics(live=3, suspended=2, retired=1), account="prod")
        metrics.watch(families.RETRIES, lambda: retries.Statistics(left=7))
        metrics.watch(families.REFUNDS, lambda: 9)
        shown = samples(metrics)
        assert [shown["batchrun_keys", ("prod", state)] for state in ("live", "suspended", "retired")] == [3, 2, 1]
        assert shown["batchrun_retry_budget_left", ()] == 7
        assert shown["batchrun_attempts_refunded_total", ()] == 9


class TestSyncs:
    def test_each_commit_is_counted_once_and_as_long_as_it_was(self) -> None:
        """Events look at the commit that let them out; a scrape takes in what came after the last event."""
        now = journal(commits=1, bytes_written=100, last_sync_seconds=0.5)
        metrics = Metrics()
        metrics.watch_journal(lambda: now)
        metrics.on_event(event())
        now = journal(commits=3, bytes_written=250, last_sync_seconds=1.0)
        shown = samples(metrics)
        assert shown["batchrun_journal_fsync_seconds_count", ()] == 3
        assert shown["batchrun_journal_fsync_seconds_sum", ()] == 2.5
        assert shown["batchrun_journal_bytes_total", ()] == 250
        assert shown["batchrun_journal_records_total", ()] == 9
        assert shown["batchrun_journal_unsynced_records", ()] == 4

    def test_a_journal_at_rest_adds_nothing(self) -> None:
        """Looking twice at the same sums counts them once."""
        metrics = Metrics()
        metrics.watch_journal(lambda: journal(commits=1, bytes_written=10, last_sync_seconds=0.1))
        metrics.on_event(event())
        metrics.on_event(event())
        assert samples(metrics)["batchrun_journal_fsync_seconds_count", ()] == 1


@pytest.mark.needs_promtool
def test_promtool_finds_no_fault_before_there_is_a_run() -> None:
    """Prometheus' own linter accepts what the first scrape sees. (A whole run's is linted in `tests/sim/test_watching.py`.)"""
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(Metrics().registry),
        capture_output=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert (checked.returncode, checked.stderr + checked.stdout) == (0, b"")
