"""Whole runs in virtual time: a healthy server, from the job file to the last line on disk."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner import status as status_file
from batchrunner.journal import read_finished
from batchrunner.journal.files import ERRORS, RESULTS
from batchrunner.runner import Run
from batchrunner.simulator.settings import TEST_KEY
from tests.sim.nights import (
    MakeNight,
    after,
    assert_whole,
    figures,
    job,
    jobs,
)


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
