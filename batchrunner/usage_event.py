"""A record of what the platform charged the account for: one usage event, as `GET /v1/account/usage` tells it."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from batchrunner.job import Usage


class UsageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was done for the account. None, or nothing, wherever the platform does not say."""

    id: str
    #: Unix time
    at_ns: int | None = None
    #: `api` or `playground`
    source: str | None = None
    model: str | None = None
    #: a path, e.g. `/v1/chat/completions`
    endpoint: str | None = None
    tokens: Usage | None = None
    #: USD, exact: what was charged
    cost_usd: Decimal | None = None
    #: USD before and after an account's discount, and the discount
    list_cost_usd: Decimal | None = None
    billed_cost_usd: Decimal | None = None
    discount_usd: Decimal | None = None
    #: in the platform's words, e.g. `succeeded`
    status: str | None = None
    status_code: int | None = None
    #: the code of the error that it ended with
    error: str | None = None
    #: calls by tool; their surcharges are in the cost
    tool_usage: dict[str, int] = {}
    output_urls: tuple[str, ...] = ()
