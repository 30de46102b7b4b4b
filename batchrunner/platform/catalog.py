"""Fetching the catalog."""

from __future__ import annotations

from collections.abc import Callable

from batchrunner.catalog import entries
from batchrunner.errors import AccountError
from batchrunner.heads import Heads
from batchrunner.platform.control import ControlPlane
from batchrunner.transport import Pool

CATALOG_PATH = "/v1/models"


async def fetch_catalog(pool: Pool, heads: Heads, *, say: Callable[[str], None]) -> bytes:
    """The models on offer, in the server's own bytes. `say` gets a line when it takes longer than one try.

    Raises: UnreachableError where there is no connection; AccountError where the server does not answer, or not with a
    catalog that names a model.
    """
    catalog = await ControlPlane(pool, heads, say).get(CATALOG_PATH, what="the catalog")
    if not entries(catalog):
        raise AccountError("the catalog names no model.")
    return catalog
