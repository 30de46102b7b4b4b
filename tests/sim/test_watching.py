"""What a scrape sees of a whole run, and the scrape that sees its end, in virtual time."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
from collections.abc import Callable
from typing import ClassVar, get_args

import pytest
import trio
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from batchrunner.cli.watching import last_scrape, watch
from batchrunner.clock import NS_PER_SECOND, VirtualClock
from batchrunner.events import Onlookers
from batchrunner.metrics import Metrics, Scrapes
from batchrunner.runner import STATUS_FILE, Run
from batchrunner.secret import Secret
from batchrunner.simulator.settings import TEST_KEY, Rule
from batchrunner.status import Cause, Status, decode
from tests.sim.nights import MODEL, MakeNight, after, assert_whole, job, jobs
from tests.sim.test_run_outages import HOUR, OTHER, Outage

Scraped = dict[str, dict[tuple[str, ...], float]]


def nobody(_: str) -> None:
    """Whom nothing can be told."""


class Scraper:
    """Watches a night's run, and scrapes at chosen seconds of it."""

    def __init__(self, *seconds: float) -> None:
        self.metrics = Metrics(VirtualClock(trio.current_time))
        self.texts: list[str] = []
        self._seconds = seconds

    async def meanwhile(self, run: Run) -> None:
        self.onlookers = Onlookers(nobody)
        watch(self.metrics, run, self.onlookers)
        for second in self._seconds:
            await trio.sleep_until(second)
            self.scrape()

    def scrape(self) -> Scraped:
        self.texts.append(generate_latest(self.metrics.registry).decode())
        found: Scraped = {}
        for family in text_string_to_metric_families(self.texts[-1]):
            for sample in family.samples:
                labels = tuple(value for _, value in sorted(sample.labels.items()))
                of_name = found.setdefault(sample.name, {})
                assert labels not in of_name, f"{sample.name}{labels} comes twice"
                of_name[labels] = sample.value
        return found


async def a_run(make_night: MakeNight) -> Scraper:
    """200 jobs at 60 a minute, looked at once a minute, and after its end: a 429, an overload, and a job that fails."""
    rules = (
        Rule(kind="rate_limited", tag="job-70"),
        Rule(kind="overloaded", tag="job-90"),
        Rule(kind="error400", tag="job-91", times=0),
    )
    night = make_night(jobs(200), rules=rules)
    scraper = Scraper(30, 90, 150)
    await night.run(scraper.meanwhile, rpm=60)
    for event in night.events:
        scraper.onlookers.on_event(event)
    return scraper


def faults_found(exposition: str) -> tuple[int, bytes]:
    """What Prometheus' own linter says."""
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=exposition.encode(),
        capture_output=True,
        check=False,
        env={"PATH": os.environ["PATH"]},
    )
    return checked.returncode, checked.stderr + checked.stdout


async def test_a_whole_run_feeds_every_metric(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Each family shows what became of the run, and the same figure wherever it stands twice."""
    shown = (await a_run(make_night)).scrape()
    assert shown["batchrun_jobs"] == {
        ("pending",): 0,
        ("in_flight",): 0,
        ("backing_off",): 0,
        ("held",): 0,
        ("succeeded",): 199,
        ("failed",): 1,
    }
    assert shown["batchrun_jobs_total"] == {("succeeded",): 199, ("failed",): 1}
    attempts = {result: count for (_, result), count in shown["batchrun_attempts_total"].items() if count}
    assert attempts == {"ok": 199, "rate_limited": 1, "server_error": 1, "invalid": 1}
    assert shown["batchrun_run_attempts"][()] == 202
    assert shown["batchrun_admission_wait_seconds_count"][()] == 202
    assert shown["batchrun_request_duration_seconds_count"]["simulated-small", "ok"] == 199
    assert sum(shown["batchrun_replies_total"].values()) == 199
    for kind in ("input", "output", "cached", "reasoning"):
        assert shown["batchrun_tokens_total"]["simulated-small", kind] == shown["batchrun_run_tokens"][kind,]
    assert shown["batchrun_cost_dollars_total"]["simulated-small",] == pytest.approx(
        shown["batchrun_run_cost_dollars"]["billed",], rel=1e-9
    )
    assert shown["batchrun_run_cost_dollars"]["maybe_billed",] == 0
    assert shown["batchrun_connections_opened_total"][()] + shown["batchrun_connections_reused_total"][()] >= 202
    assert shown["batchrun_journal_records_total"][()] >= 2 * 202
    assert shown["batchrun_journal_unsynced_records"][()] == 0
    assert shown["batchrun_journal_fsync_seconds_count"][()] > 0
    assert shown["batchrun_sink_errors_total"][()] == 0
    assert shown["batchrun_budget_limit"]["default", "requests_per_minute"] == 60
    assert shown["batchrun_reply_budget_limit_bytes"][()] == 256 << 20
    assert shown["batchrun_run_info"] == {("night", "false"): 1}


async def test_a_limit_shows_as_time_in_which_nothing_could_be_sent(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """At 60 a minute nearly all of a run's time is spent in waiting for requests, and what a 429 cost stands by itself."""
    shown = (await a_run(make_night)).scrape()
    blocked = {cause: seconds for (cause,), seconds in shown["batchrun_admission_blocked_seconds_total"].items()}
    assert set(blocked) == set(get_args(Cause))
    assert blocked["requests"] > 100
    assert blocked["rate_limited"] > 0.5
    assert blocked["tokens"] == blocked["in_flight"] == 0


async def test_no_series_is_added_but_by_what_happens_first(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Labels are closed: between two looks at a run of one model and one endpoint, series stay the same."""
    series = [set(re.findall(r"^(\S+) ", text, re.MULTILINE)) for text in (await a_run(make_night)).texts]
    assert len(series[0]) > 60
    # The estimate of the end comes with the first job that has ended.
    assert series[0] == series[1] == series[2]


@pytest.mark.needs_promtool
async def test_promtool_finds_no_fault_with_a_whole_run(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Prometheus' own linter accepts names, types, units and help of all that a run exposes."""
    scraper = await a_run(make_night)
    scraper.scrape()
    assert faults_found(scraper.texts[-1]) == (0, b"")


class Look(Scraper):
    """Watches a run, and keeps what it says of itself at one second of it, in a scrape and in its status."""

    status: Status
    shown: Scraped

    async def meanwhile(self, run: Run) -> None:
        await super().meanwhile(run)
        self.status = run.status()
        self.shown = self.scrape()

    @property
    def binding(self) -> str:
        (cause,) = [cause for (cause,), value in self.shown["batchrun_binding"].items() if value]
        assert cause == self.status.binding
        return cause


class TestOutages:
    """What people see of a run that waits for something that is away."""

    QUICK: ClassVar[dict[str, float]] = {"latency_median_seconds": 1.0, "latency_sigma": 0.0}

    async def test_a_model_that_is_offline(self, autojump_clock: MockClock, make_night: MakeNight) -> None:
        """With nothing else to do: its circuit is open, its jobs are held and its name is there. Afterwards nothing is."""
        lines = [job(f"job-{number}", model=OTHER if number % 2 else MODEL) for number in range(60)]
        night = make_night(lines, **self.QUICK)
        night.platform._plan = outage = Outage("model_unavailable", 0, 600, lambda ask: ask.model.id == OTHER)
        look = Look(200)
        ended = await night.run(look.meanwhile, rpm=60)
        assert_whole(night, ended)
        assert (look.binding, look.status.held, look.status.pending) == ("models", 30, 0)
        assert (look.status.models_offline, look.status.models_offline_total) == ((OTHER,), 1)
        assert look.shown["batchrun_jobs"]["held",] == 30
        assert sum(look.shown["batchrun_jobs"].values()) == 60
        assert look.shown["batchrun_models_offline"] == {(OTHER,): 1}
        assert look.shown["batchrun_circuits"]["open", "model"] == look.shown["batchrun_circuits"]["closed", "server"] == 1
        assert look.shown["batchrun_admission_blocked_seconds_total"]["models",] > 100
        over = look.scrape()
        assert over["batchrun_models_offline"] == {(OTHER,): 0}
        assert over["batchrun_circuits"]["closed", "model"] == 1
        assert over["batchrun_attempts_refunded_total"][()] == outage.met
        assert (ended.held, ended.models_offline, ended.failed) == (0, (), 0)

    async def test_a_run_that_is_stopped_leaves_the_name_of_what_it_waited_for(
        self, autojump_clock: MockClock, make_night: MakeNight
    ) -> None:
        """`status` of the stopped run says why so many jobs are open; none of them is held by anybody any more."""
        night = make_night(jobs(30), **self.QUICK)
        night.platform._plan = Outage("model_unavailable", 0, HOUR)
        await night.run(after(100, Run.drain))
        left = decode(bytes(night.disk.files[STATUS_FILE]))
        assert (left.state, left.models_offline, left.held, left.pending) == ("stopped", (MODEL,), 0, 30)

    async def test_a_server_that_is_away(self, autojump_clock: MockClock, make_night: MakeNight) -> None:
        """Its circuit is open, and everything waits for it."""
        night = make_night(jobs(60), **self.QUICK)
        night.platform._plan = Outage("error500", 0, 600)
        look = Look(60)
        assert_whole(night, await night.run(look.meanwhile, rpm=60))
        assert look.binding == "server"
        assert look.shown["batchrun_circuits"]["open", "server"] == 1
        assert "batchrun_models_offline" not in look.shown
        assert look.scrape()["batchrun_circuits"]["closed", "server"] == 1

    async def test_a_key_that_is_suspended(self, autojump_clock: MockClock, make_night: MakeNight) -> None:
        """The only one is refused after it had worked: no key is live, and the run waits to try it again."""
        night = make_night(jobs(400), **self.QUICK)
        look = Look(50)

        async def meanwhile(run: Run) -> None:
            await trio.sleep(30)
            night.platform.delete_key(TEST_KEY)
            await look.meanwhile(run)

        stopped = await night.run(meanwhile, rpm=60)
        assert (look.binding, look.status.keys_suspended) == ("keys", 1)
        keys = {state: count for (_, state), count in look.shown["batchrun_keys"].items()}
        assert keys == {"live": 0, "suspended": 1, "retired": 0}
        assert (stopped.stopped_by, stopped.keys_suspended) == ("keys", 0)
        assert stopped.keys_retired == (Secret(TEST_KEY).fingerprint("localhost:8000"),)
        assert look.scrape()["batchrun_keys"]["default", "retired"] == 1

    async def test_repeats_that_wait_for_the_retry_budget(self, autojump_clock: MockClock, make_night: MakeNight) -> None:
        """All has been tried, half of it failed: what is left goes at the budget's pace, and that is what is said."""
        rules = tuple(Rule(kind="error500", tag=f"job-{number}") for number in range(0, 100, 2))
        night = make_night(jobs(100), rules=rules, **self.QUICK)
        look = Look(30)
        assert_whole(night, await night.run(look.meanwhile, rpm=600))
        assert look.binding == "retries"
        assert look.shown["batchrun_retry_budget_left"][()] == 0
        assert look.shown["batchrun_jobs"]["backing_off",] > 0

    @pytest.mark.needs_promtool
    async def test_promtool_finds_no_fault_in_an_outage(self, autojump_clock: MockClock, make_night: MakeNight) -> None:
        """Series that only an outage brings are linted too."""
        night = make_night(jobs(30), **self.QUICK)
        night.platform._plan = Outage("model_unavailable", 0, 600)
        look = Look(60)
        await night.run(look.meanwhile)
        assert "batchrun_models_offline{" in look.texts[-1]
        assert faults_found(look.texts[-1]) == (0, b"")


class TestLastScrape:
    """A run that ends at 100 s, scraped every 15 s, the last time at 90."""

    @staticmethod
    def scrapes(*seconds: int) -> Scrapes:
        scrapes = Scrapes()
        for second in seconds:
            scrapes.note(second * NS_PER_SECOND)
        return scrapes

    @staticmethod
    async def waited(scrapes: Scrapes, say: Callable[[str], None] = nobody, scrape_at: float = math.inf) -> float:
        """How long the end of the run waits."""
        clock = VirtualClock(trio.current_time)
        clock.monotonic_ns()
        await trio.sleep(100)

        async def scrape_on() -> None:
            await trio.sleep(scrape_at - 100)
            scrapes.note(clock.monotonic_ns())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrape_on)
            began = trio.current_time()
            await last_scrape(scrapes, clock, say)
            nursery.cancel_scope.cancel()
        return trio.current_time() - began

    async def test_the_end_waits_for_the_next_scrape(self, autojump_clock: MockClock) -> None:
        """Five seconds later it comes, and the run ends with it; people are told why they wait."""
        said: list[str] = []
        assert 5 <= await self.waited(self.scrapes(60, 75, 90), said.append, scrape_at=105) < 5.1
        assert said == ["the run has ended; its metrics wait for one more scrape, 12 s at the most. Ctrl-C ends the wait."]

    async def test_a_scraper_that_does_not_come_again_is_not_waited_for_longer(self, autojump_clock: MockClock) -> None:
        """An interval and a half after it was last here the run ends all the same."""
        assert await self.waited(self.scrapes(60, 75, 90)) == pytest.approx(12.5)

    @pytest.mark.parametrize("seconds", [(), (90,), (10, 25, 40)])
    async def test_where_nobody_watches_nothing_is_waited_for(self, autojump_clock: MockClock, seconds: tuple[int, ...]) -> None:
        """Nobody ever came, or once, or not any more: the run ends at once, without a word."""
        said: list[str] = []
        assert await self.waited(self.scrapes(*seconds), said.append) == 0
        assert said == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_a_signal_ends_the_wait(self, autojump_clock: MockClock, number: signal.Signals) -> None:
        """The run is over: there is nothing to interrupt but the wait."""
        assert await self.waited(self.scrapes(60, 75, 90), lambda _: signal.raise_signal(number)) < 1
