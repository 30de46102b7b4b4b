from __future__ import annotations

from batchrunner.reconciliation.clocks import UNKNOWN, compare

SECOND = 1_000_000_000
MILLISECOND = 1_000_000


def pairs(ahead_ns: int, count: int, step_ns: int = MILLISECOND) -> list[tuple[int, int, int]]:
    """Attempts of 100 ms, an event in the middle of each."""
    sent = [second * SECOND for second in range(1_000, 1_000 + count)]
    return [(at, at + 100 * MILLISECOND, (at + ahead_ns + 51 * MILLISECOND) // step_ns * step_ns) for at in sent]


def test_too_few_pairs_say_nothing() -> None:
    assert compare(pairs(0, 4)) is UNKNOWN


def test_the_difference_lies_within_what_is_found_and_that_is_hardly_wider_than_an_attempt() -> None:
    found = compare(pairs(7 * SECOND, 50))
    assert found.least_ns <= 7 * SECOND <= found.most_ns
    assert found.most_ns - found.least_ns <= 110 * MILLISECOND
    assert found.anchors == 50


def test_a_pair_by_accident_changes_nothing() -> None:
    accident = (5_000 * SECOND, 5_000 * SECOND + MILLISECOND, 9_000 * SECOND + MILLISECOND)
    assert compare([*pairs(0, 50), accident]) == compare(pairs(0, 50))


def test_a_clock_that_was_set_by_a_second_widens_what_is_found() -> None:
    found = compare([*pairs(0, 50), *pairs(SECOND, 20)])
    assert found.least_ns <= 0
    assert found.most_ns >= 900 * MILLISECOND
    assert found.anchors == 70


def test_times_in_whole_seconds_are_believed_to_the_second() -> None:
    found = compare(pairs(0, 50, step_ns=SECOND))
    assert found.least_ns <= -SECOND
    assert found.most_ns <= 2 * SECOND
