"""How long work takes by the limits alone, and how it is shared out among accounts."""

from __future__ import annotations

import pytest

from batchrunner.duration import Limits, Work, duration, shared, weighed
from batchrunner.estimate import Latency

FREE = Limits(0, 0, 0)
FIVE = Latency(5.0, 8.0, 100)


@pytest.mark.parametrize(
    ("work", "limits", "seconds", "binding"),
    [
        (Work(0, 0.0, FIVE), Limits(50, 1000, 10), 0.0, "latency"),
        (Work(1, 1e9, FIVE), FREE, 5.0, "latency"),
        (Work(1, 10.0), Limits(50, 0, 10), 0.0, "latency"),
        (Work(501, 0.0, FIVE), Limits(50, 0, 1_000), 608.0, "requests"),
        (Work(51, 0.0), Limits(50, 0, 1_000), 60.25, "requests"),
        (Work(10, 5_000.0), Limits(0, 1_000, 1_000), 286.2, "tokens"),
        (Work(2, 3_000.0, None, 1), Limits(0, 1_000, 1_000), 225.9, "tokens"),
        (Work(100, 0.0, FIVE), Limits(0, 0, 5), 100.6, "in_flight"),
    ],
)
def test_what_binds_is_what_takes_longest(work: Work, limits: Limits, seconds: float, binding: str) -> None:
    """Requests at their pace, a small file faster; tokens but for a quarter of a minute; answers by how many fly at once."""
    found = duration(work, limits)
    assert found.binding == binding
    assert found.seconds == pytest.approx(seconds, abs=0.2)


def test_accounts_that_are_alike_share_alike() -> None:
    """Two take half as long as one."""
    limits = Limits(50, 0, 1_000)
    alone = shared([Work(1_000, 0.0)], Work(0, 0.0), [limits])
    both = shared([Work(0, 0.0)] * 2, Work(1_000, 0.0), [limits] * 2)
    assert both[0].seconds == pytest.approx(alone[0].seconds / 2, rel=0.01)
    assert both[1].seconds == pytest.approx(both[0].seconds, rel=0.01)


def test_free_work_goes_to_whoever_has_less_that_is_bound() -> None:
    """They end together as far as they can."""
    limits = Limits(50, 0, 1_000)
    first, second = shared([Work(400, 0.0), Work(0, 0.0)], Work(400, 0.0), [limits] * 2)
    assert first.seconds == pytest.approx(second.seconds, rel=0.01)
    first, second = shared([Work(1_000, 0.0), Work(0, 0.0)], Work(200, 0.0), [limits] * 2)
    assert (round(first.seconds), round(second.seconds)) == (1204, 240)


def test_the_more_are_under_way_the_later_the_last_answer_comes() -> None:
    """One takes as long as one does; as many as are known, as long as the slowest of them did."""
    latency = Latency(2.0, 10.0, 100)
    ends = [duration(Work(jobs, 0.0, latency), FREE).seconds for jobs in (1, 20, 200, 10_000)]
    assert ends == [2.0, pytest.approx(6.0), 10.0, 10.0]
    assert duration(Work(200, 0.0, Latency(2.0, 2.0, 1)), FREE).seconds == 2.0
    assert duration(Work(200, 0.0, None), FREE).seconds == 0.0


def test_latencies_are_weighed_by_jobs() -> None:
    """Those of whom none is known have no part in it; the slowest answer of all stands with its own number."""
    slow, fast = Latency(6.0, 9.0, 10), Latency(2.0, 3.0, 500)
    assert weighed([(fast, 30), (slow, 10), (None, 100)]) == Latency(3.0, 9.0, 10)
    assert weighed([(None, 5), (slow, 0)]) is None
    (found,) = shared([Work(1, 0.0, None)], Work(1, 0.0, slow), [FREE])
    assert found.seconds == 6.0
