"""What is learned of an account's server, and how long it is believed.

How a server counts is its nature, and is kept for ever: how it charges tokens, whether it has two buckets, how many requests at
once it lets through, how far apart it wants them. How much it lets through changes by the hour (somebody else uses the account,
a limit is cut) and is forgotten when nobody has asked for ten minutes.
"""

from __future__ import annotations

from batchrunner.budget.charging import Belief
from batchrunner.budget.effective import RequestCeiling
from batchrunner.budget.pacer import NS, RequestPacer
from batchrunner.budget.records import State
from batchrunner.budget.tokens import Tokens
from batchrunner.budget.two_bucket import TwoBuckets

EFFECTIVE_FOR_NS = 600 * NS


def after_reboot(state: State, now_ns: int) -> State:
    """The part that does not depend on the clock: monotonic times of another boot mean nothing."""
    pacer, requests, belief, buckets = state.pacer, state.requests, state.tokens.charging, state.tokens.buckets
    fresh = State(
        state.limits,
        pacer=RequestPacer(burst=pacer.burst, burst_ends=pacer.burst_ends, burst_flows=pacer.burst_flows),
        requests=RequestCeiling(requests.missing, requests.limit, requests.failures, closed=requests.closed),
        tokens=Tokens(
            charging=Belief(belief.way, belief.settle_accepted, belief.estimate_accepted, returns=belief.returns),
            buckets=TwoBuckets(believed=buckets.believed, refuted=buckets.refuted),
        ),
    )
    expire(fresh, now_ns)
    return fresh


def expire(state: State, now_ns: int) -> None:
    """Nobody has asked for long: forget how much was let through, and keep how it is counted."""
    state.requests.expire(now_ns, state.limits.rpm)
    state.tokens.ceiling.expire()
    state.tokens.charging.wait(now_ns)
    state.began_ns = -1
