"""What all explanations have in common, held against all explanations, one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from batchrunner.reconciliation.matching import NONE, decide

#: event of each attempt
Explanation = tuple[int, ...]


@pytest.mark.parametrize("seed", range(300))
def test_what_is_decided_is_what_all_explanations_share(seed: int) -> None:
    """Events that some explanation leaves over are contested, attempts that some serve and some do not are uncertain, no
    others are; those that are settled have the same event in all, and where every attempt has one, all such are settled.
    """
    rng = random.Random(seed)
    attempts, events = rng.randint(1, 5), rng.randint(1, 5)
    fits = [sorted(rng.sample(range(events), rng.randint(0, min(3, events)))) for _ in range(attempts)]
    must = [rng.random() < 0.5 for _ in fits]
    decided = decide(fits, events, must, [False] * attempts)
    every = list(best(fits, events, must))
    assert tuple(decided.event_of) in every
    for event in range(events):
        assert decided.contested[event] == any(event not in one for one in every), (fits, must, event)
    for attempt in range(attempts):
        served = {one[attempt] for one in every}
        assert decided.uncertain[attempt] == (NONE in served and len(served) > 1), (fits, must, attempt)
        settled = len(served) == 1 and NONE not in served and not any(decided.contested[event] for event in served)
        assert settled or not decided.settled[attempt]
        if NONE not in decided.event_of:
            assert decided.settled[attempt] == settled


def test_a_doubted_attempt_may_go_without_the_event_that_it_fits() -> None:
    decided = decide([[0]], 1, [False], [True])
    assert decided.event_of == [0]
    assert (decided.contested, decided.uncertain, decided.settled) == ([True], [True], [False])


def test_doubt_spreads_to_events_that_the_doubted_event_would_set_free() -> None:
    """If the doubted one's event is a stranger's, the other attempt may have that one, and its own be the stranger's."""
    decided = decide([[0], [0, 1]], 2, [False, True], [True, False])
    assert decided.contested == [True, True]
    assert decided.uncertain == [True, False]


def test_a_crowd_that_is_alike_takes_no_time_worth_speaking_of() -> None:
    """A thousand attempts that fit the same thousand events are matched, and none is settled."""
    size = 300
    decided = decide([list(range(size))] * size, size, [True] * size, [False] * size)
    assert sorted(decided.event_of) == list(range(size))
    assert not any(decided.settled)
    assert not any(decided.contested)


def best(fits: Sequence[Sequence[int]], events: int, must: Sequence[bool]) -> Iterator[Explanation]:
    """All explanations that serve as many of `must` as can be, and then as many others."""
    every = list(explanations(fits, 0, frozenset(range(events))))
    score = max(value(one, must) for one in every)
    return (one for one in every if value(one, must) == score)


def value(one: Explanation, must: Sequence[bool]) -> tuple[int, int]:
    served = [event != NONE for event in one]
    return sum(is_served and is_must for is_served, is_must in zip(served, must, strict=True)), sum(served)


def explanations(fits: Sequence[Sequence[int]], attempt: int, left: frozenset[int]) -> Iterator[Explanation]:
    if attempt == len(fits):
        yield ()
        return
    for event in (NONE, *(event for event in fits[attempt] if event in left)):
        for rest in explanations(fits, attempt + 1, left - {event}):
            yield event, *rest
