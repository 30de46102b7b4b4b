"""Another program that uses the same account: it takes what it can get of the limits, steadily or in bursts."""

from __future__ import annotations

from batchrunner.simulator.draws import Draws
from batchrunner.simulator.limits import Refused
from batchrunner.simulator.settings import Foreign
from batchrunner.simulator.usage import NS_PER_SECOND, Account
from batchrunner.simulator.windows import WINDOW_NS

#: how soon it asks again for what it was refused
RETRY_NS = NS_PER_SECOND


class Consumer:
    """Asks in groups of `burst` requests. What is refused waits in line, and all that comes after it waits behind.

    Time is divided into equal parts, one for each group. Single requests come at the same point of each part, drawn once;
    bursts at one that is drawn anew, so that they come irregularly and as often as they should.
    Its requests take no time: what they use is spent when they are let in. They are not paid from the account's balance.
    """

    def __init__(self, foreign: Foreign, account: Account, began_ns: int, seed: int, name: str) -> None:
        self._foreign = foreign
        self._account = account
        self._seed = seed
        self._name = name
        self._from_ns = began_ns + round(foreign.from_seconds * NS_PER_SECOND)
        ends = foreign.until_seconds
        self._until_ns = None if ends is None else began_ns + round(ends * NS_PER_SECOND)
        self._tokens = foreign.tpm // foreign.rpm
        self._asked = 0
        #: when the next request is to be made
        self.due_ns = self._due_ns(0)

    def turn(self, at_ns: int) -> int | None:
        """Make all requests that are due, up to the first that is refused. When to go on; None: never again."""
        limits, counts = self._account.limits, self._account.counts
        if self._until_ns is not None and at_ns >= self._until_ns:
            return None
        while self.due_ns <= at_ns:
            admitted = limits.admit(at_ns, self._tokens)
            if isinstance(admitted, Refused):
                counts.foreign_rejected += 1
                return at_ns + RETRY_NS
            limits.spend(at_ns, admitted, self._tokens)
            counts.foreign_accepted += 1
            self._asked += 1
            self.due_ns = self._due_ns(self._asked)
        return self.due_ns

    def _due_ns(self, number: int) -> int:
        group = number // self._foreign.burst
        drawn = group if self._foreign.burst > 1 else 0
        point = Draws(self._seed, b"foreign", f"{self._name}/{drawn}".encode()).uniform(0)
        part_ns = self._foreign.burst * WINDOW_NS
        return self._from_ns + (group * part_ns + int(point * part_ns)) // self._foreign.rpm
