"""One event at a time: the only code that moves a budget's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchrunner.budget import growth
from batchrunner.budget.choice import Choice, Wait, choose
from batchrunner.budget.learned import EFFECTIVE_FOR_NS, expire
from batchrunner.budget.pacer import NS, SAFE_WINDOW_NS, WINDOW_NS, interval_ns
from batchrunner.budget.records import (
    Change,
    Decision,
    Event,
    Hints,
    InFlight,
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
    Statistics,
    Take,
    Taken,
)

#: A slot that nobody took for this long is gone: its holder may have died.
SLOT_LIFE_NS = 3 * NS
#: A file of at most this many minutes of requests starts fast: later on, a minute's head start is no longer felt.
FAST_START_MINUTES = 3
#: Single requests refused in a row that show a window that is full; strict spacing and short slices refuse one at the most.
CLOSED_AFTER_CANARIES = 2
#: What was let through in less time than this says little of the rate.
TOO_EARLY_NS = 5 * NS
#: Pace between canaries where there is no request limit to derive one from.
UNLIMITED_INTERVAL_NS = NS


def step(state: State, now_ns: int, event: Event) -> Decision:
    """Move `state` by `event` at monotonic time `now_ns`, and answer it. The state is changed in place.

    Time may stand still between events and never goes back. Total over all events; unknown entries and slots are
    no-ops or Stale, so that an answer that comes twice or too late does no harm.
    """
    state.window.expire(now_ns)
    limits, requests = state.limits, state.requests
    if requests.limit != limits.rpm:
        requests.adopt(limits.rpm)
    if requests.missing:
        requests.probe(now_ns, limits.rpm)
    if limits.tpm and state.tokens.strict:
        state.tokens.pass_time(now_ns, state.window, limits.tpm)
    if limits.auto:
        growth.grow(state, now_ns)
    return _STEPS[type(event)](state, now_ns, event)


def adopt(state: State, now_ns: int, limits: Limits) -> bool:
    """Go by other limits from now on; whether they are others. The log is exact whatever the limits were, and holds what comes
    next to the new ones at once: after a limit was lowered nothing goes before so much of the last minute has passed.
    """
    before = state.limits
    if limits == before:
        return False
    state.limits = limits
    state.requests.adopt(limits.rpm)
    state.slots.clear()  # they were given out at the old pace
    state.pacer.end_fast()  # of so many at once nothing is known under another limit
    if rpm := _rpm(state):
        cells = state.window.cells
        # Where nothing is known to have been sent there may be another reason for a wait; a longer one than this is none.
        state.pacer.due_ns = (cells[-1].last_ns if cells else min(state.pacer.due_ns, now_ns)) + interval_ns(rpm)
    if limits.tpm != before.tpm:
        state.tokens.adopt(now_ns, state.window, before.tpm, limits.tpm)
    return True


def statistics(state: State, now_ns: int) -> Statistics:
    """A frozen view of the state at `now_ns`. It changes nothing, so that another thread may look too."""
    limits = state.limits
    requests, tokens = state.window.sums(now_ns)
    return Statistics(
        rpm_limit=limits.rpm,
        tpm_limit=limits.tpm,
        requests=requests,
        tokens=tokens,
        in_flight=len(state.in_flight),
        closed_for_seconds=max(0, state.gate.until_ns - now_ns) / NS,
        consecutive_rejections=state.gate.consecutive,
        rpm_effective=state.requests.rpm(limits.rpm) if limits.rpm else 0,
        tpm_effective=state.tokens.ceiling.tpm(limits.tpm) if limits.tpm else 0,
        charging=state.tokens.charging.way.name.lower(),
        two_buckets=state.tokens.buckets.believed,
        burst=state.pacer.burst,
    )


def _open(state: State, now_ns: int, event: Open) -> None:
    rpm, tpm = state.limits.rpm, state.limits.tpm
    if now_ns - state.seen_ns > EFFECTIVE_FOR_NS:
        expire(state, now_ns)
    if state.began_ns < 0:
        state.began_ns = now_ns
    state.tokens.buckets.set_clock(now_ns, event.wall_offset_ns)
    for past in event.past or ():
        if past.sent_ns + SAFE_WINDOW_NS <= now_ns:
            continue
        state.window.add(past.sent_ns, past.tokens, past.tokens)
        if rpm:
            state.pacer.advance(past.sent_ns, rpm)
        if tpm:
            state.tokens.pacer.take(past.sent_ns, past.tokens, tpm)
    if not state.window.requests:  # a fast start that somebody did not come to the end of
        state.pacer.fast_left = 0
    if event.past is None and rpm:
        state.pacer.advance(now_ns, rpm)
    state.pacer.credit = 0
    # With sends in the window, or none known, somebody was here a moment ago: the pace is the safe way to begin.
    if event.past is not None and not state.window.requests and event.jobs <= FAST_START_MINUTES * rpm:
        state.pacer.start_fast(event.jobs)


def _reserve(state: State, now_ns: int, _: Reserve) -> Slot:
    state.seen_ns = now_ns
    if state.slots:
        _lapse(state, now_ns)
    at_ns = state.gate.planned_ns(now_ns)
    rpm = _rpm(state)
    if rpm:
        room_ns = state.window.room_for_request_ns(now_ns, rpm, state.limits.rpm, len(state.slots))
        at_ns = max(at_ns, state.pacer.due_ns, room_ns)
        state.pacer.advance(at_ns, rpm)
    slot = state.next_slot
    state.next_slot += 1
    state.slots[slot] = at_ns
    return Slot(slot, at_ns)


def _return(state: State, _: int, event: Return) -> None:
    _give_back(state, event.slot)


def _take(state: State, now_ns: int, event: Take) -> Taken | Later | Stale | Slot:
    if event.slot == 0:
        return _take_at_once(state, now_ns, event)
    _lapse(state, now_ns)
    at_ns = state.slots.get(event.slot)
    if at_ns is None:
        return Stale()
    rpm = _rpm(state)
    before = _slots_before(state, event.slot)
    room_ns = state.window.room_for_request_ns(now_ns, rpm, state.limits.rpm, before) if rpm else now_ns
    opens_ns = max(at_ns, state.gate.until_ns, room_ns)
    choice = choose(state, now_ns, event)
    if opens_ns > now_ns or isinstance(choice, Wait):
        due_ns = max(at_ns, state.gate.planned_ns(now_ns), room_ns)
        tokens_ns = choice.until_ns if isinstance(choice, Wait) else now_ns
        # Waiting for tokens or for a canary is not lateness: the slot moves along, so that it does not lapse before the
        # next question.
        state.slots[event.slot] = max(due_ns, now_ns)
        return Later(max(opens_ns, tokens_ns), tokens=tokens_ns > opens_ns)
    del state.slots[event.slot]
    if rpm:
        state.pacer.delayed(now_ns, rpm)
    return _send(state, now_ns, event, choice)


def _take_at_once(state: State, now_ns: int, event: Take) -> Taken | Slot:
    """Reserve and Take in one, for accounts so fast that nobody ever waits for a slot."""
    rpm = _rpm(state)
    if not state.slots and state.gate.until_ns <= now_ns:
        in_time = not rpm or (
            state.pacer.due_ns <= now_ns and state.window.room_for_request_ns(now_ns, rpm, state.limits.rpm, 0) <= now_ns
        )
        if in_time and isinstance(choice := choose(state, now_ns, event), Choice):
            state.seen_ns = now_ns
            if rpm:
                state.pacer.advance(now_ns, rpm)
            return _send(state, now_ns, event, choice)
    return _reserve(state, now_ns, Reserve())


def _send(state: State, now_ns: int, event: Take, choice: Choice) -> Taken:
    offer = event.offers[choice.offer]
    limits, window = state.limits, state.window
    entry = state.next_entry
    state.next_entry += 1
    alone = window.reserved == 0
    cell = window.add(now_ns, offer.tokens, offer.reserved_tokens)
    taking = state.tokens.take(now_ns, window, limits.tpm, offer) if limits.tpm else None
    state.in_flight[entry] = InFlight(now_ns, cell, offer, taking)
    state.gate.taken(now_ns, entry)
    return Taken(entry, choice.offer, alone, choice.delay_ns)


def _settle(state: State, now_ns: int, event: Settle) -> None:
    flight = state.in_flight.pop(event.entry, None)
    if flight is None:
        return
    state.gate.accepted(now_ns, event.entry, flight.sent_ns)
    if event.hints is not None:
        _hear(state, now_ns, flight, event.hints, refused=False)
    state.pacer.accepted()
    offer, used, tpm = flight.offer, event.tokens, state.limits.tpm
    taking = flight.taking if tpm else None
    if taking:
        state.tokens.accept(now_ns, state.window, taking, tpm)
    if used is not None:
        state.window.settle(flight.cell, used - offer.tokens, used - offer.reserved_tokens)
        if taking:
            state.tokens.settle(now_ns, flight.sent_ns, taking, tpm, used)


def _refuse(state: State, now_ns: int, event: Refuse) -> None:
    flight = state.in_flight.pop(event.entry, None)
    if flight is None:
        return
    if event.hints is not None:
        _hear(state, now_ns, flight, event.hints, refused=True)
    rpm = _rpm(state)
    pace_ns = interval_ns(rpm) if rpm else UNLIMITED_INTERVAL_NS
    if state.gate.refused(now_ns, event.entry, flight.sent_ns, pace_ns, event.retry_after_ns, event.random):
        _explain(state, now_ns, flight)
        # Slots that were given out are void, and their time goes to those who ask next.
        due_ns = min(state.slots.values(), default=state.pacer.due_ns)
        state.pacer.due_ns = max(min(due_ns, state.pacer.due_ns), state.gate.until_ns)
        state.slots.clear()
    # Its tokens were not taken. As a request it stays in our log: some servers count what they refuse, and promise 4
    # speaks of sends.
    state.window.refuse(flight.cell, flight.offer.tokens, flight.offer.reserved_tokens)
    if flight.taking and state.limits.tpm:
        state.tokens.refuse(now_ns, flight.sent_ns, flight.taking, state.limits.tpm)


def _hear(state: State, now_ns: int, flight: InFlight, hints: Hints, *, refused: bool) -> None:
    """Take in what an answer's headers say of the limit of requests."""
    if state.limits.auto:
        growth.hear(state, hints)
    if not state.limits.rpm:
        return
    left = hints.requests_left
    if left is not None and state.requests.missing:
        left -= state.window.sent_since(flight.sent_ns) + len(state.slots)
    state.requests.hear(now_ns, state.limits.rpm, hints.request_limit, left, refused=refused)


def _explain(state: State, now_ns: int, flight: InFlight) -> None:
    """Find what a 429 says of the server. Only what nothing else explains lowers the rate."""
    limits, gate = state.limits, state.gate
    if state.pacer.is_fast(flight.sent_ns):
        state.pacer.stop_fast(state.window.requests - state.window.sent_since(flight.sent_ns) - 1)
        return
    accepted = _accepted(state, now_ns)
    share = accepted * 100 // _rpm(state) if limits.rpm and accepted is not None else None
    if flight.taking and limits.tpm and state.tokens.explain(now_ns, state.window, flight.taking, limits.tpm, share):
        return
    if limits.rpm:
        closed = gate.canaries_refused >= CLOSED_AFTER_CANARIES
        state.requests.lower(now_ns, limits.rpm, accepted, times=gate.consecutive, closed=closed)


def _accepted(state: State, now_ns: int) -> int | None:
    """Requests a minute that were let through lately; None as long as it is too early to say."""
    span_ns = min(SAFE_WINDOW_NS, now_ns - state.began_ns)
    if span_ns < TOO_EARLY_NS:
        return None
    # The refused request that asks is still among them, unless it was sent too long ago.
    return -(-max(0, state.window.requests - state.window.refused - 1) * WINDOW_NS // span_ns)


def _lost(state: State, _: int, event: Lost) -> None:
    state.in_flight.pop(event.entry, None)


def _change(state: State, now_ns: int, event: Change) -> None:
    adopt(state, now_ns, event.limits)


def _rpm(state: State) -> int:
    """The requests a minute to go by; 0: no limit."""
    limit = state.limits.rpm
    return state.requests.rpm(limit) if state.requests.missing and limit else limit


def _slots_before(state: State, slot: int) -> int:
    """How many others have a slot that comes first. One that comes later is no reason to wait: two would wait for each other."""
    turn = (state.slots[slot], slot)
    return sum((at_ns, other) < turn for other, at_ns in state.slots.items())


def _lapse(state: State, now_ns: int) -> None:
    slots = state.slots
    for slot in [slot for slot, at_ns in slots.items() if at_ns + SLOT_LIFE_NS < now_ns]:
        _give_back(state, slot)


def _give_back(state: State, slot: int) -> None:
    """Nobody will use this slot. Where it is the last one that was given out, the next one may have its time: at one request
    a minute it would be a minute of the budget.
    """
    at_ns = state.slots.pop(slot, None)
    if at_ns is not None and slot == state.next_slot - 1:
        state.pacer.due_ns = min(state.pacer.due_ns, at_ns)


_STEPS: dict[type, Callable[[State, int, Any], Decision]] = {
    Open: _open,
    Reserve: _reserve,
    Return: _return,
    Take: _take,
    Settle: _settle,
    Refuse: _refuse,
    Lost: _lost,
    Change: _change,
}
