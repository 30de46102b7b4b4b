"""Above 100 requests a second a process has the account for itself for moments: in turn, and at a bounded loss."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner import budget
from batchrunner.budget import holders, leases
from batchrunner.budget.holders import Shared
from batchrunner.budget.leases import GRACE_NS, KNOCK_NS, LEASE_NS, WRITE_BACK_NS, Knock
from batchrunner.budget.pacer import SAFE_WINDOW_NS
from tests.unit.budgets import take
from tests.unit.crowds import NS, Crowd, MemoryFile

FAST = budget.Limits(12_000, 0)


def granted(limits: budget.Limits = FAST, name: str = "a", now_ns: int = 0) -> Shared:
    shared = Shared(budget.State(limits))
    holders.meet(shared, name, limits, now_ns)
    assert leases.grant(shared, name, now_ns, []) is not None
    return shared


@pytest.mark.parametrize(("rpm", "leased"), [(6_000, False), (6_001, True), (0, True), (50, False)])
def test_only_fast_accounts_are_leased(rpm: int, leased: bool) -> None:
    limits = budget.Limits(rpm, 0)
    shared = Shared(budget.State(limits))
    holders.meet(shared, "a", limits, 0)
    assert (leases.grant(shared, "a", 0, []) is not None) is leased
    assert (shared.lease is not None) is leased


def test_a_lease_covers_its_time_its_part_of_the_limits_and_no_rejection() -> None:
    """A rejection is for all to know at once; whoever begins has to be told by the row what was before."""
    shared = granted(budget.Limits(12_000, 60_000))
    lease = shared.lease
    assert lease is not None
    assert leases.ends_ns(shared) == LEASE_NS - WRITE_BACK_NS
    assert leases.covers(shared, 0, take(1, 3_000))
    assert leases.covers(shared, 0, budget.Settle(1, 2))
    assert not leases.covers(shared, 0, take(1, 3_001))
    assert not leases.covers(shared, 0, budget.Take(1, (budget.Offer(1, 1), budget.Offer(3_001, 1))))
    assert not leases.covers(shared, LEASE_NS - WRITE_BACK_NS, budget.Settle(1, 2))
    assert not leases.covers(shared, 0, budget.Refuse(1, None, 0.0))
    assert not leases.covers(shared, 0, budget.Open((), 1))
    lease.requests = 0
    assert not leases.covers(shared, 0, take(1))
    assert leases.covers(shared, 0, budget.Reserve())
    shared.lease = None
    assert not leases.covers(shared, 0, budget.Reserve())


def test_what_is_sent_in_a_lease_is_taken_off_it() -> None:
    shared = granted(budget.Limits(12_000, 60_000))
    lease = shared.lease
    assert lease is not None
    slot = leases.step(shared, 0, budget.Reserve())
    assert isinstance(slot, budget.Slot)
    taken = leases.step(shared, 0, take(slot.slot, 100))
    assert isinstance(taken, budget.Taken)
    assert (lease.requests, lease.tokens) == (599, 2_900)
    leases.step(shared, 0, budget.Settle(taken.entry, 40))
    for event in (budget.Settle(taken.entry, 10), budget.Lost(taken.entry + 1)):
        leases.step(shared, 0, event)
    assert shared.state.window.used == 40
    leases.end(shared, 0)
    assert shared.holders["a"].requests_ns == SAFE_WINDOW_NS // 12_000
    assert shared.holders["a"].tokens_ns == 40 * SAFE_WINDOW_NS // 60_000


def test_the_newest_slot_outlives_the_lease() -> None:
    """It may be on its way to be taken, and nothing of the pace is lost by it; older ones are void."""
    shared = granted()
    first, second = (leases.step(shared, 0, budget.Reserve()) for _ in range(2))
    assert isinstance(first, budget.Slot)
    assert isinstance(second, budget.Slot)
    leases.end(shared, 0)
    assert shared.state.slots.keys() == {second.slot}
    assert isinstance(holders.step(shared, "a", second.at_ns, take(first.slot)), budget.Stale)
    assert isinstance(holders.step(shared, "a", second.at_ns, take(second.slot)), budget.Taken)


def test_a_request_too_large_for_a_lease_goes_all_the_same() -> None:
    """Between two leases, beside small ones and beside another process that sends small ones."""
    crowd = Crowd()
    crowd.process("a", 12_000, 60_000, jobs=itertools.cycle([10, 8_000]))
    crowd.process("b", 12_000, 60_000, jobs=itertools.repeat(10))
    crowd.run(60 * NS)
    large = [name for _, name, tokens in crowd.sends if tokens == 8_000]
    assert len(large) >= 3
    assert crowd.counts()["b"] >= 1_000
    assert crowd.most_tokens() <= 60_000


def test_who_waits_for_tokens_is_lent_nothing() -> None:
    shared = granted(budget.Limits(0, 1_000))
    leases.end(shared, 0)
    assert shared.lease is None
    shared.state.tokens.pacer.empty_ns = 10**12
    slot = holders.step(shared, "a", 0, budget.Reserve())
    assert isinstance(slot, budget.Slot)
    assert isinstance(holders.step(shared, "a", 0, take(slot.slot, 100)), budget.Later)
    assert leases.grant(shared, "a", 0, []) is None


def test_whoever_has_waited_longest_is_next() -> None:
    """Those that come while another has the account stand in line; one that does not come any more is forgotten."""
    shared = Shared(budget.State(FAST))
    for name in "bc":
        holders.meet(shared, name, FAST, 0)
    line: list[Knock] = []
    for at_ns, name in enumerate(["b", "c", "b"]):
        leases.knock(line, name, at_ns)
    assert line == [Knock("b", 2), Knock("c", 1)]
    assert leases.grant(shared, "c", 3, line) is None
    assert leases.grant(shared, "b", 3, line) is not None
    assert [one.holder for one in line] == ["c"]
    assert leases.grant(shared, "b", 4, line) is None
    assert leases.grant(shared, "b", 2 + KNOCK_NS, line) is not None


def test_a_lost_lease_is_charged_in_full() -> None:
    """Its sends, its tokens, its time and its numbers are taken to have been used."""
    shared = granted(budget.Limits(12_000, 60_000))
    lease = shared.lease
    assert lease is not None
    assert not leases.is_lost(lease, lease.until_ns + GRACE_NS)
    assert leases.is_lost(lease, lease.until_ns + GRACE_NS + 1)
    assert leases.comes_ns(lease, 0) == lease.until_ns
    assert leases.is_lost(lease, leases.comes_ns(lease, lease.until_ns))
    leases.reclaim(shared)
    assert shared.lease is None
    assert (shared.state.window.requests, shared.state.window.used) == (600, 3_000)
    assert shared.state.pacer.due_ns >= LEASE_NS
    assert shared.state.next_entry == 601
    shared.state.window.expire(LEASE_NS + SAFE_WINDOW_NS)
    assert shared.state.window.requests == 0


def test_a_lost_lease_without_limits_leaves_no_charge() -> None:
    shared = granted(budget.Limits(0, 0))
    leases.reclaim(shared)
    assert (shared.state.window.requests, shared.state.window.used) == (0, 0)
    assert shared.state.next_entry > 100_000


def test_four_take_turns() -> None:
    """Nothing of the limit is lost, and each has a quarter of it."""
    crowd = Crowd()
    for name in "abcd":
        crowd.process(name, 12_000)
    crowd.run(8 * NS)
    assert len(crowd.sends) >= 0.99 * 200 * 8
    counts = crowd.counts(NS, 7 * NS)
    assert max(counts.values()) <= 1.05 * min(counts.values())
    assert max(later[0] - earlier[0] for earlier, later in itertools.pairwise(crowd.sends)) <= 2 * WRITE_BACK_NS


def test_one_that_is_killed_costs_its_lease() -> None:
    """The other goes on half a second later, and no minute holds more than the limit."""
    crowd = Crowd()
    killed, _ = crowd.process("a", 12_000), crowd.process("b", 12_000)
    crowd.run(5 * NS + NS // 10)
    killed.kill()
    crowd.run(10 * NS)
    gaps = [later - earlier for (earlier, _, _), (later, _, _) in itertools.pairwise(crowd.sends)]
    assert max(gaps) <= LEASE_NS + GRACE_NS + NS // 20
    assert crowd.counts(6 * NS)["b"] >= 0.99 * 200 * 4


def test_one_that_slept_through_the_end_of_its_lease_goes_on_with_the_account_as_it_is() -> None:
    """What it sent is charged already; ends of its earlier requests are not lost, and its later ones are no longer known."""
    crowd = Crowd()
    sleeper, other = crowd.process("a", 12_000, 60_000, jobs=[]), crowd.process("b", 12_000, 60_000, jobs=[])
    account = sleeper.account
    before = account.apply([budget.Reserve()]).decisions
    assert before
    assert isinstance(before[0], budget.Slot)
    taken = account.apply([take(before[0].slot, 500)], lease=True)
    assert taken.decisions
    assert isinstance(taken.decisions[0], budget.Taken)
    lent = taken.lent
    assert lent is not None
    lease = lent.lease
    assert lease is not None
    leases.step(lent, crowd.now_ns, budget.Settle(taken.decisions[0].entry, 100))
    blocked = other.account.apply([budget.Reserve()])
    assert blocked.decisions is None
    crowd.run(blocked.again_ns)
    assert other.account.apply([budget.Reserve()]).decisions is None
    crowd.run(leases.comes_ns(lease, crowd.now_ns))
    assert other.account.apply([budget.Reserve()]).decisions is not None
    account.apply([budget.Lost(taken.decisions[0].entry)], lent)
    assert isinstance(crowd.file, MemoryFile)
    row = crowd.file.read()
    assert row is not None
    assert row.shared.lease is None
    assert row.shared.state.window.used == 3_000 + 100
    assert not row.shared.holders["a"].entries


@given(seed=st.integers(0, 2**32))
@settings(max_examples=3, deadline=None)
def test_B12_leases_hold_the_budget(seed: int) -> None:
    """Killed in mid-lease, asleep through its end, refused: no minute holds more than the limit."""
    rng = random.Random(seed)
    crowd = Crowd()
    rpm = 6_001
    alive = [crowd.process(name, rpm, jobs=(1 for _ in range(150)), file_size=rng.choice([10, 10**9])) for name in "abc"]
    for name in "defgh":
        crowd.run(crowd.now_ns + rng.randrange(2 * NS))
        alive.pop(rng.randrange(len(alive))).kill()
        crowd.run(crowd.now_ns + rng.randrange(2 * NS))
        refuse = rng.random() < 0.3
        alive.append(
            crowd.process(name, rpm, jobs=(1 for _ in range(150)), refuse=lambda _, some=refuse: some and rng.random() < 0.01)
        )
    crowd.run(crowd.now_ns + 30 * NS)
    assert crowd.most_sends() <= rpm
    assert len(crowd.sends) > 300
