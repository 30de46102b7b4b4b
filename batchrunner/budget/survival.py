"""How an account goes on without its database, and finds back to it."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterable

import msgspec

from batchrunner.budget.holders import Shared, meet
from batchrunner.budget.learned import after_reboot
from batchrunner.budget.pacer import SAFE_WINDOW_NS, interval_ns
from batchrunner.budget.records import Limits, PastSend, State
from batchrunner.budget.window import Window

#: Requests that are sent apart have numbers from here on, each holder's its own.
FIRST_APART = 1 << 32


def apart(shared: Shared | None, name: str, limits: Limits, now_ns: int) -> Shared:
    """The account as one of its holders goes on with it by itself, for as long as it cannot be shared: the holder's part of
    the limits and of the last minute, at its pace.

    Where it was never seen there is nobody else that is known of.
    """
    holders = len(shared.holders) if shared is not None else 1
    part = part_of(limits, holders)
    state = State(part) if shared is None else after_reboot(shared.state, now_ns)
    state.limits = part
    if shared is not None:
        state.gate = copy.copy(shared.state.gate)
        state.tokens.buckets.wall_offset_ns = shared.state.tokens.buckets.wall_offset_ns
        cells = shared.state.window.cells[-1::-holders][::-1]
        state.window = Window(
            cells=[copy.copy(cell) for cell in cells],
            first_cell=shared.state.window.first_cell + len(shared.state.window.cells),
            requests=sum(cell.requests for cell in cells),
            refused=sum(cell.refused for cell in cells),
            used=sum(cell.used for cell in cells),
            held=sum(cell.held for cell in cells),
            reserved=sum(cell.reserved for cell in cells),
        )
        state.pacer.due_ns = now_ns + (interval_ns(part.rpm) if part.rpm else 0)
    state.next_entry = FIRST_APART * (1 + zlib.crc32(name.encode()) // 4)
    alone = Shared(state)
    meet(alone, name, part, now_ns)
    if shared is not None:
        _take_along(shared.state, shared.holders[name].entries, alone, name)
        # Of another time apart some may be under way.
        state.next_entry = max((state.next_entry, *(entry + 1 for entry in state.in_flight)))
    return alone


def part_of(limits: Limits, holders: int) -> Limits:
    """What one of so many goes by while nobody hears of the others."""
    rpm, tpm = (max(1, limit // holders) if limit else 0 for limit in (limits.rpm, limits.tpm))
    return Limits(rpm, tpm)


def together(shared: Shared, name: str, mine: Shared, sends: Iterable[PastSend], now_ns: int) -> None:
    """Back to the account that all share, with what this holder has sent apart (`sends`) and what it has in flight."""
    state, own = shared.state, mine.state
    last_minute = [send for send in sends if send.sent_ns + SAFE_WINDOW_NS > now_ns]
    first_cell = state.window.first_cell
    places = state.window.insert([(send.sent_ns, send.tokens) for send in last_minute])
    for flight in state.in_flight.values():
        if 0 <= flight.cell - first_cell < len(places):
            flight.cell = places[flight.cell - first_cell]
    if last_minute and state.limits.rpm:
        state.pacer.due_ns = max(state.pacer.due_ns, last_minute[-1].sent_ns + interval_ns(state.limits.rpm))
    state.tokens.pacer.empty_ns = max(state.tokens.pacer.empty_ns, own.tokens.pacer.empty_ns)
    _take_along(own, mine.holders[name].entries - shared.holders[name].entries, shared, name)
    if own.gate.epoch_ns > state.gate.epoch_ns:
        state.gate = copy.copy(own.gate)


def _take_along(state: State, entries: set[int], to: Shared, name: str) -> None:
    """A holder's requests in flight. Their cells are another window's: what they were charged stays as it was predicted."""
    for entry in entries:
        to.state.in_flight[entry] = msgspec.structs.replace(state.in_flight[entry], cell=-1)
        to.holders[name].entries.add(entry)
