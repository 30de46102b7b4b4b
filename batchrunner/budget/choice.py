"""Which of the requests that could go takes a slot: the one whose turn it is, unless another makes more of the tokens.

Large and small requests in the order of their file use neither requests nor tokens up: behind a large one everybody waits for
tokens while request slots pass unused, and among small ones tokens flow by. Two rules mend that:

- Where tokens are about to be lost, the largest request takes them that fits.
- Where the first request must wait for tokens, a smaller one goes that fits now.

What the first one is promised bounds both: whoever goes before it may delay it by `Take.spare_ns` in all, reckoned exactly,
and the first rule passes it `MOST_PASSES` times. So no request is starved, however large.

Source: EASY backfilling (Lifka, 1995), which lets a job go ahead where it does not delay the first one. Without any delay
hardly anything would fit here, since every token delays a little whoever waits for tokens.
"""

from __future__ import annotations

from typing import Final

import msgspec

from batchrunner.budget.records import State, Take
from batchrunner.budget.tokens import Offer

MOST_PASSES = 8
#: What goes while the first one waits is smaller by this factor: else it were better to wait.
SMALLER_BY = 2


class Choice(msgspec.Struct, frozen=True):
    """One of the offers goes now."""

    offer: int
    #: by so much later the first one can go
    delay_ns: int = 0


_FIRST: Final = Choice(0)


class Wait(msgspec.Struct, frozen=True):
    """None goes before then."""

    until_ns: int


def choose(state: State, now_ns: int, take: Take) -> Choice | Wait:
    """Which offer goes now, as far as tokens are concerned; or until when none does."""
    if not state.limits.tpm:
        return _FIRST
    first_ns = _due_ns(state, now_ns, take.offers[0], alone=take.alone)
    if len(take.offers) == 1:
        return _FIRST if first_ns <= now_ns else Wait(first_ns)
    if first_ns > now_ns:
        return _smaller(state, now_ns, take, first_ns)
    if take.passed < MOST_PASSES and state.tokens.overflow_soon(now_ns):
        return _largest(state, now_ns, take)
    return _FIRST


def _largest(state: State, now_ns: int, take: Take) -> Choice:
    """The largest of its equals that fits, where the first one could go too."""
    sizes = [state.tokens.charge(offer) for offer in take.offers[: take.equals]]
    for number in sorted(range(1, len(sizes)), key=lambda number: -sizes[number]):
        if sizes[number] <= sizes[0]:
            break
        if (choice := _instead(state, now_ns, take, number, now_ns)) is not None:
            return choice
    return _FIRST


def _smaller(state: State, now_ns: int, take: Take, first_ns: int) -> Choice | Wait:
    """One that goes while the first waits until `first_ns`."""
    sizes = [state.tokens.charge(offer) for offer in take.offers]
    small = [number for number in range(1, len(sizes)) if sizes[number] * SMALLER_BY < sizes[0]]
    for number in small:
        if (choice := _instead(state, now_ns, take, number, first_ns)) is not None:
            return choice
    soonest_ns = min((_due_ns(state, now_ns, take.offers[number]) for number in small), default=first_ns)
    # What fits now, and would delay the first one too much, will not delay it less while nothing happens.
    return Wait(min(first_ns, soonest_ns) if soonest_ns > now_ns else first_ns)


def _instead(state: State, now_ns: int, take: Take, number: int, first_ns: int) -> Choice | None:
    """One of the offers, if it fits now and keeps the promise to the first, which can go at `first_ns`."""
    offer = take.offers[number]
    if _due_ns(state, now_ns, offer) > now_ns:
        return None
    delay_ns = _due_ns(state, now_ns, take.offers[0], alone=take.alone, before=offer) - first_ns
    return Choice(number, delay_ns) if delay_ns <= take.spare_ns else None


def _due_ns(state: State, now_ns: int, offer: Offer, *, alone: bool = False, before: Offer | None = None) -> int:
    """When the account has the tokens for a request, by itself or after another."""
    return state.tokens.due_ns(now_ns, state.window, state.limits.tpm, offer, alone=alone, before=before)
