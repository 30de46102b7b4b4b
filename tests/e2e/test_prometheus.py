"""A real Prometheus watches a real run: what it stored is what the run says of itself at its end."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, get_args

import msgspec
import pytest

from batchrunner.breaker import Circuit
from batchrunner.budget import Charging
from batchrunner.dialect import Finish
from batchrunner.events import AttemptResult
from batchrunner.metrics.counting import ENDPOINTS
from batchrunner.status import Binding
from tests.e2e.cli_support import Ended, ending, line_with, started, until
from tests.e2e.prometheus import JOB, Prometheus, prometheus

pytestmark = pytest.mark.needs_prometheus

JOBS = 96
MODELS = ("simulated-small", "simulated-large", "simulated-reasoner")
#: at four in flight, some fifteen seconds; one 429, one overload, one job that fails
PLATFORM = (
    "--latency 0.5 --latency-sigma 0.2 --seed 7"
    " --fault-on job-20=rate_limited --fault-on job-40=overloaded --fault-on job-60=error400*0"
)
OPTIONS = ("--simulate", "--simulate-options", PLATFORM, "--rpm", "600", "--max-in-flight", "4", "--account", "night")

#: What a board would show of a run. `$i`: the range of a rate.
PANELS = {
    "done": 'sum(batchrun_jobs{state=~"succeeded|failed"}) / sum(batchrun_jobs)',
    "jobs by state": "sum by (state) (batchrun_jobs)",
    "jobs a minute": "60 * sum by (outcome) (rate(batchrun_jobs_total[$i]))",
    "share of the limit": "batchrun_budget_used / batchrun_budget_limit",
    "attempts by result": "sum by (result) (rate(batchrun_attempts_total[$i]))",
    "share of 429s": 'sum(rate(batchrun_attempts_total{result="rate_limited"}[$i])) / sum(rate(batchrun_attempts_total[$i]))',
    "latency, 95 %": "histogram_quantile(0.95, sum by (le, model)"
    ' (rate(batchrun_request_duration_seconds_bucket{result="ok"}[$i])))',
    "tokens a minute": "60 * sum by (type) (rate(batchrun_tokens_total[$i]))",
    "dollars an hour": "3600 * sum by (model) (rate(batchrun_cost_dollars_total[$i]))",
    "dollars so far": "sum by (billing) (batchrun_run_cost_dollars)",
    "what holds it up": "sum by (cause) (rate(batchrun_admission_blocked_seconds_total[$i]))",
    "journal sync, 99 %": "histogram_quantile(0.99, sum by (le) (rate(batchrun_journal_fsync_seconds_bucket[$i])))",
    "circuits": "sum by (target, state) (batchrun_circuits)",
    "keys": "sum by (state) (batchrun_keys)",
    "repeats left": "batchrun_retry_budget_left",
    "connections": "sum by (state) (batchrun_connections)",
    "time to the end": "batchrun_eta_seconds",
    "since the last outcome": "time() - (batchrun_last_outcome_timestamp_seconds > 0)",
}


class Watched(NamedTuple):
    """A run that has ended, and the Prometheus that watched it."""

    prometheus: Prometheus
    ended: Ended


@contextlib.contextmanager
def watching(home: Path) -> Iterator[tuple[Prometheus, int]]:
    """Prometheus first, so that it misses nothing; and the port that is kept for the run."""
    write_jobs(home)
    with socket.socket() as kept:
        # Bound and not listened on: nobody else is given the port, and the run, which reuses addresses, can have it.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        with prometheus(home, f"127.0.0.1:{port}") as server:
            until(lambda: bool(server.query("up")), "the first scrape")
            yield server, port


@contextlib.contextmanager
def submitted(home: Path, server: Prometheus, port: int) -> Iterator[subprocess.Popen[str]]:
    """The run, at work and seen to be."""
    with started(home, "submit", "jobs.jsonl", *OPTIONS, "--metrics", port, "--json", "--progress", "none") as run:
        line_with(run, f"metrics on http://127.0.0.1:{port}/metrics")
        until(lambda: at_work(server, run), "a scrape of the run at work")
        yield run


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    home = tmp_path_factory.mktemp("prometheus")
    with watching(home) as (server, port):
        with submitted(home, server, port) as run:
            ended = ending(run)
        yield Watched(server, ended)


def at_work(server: Prometheus, run: subprocess.Popen[str]) -> bool:
    """Whether a scrape has seen jobs in flight; the newest was taken without an error."""
    assert run.poll() is None, "the run ended before it was seen at work"
    if server.query('batchrun_jobs{state="in_flight"} > 0'):
        assert server.last_error() == ""
        return True
    return False


def write_jobs(home: Path) -> None:
    """Three dialects, three models."""
    with open(home / "jobs.jsonl", "wb") as file:
        for number in range(JOBS):
            turns = [{"role": "user", "content": "How high is the moon?" * (1 + number % 5)}]
            shapes = (
                ("/v1/chat/completions", {"messages": turns, "max_tokens": 40, "user": f"job-{number}"}),
                ("/v1/responses", {"input": "How far?", "max_output_tokens": 90, "user": f"job-{number}"}),
                ("/v1/messages", {"messages": turns, "max_tokens": 60, "metadata": {"user_id": f"job-{number}"}}),
            )
            url, body = shapes[number % 3]
            body["model"] = MODELS[number // 3 % 3]
            line = {"custom_id": f"job-{number}", "method": "POST", "url": url, "body": body}
            file.write(msgspec.json.encode(line) + b"\n")


def test_the_last_sample_is_the_runs_own_summary(watched: Watched) -> None:
    """Jobs, attempts, 429s, tokens and dollars that Prometheus has stored are those of `--json`: the last scrape saw the end."""
    last, summary = watched.prometheus.last, watched.ended.summary
    assert watched.ended.code == 1
    assert summary["request_counts"] == {"total": JOBS, "completed": JOBS - 1, "failed": 1}
    assert last("batchrun_jobs_total") == {("succeeded",): JOBS - 1, ("failed",): 1}
    assert last("batchrun_jobs") == {
        ("pending",): 0,
        ("in_flight",): 0,
        ("backing_off",): 0,
        ("held",): 0,
        ("succeeded",): JOBS - 1,
        ("failed",): 1,
    }
    attempts = last("batchrun_attempts_total")
    assert sum(attempts.values()) == summary["attempts"] == JOBS + 2
    assert sum(count for (_, result), count in attempts.items() if result == "rate_limited") == summary["rate_limited"] == 1
    tokens = last("batchrun_tokens_total")
    for kind in ("input", "cached", "output"):
        assert sum(count for (_, of), count in tokens.items() if of == kind) == summary["usage"][f"{kind}_tokens"] > 0
    assert tokens["simulated-reasoner", "reasoning"] > 0
    assert sum(last("batchrun_cost_dollars_total").values()) == pytest.approx(summary["cost"]["amount"], rel=1e-9)
    assert last("batchrun_run_cost_dollars") == {
        ("billed",): pytest.approx(summary["cost"]["amount"], rel=1e-9),
        ("maybe_billed",): pytest.approx(summary["cost"]["maybe_billed"]),
    }
    assert sum(last("batchrun_request_duration_seconds_count").values()) == summary["attempts"]
    assert last("batchrun_admission_wait_seconds_count") == {(): summary["attempts"]}
    assert sum(last("batchrun_replies_total").values()) == JOBS - 1


def test_M01_counters_rise_and_never_fall(watched: Watched) -> None:
    """Sample by sample; and the run was seen on its way, not only at its ends."""
    rising = watched.prometheus.query(f'{{__name__=~"batchrun_.*_(total|count|bucket|sum)", job="{JOB}"}}[1h]')
    assert len(rising) > 100
    for series in rising:
        values = [value for _, value in series.values]
        assert values == sorted(values), series.labels
    (succeeded,) = watched.prometheus.query('batchrun_jobs_total{outcome="succeeded"}[1h]')
    assert len({value for _, value in succeeded.values}) >= 3


def test_M01_a_run_that_is_killed_and_resumed(tmp_path: Path) -> None:
    """Counters fall at most once, when the next process begins; what a run has come to is what the second one sums up."""
    with watching(tmp_path) as (server, port):
        with submitted(tmp_path, server, port) as run:
            until(lambda: bool(server.query('batchrun_jobs{state="succeeded"} > 20')), "a scrape of a run that is well under way")
            run.kill()
            run.wait()
        until(lambda: not server.query("up == 1"), "a scrape that finds nobody")
        with submitted(tmp_path, server, port) as run:
            ended = ending(run)
        assert ended.code == 1
        for series in server.query(f'{{__name__=~"batchrun_.*_(total|count|bucket|sum)", job="{JOB}"}}[1h]'):
            values = [value for _, value in series.values]
            falls = sum(later < earlier for earlier, later in pairwise(values))
            assert falls <= 1, series.labels
        last, counts = server.last, ended.summary["request_counts"]
        assert counts == {"total": JOBS, "completed": JOBS - 1, "failed": 1}
        assert last("batchrun_jobs")["succeeded",] == JOBS - 1
        assert last("batchrun_run_cost_dollars") == {
            ("billed",): pytest.approx(ended.summary["cost"]["amount"], rel=1e-9),
            ("maybe_billed",): pytest.approx(ended.summary["cost"]["maybe_billed"]),
        }


def test_the_target_is_up_for_as_long_as_the_run_lasts(watched: Watched) -> None:
    """Down before it, up from its beginning to its end without a gap, down after it: no scrape failed."""
    (up,) = watched.prometheus.query(f'up{{job="{JOB}"}}[1h]')
    states = "".join(f"{value:.0f}" for _, value in up.values)
    assert "01" not in states.lstrip("0")
    assert states.count("1") >= 3


def test_every_sample_of_a_scrape_is_a_series_of_its_own(watched: Watched) -> None:
    """Nothing comes twice: as many samples as series, and Prometheus refused none."""
    (scraped,) = watched.prometheus.query(f'scrape_samples_scraped{{job="{JOB}"}}[1h]')
    samples = max(value for _, value in scraped.values)
    stored = watched.prometheus.query(f'{{__name__=~"batchrun_.*|process_.*", job="{JOB}"}}[1h]')
    # The estimate of the end is there only while there is one.
    assert samples in (len(stored), len(stored) - 1)
    for refused in ("duplicate_timestamp", "out_of_order", "out_of_bounds"):
        assert watched.prometheus.own(f"prometheus_target_scrapes_sample_{refused}_total") == 0


def test_labels_are_those_that_are_known(watched: Watched) -> None:
    """Each label takes its values from a closed set, and there is no other label."""
    known: dict[str, set[str]] = {
        "outcome": {"succeeded", "failed"},
        "endpoint": {*ENDPOINTS, "other"},
        "result": {result.value for result in AttemptResult},
        "finish": {finish.value for finish in Finish},
        "model": set(MODELS),
        "type": {"input", "cached", "output", "reasoning"},
        "billing": {"billed", "maybe_billed"},
        "state": {
            *("pending", "in_flight", "backing_off", "held", "succeeded", "failed"),
            *("idle", "active", "connecting"),
            *("live", "suspended", "retired"),
            *(circuit.value for circuit in Circuit),
        },
        "target": {"server", "model"},
        "cause": set(get_args(Binding)),
        "account": {"night"},
        "kind": {"requests_per_minute", "tokens_per_minute"},
        "way": {way.name.lower() for way in Charging},
        "simulated": {"true"},
    }
    open_ended = {"le", "version", "run_id"}
    for series in watched.prometheus.query(f'{{__name__=~"batchrun_.*", job="{JOB}"}}[1h]'):
        for label, value in series.labels.items():
            assert label in open_ended or value in known[label], series.labels


def test_each_panel_shows_something(watched: Watched) -> None:
    """The expressions that a board would use give numbers over the run."""
    (up,) = watched.prometheus.query(f'up{{job="{JOB}"}}[1h]')
    times = [at for at, value in up.values if value == 1]
    empty = set(PANELS)
    for panel, expression in PANELS.items():
        graphs = watched.prometheus.graph(expression.replace("$i", "5s"), times[0], times[-1])
        if any(value > 0 for series in graphs for _, value in series.values):  # NaN is not
            empty.remove(panel)
    assert not empty
