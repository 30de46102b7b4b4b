"""How long work takes by the limits alone, and how it is shared out among accounts."""

from __future__ import annotations

import pytest

from batchrunner.duration import Limits, Work, duration, shared

FREE = Limits(0, 0, 0)


@pytest.mark.parametrize(
    ("work", "limits", "seconds", "binding"),
    [
        (Work(0, 0.0, 5.0), Limits(50, 1000, 10), 0.0, "latency"),
        (Work(100, 1e9, 5.0), FREE, 5.0, "latency"),
        (Work(1, 10.0), Limits(50, 0, 10), 0.0, "latency"),
        (Work(501, 0.0, 2.0), Limits(50, 0, 1_000), 604.5, "requests"),
        (Work(51, 0.0), Limits(50, 0, 1_000), 60.25, "requests"),
        (Work(10, 5_000.0), Limits(0, 1_000, 1_000), 286.2, "tokens"),
        (Work(2, 3_000.0, None, 1), Limits(0, 1_000, 1_000), 225.9, "tokens"),
        (Work(100, 0.0, 10.0), Limits(0, 0, 5), 200.0, "in_flight"),
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


def test_latencies_are_weighed_by_jobs() -> None:
    """Those of whom none is known have no part in it."""
    (found,) = shared([Work(30, 0.0, 2.0)], Work(10, 0.0, 6.0), [FREE])
    assert found.seconds == pytest.approx(3.0)
    (found,) = shared([Work(30, 0.0, None)], Work(10, 0.0, 6.0), [FREE])
    assert found.seconds == pytest.approx(6.0)
