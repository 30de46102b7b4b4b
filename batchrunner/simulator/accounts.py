"""The platform's customers: whose key a request bears, and what becomes of an account in the course of time.

Changes and other programs take their turns on one timeline, which is caught up with whenever a request comes or ends:
exact to the nanosecond, since between two requests nobody could see a difference, and without a task of its own.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
import math
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

from batchrunner.simulator.counters import Counters
from batchrunner.simulator.foreign import Consumer
from batchrunner.simulator.limits import Limits
from batchrunner.simulator.settings import AccountSettings, Change, Foreign, Settings
from batchrunner.simulator.usage import NS_PER_SECOND, Account

#: the one account of a platform whose settings name none
SOLE_ACCOUNT = "default"

#: does at a moment what is due then, and says when it wants its next turn
Turn = Callable[[int], int | None]


class Accounts:
    """All accounts. `now_ns` never goes back. Raises: ValueError where `settings` make no sense."""

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._named = accounts_of(settings)
        check(self._named)
        self._seed = settings.seed
        self.all = tuple(
            Account(
                named.name,
                settings.balance_usd if named.balance_usd is None else named.balance_usd,
                Limits.of(settings, named),
                counters.account(named.name),
                discount=settings.discount if named.discount is None else named.discount,
            )
            for named in self._named
        )
        #: by digest; a key that is dead at the moment is in the other one
        self._owners = {digest(key): owner for owner, named in self._pairs() for key in named.keys}
        self._dead: dict[bytes, Account] = {}
        self._began = False
        #: (at_ns, order, turn): a heap
        self._timeline: list[tuple[int, int, Turn]] = []
        #: (request's number, turn), the next one last
        self._by_request: list[tuple[int, Turn]] = []

    def owner(self, key_digest: bytes) -> Account | None:
        """Whose key it is; None where it is nobody's, or dead."""
        return self._owners.get(key_digest)

    def arrive(self, now_ns: int, number: int) -> None:
        """The `number`-th request to a model (from 1) has come: bring all accounts to where they stand when it is looked at."""
        if not self._began:
            self._began = True
            for place, (owner, named) in enumerate(self._pairs()):
                self._plan(now_ns, owner, named, place)
            heapq.heapify(self._timeline)
            self._by_request.sort(key=lambda entry: entry[0], reverse=True)
        self.advance(now_ns)
        while self._by_request and self._by_request[-1][0] <= number:
            self._by_request.pop()[1](now_ns)

    def advance(self, now_ns: int) -> None:
        """Catch up with time. Whoever touches a window at `now_ns` must have called this first."""
        timeline = self._timeline
        while timeline and timeline[0][0] <= now_ns:
            at_ns, order, turn = timeline[0]
            next_ns = turn(at_ns)
            if next_ns is None:
                heapq.heappop(timeline)
            else:
                heapq.heapreplace(timeline, (next_ns, order, turn))

    def delete_key(self, key: str) -> None:
        """Refuse a key from now on, as when somebody deletes it."""
        owner = self._owners.pop(digest(key), None)
        if owner is not None:
            self._dead[digest(key)] = owner

    def restore_key(self, key: str) -> None:
        """Take a deleted key again."""
        owner = self._dead.pop(digest(key), None)
        if owner is not None:
            self._owners[digest(key)] = owner

    def _pairs(self) -> zip[tuple[Account, AccountSettings]]:
        return zip(self.all, self._named, strict=True)

    def _plan(self, began_ns: int, owner: Account, named: AccountSettings, place: int) -> None:
        for change in named.changes:
            turn = self._turn_of(change, owner, named.keys)
            if change.at_request is not None:
                self._by_request.append((change.at_request, turn))
            else:
                self._add(began_ns + round((change.at_seconds or 0) * NS_PER_SECOND), turn)
        for number, foreign in enumerate(named.foreign):
            consumer = Consumer(foreign, owner, began_ns, self._seed, f"{place}/{number}")
            self._add(consumer.due_ns, consumer.turn)

    def _add(self, at_ns: int, turn: Turn) -> None:
        self._timeline.append((at_ns, len(self._timeline), turn))

    def _turn_of(self, change: Change, owner: Account, keys: tuple[str, ...]) -> Turn:
        def turn(at_ns: int) -> None:
            owner.limits.change(at_ns, rpm=change.rpm, tpm=change.tpm)
            owner.balance_usd += change.top_up_usd or Decimal(0)
            if change.delete_key is not None:
                self.delete_key(keys[change.delete_key - 1])
            if change.restore_key is not None:
                self.restore_key(keys[change.restore_key - 1])

        return turn


def accounts_of(settings: Settings) -> tuple[AccountSettings, ...]:
    """The accounts that settings describe: those that they list, else the one that they are themselves."""
    if settings.accounts:
        return settings.accounts
    sole = AccountSettings(name=SOLE_ACCOUNT, keys=settings.keys, changes=settings.changes, foreign=settings.foreign)
    return (sole,)


def check(accounts: tuple[AccountSettings, ...]) -> None:
    """Raises: ValueError, which names the account and what makes no sense about it."""
    names = Counter(account.name for account in accounts)
    keys = Counter(key for account in accounts for key in account.keys)
    for account in accounts:
        where = f"account {account.name!r}"
        if names[account.name] > 1:
            raise ValueError(f"{where}: there are several of that name.")
        if not account.keys:
            raise ValueError(f"{where}: it needs at least one key.")
        if any(keys[key] > 1 for key in account.keys):
            raise ValueError(f"{where}: one of its keys is named twice, here or in another account.")
        _not_negative(where, rpm=account.rpm, tpm=account.tpm)
        _finite(where, balance_usd=account.balance_usd, discount=account.discount)
        if account.discount is not None and not 0 <= account.discount <= 1:
            raise ValueError(f"{where}: discount must lie between 0 and 1.")
        for change in account.changes:
            _check_change(where, change, len(account.keys))
        for foreign in account.foreign:
            _check_foreign(where, foreign)


def _check_change(where: str, change: Change, keys: int) -> None:
    if (change.at_seconds is None) == (change.at_request is None):
        raise ValueError(f"{where}: a change needs either at_seconds or at_request.")
    _not_negative(where, at_seconds=change.at_seconds, rpm=change.rpm, tpm=change.tpm)
    _finite(where, top_up_usd=change.top_up_usd)
    if change.at_request is not None and change.at_request < 1:
        raise ValueError(f"{where}: at_request counts from 1.")
    for name, number in (("delete_key", change.delete_key), ("restore_key", change.restore_key)):
        if number is not None and not 1 <= number <= keys:
            raise ValueError(f"{where}: {name} is a key's number from 1 to {keys}.")
    if change == Change(at_seconds=change.at_seconds, at_request=change.at_request):
        raise ValueError(f"{where}: a change changes nothing.")


def _check_foreign(where: str, foreign: Foreign) -> None:
    _not_negative(where, tpm=foreign.tpm, from_seconds=foreign.from_seconds)
    if foreign.rpm < 1 or foreign.burst < 1:
        raise ValueError(f"{where}: another program makes at least one request a minute, and at least one at once.")
    if foreign.until_seconds is not None and foreign.until_seconds < foreign.from_seconds:
        raise ValueError(f"{where}: another program ends before it begins.")


def _not_negative(where: str, **numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not 0 <= number < math.inf:
            raise ValueError(f"{where}: {name} must be 0 or more.")


def _finite(where: str, **amounts: Decimal | None) -> None:
    for name, amount in amounts.items():
        if amount is not None and not amount.is_finite():
            raise ValueError(f"{where}: {name} is an amount.")


@functools.lru_cache(256)
def digest(key: str) -> bytes:
    """What stands for a key wherever it would otherwise have to be kept."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
