"""One event at a time: the only code that moves a budget's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchrunner.budget.pacer import NS, SAFE_WINDOW_NS, interval_ns
from batchrunner.budget.records import (
    Decision,
    Event,
    InFlight,
    Later,
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
#: Pace between canaries where there is no request limit to derive one from.
UNLIMITED_INTERVAL_NS = NS


def step(state: State, now_ns: int, event: Event) -> Decision:
    """Move `state` by `event` at monotonic time `now_ns`, and answer it. The state is changed in place.

    Time may stand still between events and never goes back. Total over all events; unknown entries and slots are
    no-ops or Stale, so that an answer that comes twice or too late does no harm.
    """
    state.window.expire(now_ns)
    return _STEPS[type(event)](state, now_ns, event)


def statistics(state: State, now_ns: int) -> Statistics:
    """A frozen view of the state at `now_ns`. It changes nothing, so that another thread may look too."""
    requests, tokens = state.window.sums(now_ns)
    return Statistics(
        rpm_limit=state.limits.rpm,
        tpm_limit=state.limits.tpm,
        requests=requests,
        tokens=tokens,
        in_flight=len(state.in_flight),
        closed_for_seconds=max(0, state.gate.until_ns - now_ns) / NS,
        consecutive_rejections=state.gate.consecutive,
    )


def _open(state: State, now_ns: int, event: Open) -> None:
    rpm, tpm = state.limits.rpm, state.limits.tpm
    for past in event.past or ():
        if past.sent_ns + SAFE_WINDOW_NS <= now_ns:
            continue
        state.window.add(past.sent_ns, past.tokens)
        if rpm:
            state.pacer.advance(past.sent_ns, rpm)
        if tpm:
            state.token_pacer.take(past.sent_ns, past.tokens, tpm)
    if event.past is None and rpm:
        state.pacer.advance(now_ns, rpm)
    # With sends in the window, or none known, somebody was here a moment ago: the pace is the safe way to begin.
    if event.past is not None and not state.window.requests and event.jobs <= FAST_START_MINUTES * rpm:
        state.pacer.start_fast(rpm)


def _reserve(state: State, now_ns: int, _: Reserve) -> Slot:
    _lapse(state, now_ns)
    at_ns = state.gate.planned_ns(now_ns)
    rpm = state.limits.rpm
    if rpm:
        at_ns = max(at_ns, state.pacer.due_ns, state.window.room_for_request_ns(now_ns, rpm, len(state.slots)))
        state.pacer.advance(at_ns, rpm)
    slot = state.next_slot
    state.next_slot += 1
    state.slots[slot] = at_ns
    return Slot(slot, at_ns)


def _return(state: State, _: int, event: Return) -> None:
    _give_back(state, event.slot)


def _take(state: State, now_ns: int, event: Take) -> Taken | Later | Stale:
    _lapse(state, now_ns)
    at_ns = state.slots.get(event.slot)
    if at_ns is None:
        return Stale()
    rpm, tpm = state.limits.rpm, state.limits.tpm
    due_ns = max(at_ns, state.gate.planned_ns(now_ns))
    if rpm:
        due_ns = max(due_ns, state.window.room_for_request_ns(now_ns, rpm, len(state.slots) - 1))
    head = event.offers[0]
    tokens_ns = now_ns
    if tpm:
        # What goes alone is asked for as the whole minute's tokens: then there is room only in an empty window.
        asked = max(head.tokens, tpm) if event.alone else head.tokens
        tokens_ns = max(
            state.token_pacer.earliest(now_ns, head.tokens, tpm),
            state.window.room_for_tokens_ns(now_ns, asked, tpm),
        )
    opens_ns = max(due_ns, state.gate.opens_ns(now_ns))
    if max(opens_ns, tokens_ns) > now_ns:
        # Waiting for tokens or for a canary is not lateness: the slot moves along, so that it does not lapse before the
        # next question.
        state.slots[event.slot] = max(due_ns, now_ns)
        return Later(max(opens_ns, tokens_ns), tokens=tokens_ns > opens_ns)
    return _send(state, now_ns, event, 0)


def _send(state: State, now_ns: int, event: Take, offer: int) -> Taken:
    tokens = event.offers[offer].tokens
    del state.slots[event.slot]
    if state.limits.rpm:
        state.pacer.delayed(now_ns, state.limits.rpm)
    if state.limits.tpm:
        state.token_pacer.take(now_ns, tokens, state.limits.tpm)
    entry = state.next_entry
    state.next_entry += 1
    alone = state.window.tokens == 0
    state.in_flight[entry] = InFlight(now_ns, state.window.add(now_ns, tokens), tokens)
    state.gate.taken(now_ns, entry)
    return Taken(entry, offer, alone)


def _settle(state: State, now_ns: int, event: Settle) -> None:
    flight = state.in_flight.pop(event.entry, None)
    if flight is None:
        return
    state.gate.accepted(now_ns, event.entry, flight.sent_ns)
    if event.tokens is not None:
        _charge(state, now_ns, flight, event.tokens)


def _refuse(state: State, now_ns: int, event: Refuse) -> None:
    flight = state.in_flight.pop(event.entry, None)
    if flight is None:
        return
    # Its tokens were not taken. As a request it stays in our log: some servers count what they refuse, and promise 4
    # speaks of sends.
    _charge(state, now_ns, flight, 0)
    pace_ns = interval_ns(state.limits.rpm) if state.limits.rpm else UNLIMITED_INTERVAL_NS
    if state.gate.refused(now_ns, flight.sent_ns, pace_ns, event.retry_after_ns, event.random):
        state.pacer.stop_fast()
        state.pacer.due_ns = max(state.pacer.due_ns, state.gate.until_ns)
        state.slots.clear()


def _lost(state: State, _: int, event: Lost) -> None:
    state.in_flight.pop(event.entry, None)


def _charge(state: State, now_ns: int, flight: InFlight, tokens: int) -> None:
    """Replace a prediction by what is known."""
    difference = tokens - flight.tokens
    state.window.correct(flight.cell, difference)
    if state.limits.tpm:
        state.token_pacer.correct(now_ns, difference, state.limits.tpm)


def _lapse(state: State, now_ns: int) -> None:
    lapsed = [slot for slot, at_ns in state.slots.items() if at_ns + SLOT_LIFE_NS < now_ns]
    for slot in lapsed:
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
}
