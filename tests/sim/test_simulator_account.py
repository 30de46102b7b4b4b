"""The simulated account as the platform documents it: events with all their fields, strangers on it, its saved chats."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.simulator.ledger import MemoryLedger
from batchrunner.simulator.options import parser, settings_of
from batchrunner.simulator.platform import Platform
from batchrunner.simulator.settings import AccountSettings
from batchrunner.simulator.strangers import WITHIN_NS
from tests.sim.simulated import CHAT, ask, body, platform_of, request

USAGE, CHATS = "/v1/account/usage", "/v1/playground/conversations"
LARGE = "simulated-large"


async def read(platform: Platform, path: str, **headers: str) -> Any:
    got = await ask(platform, request(path, None, method="GET", **headers))
    return msgspec.json.Decoder(float_hook=Decimal).decode(got.body) | {"_status": got.status}


async def events(platform: Platform, query: str = "limit=1000") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await read(platform, f"{USAGE}?{query}"))["data"]
    return found


def with_tools(*tools: str, text: str = "How high is the moon?") -> bytes:
    asked = msgspec.json.decode(body(model=LARGE, text=text)) | {"tools": [{"type": tool} for tool in tools]}
    return msgspec.json.encode(asked)


async def test_an_event_has_all_documented_fields(autojump_clock: MockClock) -> None:
    """And without a discount or a tool nothing of either."""
    platform = platform_of()
    await ask(platform, request())
    (event,) = await events(platform)
    assert event.keys() == {
        *("id", "object", "created_at", "source", "model", "endpoint", "tokens", "cost"),
        *("status", "status_code", "error", "output_urls", "metadata"),
    }
    assert (event["object"], event["source"], event["endpoint"], event["status"]) == ("usage_event", "api", CHAT, "succeeded")
    assert event["tokens"]["total"] == event["tokens"]["input"] + event["tokens"]["output"]
    assert (event["output_urls"], event["metadata"]) == ([], {})


async def test_an_accounts_discount_shows_in_its_events(autojump_clock: MockClock) -> None:
    """`cost.amount` is what was billed, and what was billed is what the balance and the ledger lack."""
    platform = platform_of(discount=Decimal("0.15"), balance_usd=Decimal(1))
    await ask(platform, request())
    answer = await read(platform, USAGE)
    (event,) = answer["data"]
    costs = {name: Decimal(event["metadata"][name]) for name in ("list_cost", "billed_cost", "discount_amount")}
    assert costs["list_cost"] > 0
    assert costs["billed_cost"] == costs["list_cost"] * Decimal("0.85") == event["cost"]["amount"]
    assert costs["discount_amount"] == costs["list_cost"] - costs["billed_cost"]
    assert answer["balance"]["amount"] == 1 - costs["billed_cost"]
    assert isinstance(platform.ledger, MemoryLedger)
    assert Decimal(bytes(platform.ledger.entries[0].cost.amount).decode()) == costs["billed_cost"]


async def test_an_account_of_several_has_a_discount_of_its_own(autojump_clock: MockClock) -> None:
    named = [
        AccountSettings(name=str(share), keys=(f"sk-empiriolabs-test-{share}",), discount=Decimal(share)) for share in (0, 1)
    ]
    platform = platform_of(accounts=tuple(named))
    for account in named:
        await ask(platform, request(authorization=f"Bearer {account.keys[0]}"))
    free = await read(platform, USAGE, authorization="Bearer sk-empiriolabs-test-1")
    assert free["data"][0]["cost"]["amount"] == 0
    paid = await read(platform, USAGE, authorization="Bearer sk-empiriolabs-test-0")
    assert paid["data"][0]["cost"]["amount"] > 0


async def test_tools_that_fired_are_counted_and_surcharged(autojump_clock: MockClock) -> None:
    """In reply and event alike, and only where one fired; a tool of the client's is no affair of the platform."""
    platform = platform_of()
    fired = 0
    for number in range(20):
        payload = with_tools("web_search", "function", text=f"question {number}")
        reply = (await ask(platform, request(payload=payload))).json()
        event = (await events(platform, "limit=1"))[0]
        calls = reply.get("tool_usage", {})
        assert event["metadata"].get("tool_usage", {}) == calls
        assert calls.keys() <= {"web_search"}
        assert calls != {"web_search": 0}
        tokens = event["tokens"]
        model = platform.catalog.get(LARGE)
        assert model is not None
        plain = model.cost(tokens["input"], tokens["cached"], tokens["output"])
        assert event["cost"]["amount"] == plain + Decimal("0.01") * calls.get("web_search", 0)
        fired += bool(calls)
    assert 5 < fired < 20


async def test_media_leave_their_addresses_in_the_event(autojump_clock: MockClock) -> None:
    """The ones that the reply has."""
    platform = platform_of()
    images = msgspec.json.encode({"model": LARGE, "prompt": "a moon", "n": 2})
    reply = (await ask(platform, request("/v1/images/generations", images))).json()
    speech = msgspec.json.encode({"model": LARGE, "input": "good night"})
    spoken = (await ask(platform, request("/v1/audio/speech", speech))).json()
    newest, oldest = await events(platform)
    assert oldest["output_urls"] == [one["url"] for one in reply["data"]]
    assert newest["output_urls"] == [spoken["url"]]


async def test_strangers_leave_events_like_ours_and_the_ledger_knows_them(autojump_clock: MockClock) -> None:
    """As many as the rate says, of the same models and sizes, some from the playground; the newest are first all the same."""
    platform = platform_of(strangers=0.5, playground_share=0.3, faults={"upstream_error": 0.2}, seed=7)
    for number in range(200):
        await ask(
            platform, request(payload=body(model=LARGE if number % 2 else "simulated-small", text="x" * (number % 40 * 10)))
        )
    await trio.sleep(WITHIN_NS / 1e9)
    found = await events(platform)
    assert isinstance(platform.ledger, MemoryLedger)
    owners = {entry.event: entry for entry in platform.ledger.entries}
    theirs = [event for event in found if (entry := owners.get(event["id"])) and entry.owner]
    assert 60 < len(theirs) < 140
    assert {event["model"] for event in theirs} == {LARGE, "simulated-small"}
    assert {event["status"] for event in theirs} == {"succeeded", "failed"}
    assert {event["source"] for event in theirs} == {"api", "playground"}
    for event in theirs:
        entry = owners[event["id"]]
        assert (entry.owner == "playground") == (event["source"] == "playground")
        assert Decimal(bytes(entry.cost.amount).decode()) == event["cost"]["amount"]
    assert [event["created_at"] for event in found] == sorted((event["created_at"] for event in found), reverse=True)
    assert sum(Decimal(event["cost"]["amount"]) for event in found) == 10_000 - platform.account.balance_usd


async def test_strangers_make_media_as_we_do(autojump_clock: MockClock) -> None:
    """At addresses of their own."""
    platform = platform_of(strangers=2)
    images = msgspec.json.encode({"model": LARGE, "prompt": "a moon", "n": 2})
    for _ in range(5):
        await ask(platform, request("/v1/images/generations", images))
    await trio.sleep(WITHIN_NS / 1e9)
    found = await events(platform)
    assert len(found) == 15
    assert len({url for event in found for url in event["output_urls"]}) == 30


async def test_strangers_take_from_the_limits(autojump_clock: MockClock) -> None:
    """What they are refused is not done, and leaves no event."""
    platform = platform_of(strangers=3, rpm=40)
    for number in range(20):
        await ask(platform, request(payload=body(text=str(number))))
    await trio.sleep(WITHIN_NS / 1e9)
    found = await events(platform)
    counts = platform.account.counts
    assert counts.foreign_rejected > 0
    assert len(found) == 20 + counts.foreign_accepted <= 40


@pytest.mark.parametrize(
    ("query", "kept"),
    [("status=failed", 2), ("status=succeeded", 3), ("source=api", 5), ("source=playground", 0), ("model=simulated-small", 5)],
)
async def test_each_filter_leaves_what_it_names(autojump_clock: MockClock, query: str, kept: int) -> None:
    platform = platform_of(script=("ok", "upstream_error", "ok", "model_unavailable", "ok"))
    for _ in range(5):
        await ask(platform, request())
    assert len(await events(platform, query)) == kept


async def test_saved_chats_are_listed_and_loaded_one_by_one(autojump_clock: MockClock) -> None:
    """Newest first; the list has no messages, a conversation has all of them, user and assistant in turns."""
    platform = platform_of(chats=7, seed=3)
    listed = await read(platform, CHATS)
    assert (len(listed["data"]), listed["total"], listed["has_more"]) == (7, 7, False)
    assert [one["updated_at"] for one in listed["data"]] == sorted((one["updated_at"] for one in listed["data"]), reverse=True)
    for one in listed["data"]:
        assert "messages" not in one
        chat = await read(platform, f"{CHATS}/{one['id']}")
        assert len(chat["messages"]) == one["message_count"]
        spoken = [message["role"] for message in chat["messages"] if message["role"] != "system"]
        assert spoken == ["user", "assistant"] * (len(spoken) // 2)
        assert all(message["content"] for message in chat["messages"])


async def test_saved_chats_are_the_same_each_time_and_each_accounts_own(autojump_clock: MockClock) -> None:
    named = tuple(AccountSettings(name=name, keys=(f"sk-empiriolabs-test-{name}",)) for name in ("a", "b"))
    once, again = (platform_of(accounts=named) for _ in range(2))
    first = await read(once, CHATS, authorization="Bearer sk-empiriolabs-test-a")
    assert first == await read(again, CHATS, authorization="Bearer sk-empiriolabs-test-a")
    assert first != await read(once, CHATS, authorization="Bearer sk-empiriolabs-test-b")


async def test_saved_chats_are_at_most_fifty_in_pages(autojump_clock: MockClock) -> None:
    platform = platform_of(chats=80)
    first = await read(platform, f"{CHATS}?limit=30")
    second = await read(platform, f"{CHATS}?limit=30&before={first['data'][-1]['id']}")
    ids = [one["id"] for one in first["data"] + second["data"]]
    assert len(set(ids)) == len(ids) == 50
    assert (first["has_more"], second["has_more"]) == (True, False)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        (f"{CHATS}/conv_none", {}, 404),
        (CHATS, {"authorization": ""}, 401),
        (f"{CHATS}/conv_0_001", {"authorization": "Bearer x"}, 401),
        (f"{CHATS}?limit=0", {}, 400),
    ],
)
async def test_saved_chats_that_cannot_be_had(autojump_clock: MockClock, path: str, headers: dict[str, str], status: int) -> None:
    assert (await read(platform_of(), path, **headers))["_status"] == status


async def test_saved_chats_are_read_only(autojump_clock: MockClock) -> None:
    assert (await ask(platform_of(), request(CHATS, b"{}"))).status == 405


def test_the_options_say_all_of_it() -> None:
    settings = settings_of(parser().parse_args(["--discount=0.1", "--strangers=0.25", "--playground-share=0.5", "--chats=3"]))
    assert (settings.discount, settings.strangers, settings.playground_share, settings.chats) == (Decimal("0.1"), 0.25, 0.5, 3)


def test_an_impossible_discount_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--discount", "1.5"])
    assert "must lie between 0 and 1" in capsys.readouterr().err
    account = AccountSettings(name="a", keys=("sk-empiriolabs-test-a",), discount=Decimal(2))
    with pytest.raises(ValueError, match="'a': discount must lie between 0 and 1"):
        platform_of(accounts=(account,))
