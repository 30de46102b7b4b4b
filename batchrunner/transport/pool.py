"""Connections kept open between requests, at the same small cost however many there are."""

from __future__ import annotations

import ssl
from collections import deque

import msgspec
import trio

from batchrunner.exchange import Failure, FailureKind
from batchrunner.transport.connection import DEFAULT_TIMEOUTS, Connection, Timeouts, TransportError
from batchrunner.transport.drivers import Driver, Link, LinkBroken
from batchrunner.transport.origin import Origin
from batchrunner.transport.reply_budget import ReplyBudget
from batchrunner.transport.sockets import SocketDriver

#: Common front ends close an idle connection after 60 s (load balancers) or 75 s (nginx). Closing first avoids the race
#: in which a request meets the server's close on the way; a server that closes sooner is noticed when the connection is met.
IDLE_SECONDS = 55.0

#: how many connections that have been idle for too long are closed each time that one is asked for: twice what one exchange
#: can add, so that the stack shrinks, at a constant cost
TRIM_COUNT = 2


class PoolStatistics(msgspec.Struct, frozen=True):
    """Where a pool stands. The last five count from its beginning."""

    idle: int
    #: held by an exchange, or by a caller that is about to begin one
    active: int
    #: being opened
    connecting: int
    opened: int
    reused: int
    closed: int
    #: idle connections that turned out to have been closed by the server when they were met
    stale_found: int
    #: connections that could not be opened
    refused: int


class Pool:
    """Keep-alive connections to one origin.

    The connection used last is used first, so that the surplus of a busy time grows old together and is closed after
    `idle_seconds`. No limit on their number: who may start a request is decided before a connection is asked for.

    `driver` opens connections, by default real ones (with `ssl_context` for https; by default certificates are checked
    against the machine's store). `reply_budget` may be shared by several pools. One trio run uses a pool, from any task.
    """

    def __init__(
        self,
        origin: Origin,
        driver: Driver | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        idle_seconds: float = IDLE_SECONDS,
        reply_budget: ReplyBudget | None = None,
    ) -> None:
        self.origin = origin
        self.reply_budget = reply_budget if reply_budget is not None else ReplyBudget()
        self._driver: Driver = driver if driver is not None else SocketDriver(origin, ssl_context)
        self._idle_seconds = idle_seconds
        #: links and when they became idle, the oldest first
        self._idle: deque[tuple[Link, float]] = deque()
        self._active: dict[Connection, Link] = {}
        self._is_closed = False
        self._connecting = self._opened = self._reused = self._closed = self._stale_found = self._refused = 0

    async def connect(self, timeouts: Timeouts = DEFAULT_TIMEOUTS, *, fresh: bool = False) -> Connection:
        """A connection for one exchange: the idle one used last that is still alive, else a new one.

        `fresh`: a new one in any case, for a request that an old one has failed. Only opening waits.

        Raises: TransportError (CONNECT, CONNECT_TIMEOUT); trio.ClosedResourceError after `aclose`.
        """
        if self._is_closed:
            raise trio.ClosedResourceError("the pool is closed")
        now = trio.current_time()
        self._trim(now)
        while self._idle and not fresh:
            link, since = self._idle.pop()
            if now - since > self._idle_seconds:
                self._close(link)
            elif link.alive():
                self._reused += 1
                return self._hold(link, reused=True)
            else:
                self._stale_found += 1
                self._close(link)
        return self._hold(await self._open(timeouts.connect_seconds), reused=False)

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            idle=len(self._idle),
            active=len(self._active),
            connecting=self._connecting,
            opened=self._opened,
            reused=self._reused,
            closed=self._closed,
            stale_found=self._stale_found,
            refused=self._refused,
        )

    async def aclose(self) -> None:
        """Close every connection, idle or not. An exchange that was under way fails; nothing can be opened any more."""
        self._is_closed = True
        while self._idle:
            self._close(self._idle.pop()[0])
        for link in self._active.values():
            link.close()
        await trio.lowlevel.checkpoint()

    # For connections.

    def give_back(self, connection: Connection, link: Link) -> None:
        """Take a clean link back for the next request."""
        del self._active[connection]
        if self._is_closed:
            self._close(link)
            return
        self._idle.append((link, trio.current_time()))

    def discard(self, connection: Connection, link: Link) -> None:
        """Close a link that must not be used again."""
        del self._active[connection]
        self._close(link)

    async def _open(self, connect_seconds: float) -> Link:
        self._connecting += 1
        link: Link | None = None
        kind, why = FailureKind.CONNECT_TIMEOUT, f"no connection within {connect_seconds:g} s"
        try:
            with trio.move_on_after(connect_seconds):
                link = await self._driver.open()
        except LinkBroken as broken:
            kind, why = FailureKind.CONNECT, str(broken)
        finally:
            self._connecting -= 1
        if link is None:
            self._refused += 1
            raise TransportError(Failure(kind, f"cannot connect to {self.origin}: {why}", sent=False))
        self._opened += 1
        if self._is_closed:
            self._close(link)
            raise trio.ClosedResourceError("the pool was closed")
        return link

    def _hold(self, link: Link, *, reused: bool) -> Connection:
        connection = Connection(self, link, reused=reused)
        self._active[connection] = link
        return connection

    def _trim(self, now: float) -> None:
        oldest_allowed = now - self._idle_seconds
        for _ in range(TRIM_COUNT):
            if not self._idle or self._idle[0][1] >= oldest_allowed:
                return
            self._close(self._idle.popleft()[0])

    def _close(self, link: Link) -> None:
        self._closed += 1
        link.close()
