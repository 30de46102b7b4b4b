"""Readers of foreign bytes under seeded damage: the same on every machine. `make fuzz` goes on from here, led by coverage.

What a fuzzer found stands under `findings/`, one file for each, named after its target, and is read again here for ever.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile.mutation import mutations
from tests.hostile.targets import TARGETS

FINDINGS = sorted((Path(__file__).parent / "findings").glob("*.*"))
#: recovery is a whole program, and a damaged directory may be recovered twice
COUNTS = {"journal": 400, "reply": 1_200}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read(name: str) -> None:
    """Damage begins with what is whole."""
    for data in TARGETS[name].seeds:
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_read_or_refused(name: str) -> None:
    """A few thousand damaged inputs a reader: nothing but its own error comes out, and what it promises holds."""
    drive(name, seed=1, count=COUNTS.get(name, 3_000))


@pytest.mark.campaign
@pytest.mark.parametrize("name", TARGETS)
def test_much_damage_is_read_or_refused(name: str) -> None:
    """Fifty times as much, of another seed."""
    drive(name, seed=2, count=50 * COUNTS.get(name, 3_000))


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda path: path.name)
def test_what_was_found_once_stays_mended(finding: Path) -> None:
    """Inputs that broke a reader once."""
    TARGETS[finding.name.split(".")[0]].run(finding.read_bytes())


def drive(name: str, *, seed: int, count: int) -> None:
    target = TARGETS[name]
    for number, data in enumerate(mutations(target.seeds, target.words, seed, count)):
        try:
            target.run(data)
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, input {number} of {count}: {data!r}") from error
