"""Asks an account's server every few minutes what is left to pay with, and more often while the account waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Final

import trio

from batchrunner.clock import Clock
from batchrunner.credit import Credit
from batchrunner.errors import AccountError

#: How often an account that waits for credits is asked, and how many times rarer one that has some.
ASK_SECONDS: Final = 30.0
RARER: Final = 10
#: No run waits longer for the figure at its end.
LAST_SECONDS: Final = 2.0

#: USD; None where the server does not tell, and never will. Raises: AccountError where it does not tell now.
Ask = Callable[[], Awaitable[Decimal | None]]


class BalanceWatch:
    """Keeps `credit` told, and calls `changed` each time. `ask` None: nobody can be asked. `waits`: credits are waited for.

    A server that has no balance to tell is asked once. Nothing that it does is more than a balance that is not known.
    """

    def __init__(
        self,
        ask: Ask | None,
        credit: Credit,
        clock: Clock,
        *,
        waits: bool,
        billed_usd: Callable[[], Decimal],
        changed: Callable[[], None],
    ) -> None:
        self._ask = ask
        self._credit = credit
        self._clock = clock
        self._waits = waits
        self._billed_usd = billed_usd
        self._changed = changed
        #: when it last told, by the wall clock, and what the run had been billed when it was asked
        self.told_wall_ns: int | None = None
        self.billed_usd: Decimal | None = None
        self._wanted = trio.Event()

    async def run(self) -> None:
        """Ask until cancelled, or until it is clear that there is no answer."""
        while await self._look():
            often = self._waits and self._credit.waits
            with trio.move_on_after(ASK_SECONDS if often else RARER * ASK_SECONDS):
                await self._wanted.wait()
            self._wanted = trio.Event()

    def look(self) -> None:
        """Ask now: something has been heard of credits."""
        self._wanted.set()

    async def last(self) -> None:
        """Ask once more, if it has ever told, and not for long."""
        if self.told_wall_ns is not None:
            with trio.move_on_after(LAST_SECONDS):
                await self._look()

    async def _look(self) -> bool:
        """Ask, and see whether there is sense in asking again."""
        if self._ask is None:
            return False
        billed_usd = self._billed_usd()
        try:
            balance_usd = await self._ask()
        except AccountError:
            return True
        if balance_usd is None:
            return False
        self.told_wall_ns, self.billed_usd = self._clock.wall_ns(), billed_usd
        self._credit.told(self._clock.monotonic_ns(), balance_usd)
        self._changed()
        return True
