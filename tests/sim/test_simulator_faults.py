"""What goes wrong at the simulated platform when it is told to, and what is billed of it, in virtual time."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from batchrunner.simulator.faults import KINDS, Bill
from batchrunner.simulator.server import serve_stream
from batchrunner.simulator.settings import Rule
from tests.sim.asking import Client, ask, entries_of, platform_of, request, tagged

#: kind: (status that arrives, whether the connection ends, how much of the body arrives: all of it, none, or a part)
SEEN = {
    "ok": (200, False, "all"),
    "slow": (200, False, "all"),
    "rate_limited": (429, False, "all"),
    "overloaded": (529, False, "all"),
    "error400": (400, False, "all"),
    "invalid_key": (401, False, "all"),
    "no_credits": (402, False, "all"),
    "error500": (500, False, "all"),
    "upstream_error": (502, False, "all"),
    "model_unavailable": (503, False, "all"),
    "html": (502, False, "all"),
    "error408": (408, False, "all"),
    "error504": (504, False, "all"),
    "garbage": (200, False, "all"),
    "empty": (200, False, "none"),
    "reset_before": (None, True, "none"),
    "reset_headers": (None, True, "part"),
    "reset_body": (200, True, "part"),
    "truncated": (200, True, "part"),
}


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"silent"}))
async def test_a_fault_shows_as_its_table_says_and_is_billed_by_its_rule(kind: str, autojump_clock: MockClock) -> None:
    """Every kind: what arrives, and that the ledger has each such request, none, or about every second one."""
    platform = platform_of(faults={kind: 1.0})
    got = await ask(platform, request())
    status, ended, part = SEEN[kind]
    assert (got.status, got.ended) == (status, ended)
    assert (len(got.body) > 0) == (part != "none")
    if part == "part" and got.headers:
        assert len(got.body) < int(got.headers["content-length"])
    billed = len(await entries_of(platform, 39, request()))
    low, high = {Bill.NEVER: (0, 0), Bill.HALF: (8, 32), Bill.ALWAYS: (40, 40)}[KINDS[kind].bill]
    assert low <= billed <= high


async def test_silence_lasts_until_the_client_hangs_up(autojump_clock: MockClock) -> None:
    """A silent request is never answered, and its connection is given up when the client goes."""
    platform = platform_of(script=("silent",))
    async with trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        nursery.start_soon(serve_stream, platform, theirs)
        with trio.move_on_after(86_400) as scope:
            await Client(ours).send(request())
        assert scope.cancelled_caught
        await ours.aclose()
    assert platform.counters.connections_open == 0


async def test_a_client_that_hangs_up_pays_for_what_it_asked(autojump_clock: MockClock) -> None:
    """Work that was begun is finished and billed, whether or not anybody is there to take the answer."""
    platform = platform_of()
    async with trio.open_nursery() as nursery:
        ours, theirs = memory_stream_pair()
        nursery.start_soon(serve_stream, platform, theirs)
        await ours.send_all(request())
        await trio.testing.wait_all_tasks_blocked()
        await ours.aclose()
    assert (platform.counters.billed, platform.counters.connections_open) == (1, 0)


async def test_script_then_rules_then_chance(autojump_clock: MockClock) -> None:
    """The script goes by order of arrival, rules by tag and only so many times, chance takes the rest."""
    platform = platform_of(
        script=("error500",), rules=(Rule(kind="error504", tag="t", times=2),), faults={"model_unavailable": 1.0}
    )
    statuses = [(await ask(platform, request(payload=tagged(tag)))).status for tag in "ttutt"]
    assert statuses == [500, 504, 503, 504, 503]


async def test_faults_come_as_often_as_asked_for_and_the_same_in_each_run(autojump_clock: MockClock) -> None:
    """Random faults follow seed and order of arrival."""

    async def faults(seed: int) -> Counter[str]:
        platform = platform_of(seed=seed, faults={"error500": 0.3, "garbage": 0.2})
        await entries_of(platform, 200, request())
        return platform.counters.faults

    first = await faults(1)
    assert first == await faults(1) != await faults(2)
    assert 35 <= first["error500"] <= 85
    assert 20 <= first["garbage"] <= 60
