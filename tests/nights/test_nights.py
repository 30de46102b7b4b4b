"""Whole nights, each drawn from a seed: whatever fails in them, and in whatever order, every promise holds at every step.

One night again, with its chronicle: `python -m tests.nights SEED`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nights.chronicle import Chronicle
from tests.nights.faults import never_fired, table
from tests.nights.play import BrokenPromise, play

#: the first nights are everybody's; the thousand behind them are the campaign's
SHARES = [range(25), *(range(first, first + 100) for first in range(25, 1025, 100))]
#: seeds that found bugs which are mended; each bug has a test of its own besides
FOUND = {
    "errors.jsonl, replaced by less, was not synced before it had outgrown the old one": 44,
    "a job that was refused and then withdrawn was remembered for ever": 35,
}


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(
    "seeds", [pytest.param(seeds, marks=pytest.mark.campaign if seeds.start else (), id=f"{seeds}") for seeds in SHARES]
)
def test_every_promise_holds_in_each_night_and_every_fault_fires_in_some(
    seeds: range, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """All of a share is played; those nights that broke a promise are told together."""
    fired: Counter[str] = Counter()
    broken: list[Exception] = []
    for seed in seeds:
        try:
            fired.update(play(seed, tmp_path).fired)
        except BrokenPromise as played:
            broken.append(played)
    record_property("fired", dict(fired))
    print(table(fired))
    if broken:
        raise ExceptionGroup(f"{len(broken)} of {len(seeds)} nights broke a promise", broken)
    assert not never_fired(fired)


@pytest.mark.parametrize("seed", FOUND.values(), ids=FOUND)
def test_what_a_night_once_found_stays_mended(seed: int, tmp_path: Path) -> None:
    play(seed, tmp_path)


@pytest.mark.parametrize("seed", [1, 10, 24, 38])
def test_one_seed_is_one_night_to_the_last_write(seed: int, tmp_path: Path) -> None:
    """Each operation of the disk, request, answer, event and fault comes again, at the same time to the last digit."""
    first, second = _twice(seed, tmp_path)
    assert len(first.entries) > 1_000
    assert first.fired == second.fired
    assert first.digest() == second.digest()


def test_two_seeds_are_two_nights(tmp_path: Path) -> None:
    assert play(1, tmp_path).digest() != play(10, tmp_path).digest()


def _twice(seed: int, directory: Path) -> tuple[Chronicle, Chronicle]:
    return play(seed, directory), play(seed, directory)
