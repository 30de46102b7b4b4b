"""Each endpoint of the platform that takes jobs, by its path: whole runs against the embedded platform, billed as it bills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.dialect import ASYNCHRONOUS_URLS
from batchrunner.journal.files import RESULTS
from batchrunner.simulator.settings import Settings
from batchrunner.streaming import STREAMED_URLS
from tests.sim.nights import Night, WatchedPlatform, assert_whole

TURNS = [{"role": "user", "content": "How high is the moon?"}]
#: path -> the model that is asked, a body, and what the answer must hold
ENDPOINTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "/v1/chat/completions": ("simulated-small", {"messages": TURNS, "stream_options": {"include_usage": True}}, "choices"),
    "/v1/responses": ("simulated-small", {"input": "How high is the moon?"}, "output"),
    "/v1/messages": ("simulated-small", {"messages": TURNS, "max_tokens": 50}, "content"),
    "/v1/embeddings": ("simulated-embedding", {"input": ["moon", "sun"]}, "data"),
    "/v1/completions": ("simulated-small", {"prompt": "The moon", "stream_options": {"include_usage": True}}, "choices"),
    "/v1/reranks": ("simulated-rerank", {"query": "moon", "documents": ["sun", "moon"]}, "output"),
    "/v1/images/generations": ("simulated-per-request", {"prompt": "The moon", "n": 2}, "data"),
    "/v1/audio/speech": ("simulated-per-request", {"input": "Hello."}, "url"),
    "/v1/search": ("simulated-per-request", {"query": "moon"}, "results"),
    "/v1/detect": ("simulated-per-request", {"text": "Written by whom?"}, "label"),
    "/v1/videos/generations": ("simulated-per-request", {"prompt": "The moon"}, "result"),
    "/v1/audio/transcriptions": ("simulated-per-request", {"audio_url": "https://example.com/a.mp3"}, "result"),
}
PLAIN = [(path, False) for path in ENDPOINTS]
STREAMED = [(path, True) for path in STREAMED_URLS]


@pytest.mark.parametrize(("path", "stream"), PLAIN + STREAMED, ids=lambda value: value if isinstance(value, str) else f"{value}")
async def test_an_endpoint_takes_jobs(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, path: str, stream: bool
) -> None:
    """Each job has one answer of its shape and one bill, which is the platform's to the last digit; each was sent once."""
    model, asked, holds = ENDPOINTS[path]
    body = {"model": model} | asked | ({"stream": True} if stream else {})
    lines = [
        msgspec.json.encode({"custom_id": f"job-{n}", "url": path, "body": body | {"metadata": {"custom_id": f"job-{n}"}}})
        + b"\n"
        for n in range(5)
    ]
    night = Night(tmp_path / "jobs.jsonl", nursery, lines, WatchedPlatform(Settings()))
    status = await night.run()
    assert_whole(night, status)
    assert (status.completed, status.attempts, status.unpriced_attempts) == (5, 5, 0)
    assert status.billed_usd == night.platform.counters.billed_usd > 0
    assert not status.maybe_billed_usd
    assert {entry.path for entry in night.platform.billed} == {path}
    for line in night.lines(RESULTS):
        answer = line["response"]["body"]
        assert answer[holds]
        assert not str(answer.get("object", "")).endswith(".chunk")
    assert any(event.first_token_seconds is not None for event in night.events) == stream


def test_no_endpoint_is_forgotten() -> None:
    """Those that are streamed and those that are asked for are among them."""
    assert STREAMED_URLS.keys() | ASYNCHRONOUS_URLS <= ENDPOINTS.keys()
