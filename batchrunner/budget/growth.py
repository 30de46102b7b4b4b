"""With `--limit auto`: how the limits that were configured are outgrown.

What answers say of a larger limit is gone by at once. Where they say nothing, a little more is asked for each minute in which
all of the limit was used and nothing was refused for five; a 429 takes it back as it does a try. Without `auto` the configured
limits are never passed.
"""

from __future__ import annotations

import msgspec

from batchrunner.budget.pacer import WINDOW_NS
from batchrunner.budget.records import Hints, Limits, State

#: The part of a limit that is added at a time.
STEP_DIVISOR = 30
#: What counts as all of it, in hundredths.
ALL_PERCENT = 95
#: So long nothing must have been refused.
QUIET_NS = 5 * WINDOW_NS


def hear(state: State, hints: Hints) -> None:
    """Go by what an answer says, where that is more."""
    limits = state.limits
    rpm = max(limits.rpm, hints.request_limit or 0) if limits.rpm else 0
    tpm = max(limits.tpm, hints.token_limit or 0) if limits.tpm else 0
    if (rpm, tpm) != (limits.rpm, limits.tpm):
        state.limits = Limits(rpm, tpm, auto=True)


def grow(state: State, now_ns: int) -> None:
    """Ask for a little more, if a minute has gone well."""
    quiet_since_ns = max(state.grown_ns + WINDOW_NS, state.began_ns + WINDOW_NS, state.gate.epoch_ns + QUIET_NS)
    if now_ns < quiet_since_ns or state.requests.missing or state.tokens.strict:
        return
    limits, window = state.limits, state.window
    if limits.rpm and window.requests * 100 >= ALL_PERCENT * limits.rpm:
        step = max(1, limits.rpm // STEP_DIVISOR)
        state.limits = msgspec.structs.replace(limits, rpm=limits.rpm + step)
        state.requests.tries(now_ns, state.limits.rpm, step)
    elif limits.tpm and window.used * 100 >= ALL_PERCENT * limits.tpm:
        state.limits = msgspec.structs.replace(limits, tpm=limits.tpm + max(1, limits.tpm // STEP_DIVISOR))
    else:
        return
    state.grown_ns = now_ns


def outgrown(configured: Limits, limits: Limits) -> Limits:
    """What is gone by where `limits` were, and these are configured."""
    if not configured.auto:
        return configured
    rpm = max(configured.rpm, limits.rpm) if configured.rpm else 0
    return Limits(rpm, max(configured.tpm, limits.tpm) if configured.tpm else 0, auto=True)
