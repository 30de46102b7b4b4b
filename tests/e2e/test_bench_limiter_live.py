"""The limiter's benchmark over real sockets: all its clients come through, and its figures are the server's."""

from __future__ import annotations

import msgspec
import pytest

from batchrunner.clock import NS_PER_SECOND
from benchmarks.limiter import live
from benchmarks.limiter.live import NAMES, OURS, Counted, Load, job_lines, measured, report

SECOND = NS_PER_SECOND
QUICK = Load(rpm=1_200, jobs=24, latency_seconds=0.2)


@pytest.mark.parametrize("client", NAMES)
def test_a_client_comes_through(client: str) -> None:
    """Within the limit every job is answered and billed once, and nobody is refused."""
    counted = measured("bucket", client, QUICK)
    assert counted.finished
    assert (len(counted.billed_ns), counted.doubles, counted.rejected) == (QUICK.jobs, 0, 0)


def test_who_asks_for_more_than_the_limit_is_refused_and_counted() -> None:
    """Twelve jobs one after another, of which the first minute takes four: 429s, and a client that is cut off in the middle."""
    load = Load(rpm=4, jobs=12, latency_seconds=0.2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(live, "PATIENCE", 0.0)
        patched.setattr(live, "PATIENCE_SECONDS", 15.0)
        counted = measured("sliding", "openai", load)
    assert not counted.finished
    assert len(counted.billed_ns) == 4
    assert counted.rejected > 0


def test_every_job_is_another_one() -> None:
    """The server tells doubles by their bodies."""
    bodies = {msgspec.json.encode(msgspec.json.decode(one)["body"]) for one in job_lines(QUICK).splitlines()}
    assert len(bodies) == QUICK.jobs


@pytest.mark.parametrize(("every_seconds", "share"), [(0.3, 1.0), (0.6, 0.5)])
def test_the_steady_share_is_of_the_limit(every_seconds: float, share: float) -> None:
    """An answer each 0.3 s is all of 200 a minute, whatever the first and the last ones did."""
    at_ns = [0] * 100 + [round(number * every_seconds * SECOND) for number in range(1, 701)] + [10**14] * 30
    counted = Counted(tuple(at_ns), 0, 0, finished=True)
    assert counted.steady_share(200) == pytest.approx(share, rel=0.01)


def test_the_table_says_who_loses_jobs_and_who_is_cut_off() -> None:
    """Ten jobs: all of them; two lost, one of them billed twice; nothing at all, and not done."""
    load = Load(rpm=60, jobs=10, latency_seconds=1)
    times = tuple(number * SECOND for number in range(10))
    found = {
        ("sliding", OURS): Counted(times, 0, 0, finished=True),
        ("sliding", "lm-deluge"): Counted(times[:9], 1, 5, finished=True),
        ("sliding", "openai"): Counted((), 0, 30, finished=False),
    }
    text = "\n".join(report("command", load, found))
    assert "| batchrun | 100.0 / 0.0 / 9 s |" in text
    assert "| lm-deluge | 100.0 / 500.0 / 8 s, loses 2 jobs |" in text
    assert "| openai | - / 3000.0 / 0 s, cut off with 10 jobs undone |" in text
