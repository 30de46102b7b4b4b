"""Fetching the catalog."""

from __future__ import annotations

from collections.abc import Callable

from batchrunner.errors import AccountError
from batchrunner.heads import Heads
from batchrunner.platform.control import ControlPlane
from batchrunner.pricing import PriceTable
from batchrunner.transport import Pool

CATALOG_PATH = "/v1/models"


async def fetch_prices(pool: Pool, heads: Heads, *, fetched_at: str, say: Callable[[str], None]) -> PriceTable:
    """The prices of the models on offer, as of `fetched_at`. `say` gets a line when it takes longer than one try.

    Raises: UnreachableError where there is no connection; AccountError where the server does not answer, or not with a
    catalog that names a model.
    """
    catalog = await ControlPlane(pool, heads, say).get(CATALOG_PATH, what="the catalog")
    prices = PriceTable.from_catalog(catalog, fetched_at=fetched_at)
    if not prices.prices:
        raise AccountError("the catalog names no model.")
    return prices
