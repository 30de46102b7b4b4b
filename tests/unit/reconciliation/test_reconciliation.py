"""Drawn nights with strangers, judged by hidden owners."""

from __future__ import annotations

import pytest

from batchrunner.reconciliation import EventClaim, EventReason, Whose, doubts
from tests.unit.reconciliation.worlds import Odds, drawn, judge

NIGHTS = {
    "alone": Odds(strangers=0),
    "one_stranger": Odds(strangers=0.3),
    "strangers_as_busy_as_we": Odds(strangers=1.0),
    "a_platform_that_never_answers_alike": Odds(repeats=False),
    "a_clock_behind": Odds(ahead_seconds=-2.5),
    "a_clock_ahead": Odds(ahead_seconds=40.0),
    "slow_answers": Odds(latency_seconds=3.0, per_second=2.0, horizon_seconds=30.0, strangers=0.2),
    "many_unseen": Odds(unseen=0.15, strangers=0.1),
}


@pytest.mark.parametrize("name", NIGHTS)
@pytest.mark.parametrize("seed", range(5))
def test_no_event_is_assigned_wrongly_and_few_are_undecided(name: str, seed: int) -> None:
    """Nor is an attempt said to be charged that was not, or left open though nothing stands against what its event says."""
    world = drawn(NIGHTS[name], 1_000 + seed)
    judged = judge(world, world.reconciled())
    assert not judged.wrong_events
    assert not judged.wrong_attempts
    assert not judged.unsettled
    assert judged.undecided_share <= (0.10 if name == "many_unseen" else 0.05)


def test_on_an_account_of_our_own_nearly_every_uncertain_attempt_is_settled() -> None:
    world = drawn(Odds(jobs=2_000, strangers=0), 1)
    judged = judge(world, world.reconciled())
    assert judged.left <= 0.2 * sum(attempt.billing.value == "maybe_billed" for attempt in world.attempts)


def test_matches_that_accident_would_explain_are_what_doubts_keep_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them strangers' events are taken for ours: the judge sees that, and the doubts are what is proved above."""
    monkeypatch.setattr(doubts, "TOLERATED", float("inf"))
    world = drawn(Odds(strangers=1.0, jobs=2_000), 1)
    assert judge(world, world.reconciled()).wrong_events


def test_the_judge_sees_a_claim_that_is_wrong_either_way() -> None:
    world = drawn(Odds(jobs=50), 1)
    settlement = world.reconciled()
    ours = next(place for place, owner in enumerate(world.owners) if owner is not None)
    strange = next(place for place, owner in enumerate(world.owners) if owner is None)
    settlement.events[ours] = EventClaim(Whose.STRANGERS, EventReason.OTHER_TIME)
    settlement.events[strange] = EventClaim(Whose.OURS, EventReason.MATCHED, (0,))
    assert len(judge(world, settlement).wrong_events) == 2


def test_the_judge_sees_parts_that_are_not_the_whole() -> None:
    world = drawn(Odds(jobs=50), 1)
    settlement = world.reconciled()
    settlement.ours.amount_usd += 1
    with pytest.raises(AssertionError):
        judge(world, settlement)


def test_claims_do_not_depend_on_the_order_in_which_events_are_told() -> None:
    world = drawn(Odds(), 3)
    settlement = world.reconciled()
    backwards = world._replace(events=world.events[::-1], owners=world.owners[::-1]).reconciled()
    assert [claim.whose for claim in backwards.events[::-1]] == [claim.whose for claim in settlement.events]
    assert [claim.billing for claim in backwards.attempts] == [claim.billing for claim in settlement.attempts]
