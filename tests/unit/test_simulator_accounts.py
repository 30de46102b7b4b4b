"""What becomes of accounts in the course of time: changes, keys, top-ups, other programs."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import pytest

from batchrunner.simulator.accounts import SOLE_ACCOUNT, Accounts, accounts_of, check, digest
from batchrunner.simulator.counters import Counters
from batchrunner.simulator.limits import Accepted, Refused
from batchrunner.simulator.settings import AccountSettings, Change, Charging, Foreign, Settings, WindowShape

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
ONE, TWO = "sk-empiriolabs-test-one", "sk-empiriolabs-test-two"


def accounts(**settings: Any) -> Accounts:
    return Accounts(Settings(**settings), Counters())


def named(name: str = "a", *keys: str, **fields: Any) -> AccountSettings:
    return AccountSettings(name=name, keys=keys or (f"sk-empiriolabs-test-{name}",), **fields)


def test_keys_of_an_account_share_it_and_accounts_share_nothing() -> None:
    """Two keys have one balance and one limit; another account has its own, and what it does not name is as for all."""
    both = accounts(rpm=1, accounts=(named("a", ONE, TWO, balance_usd=Decimal(5)), named("b", rpm=2)))
    first, second = both.all
    assert both.owner(digest(ONE)) is both.owner(digest(TWO)) is first
    assert both.owner(digest("sk-empiriolabs-test-b")) is second
    assert (first.balance_usd, second.balance_usd) == (Decimal(5), Decimal(10_000))
    assert isinstance(first.limits.admit(0, 1), Accepted)
    assert isinstance(first.limits.admit(0, 1), Refused)
    assert [isinstance(second.limits.admit(0, 1), Accepted) for _ in range(3)] == [True, True, False]


def test_without_a_list_there_is_one_account() -> None:
    """It has the keys of the settings."""
    (sole,) = accounts_of(Settings(keys=(ONE,)))
    assert (sole.name, sole.keys) == (SOLE_ACCOUNT, (ONE,))


def test_changes_come_at_their_time_since_the_first_request() -> None:
    """Nothing happens before the first request; a change holds from its own moment, whenever somebody looks."""
    changes = (Change(at_seconds=10, rpm=2), Change(at_seconds=5, rpm=0, top_up_usd=Decimal("0.5")))
    all_accounts = accounts(rpm=1, balance_usd=Decimal(1), changes=changes)
    (account,) = all_accounts.all
    all_accounts.advance(100 * SECOND_NS)
    all_accounts.arrive(100 * SECOND_NS, 1)
    assert isinstance(account.limits.admit(100 * SECOND_NS, 1), Accepted)
    all_accounts.advance(105 * SECOND_NS - 1)
    assert isinstance(account.limits.admit(105 * SECOND_NS - 1, 1), Refused)
    assert account.balance_usd == 1
    all_accounts.advance(105 * SECOND_NS)
    assert isinstance(account.limits.admit(105 * SECOND_NS, 1), Accepted)
    assert account.balance_usd == Decimal("1.5")
    all_accounts.advance(110 * SECOND_NS)
    assert account.limits.admit(110 * SECOND_NS, 1) == Refused(50 * SECOND_NS, "requests")


def test_a_key_dies_by_request_and_comes_back_by_time() -> None:
    """The second request finds the first key dead; its account's other key lives; 30 s later the first is back."""
    changes = (Change(at_request=2, delete_key=1), Change(at_seconds=30, restore_key=1))
    all_accounts = accounts(accounts=(named("a", ONE, TWO, changes=changes),))
    (account,) = all_accounts.all
    all_accounts.arrive(0, 1)
    assert all_accounts.owner(digest(ONE)) is account
    all_accounts.arrive(1, 2)
    assert all_accounts.owner(digest(ONE)) is None
    assert all_accounts.owner(digest(TWO)) is account
    all_accounts.advance(30 * SECOND_NS)
    assert all_accounts.owner(digest(ONE)) is account


def test_deleting_and_restoring_a_key_by_hand() -> None:
    """A key that nobody has can be neither deleted nor restored, and no harm is done."""
    all_accounts = accounts(keys=(ONE,))
    for key in (ONE, TWO):
        all_accounts.delete_key(key)
        all_accounts.delete_key(key)
        assert all_accounts.owner(digest(key)) is None
        all_accounts.restore_key(key)
    assert all_accounts.owner(digest(ONE)) is all_accounts.all[0]
    assert all_accounts.owner(digest(TWO)) is None


@pytest.mark.parametrize("burst", [1, 5])
def test_another_program_takes_what_it_is_said_to(burst: int) -> None:
    """25 a minute for 20 minutes from the tenth on, and nothing before or after; tokens with them."""
    foreign = Foreign(rpm=25, tpm=2_500, burst=burst, from_seconds=600, until_seconds=1_800)
    all_accounts = accounts(rpm=50, tpm=10_000, foreign=(foreign,))
    (account,) = all_accounts.all
    all_accounts.arrive(0, 1)
    all_accounts.advance(600 * SECOND_NS - 1)
    assert account.counts.foreign_accepted == 0
    all_accounts.advance(1_500 * SECOND_NS)
    level = account.limits.tokens(1_500 * SECOND_NS)
    assert level is not None
    assert (level.limit - level.left) % (burst * 100) == 0
    assert 0 < level.limit - level.left <= 2 * 2_500
    all_accounts.advance(10_000 * SECOND_NS)
    assert (account.counts.foreign_accepted, account.counts.foreign_rejected) == (500, 0)


def test_a_steady_program_is_evenly_spaced_and_bursts_come_at_once() -> None:
    """At 60 a minute one comes each second, at a point that the seed decides; in bursts of 5 all five come in one moment."""

    def moments(burst: int, seed: int) -> list[tuple[int, int]]:
        all_accounts = accounts(rpm=1_000, seed=seed, foreign=(Foreign(rpm=60, burst=burst),))
        (account,) = all_accounts.all
        all_accounts.arrive(0, 1)
        found, before = [], 0
        for tick in range(6_000):
            all_accounts.advance(tick * 10_000_000)
            if account.counts.foreign_accepted > before:
                found.append((tick, account.counts.foreign_accepted - before))
                before = account.counts.foreign_accepted
        return found

    steady = moments(1, seed=1)
    assert len(steady) == 60
    assert {count for _, count in steady} == {1}
    assert {later - sooner for (sooner, _), (later, _) in itertools.pairwise(steady)} == {100}
    assert steady == moments(1, seed=1) != moments(1, seed=2)
    bursts = moments(5, seed=1)
    assert [count for _, count in bursts] == [5] * 12
    gaps = {later - sooner for (sooner, _), (later, _) in itertools.pairwise(bursts)}
    assert len(gaps) > 5


def test_another_program_that_is_refused_asks_again_each_second() -> None:
    """Two a minute where one is allowed: in half an hour it gets 30, and is refused about each second in between."""
    all_accounts = accounts(rpm=1, foreign=(Foreign(rpm=2),))
    (account,) = all_accounts.all
    all_accounts.arrive(0, 1)
    all_accounts.advance(30 * MINUTE_NS)
    assert 29 <= account.counts.foreign_accepted <= 30
    assert 1_600 < account.counts.foreign_rejected < 1_800


def test_looking_often_changes_nothing() -> None:
    """What an account has gone through by some moment does not depend on when somebody looked."""

    def refusals(looks: int) -> tuple[int, int, object]:
        foreign = Foreign(rpm=40, tpm=60_000, burst=7)
        changes = (Change(at_seconds=100, rpm=20), Change(at_seconds=300, rpm=50, tpm=30_000))
        all_accounts = accounts(
            rpm=30,
            tpm=50_000,
            charging=Charging.ESTIMATE,
            window=WindowShape.BUCKET,
            burst=5,
            foreign=(foreign,),
            changes=changes,
        )
        (account,) = all_accounts.all
        all_accounts.arrive(0, 1)
        for look in range(1, looks + 1):
            all_accounts.advance(look * 600 * SECOND_NS // looks)
        counts = account.counts
        return counts.foreign_accepted, counts.foreign_rejected, account.limits.tokens(600 * SECOND_NS)

    assert refusals(1) == refusals(7) == refusals(10_000)
    assert refusals(1)[1] > 0


@pytest.mark.parametrize(
    ("described", "complaint"),
    [
        ((named("a"), named("a", ONE)), "several of that name"),
        ((AccountSettings(name="a", keys=()),), "at least one key"),
        ((named("a", ONE), named("b", ONE)), "named twice"),
        ((named(rpm=-1),), "rpm must be 0 or more"),
        ((named(balance_usd=Decimal("NaN")),), "balance_usd is an amount"),
        ((named(changes=(Change(rpm=1),)),), "either at_seconds or at_request"),
        ((named(changes=(Change(at_seconds=1, at_request=1, rpm=1),)),), "either at_seconds or at_request"),
        ((named(changes=(Change(at_seconds=float("nan"), rpm=1),)),), "at_seconds must be 0 or more"),
        ((named(changes=(Change(at_request=0, rpm=1),)),), "at_request counts from 1"),
        ((named(changes=(Change(at_seconds=1, delete_key=2),)),), "from 1 to 1"),
        ((named(changes=(Change(at_seconds=1, top_up_usd=Decimal("Infinity")),)),), "top_up_usd is an amount"),
        ((named(changes=(Change(at_seconds=1),)),), "changes nothing"),
        ((named(foreign=(Foreign(rpm=0),)),), "at least one request a minute"),
        ((named(foreign=(Foreign(rpm=1, from_seconds=2, until_seconds=1),)),), "ends before it begins"),
    ],
)
def test_what_makes_no_sense_is_named(described: tuple[AccountSettings, ...], complaint: str) -> None:
    """The complaint names the account and never a key."""
    with pytest.raises(ValueError, match=complaint) as caught:
        check(described)
    assert "account 'a'" in str(caught.value)
    assert "sk-empiriolabs" not in str(caught.value) + repr(described)
