"""Nights whose jobs the server takes on: lines, a platform that counts the questions after them, what they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import trio

from batchrunner.journal.files import JOURNAL
from batchrunner.journal.records import Submitted, decode
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.settings import Settings
from tests.sim.nights import PRICES, Night, WatchedPlatform
from tests.verified import assert_clean, written

VIDEOS, TRANSCRIPTIONS = "/v1/videos/generations", "/v1/audio/transcriptions"
MODEL = "simulated-per-request"
PRICE_USD = Decimal("0.005")


class Asked(WatchedPlatform):
    """Counts the questions after work, and may answer some of them in words of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.questions: list[tuple[float, str]] = []
        #: answers to the next questions; None: as it stands
        self.instead: list[Answer | None] = []

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if method == "GET":
            self.questions.append((trio.current_time(), target))
            scripted = self.instead.pop(0) if self.instead else None
            if scripted is not None:
                return scripted
        return await super().answer(method, target, headers, body)


def line(custom_id: str, url: str = VIDEOS, **body: Any) -> bytes:
    fields = {
        "model": MODEL,
        "prompt": "The moon",
        "audio_url": "https://example.com/a.mp3",
        "metadata": {"custom_id": custom_id},
    }
    return msgspec.json.encode({"custom_id": custom_id, "url": url, "body": fields | body}) + b"\n"


def lines(count: int) -> list[bytes]:
    return [line(f"work-{number}", (VIDEOS, TRANSCRIPTIONS)[number % 2]) for number in range(count)]


def maker(tmp_path: Path, nursery: trio.Nursery) -> Callable[..., Night]:
    """What makes such nights."""

    def make(job_lines: list[bytes], **settings: Any) -> Night:
        return Night(tmp_path / "jobs.jsonl", nursery, job_lines, Asked(Settings(**{"latency_sigma": 0.0} | settings)))

    return make


def platform(night: Night) -> Asked:
    assert isinstance(night.platform, Asked)
    return night.platform


def json_answer(status: int, body: Any) -> Answer:
    return Answer(status, msgspec.json.encode(body), "req")


def submissions(night: Night) -> list[Submitted]:
    records = map(decode, bytes(night.disk.files[JOURNAL]).splitlines(keepends=True)[1:])
    return [record for record in records if isinstance(record, Submitted)]


def assert_verified(night: Night) -> None:
    """Checked from outside, nothing is wrong with what the run has left."""
    assert_clean(written(night.disk, night.path.with_suffix(".run"), run_id="night", prices=PRICES))
