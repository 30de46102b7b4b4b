"""Above 100 requests a second: a holder has the account for itself for a quarter of a second at the most.

A transaction for each step would cost more than the requests. So a holder may take the account as a whole, step it in its own
memory, and write it back. While it does, others are told when to come; whoever comes says so (`Knock`), and has the next turn.

A lease is bounded by time, requests and tokens. One that is not written back in time is taken to have been used up: its holder
was killed, which then has cost no more than it could have sent; or it has slept, and finds that the account has gone on.
"""

from __future__ import annotations

import msgspec

from batchrunner.budget.holders import Lease, Shared, request_ns, tokens_ns, too_far_ahead_of, void_places
from batchrunner.budget.pacer import NS
from batchrunner.budget.records import Change, Decision, Event, Limits, Lost, Open, Refuse, Return, Settle, Take, Taken
from batchrunner.budget.steps import step as step_alone

#: From this rate on, or without a limit of requests.
LEASES_ABOVE_RPM = 6_000
LEASE_NS = NS // 4
#: A holder stops using its lease so long before its end, and has that time to write it back.
WRITE_BACK_NS = NS // 20
#: How long after its end others wait for one that was not written back.
GRACE_NS = NS // 4
#: The part of a minute's limit that a lease is good for: 3 s of it, since a lease that is lost is taken to be used up.
SHARE = 20
#: How long a knock counts: who knocked may have died.
KNOCK_NS = NS
#: Entries that a lost lease may have made without a limit of requests.
_MOST_ENTRIES = 1_000_000
# Tuples: a union would be made anew at each step.
_FOR_ALL = (Open, Refuse, Change)
_ENDS = (Settle, Lost)


class Knock(msgspec.Struct):
    """A holder has come while another had the account, the last time at `at_ns`."""

    holder: str
    at_ns: int


def knock(knocks: list[Knock], name: str, now_ns: int) -> None:
    """Join the line of those that wait for the account; whoever is in it keeps its place."""
    for one in knocks:
        if one.holder == name:
            one.at_ns = now_ns
            return
    knocks.append(Knock(name, now_ns))


def in_leases(limits: Limits) -> bool:
    return limits.rpm == 0 or limits.rpm > LEASES_ABOVE_RPM


def comes_ns(lease: Lease, now_ns: int) -> int:
    """When another holder is to come again."""
    return lease.until_ns if now_ns < lease.until_ns else lease.until_ns + GRACE_NS + 1


def is_lost(lease: Lease, now_ns: int) -> bool:
    """Its holder has not written it back, and has no right to any more."""
    return now_ns > lease.until_ns + GRACE_NS


def grant(shared: Shared, name: str, now_ns: int, knocks: list[Knock]) -> Lease | None:
    """Let a holder have the account for itself, where it is fast enough for that and nobody is before it in the line."""
    limits, holder = shared.state.limits, shared.holders[name]
    if not in_leases(limits) or (holder.slot and holder.place_ns is None):  # what it waits for is no matter of speed
        return None
    if too_far_ahead_of(shared, holder, now_ns):
        return None
    knocks[:] = [one for one in knocks if now_ns <= one.at_ns + KNOCK_NS]
    if knocks and knocks[0].holder != name:
        return None
    del knocks[:1]
    _free_slots(shared, now_ns)
    shared.lease = Lease(name, now_ns + LEASE_NS, _part(limits.rpm), _part(limits.tpm))
    return shared.lease


def ends_ns(shared: Shared) -> int:
    """Until when the holder of the lease uses it."""
    assert shared.lease is not None
    return shared.lease.until_ns - WRITE_BACK_NS


def covers(shared: Shared, now_ns: int, event: Event) -> bool:
    """Whether the holder of the lease may take this step by itself. Rejections and other limits are for all to feel at once."""
    lease = shared.lease
    if lease is None or now_ns >= lease.until_ns - WRITE_BACK_NS:
        return False
    if isinstance(event, Take):
        for offer in event.offers:  # a generator would take as long as the rest of it
            if offer.tokens > lease.tokens:
                return False
        return lease.requests > 0
    return not isinstance(event, _FOR_ALL)


def step(shared: Shared, now_ns: int, event: Event) -> Decision:
    """As `budget.step`: there is nobody else to think of. The lease must cover the event."""
    lease, state = shared.lease, shared.state
    assert lease is not None
    now_ns = max(now_ns, shared.clock_ns)
    if isinstance(event, Take):
        decision = step_alone(state, now_ns, event)
        if isinstance(decision, Taken):
            shared.holders[lease.holder].entries.add(decision.entry)
            lease.requests -= 1
            lease.tokens -= event.offers[decision.offer].tokens
        return decision
    if isinstance(event, _ENDS):
        entries = shared.holders[lease.holder].entries
        if event.entry not in entries:
            return None
        entries.discard(event.entry)
        lease.ends.append(event)
        if isinstance(event, Settle) and event.tokens is not None:
            lease.tokens -= event.tokens - state.in_flight[event.entry].offer.tokens
    return step_alone(state, now_ns, event)


def end(shared: Shared, now_ns: int) -> None:
    """A lease is over in order: what was used of it counts for its holder's share."""
    lease = shared.lease
    assert lease is not None
    limits = shared.state.limits
    used_requests, used_tokens = _part(limits.rpm) - lease.requests, _part(limits.tpm) - lease.tokens
    holder = shared.holders[lease.holder]
    holder.charge(used_requests * request_ns(shared), tokens_ns(shared, used_tokens))
    shared.clock_ns = now_ns = max(now_ns, shared.clock_ns)
    shared.lease = None
    slot = max(shared.state.slots, default=0)
    _free_slots(shared, now_ns, but=slot)
    if slot:  # it may be on its way to be taken, by a request that is too large for a lease
        shared.next_send = holder.slot = slot
        holder.comes_ns = holder.place_ns = shared.state.slots[slot]


def reclaim(shared: Shared) -> None:
    """Charge a lost lease in full, at the time of its end."""
    lease = shared.lease
    assert lease is not None
    state = shared.state
    limits, until_ns = state.limits, lease.until_ns
    if limits.rpm:
        state.pacer.due_ns = max(state.pacer.due_ns, until_ns)
        state.pacer.end_fast()
    tokens = lease.tokens if limits.tpm else 0
    if limits.tpm:
        state.tokens.pacer.take(until_ns, tokens, limits.tpm)
    state.window.assume(until_ns, lease.requests if limits.rpm else 0, tokens)
    # It may have named requests of its own by these numbers, and will speak of them.
    state.next_entry += lease.requests if limits.rpm else _MOST_ENTRIES
    shared.lease = None


def _free_slots(shared: Shared, now_ns: int, but: int = 0) -> None:
    """Slots of before mean nothing in a lease, nor those of a lease behind it."""
    for slot in set(shared.state.slots) - {but}:
        step_alone(shared.state, now_ns, Return(slot))
    void_places(shared)


def _part(limit: int) -> int:
    return max(1, limit // SHARE) if limit else 1 << 62
