"""When tokens allow a request."""

from __future__ import annotations

import msgspec

from batchrunner.budget.pacer import SAFE_WINDOW_NS, TOKEN_BURST_DIVISOR
from batchrunner.budget.records import Offer, State


def due_ns(state: State, now_ns: int, offer: Offer, *, alone: bool = False, before: Offer | None = None) -> int:
    """When the account has the tokens for a request; `now_ns` where it has them. `alone`: only with no others in the window.

    `before`: as it would be if this one went first, now.
    """
    tpm = state.limits.tpm
    if not tpm:
        return now_ns
    # What goes alone is asked for as the whole minute's tokens: then there is room only in an empty window.
    asked = max(offer.tokens, tpm) if alone else offer.tokens
    pacer = state.token_pacer
    if before is not None:
        pacer = msgspec.structs.replace(pacer)
        pacer.take(now_ns, before.tokens, tpm)
        asked += before.tokens
        if asked > tpm:  # not both in one minute
            return now_ns + SAFE_WINDOW_NS
    return max(pacer.earliest(now_ns, offer.tokens, tpm), state.window.room_for_tokens_ns(now_ns, asked, tpm))


def overflow_soon(state: State, now_ns: int) -> bool:
    """Whether so much of the burst is unused that what flows in may soon be lost: more than 60 % of it."""
    if not state.limits.tpm:
        return False
    return (state.token_pacer.empty_ns - now_ns) * 5 * TOKEN_BURST_DIVISOR < 2 * SAFE_WINDOW_NS
