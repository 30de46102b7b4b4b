"""Questions to the control plane: a GET through the run's own transport, tried a few times, by whichever key is taken.

What is not asked again: what the server refuses (any 4xx but 408, 425 and 429), and what will not change (a reply that is
too large, or compressed). A 401 is asked once more with each further key of the account: keys die while others live on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

import trio

from batchrunner.errors import AccountError, UnreachableError
from batchrunner.exchange import Reply
from batchrunner.heads import Heads
from batchrunner.outcome import NO_CONNECTION, PERMANENT_FAILURES, read_error
from batchrunner.platform.answers import read_answer
from batchrunner.retry_after import retry_after_ns
from batchrunner.transport import Pool, Timeouts, TransportError

#: Seconds to wait before each further try. A server that is just coming up, or an account that is busy, gets its moment.
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
#: A server that says when it wants to be asked again is believed so far: somebody is waiting for the answer.
LONGEST_PAUSE_SECONDS = 60.0
TRIED_AGAIN_STATUSES = frozenset({408, 425, 429})
#: These are lists and records: what takes longer than this is not going to come.
TIMEOUTS = Timeouts(connect_seconds=5, write_seconds=5, first_byte_seconds=15, between_bytes_seconds=15, attempt_seconds=30)
#: An answer is held in memory, twice for a moment.
MAX_REPLY_BYTES = 32 << 20
#: of the server's own words
LONGEST_WORDS = 200
NS_PER_SECOND = 1_000_000_000

_NO_QUERY: Mapping[str, str] = {}
#: what to do about a status
_REMEDIES = {
    401: "Give a key that is valid for this server.",
    402: "Top up the account.",
    403: "Use a key that may read this.",
    404: "Check --base-url: this server may not have it.",
    408: "Try again later.",
    425: "Try again later.",
    429: "The account is busy: try again later.",
}


class RefusedError(AccountError):
    """The server answered, and not with what was asked for."""

    def __init__(self, message: str, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        #: as the server spelt it
        self.code = code


class ControlPlane:
    """One account's way to ask its server. `say` gets a line when an answer takes longer than one try.

    Every method's `what` names the thing in messages: "the catalog". No message holds a key or a body.
    """

    def __init__(self, pool: Pool, heads: Heads, say: Callable[[str], None]) -> None:
        self._pool = pool
        self._heads = heads
        self._say = say
        #: the key that goes out: the first that was not refused
        self._key = 0

    async def get(self, path: str, query: Mapping[str, str] = _NO_QUERY, *, what: str) -> bytes:
        """The body of the answer, status 200, whatever it holds. `path` begins with `/v1/`.

        Raises: UnreachableError where no connection can be had; RefusedError for any other status; AccountError where no
        whole answer comes.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        for number, pause_seconds in enumerate(PAUSES_SECONDS):
            try:
                return await self._try(target, what)
            except _NotNowError as trouble:
                if number == 0:
                    self._say(f"{trouble.error} Trying again.")
                wait_seconds = max(pause_seconds, trouble.wait_seconds)
            await trio.sleep(wait_seconds)
        try:
            return await self._try(target, what)
        except _NotNowError as last:
            raise last.error from last

    async def get_json(self, path: str, query: Mapping[str, str] = _NO_QUERY, *, what: str) -> Any:
        """The answer as JSON, numbers that are no integers as Decimal. Raises as `get`; AccountError where it is no JSON."""
        return read_answer(await self.get(path, query, what=what), what)

    async def _try(self, target: str, what: str) -> bytes:
        """One try with each key that is left, as long as they are refused."""
        while True:
            reply = await self._exchange(target, what)
            if reply.status == 200:
                return reply.body
            error = _refusal(reply, what)
            if reply.status >= 500 or reply.status in TRIED_AGAIN_STATUSES:
                # A moment is read against the server's own clock, where it names one; else it is as far as we go.
                raise _NotNowError(error, (retry_after_ns(reply, 0) or 0) / NS_PER_SECOND)
            if reply.status != 401 or self._key + 1 >= self._heads.key_count:
                raise error
            self._key += 1

    async def _exchange(self, target: str, what: str) -> Reply:
        try:
            connection = await self._pool.connect(TIMEOUTS)
            head = self._heads.get(target, self._key)
            return self._heads.without_keys(await connection.exchange(head, b"", TIMEOUTS, max_body_bytes=MAX_REPLY_BYTES))
        except TransportError as error:
            failure = self._heads.failure_without_keys(error.failure)
            message = f"{what} cannot be fetched: {failure.message}."
            if failure.kind in PERMANENT_FAILURES:
                raise AccountError(message) from None
            raise _NotNowError((UnreachableError if failure.kind in NO_CONNECTION else AccountError)(message)) from None


class _NotNowError(Exception):
    """Worth another try, after so long at least; `error` where there is none left."""

    def __init__(self, error: AccountError, wait_seconds: float = 0.0) -> None:
        self.error = error
        self.wait_seconds = min(wait_seconds, LONGEST_PAUSE_SECONDS)


def _refusal(reply: Reply, what: str) -> RefusedError:
    """What the server said, in few words: a page of HTML says nothing."""
    said = read_error(reply.body)
    message = None if said.message is None else " ".join(said.message.split())[:LONGEST_WORDS]
    words = ": ".join(part for part in (said.code, message) if part)
    remedy = _REMEDIES.get(reply.status, "Try again later." if reply.status >= 500 else "")
    return RefusedError(
        f"{what} cannot be fetched: the server answered with status {reply.status}{words and f' ({words})'}. {remedy}".rstrip(),
        reply.status,
        said.code,
    )
