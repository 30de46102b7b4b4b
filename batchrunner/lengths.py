"""What a run learns of lengths outlives it: it is kept beside each of the run's accounts, for whichever run is the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from batchrunner.account_store import AccountStore
from batchrunner.estimate import Estimator

#: What was learned in this time is lost with a process that is killed.
KEEP_SECONDS: Final = 60.0


def known(stores: Sequence[AccountStore]) -> Estimator:
    """What earlier runs have learned under the first of these accounts that knows anything."""
    return next((lengths for store in stores if (lengths := store.lengths()) is not None), None) or Estimator()


async def keep(lengths: Estimator, stores: Sequence[AccountStore]) -> None:
    """Have lengths kept as they are every minute until cancelled, and once more then."""
    try:
        while True:
            await trio.sleep(KEEP_SECONDS)
            _keep(lengths, stores)
    finally:
        _keep(lengths, stores)


def _keep(lengths: Estimator, stores: Sequence[AccountStore]) -> None:
    for store in stores:
        store.keep_lengths(lengths)
