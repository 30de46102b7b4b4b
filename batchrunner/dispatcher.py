"""Sends one account's requests: a ticket, a connection, a task for each, until nothing is left that it could send."""

from __future__ import annotations

from collections.abc import Callable, Collection

import trio

from batchrunner.admission import Admission
from batchrunner.attempts import Attempts
from batchrunner.balances import BalanceWatch
from batchrunner.budget import Change, Limits
from batchrunner.clock import NS_PER_SECOND
from batchrunner.crew import Crew
from batchrunner.errors import BatchrunError
from batchrunner.fair import FairQueue
from batchrunner.flight import Common
from batchrunner.lanes import Lanes
from batchrunner.lifecycle import State
from batchrunner.parts import AccountParts, Parts
from batchrunner.retries import RetryBudget
from batchrunner.status import StoppedBy
from batchrunner.transport import Connection, TransportError

#: A server that was never reached for this long is taken for a wrong address.
UNREACHED_SECONDS = 30.0
CONNECT_BACKOFF_BASE_SECONDS = 0.5
CONNECT_BACKOFF_CAP_SECONDS = 30.0
UNREACHED_BACKOFF_CAP_SECONDS = 4.0


class Dispatcher:
    """The one task that takes an account's tickets. `stop` is told why nothing more can succeed, `unusable` why the job file
    cannot be gone on with.
    """

    def __init__(
        self,
        parts: Parts,
        account: AccountParts,
        lanes: Lanes,
        common: Common,
        retries: RetryBudget,
        *,
        stop: Callable[[StoppedBy, str], None],
        unusable: Callable[[BatchrunError], None],
        crew: Crew | None,
        foreign: Collection[str],
        max_in_flight: int,
        most_held: int,
    ) -> None:
        self.account = account
        #: what holds now: limits change in mid-run
        self.limits = account.limits
        #: waits for the server to be there
        self.connecting = False
        self._parts = parts
        self._alone = crew is None
        self._stop = stop
        self._unusable = unusable
        self.attempts = Attempts(parts, account, common, stop)
        self._queue = FairQueue(
            lanes.all,
            lanes.of,
            limits=account.limits,
            retries=retries,
            foreign=foreign,
            most_held=most_held,
            # Whoever submitted it asks for it: another account's key would find nothing there.
            asks=lambda number: parts.index.state[number] == State.SUBMITTED,
        )
        self.admission = Admission(
            account.store,
            self._queue,
            parts.clock,
            load=self.attempts.load,
            look=self.attempts.look,
            expect=self.attempts.expect,
            due=self.attempts.due,
            hopeless=self.attempts.hopeless,
            max_in_flight=max_in_flight,
            tpm=account.limits.tpm,
            rng=parts.rng,
            crew=crew,
        )
        self.balance = BalanceWatch(
            account.balance,
            self.attempts.credit,
            parts.clock,
            waits=parts.options.wait_for_credits,
            billed_usd=lambda: parts.tally.billed_usd,
            changed=self.admission.wake,
        )
        self._reached = False
        self._unreached_since_ns = account.unreached_since_ns
        #: in a row
        self._failures = 0
        self._resigned = False
        self._stopping = trio.Event()
        self._opening = trio.CancelScope()

    async def run(self) -> None:
        """Send until nothing is left to send. What is in flight is waited for, also where the job file proves unusable."""
        self.attempts.check_failures()
        self.attempts.resume(self.admission)
        async with trio.open_nursery() as flights:
            while await self.admission.ready():
                # Opened before its slot is due: a handshake must not make a send late, nor a dead server cost a job.
                connection = await self._connect()
                if connection is None:
                    continue  # others may have done all meanwhile, or it is over, of which they are told there
                try:
                    ticket = await self.admission.admit()
                except BatchrunError as error:
                    self._unusable(error)
                    ticket = None
                if ticket is None:
                    connection.release()
                    break
                flight = self.attempts.begin(ticket, connection)
                flights.start_soon(self.attempts.carry_out, flight, self.admission)
                await trio.lowlevel.checkpoint()  # nothing above need have waited

    async def adopt(self, limits: Limits) -> None:
        """Go by other limits from now on: the next request is sent under these."""
        self.limits = limits
        await self.account.store.step(self._parts.clock.monotonic_ns(), Change(limits))
        self.attempts.adopt(limits)
        self.admission.adopt(limits)

    def drain(self) -> None:
        """Admit nothing more; what is in flight goes on to its end."""
        self._stopping.set()
        self._opening.cancel()
        self.admission.close()

    def resign(self, *, asks: bool) -> None:
        """Leave all that others can send to them. With `asks` the server is still asked for what it works on here."""
        self._resigned = True
        if not asks:
            self.drain()
        self.admission.resign(asks=asks)

    @property
    def over(self) -> bool:
        """Sends no job any more."""
        return self._resigned or self._stopping.is_set()

    async def _connect(self) -> Connection | None:
        """An open connection; None where there is none yet, after a while, or the run is stopping."""
        try:
            with trio.CancelScope() as self._opening:
                connection = await self.account.pool.connect()
            if self._opening.cancelled_caught:
                return None
        except TransportError as error:
            await self._failed(error.failure.message)
            return None
        self._reached = True
        self._failures = 0
        self.connecting = False
        return connection

    async def _failed(self, message: str) -> None:
        """Wait before the next try. A server that was there before may take its time, one that never was may not."""
        now_ns = self._parts.clock.monotonic_ns()
        if self._unreached_since_ns is None:
            self._unreached_since_ns = now_ns
        if not self._reached and now_ns - self._unreached_since_ns >= UNREACHED_SECONDS * NS_PER_SECOND:
            self._stop("unreachable", message)
            return
        self._failures += 1
        if self._failures == 1:
            self._parts.say(f"{message}; trying again")
        self.connecting = True
        if not self._alone:
            self._queue.surrender()  # jobs that came back from here need not wait for this server
        cap = CONNECT_BACKOFF_CAP_SECONDS if self._reached else UNREACHED_BACKOFF_CAP_SECONDS
        ceiling = min(cap, CONNECT_BACKOFF_BASE_SECONDS * 2 ** min(self._failures, 10))
        with trio.move_on_after(self._parts.rng.uniform(ceiling / 2, ceiling)):
            await self._stopping.wait()
