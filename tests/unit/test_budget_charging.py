"""Which way of charging is believed: selected by 429s, refuted by what is let in, tried again ever more rarely."""

from __future__ import annotations

import pytest

from batchrunner.budget.charging import LAXER_AFTER_NS, Belief, Charging
from batchrunner.budget.pacer import NS

TPM = 1_000
ACTUAL, SETTLE, ESTIMATE = Charging


def loads(settle: int, estimate: int) -> dict[Charging, int]:
    return {ACTUAL: 10**6, SETTLE: settle, ESTIMATE: estimate}


@pytest.mark.parametrize(
    ("settle", "estimate", "way"),
    [(920, 920, ACTUAL), (921, 5_000, SETTLE), (920, 921, ESTIMATE), (0, 5_000, ESTIMATE), (0, 0, ACTUAL)],
)
def test_a_429_selects_the_laxest_stricter_way_by_which_the_minute_was_full(settle: int, estimate: int, way: Charging) -> None:
    """Full is more than 92 % of the limit. Where none was, the 429 is not explained, and nothing changes."""
    belief = Belief()
    assert belief.explain(NS, loads(settle, estimate), TPM) is (way is not ACTUAL)
    assert belief == (Belief() if way is ACTUAL else Belief(way, laxer_ns=NS + LAXER_AFTER_NS, returns=1))


def test_only_a_stricter_way_than_the_one_believed_explains() -> None:
    belief = Belief(SETTLE)
    assert not belief.explain(0, loads(5_000, 920), TPM)
    assert belief == Belief(SETTLE)
    assert belief.explain(0, loads(0, 921), TPM)
    assert belief.way is ESTIMATE
    assert not belief.explain(0, loads(5_000, 5_000), TPM)


@pytest.mark.parametrize(("accepted", "way"), [(2_099, SETTLE), (2_100, ESTIMATE)])
def test_a_way_by_which_twice_the_limit_was_let_in_explains_nothing(accepted: int, way: Charging) -> None:
    """No window of a minute lets more than two minutes' worth through in 60 s; a tenth is for what is reckoned inexactly."""
    belief = Belief(settle_accepted=accepted)
    assert belief.explain(0, loads(950, 950), TPM)
    assert belief.way is way


def test_where_all_are_refuted_nothing_is_explained() -> None:
    belief = Belief(settle_accepted=2_100, estimate_accepted=2_100)
    assert not belief.explain(0, loads(950, 950), TPM)
    assert belief.way is ACTUAL


def test_the_greatest_loads_let_in_are_remembered() -> None:
    """Each for itself; what was less than before says nothing."""
    belief = Belief()
    assert not belief.accept(0, 300, 100, TPM)
    assert not belief.accept(0, 200, 400, TPM)
    assert belief == Belief(settle_accepted=300, estimate_accepted=400)


@pytest.mark.parametrize(
    ("way", "settle", "estimate", "then"),
    [
        (ESTIMATE, 0, 2_099, ESTIMATE),
        (ESTIMATE, 0, 2_100, SETTLE),
        (ESTIMATE, 2_100, 2_100, ACTUAL),
        (SETTLE, 2_100, 0, ACTUAL),
        (SETTLE, 0, 2_100, SETTLE),
        (ACTUAL, 2_100, 2_100, ACTUAL),
    ],
)
def test_a_way_that_is_refuted_is_believed_no_longer(way: Charging, settle: int, estimate: int, then: Charging) -> None:
    """The next laxer one that is not refuted is, and whether anything changed is said."""
    belief = Belief(way, laxer_ns=7)
    assert belief.accept(NS, settle, estimate, TPM) is (then is not way)
    assert (belief.way, belief.laxer_ns) == (then, 7 if then is way else NS + LAXER_AFTER_NS)


def test_the_laxest_way_is_refuted_by_nothing() -> None:
    """More may be let in by it than by any other: what counts is what was used."""
    belief = Belief(settle_accepted=10**9, estimate_accepted=10**9)
    assert [belief.refuted(way, TPM) for way in Charging] == [False, True, True]


def test_a_laxer_way_is_tried_when_it_is_time() -> None:
    """To the nanosecond, one at a time, a quarter of an hour apart; the laxest stays."""
    belief = Belief(ESTIMATE, laxer_ns=NS)
    assert not belief.relax(NS - 1, TPM)
    assert belief.relax(NS, TPM)
    assert belief == Belief(SETTLE, laxer_ns=NS + LAXER_AFTER_NS)
    assert not belief.relax(NS + LAXER_AFTER_NS - 1, TPM)
    assert belief.relax(NS + LAXER_AFTER_NS, TPM)
    assert not belief.relax(10**18, TPM)
    assert belief == Belief(ACTUAL, laxer_ns=NS + 2 * LAXER_AFTER_NS)


def test_a_way_that_is_refuted_is_not_tried() -> None:
    belief = Belief(ESTIMATE, settle_accepted=2_100)
    assert belief.relax(0, TPM)
    assert belief.way is ACTUAL


def test_each_return_to_a_stricter_way_makes_the_next_try_four_times_as_rare() -> None:
    """15 minutes, 1 hour, 4 hours, 16 hours, and no longer than that, however often."""
    belief = Belief()
    waits = []
    for _ in range(6):
        belief.way = ACTUAL
        assert belief.explain(NS, loads(0, 950), TPM)
        waits.append((belief.laxer_ns - NS) // (15 * 60 * NS))
    assert waits == [1, 4, 16, 64, 64, 64]


def test_before_anything_was_learned_a_try_waits_a_quarter_of_an_hour() -> None:
    belief = Belief()
    belief.wait(NS)
    assert belief.laxer_ns == NS + 15 * 60 * NS
