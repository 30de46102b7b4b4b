"""`--limit auto`: the configured limits are passed where the server lets more through, and never without it."""

from __future__ import annotations

import msgspec
import pytest

from batchrunner import budget
from batchrunner.budget import holders
from batchrunner.budget.holders import Shared
from batchrunner.budget.pacer import NS, SAFE_WINDOW_NS
from tests.unit.budgets import opened, send

MINUTE = 60 * NS


def busy(
    state: budget.State, minutes: int, *, tokens: int = 0, accepts_rpm: int = 10**9, hints: budget.Hints | None = None
) -> int:
    """Send as fast as the budget allows to a server that answers at once, and refuses what its log has no room for; how many
    it refused.
    """
    now_ns, refused = 0, 0
    log: list[int] = []
    while now_ns < minutes * MINUTE:
        now_ns, entry = send(state, now_ns, tokens)
        log = [at_ns for at_ns in log if at_ns + MINUTE > now_ns]
        if len(log) < accepts_rpm:
            log.append(now_ns)
            budget.step(state, now_ns, budget.Settle(entry, tokens, hints))
        else:
            refused += 1
            budget.step(state, now_ns, budget.Refuse(entry, None, 0.5, hints))
    return refused


def auto(state: budget.State) -> budget.State:
    state.limits = msgspec.structs.replace(state.limits, auto=True)
    return state


def test_what_the_server_says_is_gone_by_at_once() -> None:
    """A larger limit in an answer is the limit from then on; a smaller one is not."""
    state = auto(opened(rpm=50, tpm=1_000))
    _, entry = send(state, 0)
    budget.step(state, NS, budget.Settle(entry, 0, budget.Hints(request_limit=600, token_limit=9_000)))
    assert (state.limits.rpm, state.limits.tpm) == (600, 9_000)
    _, entry = send(state, NS)
    budget.step(state, NS, budget.Settle(entry, 0, budget.Hints(request_limit=10, token_limit=10)))
    assert (state.limits.rpm, state.limits.tpm) == (600, 9_000)


@pytest.mark.parametrize("hints", [None, budget.Hints(request_limit=600, requests_left=500, token_limit=10**9)])
def test_without_auto_the_configured_limit_is_never_passed(hints: budget.Hints | None) -> None:
    """Whatever the server says or lets through."""
    state = opened(rpm=50, tpm=1_000)
    busy(state, 30, tokens=10, hints=hints)
    assert state.limits == budget.Limits(50, 1_000)
    assert state.window.requests <= 50


def test_more_is_asked_for_where_all_is_used_and_nothing_is_refused() -> None:
    """A thirtieth a minute, as long as it goes well; and it settles below what the server takes, with few 429s."""
    state = auto(opened(rpm=60))
    refused = busy(state, 90, accepts_rpm=100)
    assert 90 <= state.requests.rpm(state.limits.rpm) <= 100
    assert refused <= 30


def test_tokens_grow_where_they_bind() -> None:
    state = auto(opened(rpm=0, tpm=6_000))
    busy(state, 20, tokens=100)
    assert state.limits.tpm > 6_000
    assert state.limits.rpm == 0


def test_an_idle_account_does_not_grow() -> None:
    """What is not used says nothing of what more could be."""
    state = auto(opened(rpm=60, tpm=10**6))
    for minute in range(20):
        _, entry = send(state, minute * MINUTE, 10)
        budget.step(state, minute * MINUTE, budget.Settle(entry, 10))
    assert (state.limits.rpm, state.limits.tpm) == (60, 10**6)


def test_a_429_takes_back_what_was_tried() -> None:
    """Right after the limit was raised it is the raise that was refused."""
    state = auto(opened(rpm=60))
    busy(state, 7)
    grown = state.limits.rpm
    assert grown > 60
    now_ns, entry = send(state, 7 * MINUTE + SAFE_WINDOW_NS // 60)
    budget.step(state, now_ns, budget.Refuse(entry, None, 0.5))
    assert state.requests.rpm(state.limits.rpm) < grown


def test_processes_share_what_they_have_outgrown_while_all_of_them_may() -> None:
    """One that was given its limits holds all to them."""
    shared = Shared(budget.State(budget.Limits(600, 0, auto=True)))
    holders.meet(shared, "a", budget.Limits(50, 0, auto=True), 0)
    assert shared.state.limits == budget.Limits(600, 0, auto=True)
    holders.meet(shared, "b", budget.Limits(50, 0), 0)
    assert shared.state.limits == budget.Limits(50, 0)
    holders.leave(shared, "b", NS)
    assert shared.state.limits == budget.Limits(50, 0, auto=True)
