"""One request over one connection: its head with the key, its reply without any, a stream put together as it comes."""

from __future__ import annotations

import msgspec

from batchrunner.clock import NS_PER_SECOND, Clock
from batchrunner.exchange import Failure, FailureKind, Reply
from batchrunner.flight import Flight
from batchrunner.parts import AccountParts, Parts
from batchrunner.streaming import STREAMED_URLS, Stream, stream_for
from batchrunner.transport import Timeouts, TransportError

#: a question is answered at once, but its answer may be a film in base64
QUESTION_SECONDS = 300.0


class Listener:
    """Takes the body of an answer that comes as a stream, and notes when its first words came."""

    def __init__(self, url: str, clock: Clock) -> None:
        #: None where the answer is not streamed
        self.stream: Stream | None = None
        self.first_words_ns: int | None = None
        self._url = url
        self._clock = clock

    def begin(self) -> Listener:
        """The answer's head says that a stream follows."""
        self.stream = stream_for(self._url)
        return self

    @property
    def held_bytes(self) -> int:
        return 0 if self.stream is None else self.stream.held_bytes

    @property
    def began(self) -> bool:
        return self.first_words_ns is not None

    @property
    def complete(self) -> bool:
        return self.stream is not None and self.stream.complete

    def feed(self, piece: bytes) -> None:
        assert self.stream is not None
        self.stream.feed(piece)
        if self.first_words_ns is None and self.stream.began:
            self.first_words_ns = self._clock.monotonic_ns()


class Sending:
    """Sends the requests of one account. Nothing of a reply is seen before our keys are blotted out of it."""

    def __init__(self, parts: Parts, account: AccountParts) -> None:
        self._parts = parts
        self._account = account

    async def post(self, flight: Flight, *, fresh: bool) -> Reply | Failure:
        """Send a job; `fresh`: on a new connection in any case. A streamed answer comes back as the object that it adds up to."""
        job, heads = flight.job, self._account.heads
        timeouts = Timeouts(attempt_seconds=job.extras.timeout or self._parts.options.timeout_seconds)
        listener = Listener(job.url, self._parts.clock)
        try:
            await self._refresh(flight, timeouts, fresh=fresh)
            head = heads.head(job, flight.key, flight.idempotency_key)
            stream = listener.begin if job.url in STREAMED_URLS else None
            reply = await flight.connection.exchange(head, job.body, timeouts, stream=stream)
        except TransportError as error:
            return heads.failure_without_keys(error.failure)
        if listener.stream is None:
            return heads.without_keys(reply)
        if listener.first_words_ns is not None:
            flight.first_token_seconds = (listener.first_words_ns - flight.began_ns) / NS_PER_SECOND
        if not listener.stream.end():
            message = f"{self._account.pool.origin}: the stream ended before the answer did"
            return Failure(FailureKind.TRUNCATED, message, sent=True, status=reply.status)
        return heads.without_keys(msgspec.structs.replace(reply, body=listener.stream.body()))

    async def ask(self, flight: Flight, path: str) -> Reply | Failure:
        """Ask for what the server works on, at a path of its own."""
        heads = self._account.heads
        timeouts = Timeouts(attempt_seconds=min(QUESTION_SECONDS, self._parts.options.timeout_seconds))
        try:
            await self._refresh(flight, timeouts, fresh=False)
            return heads.without_keys(await flight.connection.exchange(heads.get(path, flight.key.number), b"", timeouts))
        except TransportError as error:
            return heads.failure_without_keys(error.failure)

    async def _refresh(self, flight: Flight, timeouts: Timeouts, *, fresh: bool) -> None:
        """Replace a connection that went stale while we waited for the slot; nothing was written, so that nothing is lost."""
        if fresh or not flight.connection.alive():
            flight.connection.close()
            flight.connection = await self._account.pool.connect(timeouts, fresh=True)
