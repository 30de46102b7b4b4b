"""Fetching the catalog: one GET through the run's own transport, tried a few times."""

from __future__ import annotations

import trio

from batchrunner.errors import AccountError
from batchrunner.exchange import Reply
from batchrunner.heads import Heads
from batchrunner.platform.catalog import Catalog
from batchrunner.transport import Pool, Timeouts, TransportError

CATALOG_PATH = "/v1/models"
TRIES = 3
PAUSE_SECONDS = 0.5
#: A catalog is a list: what takes longer than this is not going to come.
TIMEOUTS = Timeouts(connect_seconds=5, write_seconds=5, first_byte_seconds=15, between_bytes_seconds=15, attempt_seconds=30)


async def fetch_catalog(pool: Pool, heads: Heads, *, fetched_at: str) -> Catalog:
    """The models on offer with their prices, as of `fetched_at`.

    Raises: AccountError where the server does not answer, or not with a catalog.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            connection = await pool.connect(TIMEOUTS)
            reply = await connection.exchange(heads.get(CATALOG_PATH), b"", TIMEOUTS)
        except TransportError as error:
            if not tries_left:
                raise AccountError(f"the catalog cannot be fetched: {error.failure.message}.") from error
        else:
            if reply.status < 500 or not tries_left:
                return _parse(reply, fetched_at)
        await trio.sleep(PAUSE_SECONDS)
    raise AssertionError("the last try ends the loop")


def _parse(reply: Reply, fetched_at: str) -> Catalog:
    if reply.status != 200:
        raise AccountError(f"the catalog cannot be fetched: the server answered with status {reply.status}.")
    return Catalog.parse(reply.body, fetched_at=fetched_at)
