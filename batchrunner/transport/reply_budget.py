"""A bound on the memory of all replies that are being read at the same time."""

from __future__ import annotations

import msgspec
import trio

MAX_REPLIES_BYTES = 256 << 20


class ReplyBudgetStatistics(msgspec.Struct, frozen=True):
    """Where a ReplyBudget stands."""

    held_bytes: int
    limit_bytes: int
    waiting: int


class Share:
    """What one exchange holds of a budget."""

    __slots__ = ("held_bytes",)

    def __init__(self) -> None:
        self.held_bytes = 0


class ReplyBudget:
    """Lets exchanges read until together they hold `limit_bytes`; from then on one at a time goes on to its end.

    That one, the leader, is whoever asks first: since it always may read on, nothing can wait in a circle, and since its
    reply has a cap of its own, the total passes the limit by no more than that cap and one read of each exchange.
    A reply that comes in one read is never charged: the common case costs nothing.
    """

    def __init__(self, limit_bytes: int = MAX_REPLIES_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._leader: Share | None = None
        self._waiting = trio.lowlevel.ParkingLot()

    def statistics(self) -> ReplyBudgetStatistics:
        return ReplyBudgetStatistics(self._held_bytes, self._limit_bytes, len(self._waiting))

    def may_read(self, share: Share, held_bytes: int) -> bool:
        """Note that the exchange holds `held_bytes` by now. False: `wait` before reading on."""
        self._held_bytes += held_bytes - share.held_bytes
        share.held_bytes = held_bytes
        return self._held_bytes < self._limit_bytes or self._lead(share)

    async def wait(self, share: Share) -> None:
        """Return when the exchange may read on."""
        while self._held_bytes >= self._limit_bytes and not self._lead(share):
            await self._waiting.park()

    def free(self, share: Share) -> None:
        """Take back all that an exchange held: its reply is whole, or it ended otherwise."""
        self._held_bytes -= share.held_bytes
        share.held_bytes = 0
        if self._leader is share:
            self._leader = None
        if self._held_bytes < self._limit_bytes:
            self._waiting.unpark_all()
        elif self._leader is None:
            self._waiting.unpark()

    def _lead(self, share: Share) -> bool:
        if self._leader is None:
            self._leader = share
        return self._leader is share
