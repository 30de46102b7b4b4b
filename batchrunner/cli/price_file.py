"""`--prices FILE`: a price list of one's own, for servers that have no catalog."""

from __future__ import annotations

import os

from batchrunner.costs import timestamp
from batchrunner.errors import AccountError, UsageError
from batchrunner.pricing import PriceTable

_REMEDY = (
    'Write {"MODEL": {"prompt": "0.00000015", "completion": "0.0000006"}}, in USD per token, or what GET /v1/models answers; '
    "or leave --prices out."
)


def read_prices(path: str) -> PriceTable:
    """The prices in a file, with the date of its last change.

    Raises: UsageError, which names the file, where it cannot be read or names no price.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
            changed_ns = os.fstat(file.fileno()).st_mtime_ns
    except OSError as cause:
        raise UsageError(f"--prices {path}: cannot be read: {cause.strerror or cause}. {_REMEDY}") from None
    try:
        prices = PriceTable.from_file(data, changed_at=timestamp(changed_ns))
    except AccountError:
        raise UsageError(f"--prices {path}: is no list of prices. {_REMEDY}") from None
    if not any(price.tiers for price in prices.prices.values()):
        raise UsageError(f"--prices {path}: names no price that can be understood. {_REMEDY}")
    return prices
