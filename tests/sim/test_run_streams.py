"""Whole runs in virtual time: jobs that ask for a stream, whole, broken in every way, and next to those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from batchrunner.events import AttemptResult
from batchrunner.journal.files import RESULTS
from batchrunner.metrics.counting import EventCounts
from batchrunner.runner import Run
from batchrunner.simulator.settings import Rule, Settings
from tests.sim.nights import CHAT, Night, WatchedPlatform, assert_once, assert_whole

RESPONSES, MESSAGES, COMPLETIONS = "/v1/responses", "/v1/messages", "/v1/completions"
TEXT = "How high is the moon?"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 50, "stream_options": {"include_usage": True}},
    COMPLETIONS: {"prompt": TEXT, "max_tokens": 50, "stream_options": {"include_usage": True}},
    RESPONSES: {"input": TEXT, "max_output_tokens": 50},
    MESSAGES: {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 50},
}


def line(custom_id: str, url: str = CHAT, **body: Any) -> bytes:
    fields = {"model": "simulated-small"} | BODIES[url] | {"metadata": {"custom_id": custom_id}} | body
    return msgspec.json.encode({"custom_id": custom_id, "url": url, "body": fields}) + b"\n"


def night_of(tmp_path: Path, nursery: trio.Nursery, lines: list[bytes], **settings: Any) -> Night:
    return Night(tmp_path / "jobs.jsonl", nursery, lines, WatchedPlatform(Settings(**settings)))


def met(kind: str, times: int = 1) -> tuple[Rule, ...]:
    return (Rule(kind=kind, tag="streamed", times=times),)


@pytest.mark.parametrize("url", BODIES)
async def test_a_streamed_job_ends_as_any_other(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock, url: str
) -> None:
    """The whole object stands in results.jsonl, is billed by its usage, and is what the same job without a stream gets."""
    night = night_of(tmp_path, nursery, [line("streamed", url, stream=True), line("plain", url)])
    status = await night.run()
    assert_whole(night, status)
    bodies = {found["custom_id"]: found["response"]["body"] for found in night.lines(RESULTS)}
    assert bodies["streamed"].keys() == bodies["plain"].keys()
    assert bodies["streamed"]["usage"].keys() == bodies["plain"]["usage"].keys()
    assert night.platform.counters.billed_usd == status.billed_usd
    assert not status.maybe_billed_usd
    assert not status.unpriced_attempts


@pytest.mark.parametrize("url", [CHAT, RESPONSES, MESSAGES])
async def test_tools_of_a_streamed_answer_are_billed(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock, url: str
) -> None:
    """As those of any answer: a stream tells of them where it tells of usage."""
    tools = [{"type": "web_search"}, {"type": "code_interpreter"}]
    asked = [line(f"streamed-{n}", url, stream=True, model="simulated-large", tools=tools, user=str(n)) for n in range(20)]
    night = night_of(tmp_path, nursery, asked)
    status = await night.run()
    assert_whole(night, status)
    assert any(found["response"]["body"].get("tool_usage") for found in night.lines(RESULTS))
    assert night.platform.counters.billed_usd == status.billed_usd


async def test_connections_are_kept_between_streams(tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A stream that has ended leaves its connection to the next request, as any answer does."""
    night = night_of(tmp_path, nursery, [line(f"streamed-{number}", stream=True) for number in range(5)])
    await night.run(max_in_flight=1)
    assert night.server.opened == 1


async def test_without_usage_in_the_stream_the_bill_is_unknown(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Nobody asked for it, so that nobody says; the body goes out byte for byte as it is written."""
    night = night_of(tmp_path, nursery, [line("streamed", stream=True, stream_options=None)])
    status = await night.run()
    assert_once(night, status)
    assert (status.completed, status.unpriced_attempts, status.usage.total_tokens) == (1, 1, 0)
    (cost,) = night.costs().values()
    assert (cost.cost.amount, cost.tokens.total) == (None, None)


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("stream_cut", AttemptResult.NETWORK),
        ("stream_stalls", AttemptResult.TIMEOUT),
        ("stream_error", AttemptResult.SERVER_ERROR),
        ("truncated", AttemptResult.NETWORK),
        ("reset_body", AttemptResult.NETWORK),
        ("silent", AttemptResult.TIMEOUT),
        ("upstream_error", AttemptResult.SERVER_ERROR),
    ],
)
@pytest.mark.parametrize("url", BODIES)
async def test_a_stream_that_breaks_is_tried_again(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock, url: str, kind: str, result: AttemptResult
) -> None:
    """However it breaks off: listed as perhaps billed if it may have been, and sent anew."""
    night = night_of(tmp_path, nursery, [line("streamed", url, stream=True)], rules=met(kind))
    status = await night.run()
    assert_whole(night, status)
    assert [event.result for event in night.events] == [result, AttemptResult.OK]
    assert (night.maybe_billed() == {"streamed"}) == (kind != "upstream_error")
    assert status.completed == 1


async def test_a_stream_that_stalls_is_given_up_between_two_bytes(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """After two minutes of silence, not after the sixteen that a whole attempt may take."""
    night = night_of(tmp_path, nursery, [line("streamed", stream=True)], rules=met("stream_stalls"))
    await night.run()
    assert 120 <= night.events[0].seconds < 130


async def test_a_stream_that_never_stops_is_bounded_by_its_attempt(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A byte now and then keeps it alive, but not past the time of one attempt."""
    night = night_of(tmp_path, nursery, [line("streamed", stream=True)], rules=met("endless_drip"))
    await night.run(timeout_seconds=300.0)
    assert [event.result for event in night.events] == [AttemptResult.TIMEOUT, AttemptResult.OK]
    assert night.events[0].seconds == 300


async def test_the_first_words_are_timed(tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """From the send, in event, status and metric; what is not streamed has no such time."""
    lines = [line("streamed", stream=True), line("plain", stream_options=None)]
    settings = {"latency_sigma": 0.0, "latency_per_token_seconds": 0.1, "output_sigma": 0.0, "output_median_tokens": 40}
    night = night_of(tmp_path, nursery, lines, **settings)
    status = await night.run()
    events = {event.custom_id: event for event in night.events}
    first = events["streamed"].first_token_seconds
    assert first is not None
    assert 0.5 < first < 1.5 < events["streamed"].seconds
    assert events["plain"].first_token_seconds is None
    assert status.first_token_seconds_p50 == first
    registry = CollectorRegistry()
    counts = EventCounts(registry)
    for event in night.events:
        counts.add(event, 0)
    assert registry.get_sample_value("batchrun_first_token_seconds_sum", {"model": "simulated-small"}) == first
    assert registry.get_sample_value("batchrun_first_token_seconds_count", {"model": "simulated-small"}) == 1


async def test_a_stream_cut_off_by_us_may_have_been_billed(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """In mid-stream the attempt is interrupted like any other, and a resume sends the job anew."""
    settings = {"latency_sigma": 0.0, "latency_per_token_seconds": 1.0}
    night = night_of(tmp_path, nursery, [line("streamed", stream=True)], **settings)

    async def cut_off(run: Run) -> None:
        await trio.sleep(5)
        run.cancel()

    assert (await night.run(cut_off)).state == "stopped"
    assert night.maybe_billed() == {"streamed"}
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, night.sends()["streamed"]) == (1, 2)
