"""How long a file is forecast to take, against whole runs of it in virtual time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner.duration import Binding, Limits, Work, duration
from batchrunner.estimate import Latency
from batchrunner.jobfile import parse
from batchrunner.plan import forecast, times
from batchrunner.runner import Run
from batchrunner.survey import Place, Survey
from tests.sim.nights import PRICES, MakeNight, assert_whole, job, jobs

#: jobs, limits, the platform, and what binds
SHAPES: list[tuple[int, dict[str, int], dict[str, Any], Binding]] = [
    (400, {"rpm": 50, "tpm": 0}, {}, "requests"),
    (2_000, {"rpm": 600, "tpm": 0}, {"latency_median_seconds": 3.0}, "requests"),
    (400, {"rpm": 600, "tpm": 0}, {"latency_median_seconds": 3.0}, "requests"),
    (300, {"rpm": 0, "tpm": 0}, {"latency_median_seconds": 10.0, "latency_sigma": 0.5}, "latency"),
    (120, {"rpm": 50, "tpm": 0}, {}, "requests"),
    (300, {"rpm": 600, "tpm": 4_000}, {}, "tokens"),
    (300, {"rpm": 0, "tpm": 3_000}, {"output_median_tokens": 40}, "tokens"),
    (300, {"rpm": 0, "tpm": 0, "max_in_flight": 5}, {"latency_median_seconds": 10.0}, "in_flight"),
    (300, {"rpm": 600, "tpm": 0, "max_in_flight": 3}, {"latency_median_seconds": 5.0, "latency_sigma": 0.8}, "in_flight"),
]


@pytest.mark.parametrize(("count", "limits", "settings", "binding"), SHAPES)
async def test_a_run_takes_as_long_as_was_forecast(
    count: int,
    limits: dict[str, int],
    settings: dict[str, Any],
    binding: Binding,
    make_night: MakeNight,
    autojump_clock: MockClock,
) -> None:
    """Within a tenth, whatever binds it; and it is what was said to bind."""
    platform = {"rpm": limits["rpm"], "tpm": limits["tpm"]} | settings
    night = make_night(jobs(count), **platform)
    began = trio.current_time()
    wishes: dict[str, Any] = dict(limits)
    status = await night.run(**wishes)
    taken = trio.current_time() - began
    assert_whole(night, status)
    tokens = sum(entry.tokens.total for entry in night.platform.billed)
    seconds = [event.seconds for event in night.events if event.succeeded]
    work = Work(count, tokens, Latency(sum(seconds) / count, max(seconds), count))
    found = duration(work, Limits(limits["rpm"], limits["tpm"], limits.get("max_in_flight", 10_000)))
    assert found.binding == binding
    assert found.seconds == pytest.approx(taken, rel=0.1)


@pytest.mark.parametrize(("count", "limits", "settings", "binding"), [SHAPES[0], SHAPES[2], SHAPES[5], SHAPES[7]])
async def test_what_one_run_has_learned_tells_how_long_the_next_will_take(
    count: int,
    limits: dict[str, int],
    settings: dict[str, Any],
    binding: Binding,
    make_night: MakeNight,
    autojump_clock: MockClock,
) -> None:
    """Tokens and latencies of 200 jobs, other jobs afterwards: their time within a tenth, their cost within its interval."""
    platform, wishes = {"rpm": limits["rpm"], "tpm": limits["tpm"]} | settings, dict[str, Any](limits)
    learned: list[Run] = []

    async def remember(run: Run) -> None:
        await trio.lowlevel.checkpoint()
        learned.append(run)

    assert_whole(before := make_night(jobs(200), **platform), await before.run(remember, **wishes))
    lines = [job(f"later-{number}", text=f"How high is moon number {number}?") for number in range(count)]
    survey = Survey(None, PRICES, learned[0].parts.estimator, rpm=limits["rpm"], tpm=limits["tpm"])
    for number, line in enumerate(lines):
        survey.add(number, parse(line), Place("jobs.jsonl", number + 1, None))
    bounds = Limits(limits["rpm"], limits["tpm"], limits.get("max_in_flight", 10_000))
    (expected,) = times(survey.kinds.values(), {None: bounds}, tokens=None)
    cost = forecast(survey.kinds.values(), PRICES).cost_usd
    night, began = make_night(lines, **platform), trio.current_time()
    assert_whole(night, await night.run(**wishes))
    assert expected.time.binding == binding
    assert expected.time.seconds == pytest.approx(trio.current_time() - began, rel=0.1)
    assert cost.low <= night.platform.counters.billed_usd <= (cost.high or 0)
