"""Each fault of the simulated platform: what a client sees of it, and whether it is billed."""

from __future__ import annotations

import zlib

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.simulator import faults
from batchrunner.simulator.delivery import OVERSIZE_BYTES
from batchrunner.simulator.faults import KINDS, Bill, Content, Fault
from tests.sim.simulated import MESSAGES, WITHOUT_END, Got, ask, body, connected, entries_of, platform_of, request

BILLED = {"no": Bill.NEVER, "yes": Bill.ALWAYS, "one in two": Bill.HALF}

#: kind: (status that arrives, whether the connection ends, how much of the body arrives: all of it, none, or a part)
SEEN = {
    "ok": (200, False, "all"),
    "slow": (200, False, "all"),
    "drip": (200, False, "all"),
    "rate_limited": (429, False, "all"),
    "html429": (429, False, "all"),
    "overloaded": (529, False, "all"),
    "error400": (400, False, "all"),
    "error403": (403, False, "all"),
    "error413": (413, False, "all"),
    "error422": (422, False, "all"),
    "html413": (413, False, "all"),
    "missing_key": (401, False, "all"),
    "invalid_key": (401, False, "all"),
    "no_credits": (402, False, "all"),
    "unknown_model": (404, False, "all"),
    "gpu_limit": (429, False, "all"),
    "agent_limit": (403, False, "all"),
    "error409": (409, False, "all"),
    "error500": (500, False, "all"),
    "upstream_error": (502, False, "all"),
    "model_unavailable": (503, False, "all"),
    "html": (502, False, "all"),
    "html503": (503, False, "all"),
    "error408": (408, False, "all"),
    "error504": (504, False, "all"),
    "html504": (504, False, "all"),
    "garbage": (200, False, "all"),
    "empty": (200, False, "none"),
    "html200": (200, False, "all"),
    "gzip": (200, False, "all"),
    "closes_idle": (200, False, "all"),
    "job_failed": (200, False, "all"),
    "job_gone": (200, False, "all"),
    "stale": (200, False, "all"),
    "reset_before": (None, True, "none"),
    "closed_before": (None, True, "none"),
    "reset_headers": (None, True, "part"),
    "reset_body": (200, True, "part"),
    "truncated": (200, True, "part"),
}


def table() -> dict[str, str]:
    """The table in the docstring of `faults`: kind -> its last column."""
    rows = [line.strip("|").split("|") for line in (faults.__doc__ or "").splitlines() if line.startswith("| ")]
    return {kind.strip(): row[-1].strip() for row in rows[2:] if row[-1].strip() for kind in row[0].split(",")}


def test_the_table_names_every_kind() -> None:
    """The docstring's table holds each kind once, with its rule of billing; and each kind is tried here."""
    assert {kind: BILLED[billed] for kind, billed in table().items()} == {kind: fault.bill for kind, fault in KINDS.items()}
    assert SEEN.keys() | WITHOUT_END == KINDS.keys()


@pytest.mark.parametrize("kind", sorted(SEEN))
async def test_a_fault_shows_as_its_table_says(kind: str, autojump_clock: MockClock) -> None:
    """What arrives, and whether the connection outlives it."""
    got = await ask(platform_of(faults={kind: 1.0}), request())
    status, ended, part = SEEN[kind]
    assert (got.status, got.ended) == (status, ended)
    assert (len(got.body) > 0) == (part != "none")
    if part == "part" and got.headers:
        assert len(got.body) < int(got.headers["content-length"])


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_a_fault_is_billed_by_its_rule(kind: str, autojump_clock: MockClock) -> None:
    """The ledger has each such request, none, or about every second one; whoever hangs up pays too."""
    platform = platform_of(faults={kind: 1.0}, latency_sigma=0.0)
    for _ in range(40):
        async with connected(platform) as client:
            await client.read(request(), at_most=200, seconds=6)
    billed = len(await entries_of(platform, 0, b""))
    low, high = {Bill.NEVER: (0, 0), Bill.HALF: (8, 32), Bill.ALWAYS: (40, 40)}[KINDS[kind].bill]
    assert low <= billed <= high
    assert platform.counters.faults[kind] == (40 if kind != "ok" else 0)


ERRORS = [fault for fault in KINDS.values() if fault.content is Content.ERROR]


@pytest.mark.parametrize("fault", ERRORS, ids=lambda fault: fault.kind)
async def test_an_error_speaks_its_dialect(fault: Fault, autojump_clock: MockClock) -> None:
    """OpenAI's shape with the platform's code; on /v1/messages Anthropic's, whose type stands for the status."""
    platform = platform_of(faults={fault.kind: 1.0})
    error = (await ask(platform, request())).json()["error"]
    assert (error["code"], error["message"]) == (fault.code, fault.message)
    theirs = (await ask(platform, request(MESSAGES))).json()
    assert (theirs["type"], theirs["error"]) == ("error", {"type": error["type"], "message": fault.message})


@pytest.mark.parametrize("fault", [f for f in KINDS.values() if f.content is Content.HTML], ids=lambda fault: fault.kind)
async def test_a_proxy_speaks_html(fault: Fault, autojump_clock: MockClock) -> None:
    """A page that names the status, in whatever dialect the request was."""
    got = await ask(platform_of(faults={fault.kind: 1.0}), request(MESSAGES))
    assert got.headers["content-type"] == "text/html"
    assert f"<h1>{fault.status} ".encode() in got.body


async def test_the_door_costs_no_time_and_no_place_in_a_window(autojump_clock: MockClock) -> None:
    """What is refused at the door comes at once; what fails at work takes its time and counts as accepted."""
    platform = platform_of(script=("html429", "overloaded", "html503"), latency_sigma=0.0, rpm=1)
    took = []
    for _ in range(3):
        began = trio.current_time()
        await ask(platform, request())
        took.append(trio.current_time() - began)
    assert took == [0.0, 0.0, 0.5]
    assert platform.counters.accepted_count == 1


async def test_silence_lasts_until_the_client_hangs_up(autojump_clock: MockClock) -> None:
    """A silent request is never answered, and its connection is given up when the client goes."""
    platform = platform_of(script=("silent",))
    async with connected(platform) as client:
        assert await client.read(request(), seconds=86_400) == (b"", False)
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert platform.counters.connections_open == 0


async def test_a_drip_takes_its_time(autojump_clock: MockClock) -> None:
    """The answer is the same as any, in many small pieces."""
    platform = platform_of(script=("drip", "ok"), latency_median_seconds=0.0)
    began = trio.current_time()
    dripped = await ask(platform, request())
    assert trio.current_time() - began > 1
    assert dripped.json()["choices"] == (await ask(platform, request())).json()["choices"]


async def test_an_idle_connection_is_closed_unannounced(autojump_clock: MockClock) -> None:
    """The answer does not say that the connection ends, and it does."""
    async with connected(platform_of(script=("closes_idle",))) as client:
        got = await client.send(request())
        assert (got.status, "connection" in got.headers) == (200, False)
        assert await client.stream.receive_some() == b""


async def test_a_stale_connection_shows_only_when_it_is_used(autojump_clock: MockClock) -> None:
    """It stays open for as long as nobody speaks; the next request is not read, and so no request at all."""
    platform = platform_of(script=("stale",))
    async with connected(platform) as client:
        assert (await client.send(request())).status == 200
        assert await client.read(b"", seconds=3600) == (b"", False)
        assert await client.send(request()) == Got(None, {}, b"", ended=True)
    assert platform.counters.requests == 1


async def test_a_length_that_promises_more(autojump_clock: MockClock) -> None:
    """All of the body comes, then nothing; the connection stays open."""
    async with connected(platform_of(script=("long_length",))) as client:
        got, ended = await client.read(request())
    head, _, rest = got.partition(b"\r\n\r\n")
    assert msgspec.json.decode(rest)["object"] == "chat.completion"
    assert f"content-length: {len(rest)}".encode() not in head
    assert not ended


async def test_a_length_that_promises_less(autojump_clock: MockClock) -> None:
    """The rest of the body is in the way of the next answer."""
    async with connected(platform_of(script=("short_length",))) as client:
        got = await client.send(request())
        assert len(got.body) // 2 == int(got.headers["content-length"])
        assert (await client.send(request())).status == 200


@pytest.mark.parametrize("kind", ["endless", "endless_length"])
async def test_a_body_without_end(kind: str, autojump_clock: MockClock) -> None:
    """More comes for as long as it is read, and stops when the client goes."""
    platform = platform_of(script=(kind,))
    async with connected(platform) as client:
        got, ended = await client.read(request(), at_most=10_000_000)
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert platform.counters.connections_open == 0
    assert (len(got) >= 10_000_000, ended) == (True, False)
    assert (b"transfer-encoding: chunked" in got[:200]) == (kind == "endless")


async def test_a_body_that_drips_without_end(autojump_clock: MockClock) -> None:
    """A byte a second, for an hour and longer."""
    async with connected(platform_of(script=("endless_drip",))) as client:
        got, ended = await client.read(request(), seconds=3600)
    assert 3_500 <= got.count(b"1\r\n \r\n") <= 3_600
    assert not ended


@pytest.mark.parametrize("kind", ["oversize", "oversize_chunked"])
async def test_more_than_anybody_takes(kind: str, autojump_clock: MockClock) -> None:
    """One byte more than 64 MiB, all of it JSON; then the connection serves on."""
    platform = platform_of(script=(kind,))
    async with connected(platform) as client:
        await client.stream.send_all(request() + request(connection="close"))
        taken, last = 0, b""
        while more := await client.stream.receive_some(1 << 20):
            taken += len(more)
            last = (last + more)[-5_000:]
    assert taken > OVERSIZE_BYTES
    assert last.endswith(b"}")
    assert platform.counters.billed == 2


async def test_a_body_that_swells_when_it_is_unpacked(autojump_clock: MockClock) -> None:
    """A thousand bytes or so for each one sent, and one gzip file after another."""
    got = await ask(platform_of(script=("gzip",)), request(accept_encoding="identity"))
    assert got.headers["content-encoding"] == "gzip"
    unpacker = zlib.decompressobj(wbits=31)
    unpacked = unpacker.decompress(got.body)
    assert len(unpacked) > 500 * (len(got.body) - len(unpacker.unused_data))
    assert len(unpacker.unused_data) > 900_000


async def test_headers_that_are_none(autojump_clock: MockClock) -> None:
    """A status line, and behind it nothing that HTTP knows."""
    async with connected(platform_of(script=("garbage_headers",))) as client:
        got, ended = await client.read(request())
    assert got.startswith(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\x00")
    assert ended


async def test_what_is_refused_at_the_door_has_been_understood_before(autojump_clock: MockClock) -> None:
    """A fault meets requests that would be served: a body that makes no sense is refused for itself."""
    platform = platform_of(faults={"error422": 1.0})
    assert (await ask(platform, request(payload=body(cap=0)))).status == 400
    assert platform.counters.faults["error422"] == 0
