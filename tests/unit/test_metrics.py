from __future__ import annotations

import math
import os
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from batchrunner.clock import VirtualClock
from batchrunner.errors import UsageError
from batchrunner.events import AttemptResult, Billing, Event
from batchrunner.job import Usage
from batchrunner.metrics import Metrics, parse_address
from batchrunner.status import Status

MakeStatus = Callable[..., Status]


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


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """What a scrape shows, as {(name, label values in order of label name): value}, read by the official parser."""
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@dataclass(frozen=True)
class Syncs:
    commits: int
    bytes_written: int
    last_sync_seconds: float


class TestEvents:
    def test_a_billed_success_counts_job_attempt_tokens_and_dollars(self, make_status: MakeStatus) -> None:
        """One billed success moves every counter that it concerns by exactly its own amount."""
        metrics = Metrics(make_status)
        metrics.on_event(
            event(
                final=True,
                succeeded=True,
                seconds=1.5,
                admission_wait_seconds=2.0,
                usage=Usage(input_tokens=100, output_tokens=20, cached_tokens=40),
                billing=Billing.BILLED,
                cost_usd=Decimal("0.25"),
                finish="length",
            )
        )
        shown = samples(metrics)
        assert shown["batchrun_jobs_total", ("succeeded",)] == 1
        assert shown["batchrun_jobs_total", ("failed",)] == 0
        assert shown["batchrun_attempts_total", ("ok",)] == 1
        assert shown["batchrun_replies_total", ("length",)] == 1
        assert [shown["batchrun_tokens_total", ("m", kind)] for kind in ("input", "output", "cached")] == [100, 20, 40]
        assert shown["batchrun_cost_dollars_total", ("m",)] == 0.25
        assert shown["batchrun_request_duration_seconds_sum", ("m", "ok")] == 1.5
        assert shown["batchrun_admission_wait_seconds_sum", ()] == 2.0
        assert ("batchrun_maybe_billed_dollars_total", ("m",)) not in shown

    def test_a_maybe_billed_attempt_goes_to_a_counter_of_its_own(self, make_status: MakeStatus) -> None:
        """What may have been billed is never mixed into what was."""
        metrics = Metrics(make_status)
        metrics.on_event(event(result=AttemptResult.TIMEOUT, billing=Billing.MAYBE, cost_usd=Decimal("0.5")))
        shown = samples(metrics)
        assert shown["batchrun_maybe_billed_dollars_total", ("m",)] == 0.5
        assert ("batchrun_cost_dollars_total", ("m",)) not in shown

    def test_an_unknown_price_is_counted_and_costs_nothing(self, make_status: MakeStatus) -> None:
        """A bill without a price shows as an unpriced attempt, never as zero dollars."""
        metrics = Metrics(make_status)
        metrics.on_event(event(billing=Billing.BILLED, cost_usd=None))
        shown = samples(metrics)
        assert shown["batchrun_unpriced_attempts_total", ("m",)] == 1
        assert ("batchrun_cost_dollars_total", ("m",)) not in shown

    def test_a_job_that_was_never_sent_is_no_attempt(self, make_status: MakeStatus) -> None:
        """A line that is no job counts as a failed job and as nothing else."""
        metrics = Metrics(make_status)
        metrics.on_event(event(attempt=0, final=True, result=AttemptResult.INVALID))
        shown = samples(metrics)
        assert shown["batchrun_jobs_total", ("failed",)] == 1
        assert not [name for name, _ in shown if name == "batchrun_attempts_total"]
        assert shown["batchrun_admission_wait_seconds_count", ()] == 0

    def test_a_finish_out_of_the_closed_set_is_other(self, make_status: MakeStatus) -> None:
        """A server's own words never become a label."""
        metrics = Metrics(make_status)
        metrics.on_event(event(finish="whatever-the-server-says"))
        assert samples(metrics)["batchrun_replies_total", ("other",)] == 1

    def test_the_heartbeat_is_the_time_of_the_last_event(self, make_status: MakeStatus) -> None:
        """An alert on a run that hangs needs the moment of the last outcome."""
        metrics = Metrics(make_status, clock=VirtualClock(lambda: 0.0, start_ns=7_000_000_000))
        metrics.on_event(event())
        assert samples(metrics)["batchrun_last_outcome_timestamp_seconds", ()] == 7.0


class TestLabels:
    def test_the_fifty_first_model_is_other(self, make_status: MakeStatus) -> None:
        """A job file with a different model on each line cannot blow up the exposition."""
        metrics = Metrics(make_status)
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
    def test_a_hostile_model_name_leaves_the_exposition_readable(self, make_status: MakeStatus, model: str) -> None:
        """Surrogates, quotes, escapes and lengths from a job file never fail a scrape."""
        metrics = Metrics(make_status)
        metrics.on_event(event(model=model, usage=Usage(input_tokens=1, output_tokens=1)))
        (label,) = {labels[0] for name, labels in samples(metrics) if name == "batchrun_tokens_total"}
        assert 0 < len(label) <= 100
        assert label.isprintable()


class TestStatus:
    def test_gauges_show_the_whole_run(self, make_status: MakeStatus) -> None:
        """States add up to all jobs of the run, whatever this process did of them."""
        shown = samples(Metrics(lambda: make_status(total=100, completed=50, failed=2, in_flight=10, backing_off=3)))
        states = {labels[0]: value for (name, labels), value in shown.items() if name == "batchrun_jobs"}
        assert states == {"pending": 35, "in_flight": 10, "backing_off": 3, "succeeded": 50, "failed": 2}

    def test_the_budget_is_shown_under_the_accounts_alias(self, make_status: MakeStatus) -> None:
        """Limit and use stand side by side; no limit is infinite, so that their ratio stays meaningful."""
        metrics = Metrics(
            lambda: make_status(rpm_limit=50, tpm_limit=0, requests_last_minute=49, tokens_last_minute=7), account="prod"
        )
        shown = samples(metrics)
        assert shown["batchrun_budget_limit", ("prod", "requests_per_minute")] == 50
        assert shown["batchrun_budget_used", ("prod", "requests_per_minute")] == 49
        assert math.isinf(shown["batchrun_budget_limit", ("prod", "tokens_per_minute")])
        assert shown["batchrun_budget_used", ("prod", "tokens_per_minute")] == 7

    def test_the_status_is_read_at_each_scrape(self, make_status: MakeStatus) -> None:
        """A gauge is never older than the scrape that asks for it."""
        now = make_status(billed_usd=Decimal("1.5"))
        metrics = Metrics(lambda: now)
        assert samples(metrics)["batchrun_run_cost_dollars", ("billed",)] == 1.5
        now = make_status(billed_usd=Decimal(2))
        assert samples(metrics)["batchrun_run_cost_dollars", ("billed",)] == 2


class TestSyncs:
    def test_each_commit_is_counted_once_and_as_long_as_it_was(self, make_status: MakeStatus) -> None:
        """Events look at the commit that let them out; a scrape takes in what came after the last event."""
        now = Syncs(commits=1, bytes_written=100, last_sync_seconds=0.5)
        metrics = Metrics(make_status, journal=lambda: now)
        metrics.on_event(event())
        now = Syncs(commits=3, bytes_written=250, last_sync_seconds=1.0)
        shown = samples(metrics)
        assert shown["batchrun_journal_sync_seconds_count", ()] == 3
        assert shown["batchrun_journal_sync_seconds_sum", ()] == 2.5
        assert shown["batchrun_journal_bytes_total", ()] == 250

    def test_a_journal_at_rest_adds_nothing(self, make_status: MakeStatus) -> None:
        """Looking twice at the same sums counts them once."""
        metrics = Metrics(make_status, journal=lambda: Syncs(1, 10, 0.1))
        metrics.on_event(event())
        metrics.on_event(event())
        assert samples(metrics)["batchrun_journal_sync_seconds_count", ()] == 1


class TestServer:
    def test_a_scrape_over_loopback_answers_the_text_format(self, make_status: MakeStatus) -> None:
        """A free port is taken and named; even a scraper that prefers OpenMetrics gets the text format."""
        metrics = Metrics(make_status)
        port = metrics.serve()
        try:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
            )
            with urllib.request.urlopen(request, timeout=10) as reply:
                assert reply.headers["content-type"].startswith("text/plain")
                text = reply.read().decode()
        finally:
            metrics.close()
        assert "# TYPE batchrun_jobs gauge" in text
        assert "# TYPE batchrun_jobs_total counter" in text
        assert "_created" not in text

    def test_close_frees_the_port(self, make_status: MakeStatus) -> None:
        """The port can be bound again at once, and closing twice is harmless."""
        metrics = Metrics(make_status)
        port = metrics.serve()
        metrics.close()
        metrics.close()
        other = Metrics(make_status)
        assert other.serve("127.0.0.1", port) == port
        other.close()

    def test_a_taken_port_is_a_usage_error_that_names_the_remedy(self, make_status: MakeStatus) -> None:
        """The address and what to do about it stand in the message."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(UsageError, match=rf"127\.0\.0\.1:{port}: .*--metrics 0"):
                Metrics(make_status).serve("127.0.0.1", port)

    def test_an_unknown_host_is_a_usage_error(self, make_status: MakeStatus) -> None:
        """A name that is no address of this machine is named in the message."""
        with pytest.raises(UsageError, match=r"no\.such\.host\.invalid:0"):
            Metrics(make_status).serve("no.such.host.invalid", 0)

    def test_a_failing_scrape_prints_nothing(self, capfd: pytest.CaptureFixture[str]) -> None:
        """A status that cannot be had fails the scrape alone: no traceback tears the progress display."""

        def broken() -> Status:
            raise RuntimeError("dictionary changed size during iteration")

        metrics = Metrics(broken)
        port = metrics.serve()
        try:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10)
            assert caught.value.code == 500
            caught.value.close()
        finally:
            metrics.close()
        assert capfd.readouterr() == ("", "")


class TestParseAddress:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("9090", ("127.0.0.1", 9090)),
            ("0", ("127.0.0.1", 0)),
            ("0.0.0.0:9090", ("0.0.0.0", 9090)),
            ("localhost:80", ("localhost", 80)),
            ("[::1]:9090", ("::1", 9090)),
        ],
    )
    def test_a_port_or_a_host_and_port(self, text: str, address: tuple[str, int]) -> None:
        """A bare port means loopback; any other interface is asked for by name."""
        assert parse_address(text) == address

    @pytest.mark.parametrize(
        "text", ["", ":9090", "::1:9090", "host", "host:", "host:99999", "1:2:3", "-1", "٣", "[]:1", "65536"]
    )
    def test_anything_else_is_a_usage_error(self, text: str) -> None:
        """What is ambiguous is refused with the two spellings that work."""
        with pytest.raises(UsageError, match="HOST:PORT"):
            parse_address(text)


@pytest.mark.needs_promtool
def test_promtool_finds_no_fault_with_the_exposition(make_status: MakeStatus) -> None:
    """Prometheus' own linter accepts names, types, units and help of all that a run exposes."""
    metrics = Metrics(make_status, journal=lambda: Syncs(1, 10, 0.1))
    metrics.on_event(event(final=True, usage=Usage(input_tokens=1, output_tokens=1), billing=Billing.BILLED, cost_usd=None))
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(metrics.registry),
        capture_output=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    assert (checked.returncode, checked.stderr + checked.stdout) == (0, b"")
