"""Several processes on one account: one sequence of send times for all of them, and nobody far ahead of the others.

`Shared` is the account's one budget and who is at work on it, again one encodable record; `step` moves it, with a holder's
name beside the event. To a holder it answers as `budget.step` does.

- *Places.* The account has one next send time, a slot of its `State`, for whoever comes first. A holder that reserves is
  told when to come: at the first of the coming send times for which no other holder waits. Where another's is more than a
  slot's life before, it is told to come when that one has let it lapse: a holder that was killed costs 3 s of the budget,
  also at one request a minute.
- *Fairness.* What each holder has had is counted as time of the account: its sends as requests or as tokens, whichever is
  the larger part of the limit (the dominant share). Nobody gets further ahead of one that waits than `LEAD_NS`, or than the
  request which that one has ready. Whoever had nothing to send for a while has saved up nothing; whoever does not come for
  its time stands in nobody's way.
- *Rejections.* A 429 voids the places of all: each holder asks anew, and learns of the gate.
- *Limits.* Of those that the holders give, the smallest; where that changes, places are void too. A holder that is not
  heard of for a minute is gone: its requests in flight stay charged until they leave the window, and nothing else of it stays.

Source: dominant resource fairness (Ghodsi et al., 2011) by start-time fair queueing (Goyal et al., 1996), with the order of
arrival in place of the order of tags: that needs one question a send, and no waiting for one that may be dead.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from batchrunner.budget.growth import outgrown
from batchrunner.budget.pacer import LATENESS_NS, NS, SAFE_WINDOW_NS
from batchrunner.budget.records import (
    Change,
    Decision,
    Event,
    Later,
    Limits,
    Lost,
    Open,
    Refuse,
    Reserve,
    Return,
    Settle,
    Slot,
    Stale,
    State,
    Take,
    Taken,
)
from batchrunner.budget.steps import SLOT_LIFE_NS, adopt
from batchrunner.budget.steps import step as step_alone

#: A holder is let this much of the account's time ahead of another that waits.
LEAD_NS = 5 * NS
#: A holder that has had nothing to send for this long has no claim on what it did not use.
ACTIVE_NS = 5 * NS
#: Whoever is at work is heard of a few times in that; whoever is not is gone.
HOLDER_LIFE_NS = 60 * NS


class Holder(msgspec.Struct):
    """A process at work on the account, and the one slot that it holds."""

    limits: Limits
    seen_ns: int
    #: what it has had of either limit, in time of the account
    requests_ns: int = 0
    tokens_ns: int = 0
    #: its slot; 0: it wants none
    slot: int = 0
    #: when it will come for it
    comes_ns: int = 0
    #: the send time that is kept for it; None while it waits for tokens, or for others to catch up
    place_ns: int | None = None
    #: what the request that it has ready would add to `had_ns`
    wants_ns: int = 0
    #: until then it counts as at work, whether it waits or not
    active_ns: int = 0
    #: its requests in flight
    entries: set[int] = msgspec.field(default_factory=set)

    @property
    def had_ns(self) -> int:
        """Its part of the account: that of the limit which it uses more."""
        return max(self.requests_ns, self.tokens_ns)

    def charge(self, requests_ns: int, tokens_ns: int) -> None:
        """It has had more, or (negative) less. What it used less of is forgotten beyond a minute: its jobs may change."""
        self.requests_ns += requests_ns
        self.tokens_ns += tokens_ns
        least_ns = self.had_ns - SAFE_WINDOW_NS
        self.requests_ns = max(self.requests_ns, least_ns)
        self.tokens_ns = max(self.tokens_ns, least_ns)

    def waits(self, now_ns: int) -> bool:
        return self.slot > 0 and now_ns <= self.comes_ns + SLOT_LIFE_NS


class Lease(msgspec.Struct):
    """A holder has the account for itself until `until_ns`, for at most so many requests and tokens: see `leases`."""

    holder: str
    until_ns: int
    #: what is left of them
    requests: int
    tokens: int
    #: requests that have ended in it
    ends: list[Settle | Lost] = []


class Shared(msgspec.Struct):
    """An account's budget and who is at work on it."""

    state: State
    holders: dict[str, Holder] = {}
    #: the slot of `state` for whoever comes next
    next_send: int | None = None
    next_slot: int = 1
    #: above 100 requests a second: who has the account for itself for a moment
    lease: Lease | None = None
    #: the newest time that it has seen: clocks are read before a step, and steps may come in another order
    clock_ns: int = 0


def meet(shared: Shared, name: str, limits: Limits, now_ns: int) -> None:
    """A holder is there, with these limits; others that have not been heard of for too long are not.

    To be called before a holder's steps, and every now and then while it has none.
    """
    now_ns = shared.clock_ns = max(now_ns, shared.clock_ns)
    holder = shared.holders.setdefault(name, Holder(limits, now_ns))
    holder.seen_ns, holder.limits = now_ns, limits
    gone = [name for name, one in shared.holders.items() if max(one.seen_ns, one.comes_ns) + HOLDER_LIFE_NS < now_ns]
    for one in gone:
        _forget(shared, one, now_ns)
    _go_by(shared, now_ns, outgrown(tightest(shared), shared.state.limits))


def leave(shared: Shared, name: str, now_ns: int) -> None:
    """A holder has ended. What it had in flight may have been counted: it stays charged."""
    now_ns = shared.clock_ns = max(now_ns, shared.clock_ns)
    if name in shared.holders:
        _forget(shared, name, now_ns)
    if shared.holders:
        _go_by(shared, now_ns, outgrown(tightest(shared), shared.state.limits))


def tightest(shared: Shared) -> Limits:
    """The smallest limits that any holder gives."""
    given = [holder.limits for holder in shared.holders.values()]
    return Limits(
        rpm=min((limits.rpm for limits in given if limits.rpm), default=0),
        tpm=min((limits.tpm for limits in given if limits.tpm), default=0),
        auto=all(limits.auto for limits in given),
    )


def step(shared: Shared, name: str, now_ns: int, event: Event) -> Decision:
    """Move the account by one holder's event, and answer it. The holder must have been met."""
    now_ns = shared.clock_ns = max(now_ns, shared.clock_ns)
    holder = shared.holders[name]
    holder.seen_ns = now_ns
    match event:
        case Reserve():
            return _reserve(shared, holder, now_ns)
        case Take():
            return _take(shared, holder, now_ns, event)
        case Return(slot):
            if slot == holder.slot:
                holder.slot = 0
            return None
        case Change(limits):
            holder.limits = limits
            _go_by(shared, now_ns, tightest(shared))  # what was outgrown before is over
            return None
        case Open():
            if all(one is holder or now_ns > one.active_ns for one in shared.holders.values()):
                shared.state.pacer.end_fast()  # what is left of one was meant for a run that has ended
            return step_alone(shared.state, now_ns, event)
        case _:
            _end(shared, holder, now_ns, event)
            return None


def _reserve(shared: Shared, holder: Holder, now_ns: int) -> Slot:
    if now_ns > holder.active_ns:
        others = [one.had_ns for one in shared.holders.values() if one is not holder and now_ns <= one.active_ns]
        behind_ns = max(0, min(others, default=0) - holder.had_ns)
        holder.charge(behind_ns, behind_ns)
    holder.slot = shared.next_slot
    shared.next_slot += 1
    holder.wants_ns = 0
    if not _lets_others_catch_up(shared, holder, now_ns):
        _place(shared, holder, now_ns)
    return Slot(holder.slot, holder.comes_ns)


def _take(shared: Shared, holder: Holder, now_ns: int, event: Take) -> Taken | Later | Stale | Slot:
    if event.slot == 0:
        return _reserve(shared, holder, now_ns)
    if event.slot != holder.slot:
        return Stale()
    if _lets_others_catch_up(shared, holder, now_ns):
        return Later(holder.comes_ns, tokens=False)
    if _next_send_ns(shared, now_ns) > now_ns:
        _place(shared, holder, now_ns)
        return Later(holder.comes_ns, tokens=False)
    assert shared.next_send is not None
    decision = step_alone(shared.state, now_ns, msgspec.structs.replace(event, slot=shared.next_send))
    if isinstance(decision, Taken):
        shared.next_send = None
        holder.slot = 0
        holder.entries.add(decision.entry)
        holder.charge(request_ns(shared), tokens_ns(shared, event.offers[decision.offer].tokens))
        holder.active_ns = now_ns + ACTIVE_NS
        return decision
    assert isinstance(decision, Later)
    holder.wants_ns = max(request_ns(shared), tokens_ns(shared, event.offers[0].tokens))
    _comes(holder, decision.at_ns)
    return decision


def _end(shared: Shared, holder: Holder, now_ns: int, event: Settle | Refuse | Lost) -> None:
    """A request has ended. Of one that is not the holder's nothing is known any more."""
    if event.entry not in holder.entries:
        return
    holder.entries.discard(event.entry)
    state = shared.state
    predicted = state.in_flight[event.entry].offer.tokens
    used = 0 if isinstance(event, Refuse) else getattr(event, "tokens", None)
    if used is not None:
        holder.charge(0, tokens_ns(shared, used) - tokens_ns(shared, predicted))
    epoch_ns = state.gate.epoch_ns
    step_alone(state, now_ns, event)
    if state.gate.epoch_ns != epoch_ns:
        void_places(shared)


def _go_by(shared: Shared, now_ns: int, limits: Limits) -> None:
    """The limits that hold for all may have become others."""
    if adopt(shared.state, now_ns, limits):
        void_places(shared)


def void_places(shared: Shared) -> None:
    """Everybody has to ask anew."""
    shared.next_send = None
    for one in shared.holders.values():
        one.slot = 0


def too_far_ahead_of(shared: Shared, holder: Holder, now_ns: int) -> list[Holder]:
    """Those that wait, and have had so much less that it is their turn."""
    return [one for one in _waiting(shared, holder, now_ns) if holder.had_ns > one.had_ns + max(LEAD_NS, one.wants_ns)]


def _lets_others_catch_up(shared: Shared, holder: Holder, now_ns: int) -> bool:
    """Where it is too far ahead of one that waits, it is to come behind that one; or once that one has let its time lapse."""
    ahead_of = too_far_ahead_of(shared, holder, now_ns)
    if not ahead_of:
        return False
    turns = (one.comes_ns + (LATENESS_NS if now_ns < one.comes_ns + LATENESS_NS else SLOT_LIFE_NS + 1) for one in ahead_of)
    _comes(holder, max(turns))
    return True


def _comes(holder: Holder, at_ns: int) -> None:
    """It is told to come at `at_ns`; no send time is kept for it until then."""
    holder.comes_ns, holder.place_ns = at_ns, None
    holder.active_ns = at_ns + ACTIVE_NS


def _place(shared: Shared, holder: Holder, now_ns: int) -> None:
    """Keep the first send time for it that nobody else waits for, and decide when it is to come."""
    first_ns = max(now_ns, _next_send_ns(shared, now_ns))
    rpm = shared.state.limits.rpm
    spacing_ns = shared.state.pacer.spacing_ns(rpm) if rpm else 0
    kept = [max(one.place_ns, first_ns) for one in _waiting(shared, holder, now_ns) if one.place_ns is not None]
    place_ns = first_ns
    while spacing_ns and any(2 * abs(other - place_ns) < spacing_ns for other in kept):
        place_ns += spacing_ns
    before = [other for other in kept if other < place_ns]
    holder.place_ns = place_ns
    holder.comes_ns = min(place_ns, max(before) + SLOT_LIFE_NS) if before else place_ns
    holder.active_ns = holder.comes_ns + ACTIVE_NS


def _next_send_ns(shared: Shared, now_ns: int) -> int:
    """The account's next send time, kept for whoever comes."""
    slots = shared.state.slots
    at_ns = slots.get(shared.next_send) if shared.next_send is not None else None
    if at_ns is None or at_ns + SLOT_LIFE_NS < now_ns:
        slot = step_alone(shared.state, now_ns, Reserve())
        assert isinstance(slot, Slot)
        shared.next_send, at_ns = slot.slot, slot.at_ns
    return at_ns


def _waiting(shared: Shared, holder: Holder, now_ns: int) -> Iterator[Holder]:
    return (one for one in shared.holders.values() if one is not holder and one.waits(now_ns))


def request_ns(shared: Shared) -> int:
    """The account's time that a request takes."""
    rpm = shared.state.limits.rpm
    return SAFE_WINDOW_NS // rpm if rpm else 0


def tokens_ns(shared: Shared, tokens: int) -> int:
    """The account's time that they take; a minute at the most, since a usage that makes no sense must starve nobody."""
    tpm = shared.state.limits.tpm
    return min(tokens * SAFE_WINDOW_NS // tpm, SAFE_WINDOW_NS) if tpm else 0


def _forget(shared: Shared, name: str, now_ns: int) -> None:
    for entry in shared.holders.pop(name).entries:
        step_alone(shared.state, now_ns, Lost(entry))
