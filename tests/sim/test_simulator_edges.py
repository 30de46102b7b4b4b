"""What the embedded platform does at its edges: requests that are too much, pages of usage, a ledger that cannot be written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner.simulator import usage
from batchrunner.simulator.ledger import FileLedger, LedgerError
from batchrunner.simulator.server import MAX_BODY_BYTES, MAX_HEAD_BYTES
from tests.sim.simulated import Client, Got, ask, body, connected, entries_of, platform_of, request

# Requests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 400),
        (b"this is not http\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a-header: of some length\r\n" * (MAX_HEAD_BYTES // 20), 431),
        (b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 2) + b"x" * (MAX_BODY_BYTES + 1), 413),
    ],
    ids=["upgrade", "no http", "head", "body"],
)
async def test_what_is_too_much_or_no_http_is_answered_and_the_connection_closed(
    data: bytes, status: int, autojump_clock: MockClock
) -> None:
    async with connected(platform_of()) as client:
        answers, ended = await client.read(data)
        assert re.findall(rb"HTTP/1.1 (\d+) ", answers)[-1] == b"%d" % status
        assert ended


async def test_whoever_waits_for_a_word_before_the_body_gets_it(autojump_clock: MockClock) -> None:
    """As curl does with a large one."""
    payload = body()
    head, _, _ = request(payload=payload, expect="100-continue").partition(payload)
    async with connected(platform_of()) as client:
        await client.stream.send_all(head)
        assert await client.stream.receive_some(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.send(payload)).status == 200


async def test_a_client_that_goes_is_nobodys_trouble(autojump_clock: MockClock) -> None:
    """What it asked for is billed all the same."""
    platform = platform_of()
    async with connected(platform) as client:
        await client.stream.send_all(request())
        await client.stream.aclose()
        await trio.sleep(3600)
    assert platform.counters.billed == 1


# Usage ---------------------------------------------------------------------------------------------------------------


async def usage_of(client: Client, query: str) -> list[dict[str, Any]]:
    got: Got = await client.send(request(f"/v1/account/usage?{query}", method="GET"))
    assert got.status == 200
    found: list[dict[str, Any]] = got.json()["data"]
    return found


async def test_usage_is_filtered_by_time(autojump_clock: MockClock) -> None:
    """From and before, as Unix seconds or in ISO 8601, where a time that names no zone is UTC; and by model."""
    platform = platform_of(latency_median_seconds=0.0)
    async with connected(platform) as client:
        for _ in range(3):
            assert (await client.send(request())).status == 200
            await trio.sleep(100)
        newest, middle, oldest = await usage_of(client, "")
        for at in (middle["created_at"], middle["created_at"].replace("+00:00", "")):
            shown = at.replace("+", "%2B")
            assert [event["id"] for event in await usage_of(client, f"from={shown}")] == [newest["id"], middle["id"]]
            assert [event["id"] for event in await usage_of(client, f"to={shown}")] == [oldest["id"]]
            assert [event["id"] for event in await usage_of(client, f"before={shown}")] == [oldest["id"]]
        assert await usage_of(client, "from=99999999999") == []
        assert len(await usage_of(client, "from=0&to=99999999999&model=simulated-small&source=api")) == 3
        assert await usage_of(client, "model=simulated-large") == []
        assert await usage_of(client, "source=dashboard") == []
        refused = await client.send(request("/v1/account/usage?before=never", method="GET"))
        assert refused.status == 400


async def test_old_usage_is_let_go(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest events stay, under the ids that they always had."""
    monkeypatch.setattr(usage, "KEPT_EVENTS", 5)
    platform = platform_of(latency_median_seconds=0.0)
    await entries_of(platform, 10, request())
    page = (await ask(platform, request("/v1/account/usage", method="GET"))).json()
    assert [int(event["id"].removeprefix("ue_")) for event in page["data"]] == [9, 8, 7, 6, 5]


# Ledger --------------------------------------------------------------------------------------------------------------


def test_a_ledger_that_cannot_be_opened_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(LedgerError) as caught:
        FileLedger(str(tmp_path / "nowhere" / "ledger.jsonl"))
    assert caught.value.filename == str(tmp_path / "nowhere" / "ledger.jsonl")


def fail(_: int, __: bytes) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("write", [fail, lambda _, data: len(data) - 1], ids=["refused", "short"])
async def test_a_ledger_that_cannot_be_written_ends_the_platform(
    write: Callable[[int, bytes], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was billed and not noted would make every proof wrong: it is an error, not a shortage."""
    path = tmp_path / "ledger.jsonl"
    ledger = FileLedger(str(path))
    (entry,) = await entries_of(platform_of(balance_usd=Decimal(1)), 1, request())
    ledger.append(entry)
    with monkeypatch.context() as full:
        full.setattr(os, "write", write)
        with pytest.raises(LedgerError, match=r"ledger\.jsonl"):
            ledger.append(entry)
    ledger.close()
