"""One exchange over one connection: phases, their timeouts, and what each way of failing is called.

A `Connection` is the use of an open link for a single exchange. The link outlives it: a clean exchange gives it back to
the pool, anything else closes it. So a caller that keeps a Connection too long can disturb nobody.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Protocol

import msgspec
import trio

from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.transport.drivers import Link, LinkBroken
from batchrunner.transport.origin import Origin
from batchrunner.transport.reply_budget import ReplyBudget, Share
from batchrunner.transport.taking import MAX_STREAM_BYTES, BodyTaker
from batchrunner.transport.wire import MAX_BODY_BYTES, ReplyParser, WireError

#: a body up to this size is joined to its head: one system call and one packet train instead of two
JOIN_BYTES = 128 << 10

#: how long to look for an answer after writing failed; what the server said before it closed is there already
LATE_ANSWER_SECONDS = 2.0

#: a stream that has said all is given this long to end as HTTP wants it, so that its connection can be used again
LINGER_SECONDS = 1.0

#: held unused for longer than this, a connection is as likely to have been closed as one that was kept alive
FRESH_SECONDS = 1.0


class Timeouts(msgspec.Struct, frozen=True):
    """How long each phase of an attempt may take, in seconds; `math.inf` for no limit.

    Waiting for the memory of other replies counts toward `attempt_seconds` alone.
    """

    #: name, TCP and TLS together
    connect_seconds: float = 10.0
    #: until the whole request is handed to the kernel
    write_seconds: float = 60.0
    #: from there to the first byte of the answer; a model thinks in this phase, so it has only the attempt's limit
    first_byte_seconds: float = math.inf
    #: between two reads of the answer
    between_bytes_seconds: float = 120.0
    #: the whole exchange on an open connection, a little above the platform's own 15 minutes
    attempt_seconds: float = 960.0


DEFAULT_TIMEOUTS = Timeouts()

_WORDS = {
    FailureKind.WRITE_TIMEOUT: "the request could not be sent in time",
    FailureKind.FIRST_BYTE_TIMEOUT: "no answer began in time",
    FailureKind.BETWEEN_BYTES_TIMEOUT: "the answer stopped half-way",
    FailureKind.ATTEMPT_TIMEOUT: "the answer was not complete within the time for one attempt",
}


class TransportError(Exception):
    """No whole reply came; `failure` says how."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


class Owner(Protocol):
    """Whom a connection belongs to: the pool."""

    origin: Origin
    reply_budget: ReplyBudget

    def give_back(self, connection: Connection, link: Link) -> None: ...

    def discard(self, connection: Connection, link: Link) -> None: ...


class Connection:
    """An open connection, held for one exchange by one task.

    Use `exchange` once, or `release` it unused.
    """

    __slots__ = ("_fresh_until", "_link", "_owner", "_spent", "reused", "started")

    def __init__(self, owner: Owner, link: Link, *, reused: bool) -> None:
        link.sent = False
        #: it has carried an exchange before
        self.reused = reused
        #: a byte of the request has, or may have, been handed to the kernel
        self.started = False
        self._fresh_until = -math.inf if reused else trio.current_time() + FRESH_SECONDS
        self._owner = owner
        self._link = link
        self._spent = False

    def alive(self) -> bool:
        """Whether the server has kept a connection open, and silent, that is held unused. One system call."""
        return not self._spent and self._link.alive()

    def release(self) -> None:
        """Give back a connection that carried nothing. After an exchange, or a second time, this does nothing."""
        if not self._spent:
            self._end(clean=True)

    def close(self) -> None:
        """Close it instead of giving it back. After an exchange this does nothing."""
        if not self._spent:
            self._end(clean=False)

    async def exchange(
        self,
        head: bytes,
        body: bytes = b"",
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_stream_bytes: int = MAX_STREAM_BYTES,
        stream: Callable[[], BodyTaker] | None = None,
        of_any_type: bool = False,
    ) -> Reply:
        """Send a request and return the whole reply, whatever its status.

        Where a success comes as a stream of events (`of_any_type`: however it comes), what `stream` makes takes its body, and the
        reply has none; it may be of `max_stream_bytes`.

        `head` comes from `wire.Head` or `wire.request_head`, with the body's length. The connection is spent afterwards:
        back in the pool where it may carry another exchange, closed where anything was unclean, also when cancelled.

        Raises: TransportError. Its failure's `sent` is false only if the server cannot have seen any of it.
        """
        if self._spent:
            raise RuntimeError("a connection carries one exchange: get another from the pool")
        parser = ReplyParser(
            max_body_bytes=max_body_bytes, max_stream_bytes=max_stream_bytes, stream=stream, of_any_type=of_any_type
        )
        clean = False
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            wrote_all = await self._converse(head, body, parser, timeouts)
            clean = wrote_all and parser.keep_alive
        finally:
            parser.end()
            self._end(clean=clean)
        return parser.reply

    async def _converse(self, head: bytes, body: bytes, parser: ReplyParser, timeouts: Timeouts) -> bool:
        """Write, then read until the parser is complete. Whether the server took the whole request.

        Raises: TransportError.
        """
        broken: str | None = None
        stood_idle = trio.current_time() > self._fresh_until
        try:
            unsent = self._send_now(head, body)
        except LinkBroken as cause:
            phases, broken = _Phases(timeouts, writing=True), str(cause)
        else:
            phases = _Phases(timeouts, writing=bool(unsent))
            try:
                with phases.scope:  # entered late: the usual request is on its way by now, and its one deadline is set
                    if unsent:
                        await self._write(unsent, phases)
                    await self._read(parser, phases)
            except LinkBroken as cause:
                broken = str(cause)
            except WireError as error:
                if not parser.answered:
                    raise self._error(error.kind, str(error), parser) from None
        if parser.answered or (phases.writing and await self._read_late_answer(parser, phases)):
            return not phases.writing
        if broken is None:
            raise self._error(phases.timeout, _WORDS[phases.timeout], parser)
        if stood_idle and not parser.started:
            raise self._error(FailureKind.STALE, f"the server had closed this idle connection ({broken})", parser)
        raise self._error(FailureKind.WRITE if phases.writing else FailureKind.READ, broken, parser)

    def _send_now(self, head: bytes, body: bytes) -> list[memoryview]:
        """Hand over what goes without waiting; the pieces that are left."""
        first = head + body if len(body) <= JOIN_BYTES else head
        count = self._link.send_now(first)
        if first is not head and count == len(first):
            return []
        unsent = [memoryview(first)[count:]] if count < len(first) else []
        if len(body) > JOIN_BYTES:
            unsent.append(memoryview(body))
        return unsent

    async def _write(self, pieces: list[memoryview], phases: _Phases) -> None:
        for piece in pieces:
            await self._link.send_all(piece)
        phases.writing = False
        phases.enter(FailureKind.FIRST_BYTE_TIMEOUT, phases.timeouts.first_byte_seconds)

    async def _read(self, parser: ReplyParser, phases: _Phases) -> None:
        """Feed the parser until it is complete.

        Raises: LinkBroken, WireError.
        """
        receive_some = self._link.receive_some
        budget = self._owner.reply_budget
        share: Share | None = None
        lingers = False
        try:
            while True:
                data = await receive_some()
                if not data:
                    if not parser.started:
                        raise LinkBroken("the server closed the connection without an answer")
                    parser.eof()
                    return
                if parser.feed(data):
                    return
                if share is None:
                    share = Share()
                if not budget.may_read(share, parser.held_bytes):
                    phases.enter(FailureKind.ATTEMPT_TIMEOUT, math.inf)
                    await budget.wait(share)
                if parser.thinking:  # the head of a stream comes at once, and says nothing of when its words will
                    phases.enter(FailureKind.FIRST_BYTE_TIMEOUT, phases.timeouts.first_byte_seconds)
                    continue
                if not parser.answered:
                    phases.enter(FailureKind.BETWEEN_BYTES_TIMEOUT, phases.timeouts.between_bytes_seconds)
                elif not lingers:  # in all, however much still comes
                    lingers = True
                    phases.enter(FailureKind.BETWEEN_BYTES_TIMEOUT, LINGER_SECONDS)
        finally:
            if share is not None:
                budget.free(share)

    async def _read_late_answer(self, parser: ReplyParser, phases: _Phases) -> bool:
        """Whether the server answered although it would not read the whole request: a 413 says more than a broken pipe."""
        with trio.move_on_after(LATE_ANSWER_SECONDS), contextlib.suppress(LinkBroken, WireError):
            await self._read(parser, phases)
        return parser.answered

    def _error(self, kind: FailureKind, message: str, parser: ReplyParser) -> TransportError:
        return TransportError(Failure(kind, f"{self._owner.origin}: {message}", sent=self._link.sent, status=parser.status))

    def _end(self, *, clean: bool) -> None:
        self._spent = True
        self.started = self._link.sent
        if clean:
            self._owner.give_back(self, self._link)
        else:
            self._owner.discard(self, self._link)


class _Phases:
    """The one deadline of an exchange, moved from phase to phase, and what it means if it passes.

    Five nested cancel scopes would say the same at five times the cost.
    """

    __slots__ = ("_attempt_end", "scope", "timeout", "timeouts", "writing")

    def __init__(self, timeouts: Timeouts, *, writing: bool) -> None:
        self.timeouts = timeouts
        #: some of the request is still to be handed to the kernel
        self.writing = writing
        now = trio.current_time()
        self._attempt_end = now + timeouts.attempt_seconds
        if writing:
            self.timeout, deadline = FailureKind.WRITE_TIMEOUT, now + timeouts.write_seconds
        else:
            self.timeout, deadline = FailureKind.FIRST_BYTE_TIMEOUT, now + timeouts.first_byte_seconds
        if deadline >= self._attempt_end:
            self.timeout, deadline = FailureKind.ATTEMPT_TIMEOUT, self._attempt_end
        self.scope = trio.CancelScope(deadline=deadline)

    def enter(self, timeout: FailureKind, seconds: float) -> None:
        """Begin a phase that may take `seconds`, and no longer than the attempt."""
        deadline = trio.current_time() + seconds
        if deadline >= self._attempt_end:
            timeout, deadline = FailureKind.ATTEMPT_TIMEOUT, self._attempt_end
        self.timeout = timeout
        self.scope.deadline = deadline
