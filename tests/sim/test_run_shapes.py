"""Whole runs in virtual time: shapes other than chat, against a server that gives the same answer to each url."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.events import Billing
from batchrunner.journal.files import COSTS, JOURNAL, RESULTS
from batchrunner.journal.records import Sent, decode
from batchrunner.pricing import PriceTable
from batchrunner.runner import Run
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.settings import Settings
from tests.sim import nights
from tests.sim.nights import Night, WatchedPlatform

VECTOR = {"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}
TEXT = {"index": 0, "text": "Hello.", "finish_reason": "length"}
#: url -> the body that answers it
ANSWERS: dict[str, bytes] = {
    "/v1/embeddings": msgspec.json.encode({"data": [VECTOR], "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7}}),
    "/v1/completions": msgspec.json.encode({"choices": [TEXT], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}),
    "/v1/reranks": msgspec.json.encode({"output": {"results": [{"index": 0}]}, "usage": {"total_tokens": 7}, "request_id": "r"}),
    "/v1/images/generations": msgspec.json.encode({"data": [{"url": "https://example.com/a.png"}]}),
    "/v1/search": b'[{"title":"The moon"}]',
    "/v1/audio/speech": b"ID3\x04\x00\xff\xfb\x90",
}
#: dollars: one for a token read, ten for one written, a hundred for a call, five for a picture
PRICES = PriceTable.from_catalog(
    {
        "data": [
            {"id": "reads", "pricing": {"prompt": "1"}},
            {"id": "writes", "pricing": {"prompt": "1", "completion": "10"}},
            {"id": "draws", "pricing": {"request": "100"}},
            {"id": "paints", "pricing": {"prompt": "0", "completion": "0", "image": "5"}},
            {"id": "speaks", "pricing": {"audio-second": "1"}},
        ]
    },
    fetched_at="1970-01-01T00:00:00Z",
)


class Canned(WatchedPlatform):
    """A server of any shape."""

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        custom_id = msgspec.json.decode(body)["metadata"]["custom_id"]
        self.asked.append(nights.Asked(trio.current_time(), custom_id, headers.get("authorization", "")))
        await trio.sleep(1)
        return Answer(200, ANSWERS[target], f"req-{custom_id}")


def line(custom_id: str, url: str, model: str, **body: Any) -> bytes:
    fields = {"model": model, "metadata": {"custom_id": custom_id}} | body
    return msgspec.json.encode({"custom_id": custom_id, "method": "POST", "url": url, "body": fields}) + b"\n"


LINES = {
    "vector": line("vector", "/v1/embeddings", "reads", input="How high is the moon?"),
    "text": line("text", "/v1/completions", "writes", prompt="How high is the moon?", max_tokens=2),
    "order": line("order", "/v1/reranks", "reads", query="moon", documents=["sun", "moon"]),
    "picture": line("picture", "/v1/images/generations", "draws", prompt="The moon"),
    "painting": line("painting", "/v1/images/generations", "paints", prompt="The moon"),
    "array": line("array", "/v1/search", "draws", query="moon"),
    "sound": line("sound", "/v1/audio/speech", "draws", input="Hello."),
}
#: of pictures, one is counted in the data
PAID = {"vector": 7, "text": 27, "order": 7, "picture": 100, "painting": 5, "array": 100}
PAID_USD = Decimal(246)


@pytest.fixture
def night(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setattr(nights, "PRICES", PRICES)
    return Night(tmp_path / "jobs.jsonl", nursery, list(LINES.values()), Canned(Settings()))


def billed(night: Night) -> dict[str, Decimal | None]:
    return {job: cost.cost.amount for (job, _), cost in night.costs().items() if cost.state is Billing.BILLED}


async def test_every_shape_is_answered_and_billed(autojump_clock: MockClock, night: Night) -> None:
    """A file may mix them all: whole JSON of any kind is a result, its bill exact; what is no JSON fails at once."""
    status = await night.run()
    assert (status.state, status.completed, status.failed, status.attempts) == ("completed", 6, 1, 7)
    assert billed(night) == PAID
    assert (status.unpriced_attempts, status.billed_usd) == (0, PAID_USD)
    assert night.failures() == {"sound": "unreadable_reply"}
    assert night.maybe_billed() == {"sound"}
    assert status.maybe_billed_usd == 100
    bodies = {found["custom_id"]: found["response"]["body"] for found in night.lines(RESULTS)}
    assert bodies["array"] == [{"title": "The moon"}]
    assert bodies["vector"]["data"] == [VECTOR]
    assert (status.finish_length, status.finish_empty) == (1, 0)


async def test_recovery_bills_every_shape_as_the_run_does(autojump_clock: MockClock, night: Night) -> None:
    """Killed when the results were written and their records were not: a resume adopts them at the same price."""
    await night.run()
    records = bytes(night.disk.files[JOURNAL]).splitlines(keepends=True)
    last_sent = max(at for at, record in enumerate(records) if at and isinstance(decode(record), Sent))
    kept = {name: len(data) for name, data in night.disk.files.items()}
    kept |= {JOURNAL: sum(map(len, records[: last_sent + 1])), COSTS: 0}
    night.disk.synced = dict.fromkeys(night.disk.synced, 0)
    night.disk = night.disk.crash(kept)

    status = await night.run()
    assert (status.completed, status.failed, len(night.platform.asked)) == (6, 1, 7)
    assert billed(night) == PAID
    assert (status.unpriced_attempts, status.billed_usd) == (0, PAID_USD)
    assert status.maybe_billed_usd == 100


async def test_a_cap_holds_back_what_it_cannot_pay_for(autojump_clock: MockClock, night: Night) -> None:
    """Under --max-cost each shape is bounded, by what it reads, may write, asks for, or by its call; what nothing bounds is not
    sent.
    """
    spoken = line("spoken", "/v1/audio/speech", "speaks", input="Hello.")
    night.path.write_bytes(b"".join([*LINES.values(), spoken]))
    status = await night.run(max_cost_usd=Decimal(1000))
    assert (status.completed, status.failed, status.billed_usd) == (6, 2, PAID_USD)
    assert night.failures() == {"sound": "unreadable_reply", "spoken": "price_unknown"}


async def test_a_bill_that_was_not_seen_is_bounded_in_every_shape(autojump_clock: MockClock, night: Night) -> None:
    """Cut off in flight: each is listed at the most that it can have cost, the prompt's guess and nothing written."""
    night.path.write_bytes(b"".join(LINES[job] for job in ("vector", "order", "picture")))

    async def cut_off(run: Run) -> None:
        await trio.sleep(0.5)
        run.cancel()

    assert (await night.run(cut_off)).state == "stopped"
    lost = {job: line for (job, _), line in night.costs().items()}
    assert {job: (line.state, line.tokens.output) for job, line in lost.items()} == {
        "vector": (Billing.MAYBE, 0),
        "order": (Billing.MAYBE, 0),
        "picture": (Billing.MAYBE, None),
    }
    assert {job: line.cost.amount for job, line in lost.items()} == {
        "vector": lost["vector"].tokens.input,
        "order": lost["order"].tokens.input,
        "picture": 100,
    }
    status = await night.run()
    assert (status.state, status.completed) == ("completed", 3)
