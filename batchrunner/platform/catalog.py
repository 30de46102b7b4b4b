"""Fetching the catalog: one GET through the run's own transport, tried a few times."""

from __future__ import annotations

from collections.abc import Callable

import trio

from batchrunner.catalog import entries
from batchrunner.errors import AccountError, UnreachableError
from batchrunner.heads import Heads
from batchrunner.outcome import NO_CONNECTION, PERMANENT_FAILURES
from batchrunner.transport import Pool, Timeouts, TransportError

CATALOG_PATH = "/v1/models"
#: Seconds to wait before each further try. A server that is just coming up, or an account that is busy, gets its moment.
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
TRIED_AGAIN_STATUSES = frozenset({408, 425, 429})
#: A catalog is a list: what takes longer than this is not going to come.
TIMEOUTS = Timeouts(connect_seconds=5, write_seconds=5, first_byte_seconds=15, between_bytes_seconds=15, attempt_seconds=30)


async def fetch_catalog(pool: Pool, heads: Heads, *, say: Callable[[str], None]) -> bytes:
    """The models on offer, in the server's own bytes. `say` gets a line when it takes longer than one try.

    Raises: UnreachableError where there is no connection; AccountError where the server does not answer, or not with a
    catalog that names a model.
    """
    for number, pause_seconds in enumerate(PAUSES_SECONDS):
        try:
            return await _try(pool, heads)
        except _NotNowError as trouble:
            if number == 0:
                say(f"{trouble.error} Trying again.")
        await trio.sleep(pause_seconds)
    try:
        return await _try(pool, heads)
    except _NotNowError as last:
        raise last.error from last


class _NotNowError(Exception):
    """Worth another try; `error` where there is none left."""

    def __init__(self, error: AccountError) -> None:
        self.error = error


async def _try(pool: Pool, heads: Heads) -> bytes:
    try:
        connection = await pool.connect(TIMEOUTS)
        reply = heads.without_keys(await connection.exchange(heads.get(CATALOG_PATH), b"", TIMEOUTS))
    except TransportError as error:
        failure = heads.failure_without_keys(error.failure)
        message = f"the catalog cannot be fetched: {failure.message}."
        if failure.kind in PERMANENT_FAILURES:
            raise AccountError(message) from None
        raise _NotNowError((UnreachableError if failure.kind in NO_CONNECTION else AccountError)(message)) from None
    refusal = AccountError(f"the catalog cannot be fetched: the server answered with status {reply.status}.")
    if reply.status >= 500 or reply.status in TRIED_AGAIN_STATUSES:
        raise _NotNowError(refusal)
    if reply.status != 200:
        raise refusal
    if not entries(reply.body):
        raise AccountError("the catalog names no model.")
    return reply.body
