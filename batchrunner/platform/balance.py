"""What an account has left to pay with, as `GET /v1/account/usage?limit=1` says."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from batchrunner.platform.control import ControlPlane, RefusedError
from batchrunner.platform.usage import USAGE_PATH
from batchrunner.platform.usage_events import read_page

WHAT: Final = "the account's balance"
#: what a server says that may answer another time
_NOT_NOW: Final = frozenset({401, 402, 408, 425, 429})
#: what is more than that is no balance of anybody's
_MOST_USD: Final = Decimal(10) ** 15


async def fetch_balance(control: ControlPlane) -> Decimal | None:
    """USD, exact; None where this server has no such thing to tell. Raises: AccountError where it does not tell now."""
    try:
        page = read_page(await control.get(USAGE_PATH, {"limit": "1"}, what=WHAT), WHAT)
    except RefusedError as refused:
        if refused.status < 500 and refused.status not in _NOT_NOW:
            return None
        raise
    balance_usd = page.balance_usd
    return balance_usd if balance_usd is not None and abs(balance_usd) < _MOST_USD else None
