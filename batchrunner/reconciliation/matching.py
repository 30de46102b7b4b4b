"""Which attempts go with which events, as far as every explanation agrees.

An explanation gives events to attempts that they fit, to each attempt one at most; what is left over is a stranger's. As
many attempts as can be have one, those that must have one first. Explanations differ by alternating paths alone (Berge
1957; Dulmage and Mendelsohn 1958), so that one of them and a walk from what it leaves out tell what all have in common:
an event that no such walk reaches is ours in all of them, and an attempt that no cycle runs through has the same event
in all of them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

NONE: Final = -1


class Decided(msgspec.Struct):
    """By attempt and by event, both numbered from 0 within what was asked about."""

    #: event of each attempt in one explanation; NONE where it has none
    event_of: list[int]
    attempt_of: list[int]
    #: events that an explanation may leave to strangers
    contested: list[bool]
    #: attempts that an explanation may leave without an event, and others not
    uncertain: list[bool]
    #: attempts that have the same event in every explanation, as far as is looked
    settled: list[bool]


def decide(fits: Sequence[Sequence[int]], events: int, must: Sequence[bool], doubted: Sequence[bool]) -> Decided:
    """What all explanations have in common.

    `fits`: the events of each attempt, preferred ones first; attempts in the order in which they choose. `must`: has an event
    wherever it can. `doubted`: may go without one though there is one that fits. Time: near linear where little fits twice.
    """
    event_of, attempt_of = _match(fits, events, must)
    contested = [False] * events
    uncertain = [False] * len(fits)
    wanting: list[list[int]] = [[] for _ in range(events)]
    for attempt, own in enumerate(fits):
        for event in own:
            wanting[event].append(attempt)
    _leave_events(wanting, event_of, attempt_of, contested, doubted)
    moved = _leave_attempts(fits, event_of, attempt_of, uncertain, must, doubted)
    in_cycle = _in_cycles(fits, attempt_of)
    fixed = [not (moved[attempt] or in_cycle[attempt] or uncertain[attempt]) for attempt in range(len(fits))]
    settled = [fixed[attempt] and event != NONE and not contested[event] for attempt, event in enumerate(event_of)]
    return Decided(event_of, attempt_of, contested, uncertain, settled)


def _match(fits: Sequence[Sequence[int]], events: int, must: Sequence[bool]) -> tuple[list[int], list[int]]:
    """A largest matching among those that serve as many of `must` as can be served."""
    event_of = [NONE] * len(fits)
    attempt_of = [NONE] * events
    for first in (True, False):
        order = [attempt for attempt, own in enumerate(fits) if own and must[attempt] is first]
        _take_in_turn(order, fits, event_of, attempt_of)
        for attempt in order:
            if event_of[attempt] == NONE:
                _augment(attempt, fits, event_of, attempt_of)
    return event_of, attempt_of


def _take_in_turn(order: Sequence[int], fits: Sequence[Sequence[int]], event_of: list[int], attempt_of: list[int]) -> None:
    """Give each event, in turn, to whichever attempt that fits it has the fewest left behind it.

    Where what an attempt fits has no gaps, as with stretches of time, none could serve more (Glover 1967).
    """
    begin = sorted(order, key=lambda attempt: min(fits[attempt]))
    waiting: list[tuple[int, int]] = []
    begun = 0
    for event, holder in enumerate(attempt_of):
        while begun < len(begin) and min(fits[begin[begun]]) <= event:
            heapq.heappush(waiting, (max(fits[begin[begun]]), begin[begun]))
            begun += 1
        while waiting and waiting[0][0] < event:
            heapq.heappop(waiting)
        if holder == NONE and waiting and event in fits[waiting[0][1]]:
            attempt = heapq.heappop(waiting)[1]
            event_of[attempt], attempt_of[event] = event, attempt


def _augment(start: int, fits: Sequence[Sequence[int]], event_of: list[int], attempt_of: list[int]) -> None:
    """Serve one more attempt, moving others to other events where that helps."""
    came_from: dict[int, int] = {}  # event -> the attempt that would take it
    waiting = deque([start])
    while waiting:
        attempt = waiting.popleft()
        for event in fits[attempt]:
            if event in came_from:
                continue
            came_from[event] = attempt
            holder = attempt_of[event]
            if holder != NONE:
                waiting.append(holder)
                continue
            free = event
            while free != NONE:
                taker = came_from[free]
                event_of[taker], attempt_of[free], free = free, taker, event_of[taker]
            return


def _leave_events(
    wanting: Sequence[Sequence[int]],
    event_of: Sequence[int],
    attempt_of: Sequence[int],
    contested: list[bool],
    doubted: Sequence[bool],
) -> None:
    """Mark events that may be left over: those that are, and all whose attempt could take one that is."""
    waiting = []
    for event, attempt in enumerate(attempt_of):
        if attempt == NONE or doubted[attempt]:
            contested[event] = True
            waiting.append(event)
    while waiting:
        for attempt in wanting[waiting.pop()]:
            event = event_of[attempt]
            if event != NONE and not contested[event]:
                contested[event] = True
                waiting.append(event)


def _leave_attempts(
    fits: Sequence[Sequence[int]],
    event_of: Sequence[int],
    attempt_of: Sequence[int],
    uncertain: list[bool],
    must: Sequence[bool],
    doubted: Sequence[bool],
) -> list[bool]:
    """Mark attempts that have an event in some explanations and in others none: those that could change places with one
    that has none. One that must have an event gives up its own only for another. Returns which may be on such a way.
    """
    moved = [False] * len(fits)
    for start, event in enumerate(event_of):
        if event != NONE:
            uncertain[start] |= doubted[start]
            continue
        seen = {start}
        waiting = [start]
        while waiting:
            for wanted in fits[waiting.pop()]:
                holder = attempt_of[wanted]
                if holder in seen or holder == NONE:
                    continue
                seen.add(holder)
                moved[holder] = True
                waiting.append(holder)
                if must[start] or not must[holder]:
                    uncertain[holder] = uncertain[start] = True
    return moved


def _in_cycles(fits: Sequence[Sequence[int]], attempt_of: Sequence[int]) -> list[bool]:
    """Whether an attempt could change events with others, all of them keeping one (Tarjan's components)."""
    count = len(fits)
    index = [NONE] * count
    low = [0] * count
    on_stack = [False] * count
    in_cycle = [False] * count
    stack: list[int] = []
    number = 0
    for root in range(count):
        if index[root] != NONE:
            continue
        work = [(root, 0)]
        while work:
            attempt, place = work.pop()
            if index[attempt] == NONE:
                index[attempt] = low[attempt] = number
                number += 1
                stack.append(attempt)
                on_stack[attempt] = True
            own = fits[attempt]
            for position in range(place, len(own)):
                holder = attempt_of[own[position]]
                if holder in (NONE, attempt):
                    continue
                if index[holder] == NONE:
                    work.append((attempt, position))
                    work.append((holder, 0))
                    break
                if on_stack[holder]:
                    low[attempt] = min(low[attempt], low[holder])
            else:
                if low[attempt] == index[attempt]:
                    component = stack[stack.index(attempt) :] if stack[-1] != attempt else [attempt]
                    del stack[-len(component) :]
                    for member in component:
                        on_stack[member] = False
                        in_cycle[member] = len(component) > 1
    return in_cycle
