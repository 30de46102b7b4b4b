"""What answers say of the limits reaches the budget, whatever became of the request."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from trio.testing import MockClock

from batchrunner import budget
from batchrunner.account_store import MemoryStore
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.settings import RateHeaders, RetryAfter
from tests.sim.nights import MakeNight, Night, assert_whole, fault, jobs


class Told(MemoryStore):
    """A budget that remembers how requests were given back."""

    def __init__(self, limits: budget.Limits) -> None:
        super().__init__(limits)
        self.ended: list[budget.Settle | budget.Refuse | budget.Lost] = []

    async def step(self, now_ns: int, event: budget.Event) -> budget.Decision:
        if isinstance(event, budget.Settle | budget.Refuse | budget.Lost):
            self.ended.append(event)
        return await super().step(now_ns, event)


def watched(night: Night) -> list[budget.Settle | budget.Refuse | budget.Lost]:
    """How the budget will be told of each request of the night's run."""
    ended: list[budget.Settle | budget.Refuse | budget.Lost] = []

    def store_of(limits: budget.Limits) -> MemoryStore:
        store = Told(limits)
        store.ended = ended
        return store

    night.store_of = store_of
    return ended


@pytest.mark.parametrize("style", [RateHeaders.OPENAI, RateHeaders.ANTHROPIC])
async def test_each_answer_says_what_is_left(autojump_clock: MockClock, make_night: MakeNight, style: RateHeaders) -> None:
    """Limits, what is left of them and when all is back, in ten answers of ten; what is left falls."""
    night = make_night(jobs(10), rpm=50, tpm=100_000, rate_headers=style)
    told = watched(night)
    assert_whole(night, await night.run(rpm=50, tpm=100_000))
    hints = [event.hints for event in told if isinstance(event, budget.Settle) and event.hints]
    assert len(hints) == 10
    assert {(one.request_limit, one.token_limit) for one in hints} == {(50, 100_000)}
    assert min(one.requests_left or 0 for one in hints) == 40
    assert all(one.requests_reset_ns and one.requests_reset_ns <= 61 * 10**9 for one in hints)


async def test_an_answer_that_says_nothing_is_no_hint(autojump_clock: MockClock, make_night: MakeNight) -> None:
    night = make_night(jobs(3), rpm=50)
    told = watched(night)
    await night.run(rpm=50)
    assert [event.hints for event in told if isinstance(event, budget.Settle)] == [None] * 3


async def test_a_429_says_what_is_left_and_when_to_come_back(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """A server with a fifth of our limit names it with the first refusal."""
    night = make_night(jobs(20), rpm=10, rate_headers=RateHeaders.OPENAI, retry_after=RetryAfter.DECIMAL)
    told = watched(night)
    assert_whole(night, await night.run(rpm=50))
    refusals = [event for event in told if isinstance(event, budget.Refuse)]
    assert refusals
    for refusal in refusals:
        assert refusal.hints is not None
        assert (refusal.hints.request_limit, refusal.hints.requests_left) == (10, 0)
        assert refusal.retry_after_ns is not None


@pytest.mark.parametrize(("kind", "event"), [("error422", budget.Settle), ("model_unavailable", budget.Lost)])
async def test_an_errors_headers_are_read_where_the_limiter_let_it_pass(
    autojump_clock: MockClock, make_night: MakeNight, kind: str, event: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed job's say what is left; an overload's are nobody's, since it says nothing of the limiter."""
    night = make_night(jobs(1), **fault(kind, "job-0"))
    told = watched(night)
    answer = night.platform.answer

    async def with_headers(*asked: Any) -> Answer:
        found = await answer(*asked)
        return msgspec.structs.replace(found, headers=(*found.headers, ("x-ratelimit-remaining-requests", "7")))

    monkeypatch.setattr(night.platform, "answer", with_headers)
    status = await night.run()
    assert status.failed == (event is budget.Settle)
    assert type(told[0]) is event
    assert getattr(told[0], "hints", None) == (budget.Hints(requests_left=7) if event is budget.Settle else None)


@pytest.mark.parametrize(("limit", "least_seconds", "most_seconds"), [("auto", 0, 120), ("configured", 300, 400)])
async def test_more_than_the_configured_limit_is_used_with_leave_alone(
    autojump_clock: MockClock, make_night: MakeNight, limit: str, least_seconds: int, most_seconds: int
) -> None:
    """A server that says that it takes 600 a minute gets them with --limit auto, and else the 50 that were configured."""
    night = make_night(jobs(300), rpm=600, rate_headers=RateHeaders.OPENAI)
    status = await night.run(rpm=50, limit=limit)
    assert_whole(night, status)
    assert least_seconds <= status.elapsed_seconds <= most_seconds
