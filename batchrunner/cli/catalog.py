"""A server's catalog: asked for, or as it was kept when the server was last asked."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import platformdirs
import trio

from batchrunner.account import Account
from batchrunner.cli.output import say
from batchrunner.clock import Clock
from batchrunner.costs import timestamp
from batchrunner.errors import UsageError
from batchrunner.heads import Heads
from batchrunner.platform.catalog import fetch_catalog
from batchrunner.platform.catalog_cache import CatalogCache, Kept
from batchrunner.transport import Origin, Pool

#: Prices change seldom, and a spend cap may rest on those of a day ago. On older ones it would be a promise to nobody.
TRUSTED_SECONDS: Final = 86_400.0


def fetch(account: Account, clock: Clock, *, keep: bool = True) -> Kept:
    """What the account's server offers now, kept for later. `say` tells people of trouble.

    Raises: UnreachableError where there is no connection; AccountError where no catalog comes.
    """
    origin = Origin.parse(account.base_url)
    catalog = Kept(trio.run(_fetch, origin, account), timestamp(clock.wall_ns()))
    if keep:
        cache().keep(origin, catalog)
    return catalog


def kept(account: Account) -> Kept:
    """What the account's server offered when it was last asked. Raises: UsageError where that is not known."""
    origin = Origin.parse(account.base_url)
    found = cache().find(origin)
    if found is None:
        raise UsageError(f"no catalog of {origin} is kept on this machine: leave --offline out, to ask for it.")
    return found


def cache() -> CatalogCache:
    """Where this user's catalogs are kept."""
    return CatalogCache(Path(platformdirs.user_cache_dir("batchrun")) / "catalogs", say)


async def _fetch(origin: Origin, account: Account) -> bytes:
    pool = Pool(origin)
    try:
        return await fetch_catalog(pool, Heads(origin, account.keys, auth=account.auth, headers=account.headers), say=say)
    finally:
        await pool.aclose()
