"""Plays the night of a seed: the same seed, the same night, to the last write.

A night begins with starts that are disturbed, each in a way of its own, and goes on with starts that are not, until every job
has ended. Then all promises are held against all that is left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from batchrunner.admission import Admission
from batchrunner.breaker import TRIPS_AFTER
from batchrunner.events import Billing
from batchrunner.resilience import MOST_EXCUSED
from batchrunner.runner import Run
from batchrunner.status import Status
from tests.nights.changes import Changes
from tests.nights.chronicle import Chronicle
from tests.nights.clock import HORIZON_SECONDS
from tests.nights.jobs import lines_of
from tests.nights.night import SimulatedNight, check_nothing_left, ids_in
from tests.nights.starts import Start
from tests.nights.weather import SlowStore, Weather, befall, clear, options_of, settings_of

#: behind the weather: pauses that had grown, a model that is waited for, repeats of 100 jobs at six a minute; and where the wall
#: clock is wrong, each 429 that names a date is waited out for a quarter of an hour
LONGEST_SECONDS = 24 * 3600.0
MOST_STARTS = 16
#: how often dispatchers may go to sleep: a few times for each request, and for each of the weather's events
MOST_WAITS = 100_000


class BrokenPromise(Exception):
    """A night in which something was not as promised, or that could not go on at all."""

    def __init__(self, seed: int, cause: BaseException, chronicle: Chronicle) -> None:
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        #: in words
        self.promise = f"{type(cause).__name__}: {cause}"
        super().__init__(f"night {seed}: {self.promise}\nThe end of it:\n{chronicle.told()}")


def play(seed: int, directory: Path) -> Chronicle:
    """The night of a seed. Raises: BrokenPromise, from whatever was raised in it."""
    chronicle = Chronicle()
    # Messages name paths, and records the process: neither may make a night another one.
    with (
        seeded_scheduler(seed),
        contextlib.chdir(directory),
        mock.patch.object(os, "getpid", return_value=1),
        mock.patch.object(Admission, "_wait", _counted(Admission._wait)),
    ):
        try:
            trio.run(_play, seed, chronicle, clock=MockClock(autojump_threshold=0))
        except Exception as broken:
            raise BrokenPromise(seed, broken, chronicle) from broken
    return chronicle


def _counted(wait: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """A dispatcher's wait that is not called without end: virtual time stands still while one spins."""
    waits = itertools.count(1)

    async def counted(*args: Any) -> None:
        assert next(waits) < MOST_WAITS, "the dispatcher spins"
        await wait(*args)

    return counted


@contextlib.contextmanager
def seeded_scheduler(seed: int) -> Iterator[None]:
    """Let trio choose among tasks that could run by this seed alone."""
    run: Any = trio._core._run
    allowed, state = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(f"schedule {seed}")
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = allowed
        run._r.setstate(state)


async def _play(seed: int, chronicle: Chronicle) -> None:
    chance = random.Random(f"starts {seed}")
    lines = lines_of(seed)
    max_attempts = chance.choice([1, 2, 5])
    async with trio.open_nursery() as nursery:
        weather = Weather(seed, ids_in(lines))
        night = SimulatedNight(nursery, lines, settings_of(seed), weather, max_attempts, chronicle)
        if chance.random() < 0.3:
            night.store_of = SlowStore
        nursery.start_soon(befall, night, seed)
        status, run = await _until_it_is_over(night, chance, Changes(night, seed), max_attempts)
        assert trio.current_time() < HORIZON_SECONDS + LONGEST_SECONDS, "the night does not end"
        check_nothing_left(run)
        await _let_the_server_end(night)
        _check_end(night, ids_in(lines), len(lines), status, max_attempts)
        await _check_nothing_to_do(night, status)
        chronicle.fired.update({f"answer: {kind}": times for kind, times in night.platform.counters.faults.items()})
        chronicle.fired["account: another program"] += night.platform.account.counts.foreign_accepted
        nursery.cancel_scope.cancel()


async def _until_it_is_over(
    night: SimulatedNight, chance: random.Random, changes: Changes, max_attempts: int
) -> tuple[Status, Run]:
    """Run, be stopped, and run again, as whoever is responsible for a night would; after a few times, undisturbed."""
    disturbed = chance.choice([1, 3, 5, 8])
    options: dict[str, Any] = {}
    for number in range(MOST_STARTS):
        if not number or chance.random() < 0.3:
            options = options_of(chance) | {"max_attempts": max_attempts}
        options = options | {"retry_failed": False}
        if number >= disturbed:
            options |= {"max_cost_usd": None, "max_failures": None}
        elif number and chance.random() < 0.2:
            options["retry_failed"] = True
            night.chronicle.fire("process: started with --retry-failed")
        start = Start(night, chance, changes if changes.any and number < disturbed else None, undisturbed=number >= disturbed)
        status = await start.run(options)
        if status is not None and status.state == "completed":
            assert start.process is not None
            return status, start.process
        if status is not None and status.stopped_by in ("keys", "unreachable", "failures", "credits"):
            night.chronicle.note("stopped", status.stopped_by)
            await trio.sleep(max(0.0, HORIZON_SECONDS - trio.current_time()) if number >= 2 else 600)
            if trio.current_time() >= HORIZON_SECONDS:
                clear(night)
    raise AssertionError(f"after {MOST_STARTS} starts it is not over: {night.said[-5:]}")


async def _let_the_server_end(night: SimulatedNight) -> None:
    """What it has begun for processes that are gone is billed too."""
    while night.platform.counters.in_flight:  # noqa: ASYNC110 - nobody tells when, and the time is virtual
        await trio.sleep(60)
    await wait_all_tasks_blocked()


def _check_end(night: SimulatedNight, ids: list[str], lines: int, status: Status, max_attempts: int) -> None:
    """Each job has ended once, and what is shown is what is on disk."""
    night.check_directory()
    over = night.promises.over
    assert sorted(over) == sorted(set(ids))
    shown = night.promises.shown
    assert shown.items() <= over.items(), "what was shown as over is not"
    assert (status.state, status.stopped_by, status.total) == ("completed", None, lines)
    succeeded = sum(over.values())
    assert (status.completed, status.failed) == (succeeded, lines - succeeded)
    assert (status.in_flight, status.backing_off, status.held) == (0, 0, 0)
    assert status.billed_usd == night.amount(Billing.BILLED)
    assert status.maybe_billed_usd == night.amount(Billing.MAYBE)
    for custom_id in ids:
        spent, paid = night.promises.spent[custom_id], night.promises.paid[custom_id]
        assert spent <= max_attempts + TRIPS_AFTER, f"{custom_id} has spent {spent} attempts"
        limit = (max_attempts + MOST_EXCUSED + 2 * TRIPS_AFTER) * (1 + night.promises.reopened[custom_id])
        assert paid <= limit, f"{custom_id} was paid for {paid} times"


async def _check_nothing_to_do(night: SimulatedNight, status: Status) -> None:
    """Another start sends nothing and finds the same figures."""
    asked = len(night.platform.asked)
    start = Start(night, random.Random(0), None, undisturbed=True)
    again = await start.run({"rpm": 0})
    assert again is not None
    assert len(night.platform.asked) == asked
    assert (again.state, again.completed, again.failed) == (status.state, status.completed, status.failed)
    assert (again.attempts, again.rate_limited) == (status.attempts, status.rate_limited)
    assert (again.billed_usd, again.maybe_billed_usd) == (status.billed_usd, status.maybe_billed_usd)
