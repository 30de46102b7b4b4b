"""Whole runs in virtual time: what the contract promises, from the job file to the last line on disk."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner import status as status_file
from batchrunner.disk import MemoryDisk
from batchrunner.errors import ChangedLines
from batchrunner.events import AttemptResult, Billing
from batchrunner.journal import read_finished
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.runner import Run
from batchrunner.simulator.settings import TEST_KEY, Charging, Rule, Settings
from batchrunner.status import Status
from tests.sim.nights import PRICES, Meanwhile, Night, WatchedPlatform, assert_bill, assert_once, assert_whole, job, jobs

MakeNight = Callable[..., Night]
DEAD_KEY = "sk-empiriolabs-test-dead"
#: the most that a job of `jobs()` can cost: 50 tokens of output, and fewer than 60 of input
JOB_CEILING_USD = PRICES.ceiling("simulated-small", 60, 50) or Decimal(0)


@pytest.fixture
def make_night(tmp_path: Path, nursery: trio.Nursery) -> MakeNight:
    """A night's job file, disk and server; `settings` are the simulated platform's."""

    def make(lines: list[bytes], **settings: object) -> Night:
        platform = WatchedPlatform(Settings(**settings))  # type: ignore[arg-type]
        return Night(tmp_path / "jobs.jsonl", nursery, lines, platform)

    return make


def fault(kind: str, custom_id: str = "job-1", *, times: int = 1) -> dict[str, object]:
    """Settings of a platform on which one job meets a fault; `times` 0: always."""
    return {"rules": (Rule(kind=kind, tag=custom_id, times=times),)}


def after(seconds: float, act: Callable[[Run], object]) -> Meanwhile:
    """Something to do so many seconds into a run."""

    async def meanwhile(run: Run) -> None:
        await trio.sleep(seconds)
        act(run)

    return meanwhile


def figures(status: Status) -> Status:
    """A status but for the moment that it was taken at."""
    return msgspec.structs.replace(status, at="", elapsed_seconds=0.0)


def peak_tokens(night: Night) -> int:
    """The most tokens that requests sent within any 60 seconds turned out to take. Of a job's requests the last was accepted."""
    sent = {asked.custom_id: asked.at_seconds for asked in night.platform.asked}
    taken = sorted((sent[entry.custom_id or ""], entry.tokens.total) for entry in night.platform.billed)
    return max(sum(tokens for at, tokens in taken if end - 60 < at <= end) for end, _ in taken)


# --- a healthy server


async def test_plain(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A file of 300 jobs ends with 300 results, one request each, and the server's own bill to the last digit."""
    night = make_night(jobs(300))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.failed, status.attempts) == (300, 0, 300)
    assert not night.maybe_billed()
    assert night.platform.counters.billed_usd == status.billed_usd > 0
    assert status.usage.total_tokens == sum(entry.tokens.total for entry in night.platform.billed)


async def test_every_dialect(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """One file may ask all three endpoints, in OpenAI's lines and in Anthropic's."""
    body = {"model": "simulated-small", "metadata": {"custom_id": "r"}, "input": "How high is the moon?", "max_output_tokens": 9}
    responses = {"custom_id": "r", "method": "POST", "url": "/v1/responses", "body": body}
    params = msgspec.json.decode(job("m"))["body"]
    lines = [job("c"), *(msgspec.json.encode(line) + b"\n" for line in (responses, {"custom_id": "m", "params": params}))]
    night = make_night(lines)
    status = await night.run()
    assert_whole(night, status)
    assert sorted(night.succeeded()) == ["c", "m", "r"]
    assert night.platform.counters.billed_usd == status.billed_usd


async def test_nothing_to_do(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """An empty job file is a finished run, and the server is not even connected to."""
    night = make_night([])
    assert_whole(night, await night.run())
    assert night.server.opened == 0


async def test_bad_lines_count_as_failed(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Lines that are no job stand in errors.jsonl, count in total and failed, and keep no other line from running."""
    night = make_night([job("a"), b"nonsense\n", job("a"), job("b")])
    status = await night.run()
    assert (status.state, status.total, status.completed, status.failed) == ("completed", 4, 2, 2)
    assert [(line["custom_id"], line["line"]) for line in night.lines(ERRORS)] == [(None, 2), (None, 3)]


async def test_in_flight_cap(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """No more requests are under way than --max-in-flight, and no more connections are opened than that needs."""
    night = make_night(jobs(40))
    assert_whole(night, await night.run(max_in_flight=3))
    assert night.platform.counters.peak_in_flight == 3
    assert night.server.opened <= 4


async def test_nothing_is_left_open(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """When a run has ended, no connection is held by anybody."""
    night = make_night(jobs(20), faults={"reset_body": 0.2, "truncated": 0.2})
    await night.run()
    assert night.pool is not None
    statistics = night.pool.statistics()
    assert (statistics.active, statistics.idle, statistics.connecting) == (0, 0, 0)
    assert statistics.opened == statistics.closed == night.server.opened


async def test_a_finished_run_is_known_by_its_journal(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """The journal's last record carries the last status, so that the same command can be answered at once."""
    night = make_night(jobs(3))
    status = await night.run()
    finished = read_finished(night.disk, "night")
    assert finished is not None
    assert figures(status_file.decode(bytes(finished.summary))) == figures(status)
    assert finished.identity[0][0] == str(night.path)


async def test_the_last_status_is_on_disk(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """status.json ends as the status that the run returns."""
    night = make_night(jobs(3))
    status = await night.run()
    assert figures(status_file.decode(bytes(night.disk.files["status.json"]))) == figures(status)


async def test_status_is_written_while_it_runs(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """status.json tells of a live run every 5 seconds, its state and what is in flight included."""
    night = make_night(jobs(2), latency_median_seconds=60.0, latency_sigma=0.0)
    seen = []

    async def look(_run: Run) -> None:
        for _ in range(3):
            await trio.sleep(5.5)
            seen.append(status_file.decode(bytes(night.disk.files["status.json"])))

    await night.run(look)
    assert [status.state for status in seen] == ["running"] * 3
    assert [status.in_flight for status in seen] == [2] * 3
    assert [later.elapsed_seconds - earlier.elapsed_seconds for earlier, later in pairwise(seen)] == pytest.approx([5, 5])


async def test_shown_as_done_is_on_disk(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """At every moment, a power cut leaves at least the results that the status has counted."""
    night = make_night(jobs(60), latency_median_seconds=1.0)
    shown = []

    async def look(run: Run) -> None:
        while True:
            await trio.sleep(0.003)
            completed = run.status().completed
            assert bytes(night.disk.crash().files[RESULTS]).count(b"\n") >= completed
            shown.append(completed)

    await night.run(look, max_in_flight=5)
    assert len(set(shown)) > 20


async def test_the_key_is_written_nowhere(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """No file of a run, no line for people and no event holds the key, whatever went wrong."""
    night = make_night(jobs(30), faults={"error500": 0.2, "error400": 0.2, "reset_before": 0.2, "garbage": 0.1})
    await night.run()
    for name, data in night.disk.files.items():
        assert TEST_KEY.encode() not in data, name
    assert TEST_KEY not in repr(night.said) + repr(night.events)
    assert {asked.key for asked in night.platform.asked} == {f"Bearer {TEST_KEY}"}


async def test_how_answers_ended_is_counted_over_a_resume(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Answers cut at their cap are counted, those of the processes before included."""
    night = make_night(jobs(40), output_median_tokens=50)
    first = await night.run(after(1.5, Run.drain), max_in_flight=4)
    assert 0 < first.finish_length < first.completed < 40
    status = await night.run()
    reasons = [line["response"]["body"]["choices"][0]["finish_reason"] for line in night.lines(RESULTS)]
    assert status.finish_length == reasons.count("length")


# --- each kind of fault


@pytest.mark.parametrize("kind", ["overloaded", "error500", "upstream_error", "model_unavailable", "html"])
async def test_a_server_error_is_tried_again(autojump_clock: MockClock, make_night: MakeNight, kind: str) -> None:
    """5xx and 529: the job gets another attempt after a backoff, and the failed one is not on the bill."""
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (5, 6)
    assert not night.maybe_billed()
    assert night.asked() == night.sends() == Counter({f"job-{number}": 1 + (number == 1) for number in range(5)})
    assert [result for result in (event.result for event in night.events) if result is not AttemptResult.OK] == [
        AttemptResult.SERVER_ERROR
    ]


@pytest.mark.parametrize("kind", ["error408", "error504", "reset_before", "reset_headers", "reset_body", "truncated", "silent"])
async def test_an_unknown_end_is_tried_again_and_listed(autojump_clock: MockClock, make_night: MakeNight, kind: str) -> None:
    """Where the work may have been done, the attempt is repeated and listed as maybe billed, at no less than its bill."""
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (5, 6)
    assert night.costs()["job-1", 1].state is Billing.MAYBE
    assert night.costs()["job-1", 2].state is Billing.BILLED
    assert night.maybe_billed() == {"job-1"}


@pytest.mark.parametrize("kind", ["garbage", "empty"])
async def test_a_success_that_cannot_be_read_is_not_repeated(autojump_clock: MockClock, make_night: MakeNight, kind: str) -> None:
    """A whole 2xx that is no JSON fails at once and is listed as maybe billed: repeating it would pay again."""
    night = make_night(jobs(5), **fault(kind))
    status = await night.run()
    assert_whole(night, status)
    assert night.failures() == {"job-1": "unreadable_reply"}
    assert night.asked()["job-1"] == 1
    assert night.maybe_billed() == {"job-1"}


async def test_a_refused_request_fails_at_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """400: the job fails with the server's words, unbilled and not repeated; the others go on."""
    night = make_night(jobs(5), **fault("error400"))
    status = await night.run()
    assert_whole(night, status)
    assert night.failures() == {"job-1": "invalid_request"}
    (line,) = night.lines(ERRORS)
    assert line["response"]["status_code"] == 400
    assert line["error"]["message"] == line["response"]["body"]["error"]["message"] == "The request is not valid."
    assert not any(custom_id == "job-1" for custom_id, _ in night.costs())


async def test_an_unknown_model_fails_at_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """404 `model_not_found`: one request, one failed job."""
    night = make_night([job("a"), job("b", model="no-such-model")])
    assert_whole(night, await night.run())
    assert night.failures() == {"b": "model_not_found"}
    assert night.asked()["b"] == 1


async def test_a_slow_answer_is_waited_for(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """An answer that takes ten times as long as others is an answer."""
    night = make_night(jobs(5), **fault("slow"))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (5, 5)


async def test_all_faults_together(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """With every kind of fault in a third of all requests, each job still ends once, and no bill goes unlisted."""
    kinds = ("overloaded", "error500", "html", "error408", "reset_before", "reset_body", "truncated", "garbage", "error400")
    night = make_night(jobs(200), faults=dict.fromkeys((*kinds, "rate_limited", "silent"), 0.03))
    status = await night.run()
    assert_whole(night, status)
    assert status.completed > 170
    assert set(night.failures().values()) == {"unreadable_reply", "invalid_request"}
    assert status.attempts == night.asked().total() == night.sends().total()


# --- attempts


async def test_attempts_are_bounded(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A job whose every attempt fails ends after --max-attempts of them, with the server's last answer."""
    night = make_night(jobs(3), **fault("error500", times=0))
    status = await night.run(max_attempts=3)
    assert_whole(night, status)
    assert night.asked()["job-1"] == 3
    assert night.failures() == {"job-1": "internal_error"}
    (line,) = night.lines(ERRORS)
    assert line["response"]["status_code"] == 500
    assert "attempt 3 of 3" in line["error"]["message"]


async def test_attempts_back_off(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Between attempts lies up to 1, 2, 4 ... seconds, while other jobs pass."""
    night = make_night(jobs(3), **fault("overloaded", times=0))
    await night.run(max_attempts=6)
    times = [asked.at_seconds for asked in night.platform.asked if asked.custom_id == "job-1"]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert len(pauses) == 5
    assert all(0 <= pause <= 2**number + 0.01 for number, pause in enumerate(pauses))
    assert sum(pauses) > 2


async def test_a_job_may_bound_its_own_attempts(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A line's own `max_attempts` stands above the run's."""
    night = make_night([job("job-0"), job("job-1", max_attempts=1)], **fault("error500", times=0))
    await night.run(max_attempts=5)
    assert night.asked()["job-1"] == 1


async def test_attempts_count_over_a_resume(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What a job spent before a stop counts after it: no restart gives it a new set of attempts."""
    night = make_night(jobs(2), **fault("error500", times=0))
    await night.run(after(2.5, Run.drain), max_attempts=4)
    before = night.asked()["job-1"]
    assert 1 <= before < 4
    assert_whole(night, await night.run(max_attempts=4))
    assert night.asked()["job-1"] == 4


async def test_a_429_costs_no_attempt(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A job that is refused seven times with 429 succeeds on its one and only attempt."""
    night = make_night(jobs(3), **fault("rate_limited", times=7))
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert (status.completed, status.rate_limited, status.attempts) == (3, 7, 10)
    assert status.maybe_billed_usd == 0


async def test_retry_failed(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """--retry-failed runs the failed jobs again, and theirs is then the only line of each."""
    night = make_night(jobs(4), **fault("error400"))
    first = await night.run()
    assert (first.completed, first.failed) == (3, 1)
    status = await night.run(retry_failed=True)
    assert_whole(night, status)
    assert (status.completed, status.failed, status.attempts) == (4, 0, 5)


# --- timeouts


async def test_a_14_minute_answer_completes(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """The platform may take 15 minutes for an answer, and is given them."""
    night = make_night(jobs(3), latency_median_seconds=14 * 60.0, latency_sigma=0.0)
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (3, 3)


async def test_a_20_minute_answer_ends_at_960_seconds(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """An attempt ends after 960 seconds, and is listed as maybe billed: here it is billed in the end."""
    night = make_night(jobs(3), latency_median_seconds=20 * 60.0, latency_sigma=0.0)
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert set(night.failures().values()) == {"attempt_timeout"}
    assert [event.seconds for event in night.events] == pytest.approx([960.0] * 3)
    assert night.maybe_billed() == {"job-0", "job-1", "job-2"}
    await trio.sleep(300)
    assert night.platform.counters.billed == 3
    assert_bill(night, status)


async def test_a_job_may_set_its_own_timeout(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A line's own `timeout` stands in place of the run's."""
    night = make_night([job("a", timeout=30.0)], latency_median_seconds=31.0, latency_sigma=0.0)
    await night.run(max_attempts=1)
    assert night.failures() == {"a": "attempt_timeout"}
    assert night.events[-1].seconds == pytest.approx(30.0)


async def test_waiting_for_a_slot_counts_toward_no_timeout(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """At one request a minute, a timeout of 5 seconds ends none of them."""
    night = make_night(jobs(8), latency_median_seconds=1.0, latency_sigma=0.0)
    status = await night.run(rpm=1, timeout_seconds=5.0, max_attempts=1)
    assert_whole(night, status)
    assert status.failed == 0


async def test_a_429_with_a_hint_is_waited_out(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """`Retry-After` is a lower bound: nothing is sent before its time."""
    night = make_night(jobs(12), rpm=10, retry_after=True, latency_median_seconds=0.1)
    status = await night.run()
    assert_whole(night, status)
    first, *_, last = sorted(asked.at_seconds for asked in night.platform.asked)
    assert last - first >= 60
    between = [asked.at_seconds for asked in night.platform.asked if first + 1 < asked.at_seconds < first + 59]
    assert between == []


async def test_an_outage_costs_no_job_its_attempts(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A server that goes away again and again: every job still ends well within the usual number of attempts."""
    night = make_night(jobs(60), latency_median_seconds=10.0)

    async def outages(_: Run) -> None:
        for _outage in range(8):
            await trio.sleep(8)
            night.server.go_down()
            await trio.sleep(60)
            night.server.down = False

    status = await night.run(outages, max_in_flight=5)
    assert_whole(night, status)
    assert status.failed == 0


# --- being stopped


async def test_drain_lets_what_is_in_flight_end(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A drained run sends nothing more, keeps every answer under way, and goes on later as if nothing had been."""
    night = make_night(jobs(20), latency_median_seconds=10.0, latency_sigma=0.0)
    first = await night.run(after(15, Run.drain), max_in_flight=4)
    assert (first.state, first.stopped_by, first.completed, first.in_flight) == ("stopped", "signal", 8, 0)
    assert first.maybe_billed_usd == 0
    assert night.asked().total() == 8
    status = await night.run()
    assert_whole(night, status)
    assert status.attempts == 20
    assert not night.maybe_billed()
    assert status.billed_usd == night.platform.counters.billed_usd


async def test_a_draining_run_says_so(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """While a run drains, its state is `draining`."""
    night = make_night(jobs(2), latency_median_seconds=10.0)
    states = []

    async def drain(run: Run) -> None:
        await trio.sleep(1)
        run.drain()
        states.append(run.status().state)

    await night.run(drain)
    assert states == ["draining"]


async def test_a_stop_when_all_is_done_is_none(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A run that is told to drain while its last answers come is completed, not stopped."""
    night = make_night(jobs(3), latency_median_seconds=10.0)
    status = await night.run(after(5, Run.drain))
    assert_whole(night, status)


async def test_cancel_lists_what_was_in_flight(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A cancelled run is over at once; each attempt that it cut off is listed as maybe billed, and repeated later."""
    night = make_night(jobs(20), latency_median_seconds=10.0, latency_sigma=0.0)
    began = trio.current_time()
    first = await night.run(after(15, Run.cancel), max_in_flight=4)
    assert 15 <= trio.current_time() - began < 15.1
    assert (first.state, first.stopped_by, first.completed) == ("stopped", "signal", 4)
    assert (first.in_flight, first.attempts) == (0, 8)
    assert night.maybe_billed() == {f"job-{number}" for number in range(4, 8)}
    assert first.maybe_billed_usd > 0
    assert Counter(event.result for event in night.events)[AttemptResult.INTERRUPTED] == 4
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (20, 24)


async def test_drain_then_cancel(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What still flies when the patience of a drain is over is cut off and listed."""
    night = make_night([job("a"), job("b")], **fault("slow", "b"), latency_median_seconds=10.0, latency_sigma=0.0)

    async def stop(run: Run) -> None:
        await trio.sleep(5)
        run.drain()
        await trio.sleep(20)
        run.cancel()

    first = await night.run(stop)
    assert (night.succeeded(), night.maybe_billed()) == (["a"], {"b"})
    assert first.stopped_by == "signal"
    assert_whole(night, await night.run())


async def test_cancel_while_everybody_waits_for_a_slot(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A run that waits for its budget can be cancelled, with nothing lost and nothing listed."""
    night = make_night(jobs(3))
    first = await night.run(after(30, Run.cancel), rpm=1)
    assert first.completed == 1
    assert not night.maybe_billed()
    assert_whole(night, await night.run())


async def test_killed(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """kill -9 at any moment: the next start counts what was in flight as maybe billed, and ends each job once."""
    night = make_night(jobs(40), latency_median_seconds=2.0)
    for seconds in (0.0, 1.7, 2.3):
        left: list[MemoryDisk] = []

        async def die(_: Run, seconds: float = seconds, left: list[MemoryDisk] = left) -> None:
            await trio.sleep(seconds)
            left.append(night.killed())

        with trio.move_on_after(seconds + 0.001):
            await night.run(die, max_in_flight=7)
        (night.disk,) = left
        night.server.hang_up()
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 40
    assert status.attempts == night.sends().total()
    assert len(night.maybe_billed()) >= 7


# --- money


async def test_the_spend_cap_stops_the_run(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """--max-cost: the run stops short of it by less than it would need for what comes next, and goes on with more."""
    night = make_night(jobs(200))
    cap = 40 * JOB_CEILING_USD
    first = await night.run(max_cost_usd=cap, max_in_flight=6)
    assert (first.state, first.stopped_by) == ("stopped", "max_cost")
    assert cap - JOB_CEILING_USD < first.billed_usd <= cap
    assert 0 < first.completed < 200
    status = await night.run(max_cost_usd=1000 * cap)
    assert_whole(night, status)


async def test_the_spend_cap_counts_what_may_have_been_billed(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Attempts of unknown bill count toward the cap: it holds for the two sums together."""
    night = make_night(jobs(200), faults={"reset_body": 0.5})
    cap = 40 * JOB_CEILING_USD
    in_flight = 6
    status = await night.run(max_cost_usd=cap, max_in_flight=in_flight)
    assert status.stopped_by == "max_cost"
    assert status.billed_usd + status.maybe_billed_usd <= cap + in_flight * JOB_CEILING_USD
    assert status.maybe_billed_usd > 0
    assert night.platform.counters.billed_usd <= cap + in_flight * JOB_CEILING_USD


async def test_the_spend_cap_counts_earlier_processes(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A run that has reached its cap sends nothing when it is started again with the same one."""
    night = make_night(jobs(50))
    cap = 10 * JOB_CEILING_USD
    first = await night.run(max_cost_usd=cap)
    asked = night.asked().total()
    again = await night.run(max_cost_usd=cap)
    assert (again.stopped_by, again.billed_usd) == ("max_cost", first.billed_usd)
    assert night.asked().total() == asked


async def test_the_spend_cap_waits_for_what_is_in_flight(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A job that fits only if what is in flight turns out cheaper waits for that, and then goes."""
    night = make_night(jobs(2, cap=1_000), output_median_tokens=10, output_sigma=0.0, latency_median_seconds=60.0)
    ceiling = PRICES.ceiling("simulated-small", 60, 1_000)
    assert ceiling is not None
    status = await night.run(max_cost_usd=ceiling * Decimal("1.5"))
    assert_whole(night, status)
    assert night.platform.counters.peak_in_flight == 1
    assert status.billed_usd < ceiling / 10


async def test_a_cap_below_one_job_sends_nothing(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Where the very first job could pass the cap, the run stops before it."""
    night = make_night(jobs(3))
    status = await night.run(max_cost_usd=JOB_CEILING_USD / 100)
    assert (status.stopped_by, status.attempts) == ("max_cost", 0)
    assert night.asked().total() == 0


async def test_a_job_without_a_price_is_not_sent_under_a_cap(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Under --max-cost a model that the catalog does not price fails as `price_unknown`, before anything is sent."""
    night = make_night([job("a"), job("b", model="not-in-the-catalog"), job("c")])
    status = await night.run(max_cost_usd=Decimal(1))
    assert_whole(night, status)
    assert night.failures() == {"b": "price_unknown"}
    assert night.asked() == Counter("ac")
    assert night.lines(ERRORS)[0]["response"] is None
    assert status.attempts == 2


# --- the account


async def test_no_credits_keeps_every_job(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """402 stops the run with no job failed; once the account is topped up, it goes on."""
    night = make_night(jobs(60), balance_usd=10 * JOB_CEILING_USD)
    first = await night.run(max_in_flight=4)
    assert (first.state, first.stopped_by, first.failed) == ("stopped", "credits", 0)
    assert 0 < first.completed < 60
    assert first.maybe_billed_usd == 0
    night.platform.account.balance_usd += 1
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 60


async def test_a_dead_key_is_replaced_by_the_next(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """401 retires the key, and its jobs go out again with the account's next one, at no attempt's cost."""
    night = make_night(jobs(20))
    night.keys = (DEAD_KEY, TEST_KEY)
    status = await night.run(max_in_flight=3, max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 20
    used = [asked.key for asked in night.platform.asked]
    assert used.count(f"Bearer {DEAD_KEY}") <= 3
    assert used.index(f"Bearer {TEST_KEY}") <= 3


async def test_a_key_that_dies_in_mid_run_is_replaced(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A key that has worked is retired when the server refuses it; the jobs in flight with it are not lost."""
    night = make_night(jobs(40), keys=("sk-empiriolabs-test-1", "sk-empiriolabs-test-2"))
    night.keys = ("sk-empiriolabs-test-1", "sk-empiriolabs-test-2")
    status = await night.run(after(2, lambda _: night.platform.delete_key(night.keys[0])), max_in_flight=4, max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 40


async def test_no_key_left_stops_the_run(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """When every key is refused the run stops with no job failed, and goes on with a good one."""
    night = make_night(jobs(20))
    night.keys = (DEAD_KEY, DEAD_KEY + "-too")
    first = await night.run(max_in_flight=3)
    assert (first.stopped_by, first.completed, first.failed) == ("keys", 0, 0)
    assert night.asked().total() <= 6
    night.keys = (TEST_KEY,)
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 20


async def test_a_job_for_another_account_is_not_sent(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A line that names an account goes to that account's run alone: elsewhere it fails, unsent and unbilled."""
    night = make_night([job("a", account="prod"), job("b", account="staging"), job("c")])
    status = await night.run(account="prod")
    assert_whole(night, status)
    assert night.failures() == {"b": "unknown_account"}
    assert night.asked() == Counter("ac")


# --- the server's being there


async def test_a_server_that_never_was_there(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """No connection for 30 seconds from the start: the run stops as `unreachable`, with nothing sent."""
    night = make_night(jobs(3))
    night.server.down = True
    began = trio.current_time()
    first = await night.run()
    assert (first.state, first.stopped_by, first.attempts) == ("stopped", "unreachable", 0)
    assert 30 <= trio.current_time() - began <= 61
    assert any("Connection refused" in line for line in night.said)
    night.server.down = False
    assert_whole(night, await night.run())


async def test_a_server_that_comes_up_late(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A server that is there within the first 30 seconds is nobody's trouble."""
    night = make_night(jobs(3))
    night.server.down = True
    status = await night.run(after(20, lambda _: setattr(night.server, "down", False)), max_attempts=1)
    assert_whole(night, status)
    assert status.attempts == 3


async def test_a_server_that_went_away_is_waited_for(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Reached once, a server may be gone for hours: nothing fails, and what it had in flight is listed."""
    night = make_night(jobs(60), latency_median_seconds=2.0)
    bindings = []

    async def outage(run: Run) -> None:
        await trio.sleep(5)
        night.server.go_down()
        await trio.sleep(3 * 3600)
        bindings.append(run.status().binding)
        night.server.down = False

    status = await night.run(outage, max_in_flight=5)
    assert_whole(night, status)
    assert (status.completed, status.failed) == (60, 0)
    assert bindings == ["server"]
    assert 1 <= len(night.maybe_billed()) <= 5
    assert trio.current_time() < 3 * 3600 + 120


async def test_drain_while_the_server_is_away(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A run that waits for its server can be drained: it ends at once."""
    night = make_night(jobs(60))

    async def outage(run: Run) -> None:
        await trio.sleep(2)
        night.server.go_down()
        await trio.sleep(600)
        run.drain()

    first = await night.run(outage, max_in_flight=5)
    assert first.stopped_by == "signal"
    assert trio.current_time() == pytest.approx(602)


@pytest.mark.parametrize("max_in_flight", [1, 10], ids=["kept alive", "opened early"])
async def test_a_connection_found_closed_costs_nothing(
    autojump_clock: MockClock, make_night: MakeNight, max_in_flight: int
) -> None:
    """A connection that was closed while it waited for its slot is replaced: no attempt, no maybe billed line."""
    night = make_night(jobs(4), latency_median_seconds=1.0, latency_sigma=0.0)
    # Sends are a minute apart, and the connection of the next one is held meanwhile.
    hang_up = after(90, lambda _: night.server.hang_up())
    status = await night.run(hang_up, rpm=1, max_attempts=1, max_in_flight=max_in_flight)
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (4, 4)
    assert not night.maybe_billed()


@pytest.mark.parametrize("max_in_flight", [1, 10], ids=["kept alive", "opened early"])
async def test_a_stale_connection_costs_no_attempt(autojump_clock: MockClock, make_night: MakeNight, max_in_flight: int) -> None:
    """Closed just as it was used, with no answer: the job goes again, no attempt is spent, and maybe billed is listed."""
    night = make_night(jobs(4), latency_median_seconds=1.0, latency_sigma=0.0)
    night.server.hides_closing = True
    hang_up = after(90, lambda _: night.server.hang_up())
    status = await night.run(hang_up, rpm=1, max_attempts=1, max_in_flight=max_in_flight)
    assert_whole(night, status)
    assert (status.completed, status.attempts) == (4, 5)
    assert night.maybe_billed() == {"job-2"}


async def test_a_job_goes_stale_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """After a stale connection a job goes on a fresh one; where that ends without an answer, it is a read failure."""
    night = make_night(jobs(2), **fault("reset_before", times=0))
    status = await night.run(max_in_flight=1, max_attempts=1)
    assert_whole(night, status)
    assert night.failures() == {"job-1": "read"}
    assert night.asked()["job-1"] == 2


async def test_many_stale_connections_at_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Where every idle connection has been closed, a job meets one of them at most: its next one is fresh."""
    night = make_night(jobs(4), rpm=2, window="bucket", retry_after=True, latency_median_seconds=1.0)
    night.server.hides_closing = True
    # Two jobs are answered and two are told to wait for half a minute; in it all connections go.
    status = await night.run(after(20, lambda _: night.server.hang_up()), max_attempts=1)
    assert_whole(night, status)
    assert night.server.opened > 4
    unheard = Counter(custom_id for (custom_id, _), line in night.costs().items() if line.state is Billing.MAYBE)
    assert unheard
    assert set(unheard.values()) == {1}


# --- the disk


@pytest.mark.parametrize(
    ("operation", "name", "nth"),
    [
        ("write", RESULTS, 9),
        ("write", COSTS, 9),
        ("write", JOURNAL, 25),
        ("sync", RESULTS, 3),
        ("sync", JOURNAL, 4),
        ("replace", "status.json", 2),
    ],
)
@pytest.mark.parametrize("power_cut", [False, True])
async def test_a_disk_error_stops_a_run_that_resumes(
    autojump_clock: MockClock, make_night: MakeNight, operation: str, name: str, nth: int, power_cut: bool
) -> None:
    """The first disk error stops the run as `disk`; whatever was counted is on disk, and the next start goes on."""
    night = make_night(jobs(60), latency_median_seconds=1.0)
    left = nth

    broken = (operation, name)

    def fail(operation: str, name: str) -> None:
        nonlocal left
        left -= (operation, name) == broken
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    night.disk.fail = fail  # type: ignore[method-assign]
    first = await night.run(max_in_flight=5)
    assert (first.state, first.stopped_by) == ("stopped", "disk")
    assert any("No space left on device" in line for line in night.said)
    assert len(night.succeeded()) >= first.completed
    night.disk = night.disk.crash() if power_cut else night.killed()
    status = await night.run(max_attempts=1)
    assert_once(night, status)
    assert status.completed == 60
    if not power_cut:  # which can hide the sends of the last commit interval
        assert_bill(night, status)


async def test_a_disk_error_while_draining_is_the_reason(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A disk that fails while a run drains is what people are told of, and what the run stopped by."""
    night = make_night(jobs(20), latency_median_seconds=10.0, latency_sigma=0.0)

    async def stop(run: Run) -> None:
        await trio.sleep(5)
        run.drain()

        def fail(operation: str, name: str) -> None:
            if (operation, name) == ("write", RESULTS):
                raise OSError(errno.EIO, "Input/output error")

        night.disk.fail = fail  # type: ignore[method-assign]

    first = await night.run(stop, max_in_flight=4)
    assert first.stopped_by == "disk"
    assert any("Input/output error" in line for line in night.said)


async def test_a_job_file_that_changes_under_the_run_stops_it(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A line that is not what was indexed is never sent: ChangedLines; with the line back, the run goes on."""
    night = make_night(jobs(20), latency_median_seconds=1.0)
    good = night.path.read_bytes()

    async def change(_: Run) -> None:
        await trio.sleep(2)
        with night.path.open("r+b") as file:
            file.write(good.replace(b"moon", b"Moon"))

    with pytest.RaisesGroup(ChangedLines, allow_unwrapped=True, flatten_subgroups=True):
        await night.run(change, max_in_flight=2)
    night.path.write_bytes(good)
    status = await night.run(max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 20


# --- the budget


async def test_a_small_file_starts_fast(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A minute's worth of jobs does not take a minute: all are sent within 10 seconds."""
    night = make_night(jobs(50), rpm=50)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert night.platform.asked[-1].at_seconds - night.platform.asked[0].at_seconds < 10
    assert status.rate_limited == 0


@pytest.mark.parametrize("window", ["sliding", "calendar", "bucket"])
async def test_a_large_file_is_paced(autojump_clock: MockClock, make_night: MakeNight, window: str) -> None:
    """A file of 600 jobs at 50 a minute: no 429 from any kind of window, and at least 99 % of the paid rate."""
    night = make_night(jobs(600), rpm=50, window=window)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    times = [asked.at_seconds for asked in night.platform.asked]
    assert (599 / 50 * 60) / (times[-1] - times[0]) >= 0.99
    assert status.rate_limited == 0
    assert night.platform.counters.accepted.peak <= 50


@pytest.mark.parametrize("charging", Charging)
async def test_the_token_limit_is_kept(autojump_clock: MockClock, make_night: MakeNight, charging: Charging) -> None:
    """Tokens of any 60 seconds pass the limit by no more than predictions of what was in flight fell short. No job fails."""
    night = make_night(jobs(120, cap=400), tpm=5_000, charging=charging, output_median_tokens=300, output_sigma=0.2)
    status = await night.run(tpm=5_000, max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 120
    short = 120  # tokens: 400 at most, 300 in the mean, and prompts are predicted well
    assert peak_tokens(night) <= 5_000 + short * night.platform.counters.peak_in_flight


async def test_a_limit_that_nobody_told_us_of(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A server with a far lower limit than was asked for: 429s hold the run back, and no job fails for them."""
    night = make_night(jobs(60), rpm=20)
    status = await night.run(rpm=600, max_attempts=1)
    assert_whole(night, status)
    assert status.completed == 60
    assert 0 < status.rate_limited < 60


async def test_a_job_larger_than_the_limit_fails_alone(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A job that the server refuses with the whole minute to itself fails as unsatisfiable; the others all succeed."""
    big = job("big", cap=5_000)
    night = make_night([big, *jobs(400)], rpm=50, tpm=1_500, charging=Charging.ESTIMATE)
    status = await night.run(rpm=50, tpm=1_500)
    assert_whole(night, status)
    assert night.failures() == {"big": "rate_limit_unsatisfiable"}


@pytest.mark.parametrize("seconds", [1.0, 10.0, 30.0])
async def test_the_budget_holds_over_a_restart(autojump_clock: MockClock, make_night: MakeNight, seconds: float) -> None:
    """Killed and started again at once, again and again: no 60 seconds ever hold more than the limit."""
    night = make_night(jobs(120), rpm=50)
    left = []

    async def die(_: Run) -> None:
        await trio.sleep(seconds)
        left.append(night.killed())

    for _ in range(3):
        with trio.move_on_after(seconds + 0.001):
            await night.run(die, rpm=50)
        night.disk = left.pop()
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert night.platform.counters.accepted.peak <= 50
    assert status.rate_limited == 0


async def test_the_first_minute_after_a_reboot_is_paced(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """After a reboot our own sends of the last minute are not known: no fast start."""
    night = make_night(jobs(120), rpm=50)
    await night.run(after(10, Run.drain), rpm=50)
    sent = len(night.platform.asked)
    night.clock.boot_id = "boot-2"
    await trio.sleep(30)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    times = [asked.at_seconds for asked in night.platform.asked[sent:]]
    assert min(later - earlier for earlier, later in pairwise(times)) > 1.0
