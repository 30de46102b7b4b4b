"""What is under way, ends or is refused while an account's file cannot be used, and what others are told of it afterwards."""

from __future__ import annotations

from batchrunner import budget
from batchrunner.budget import holders, leases, survival
from batchrunner.budget.holders import Shared
from batchrunner.budget.pacer import SAFE_WINDOW_NS
from batchrunner.shared_account import RETRY_NS, SharedAccount
from tests.unit.budgets import take
from tests.unit.crowds import NS, Crowd, MemoryFile


def broken(crowd: Crowd) -> MemoryFile:
    assert isinstance(crowd.file, MemoryFile)
    return crowd.file


def test_who_loses_the_file_still_knows_what_the_wall_clock_shows() -> None:
    crowd = Crowd()
    account = SharedAccount(crowd.file, budget.Limits(50, 0), crowd.clock, name="a", say=crowd.said.append)
    account.apply([budget.Open((), 40, wall_offset_ns=7)])
    broken(crowd).broken = True
    account.apply([])
    assert account.seen.tokens.buckets.wall_offset_ns == 7


def test_ends_of_requests_cross_over() -> None:
    """What was sent while the account was shared and ended apart is settled when it is shared again, and the other way round."""
    crowd = Crowd()
    file = broken(crowd)
    account = SharedAccount(file, budget.Limits(0, 1_000), crowd.clock, name="a", say=crowd.said.append)
    account.apply([budget.Open((), 10)])
    before = sent(account, 300)
    file.broken = True
    apart = sent(account, 200)
    account.apply([budget.Settle(before, 100)])
    file.broken = False
    crowd.run(RETRY_NS + 1)
    account.apply([])
    row = file.read()
    assert row is not None
    assert row.shared.state.window.used == 100 + 200
    assert row.shared.state.in_flight.keys() == {apart} == row.shared.holders["a"].entries
    account.apply([budget.Settle(apart, 50)])
    row = file.read()
    assert row is not None
    assert not row.shared.state.in_flight


def test_what_ended_under_a_lease_that_could_not_be_given_back_is_told_later() -> None:
    """The lease itself counts as used up; requests that others know of from before are settled, and not in flight for ever."""
    crowd = Crowd()
    file = broken(crowd)
    account = SharedAccount(file, budget.Limits(0, 10_000), crowd.clock, name="a", say=crowd.said.append)
    account.apply([budget.Open((), 10)])
    before = sent(account, 300)
    lent = account.apply([], lease=True).lent
    assert lent is not None
    leases.step(lent, crowd.now_ns, budget.Settle(before, 100))
    file.broken = True
    account.apply([], lent)
    file.broken = False
    crowd.run(RETRY_NS + 1)
    account.apply([])
    row = file.read()
    assert row is not None
    assert not row.shared.state.in_flight
    assert row.shared.state.window.used == 100 + 10_000 // leases.SHARE


def test_a_request_of_an_earlier_time_apart_is_not_taken_for_a_later_ones() -> None:
    """The file is lost twice while one long answer is on its way: its tokens are its own."""
    crowd = Crowd()
    file = broken(crowd)
    account = SharedAccount(file, budget.Limits(0, 10_000), crowd.clock, name="a", say=crowd.said.append)
    account.apply([budget.Open((), 10)])
    file.broken = True
    first = sent(account, 300)
    file.broken = False
    crowd.run(RETRY_NS + 1)
    account.apply([])
    file.broken = True
    second = sent(account, 200)
    assert first != second
    account.apply([budget.Settle(first, 7)])
    assert account.seen.in_flight.keys() == {second}
    file.broken = False
    crowd.run(2 * (RETRY_NS + 1))
    account.apply([])
    row = file.read()
    assert row is not None
    assert row.shared.state.in_flight.keys() == {second} == row.shared.holders["a"].entries


def test_a_429_while_the_file_was_lost_is_felt_by_all_afterwards() -> None:
    crowd = Crowd()
    file = broken(crowd)
    account = SharedAccount(file, budget.Limits(0, 0), crowd.clock, name="a", say=crowd.said.append)
    account.apply([budget.Open((), 10)])
    file.broken = True
    account.apply([budget.Refuse(sent(account, 0), 600 * NS, 0.5)])
    file.broken = False
    crowd.run(RETRY_NS + 1)
    account.apply([])
    row = file.read()
    assert row is not None
    assert row.shared.state.gate.until_ns > 500 * NS


def test_a_429_to_a_request_of_before_is_felt_while_the_file_is_lost() -> None:
    """At once, and once: when the account is shared again the server's hint has not begun anew."""
    crowd = Crowd()
    file = broken(crowd)
    account = SharedAccount(file, budget.Limits(0, 0), crowd.clock, name="a", say=crowd.said.append)
    account.apply([budget.Open((), 10)])
    before, other = sent(account, 0), sent(account, 0)
    file.broken = True
    account.apply([budget.Refuse(before, 100 * NS, 0.5)])
    until_ns = account.seen.gate.until_ns
    assert until_ns > 100 * NS
    crowd.run(50 * NS)
    file.broken = False
    account.apply([])
    row = file.read()
    assert row is not None
    assert row.shared.state.gate.until_ns == until_ns
    assert row.shared.state.in_flight.keys() == {other} == row.shared.holders["a"].entries


def sent(account: SharedAccount, tokens: int) -> int:
    slots = account.apply([budget.Reserve()]).decisions
    assert slots
    assert isinstance(slots[0], budget.Slot)
    decisions = account.apply([take(slots[0].slot, tokens)]).decisions
    assert decisions
    taken = decisions[0]
    assert isinstance(taken, budget.Taken)
    return taken.entry


def test_two_that_send_apart_use_other_numbers() -> None:
    """An entry of one is never taken for the other's, nor for one of the shared account."""
    numbers = {survival.apart(None, f"{pid}-{pid * 7919:x}", budget.Limits(50, 0), 0).state.next_entry for pid in range(1_000)}
    assert len(numbers) == 1_000
    assert min(numbers) >= survival.FIRST_APART
    assert max(numbers) < 1 << 63


def test_apart_keeps_its_part_of_what_was_sent() -> None:
    """Every k-th of the sends, and none of the tokens of others' requests can be settled in it."""
    shared = Shared(budget.State(budget.Limits(60, 600)))
    for name in "abc":
        holders.meet(shared, name, budget.Limits(60, 600), 0)
    for number in range(30):
        shared.state.window.add(number * NS, 10, 10)
    alone = survival.apart(shared, "a", budget.Limits(60, 600), 30 * NS)
    assert alone.state.limits == budget.Limits(20, 200)
    assert (alone.state.window.requests, alone.state.window.used) == (10, 100)
    alone.state.window.settle(5, -10, -10)
    assert alone.state.window.used == 100
    alone.state.window.expire(30 * NS + SAFE_WINDOW_NS)
    assert alone.state.window.requests == 0
