"""The client of the control plane and the embedded platform, with each other: what the one was billed, the other sums up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from batchrunner.chats import job_lines
from batchrunner.heads import Heads
from batchrunner.platform.control import ControlPlane
from batchrunner.platform.conversations import Loaded, list_conversations, load_all
from batchrunner.platform.usage import Filters, UsagePages, usage_events
from batchrunner.pricing import PriceTable
from batchrunner.secret import Secret
from batchrunner.simulator import usage as simulated_usage
from batchrunner.simulator.ledger import MemoryLedger
from batchrunner.simulator.platform import Platform
from batchrunner.simulator.server import serve_stream
from batchrunner.simulator.settings import TEST_KEY
from batchrunner.simulator.strangers import WITHIN_NS
from batchrunner.transport import Origin, Pool, StreamDriver
from batchrunner.usage_sums import WAYS, UsageSums
from tests.sim.simulated import ask, body, platform_of, request
from tests.sim.test_simulator_account import LARGE, with_tools

ORIGIN = Origin.parse("http://localhost:8000")


@asynccontextmanager
async def control_of(platform: Platform) -> AsyncIterator[ControlPlane]:
    async with trio.open_nursery() as nursery:

        async def connect() -> trio.abc.Stream:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(serve_stream, platform, theirs)
            await trio.lowlevel.checkpoint()
            return ours

        pool = Pool(ORIGIN, StreamDriver(connect))
        yield ControlPlane(pool, Heads(ORIGIN, [Secret(TEST_KEY)]), lambda _: None)
        await pool.aclose()
        nursery.cancel_scope.cancel()


async def test_usage_sums_are_what_the_balance_lacks_and_the_ledger_has(autojump_clock: MockClock) -> None:
    """Row "An event": to the last digit, with tools, a discount, failures and strangers on the account."""
    platform = platform_of(discount=Decimal("0.07"), strangers=0.4, faults={"upstream_error": 0.1}, seed=11)
    for number in range(60):
        await ask(platform, request(payload=with_tools("web_search", "code_interpreter", text=f"number {number}")))
        await ask(platform, request(payload=body(text=f"number {number}")))
    await trio.sleep(WITHIN_NS / 1e9)
    async with control_of(platform) as control:
        pages, sums = UsagePages(control), UsageSums(WAYS)
        async for page in pages:
            for event in page.events:
                sums.add(event)
    assert isinstance(platform.ledger, MemoryLedger)
    billed = [Decimal(bytes(entry.cost.amount).decode()) for entry in platform.ledger.entries]
    assert pages.balance_usd is not None
    assert sums.total.billed_usd == sum(billed) == 10_000 - pages.balance_usd
    assert sums.total.discount_usd == sums.total.list_usd * Decimal("0.07")
    assert sums.total.failed > 0
    prices = PriceTable.from_catalog(platform.catalog.list_body(), fetched_at="")
    calls = {tool: row.tool_calls for tool, row in sums.by["tool"].items()}
    assert sums.surcharge("web_search", prices) == calls["web_search"] * Decimal("0.01")
    assert sums.surcharge("code_interpreter", prices) == calls["code_interpreter"] * Decimal("0.03")


async def test_each_events_list_cost_is_what_the_catalog_says(autojump_clock: MockClock) -> None:
    """Row "Catalog", by the events: tokens and tools at their prices, to the last digit."""
    platform = platform_of(discount=Decimal("0.5"))
    for number in range(20):
        await ask(platform, request(payload=with_tools("web_search", text=f"number {number}")))
    prices = PriceTable.from_catalog(platform.catalog.list_body(), fetched_at="")
    async with control_of(platform) as control:
        found = [event async for event in usage_events(control)]
    assert len(found) == 20
    for event in found:
        assert event.list_cost_usd == prices.cost(LARGE, event.tokens, event.tool_usage)
        assert event.cost_usd == event.billed_cost_usd == (event.list_cost_usd or 0) / 2


async def test_events_that_arrive_while_the_platform_is_being_paged(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither lost nor doubled: the list is that of its first page, and the next one has them all."""
    monkeypatch.setattr(simulated_usage, "MAX_LIMIT", 100)
    platform = platform_of(latency_median_seconds=0.01)
    for number in range(450):
        await ask(platform, request(payload=body(text=str(number))))
    found: list[str] = []
    async with control_of(platform) as control:
        async for page in UsagePages(control):
            found += [event.id for event in page.events]
            for number in range(7):
                await ask(platform, request(payload=body(text=f"meanwhile {number}")))
        later = [event.id async for event in usage_events(control)]
    assert found == [f"ue_{number:012d}" for number in range(449, -1, -1)]
    assert len(later) > 450
    assert later[-450:] == found
    assert len(set(later)) == len(later)


async def test_filters_of_the_platform(autojump_clock: MockClock) -> None:
    """Row "Filters": from and to bound the time, the others leave what they name."""
    platform = platform_of(script=("ok", "upstream_error", "ok"), latency_median_seconds=0)
    for _ in range(3):
        await ask(platform, request())
        await trio.sleep(60)

    async def numbers(filters: Filters) -> list[int]:
        async with control_of(platform) as control:
            return [int(event.id.removeprefix("ue_")) async for event in usage_events(control, filters)]

    assert await numbers(Filters()) == [2, 1, 0]
    assert await numbers(Filters(from_="1970-01-01T00:01:00Z")) == [2, 1]
    assert await numbers(Filters(to="60")) == [0]
    assert await numbers(Filters(before="ue_000000000002")) == [1, 0]
    assert await numbers(Filters(before="1970-01-01T00:01:00Z")) == [0]
    assert await numbers(Filters(status="failed")) == [1]
    assert await numbers(Filters(source="playground")) == []
    assert await numbers(Filters(model=LARGE)) == []


async def test_saved_chats_of_the_platform(autojump_clock: MockClock) -> None:
    """Row "Saved chats": all fifty, each with its full history, and a job for every prompt."""
    platform = platform_of(chats=50)
    async with control_of(platform) as control:
        saved = await list_conversations(control)
        loaded = [chat async for chat in load_all(control, saved.conversations)]
    assert (len(saved.conversations), saved.complete) == (50, True)
    jobs = 0
    for chat in loaded:
        assert isinstance(chat, Loaded)
        prompts = sum(message.role == "user" for message in chat.conversation.messages)
        jobs += prompts
        assert len(list(job_lines(chat.conversation, None))) == prompts
    assert jobs > 50
