"""Whole runs in virtual time under a spend cap, of models that are billed by the picture or by the second of film."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner.dialect.media import Media
from batchrunner.events import Billing
from batchrunner.journal.files import COSTS, JOURNAL
from batchrunner.journal.records import Sent, decode
from batchrunner.runner import Run
from batchrunner.simulator.settings import Rule
from batchrunner.status import Status
from batchrunner.verification import verify
from tests.sim.nights import PRICES, Night, after, assert_whole, job
from tests.sim.works import VIDEOS, assert_verified, line, maker
from tests.verified import written

IMAGES, SPEECH = "/v1/images/generations", "/v1/audio/speech"
PICTURE_USD, SECOND_USD = Decimal("0.04"), Decimal("0.05")
#: the dearest job of `mixed`: a film of 12 seconds
DEAREST_USD = 12 * SECOND_USD
MakeNight = Callable[..., Night]


@pytest.fixture
def night_of(tmp_path: Path, nursery: trio.Nursery) -> MakeNight:
    return maker(tmp_path, nursery)


def picture(custom_id: str, model: str = "simulated-image", **body: Any) -> bytes:
    return line(custom_id, IMAGES, model=model, **body)


def film(custom_id: str, **body: Any) -> bytes:
    return line(custom_id, VIDEOS, model="simulated-video", **body)


def mixed(count: int) -> list[bytes]:
    """Pictures, one to four a job, of two models; and films of 4, 8 or 12 seconds."""
    kinds = (
        lambda number: picture(f"job-{number}", n=1 + number // 4 % 4),
        lambda number: film(f"job-{number}", seconds=4 * (1 + number % 3)),
        lambda number: picture(f"job-{number}", "simulated-image-tokens", n=2),
        lambda number: film(f"job-{number}", duration=4 * (1 + number % 3), seconds=4 * (1 + number % 3)),
    )
    return [kinds[number % 4](number) for number in range(count)]


def spent(status: Status) -> Decimal:
    return status.billed_usd + status.maybe_billed_usd


@pytest.mark.parametrize("in_flight", [1, 5, 40])
async def test_the_cap_is_met_and_not_passed(autojump_clock: MockClock, night_of: MakeNight, in_flight: int) -> None:
    """What is asked for is known before it is sent: reached in mid-run, and missed by less than one more job would cost."""
    night = night_of(mixed(60))
    cap = Decimal(5)
    first = await night.run(max_cost_usd=cap, max_in_flight=in_flight)
    assert (first.state, first.stopped_by, first.failed, first.submitted) == ("stopped", "max_cost", 0, 0)
    assert 0 < first.completed < 60
    assert cap - DEAREST_USD < first.billed_usd <= cap
    assert first.billed_usd == night.platform.counters.billed_usd
    assert not first.maybe_billed_usd
    assert not first.unpriced_attempts
    assert_verified(night)
    again = await night.run(max_cost_usd=cap)
    assert (again.stopped_by, again.billed_usd, again.attempts) == ("max_cost", first.billed_usd, first.attempts)
    status = await night.run(max_cost_usd=10 * cap)
    assert_whole(night, status)
    assert status.billed_usd == night.platform.counters.billed_usd > cap
    assert_verified(night)


async def test_what_is_in_flight_counts(autojump_clock: MockClock, night_of: MakeNight) -> None:
    """While the server works on films that together are as dear as the cap, nothing more is sent, pictures neither."""
    night = night_of([film("a", seconds=10), film("b", seconds=10), film("c", seconds=10), picture("d")], work_seconds=600.0)
    seen: list[int] = []

    async def look(run: Run) -> None:
        await trio.sleep(300)
        seen.append(night.asked().total())
        await trio.sleep_forever()

    status = await night.run(look, max_cost_usd=20 * SECOND_USD)
    assert seen == [2]
    assert (status.stopped_by, status.completed, status.billed_usd) == ("max_cost", 2, 20 * SECOND_USD)


async def test_films_of_an_earlier_process_count(autojump_clock: MockClock, night_of: MakeNight) -> None:
    """The server still works on them: the next process sends nothing that would not fit beside them."""
    night = night_of([film("a", seconds=10), film("b", seconds=10), picture("c")], work_seconds=600.0)
    cap = 20 * SECOND_USD
    await night.run(after(60, Run.drain), max_cost_usd=cap)
    assert set(night.asked()) == {"a", "b"}
    status = await night.run(max_cost_usd=cap)
    assert (status.stopped_by, status.completed, status.billed_usd) == ("max_cost", 2, cap)
    assert night.asked().total() == 2
    assert_verified(night)


async def test_answers_that_were_not_seen_count_as_all_that_was_asked_for(autojump_clock: MockClock, night_of: MakeNight) -> None:
    """Half of them break off, of which the platform bills some: never more than is listed, and that within the cap and one more
    try of what was in flight.
    """
    night = night_of(mixed(60), faults={"reset_body": 0.3, "error504": 0.2})
    cap = Decimal(5)
    status = await night.run(max_cost_usd=cap, max_in_flight=4)
    assert status.stopped_by == "max_cost"
    assert status.maybe_billed_usd > 0
    assert status.unpriced_attempts == 0
    assert cap - DEAREST_USD < spent(status) <= cap + 4 * DEAREST_USD
    assert night.platform.counters.billed_usd <= spent(status)
    assert_verified(night)


async def test_what_cannot_be_bounded_is_not_sent(autojump_clock: MockClock, night_of: MakeNight) -> None:
    """A film of no length, pictures of no number, speech, and what is billed by a unit of its own fail unsent; others go."""
    lines = [
        film("short", seconds=4),
        film("endless"),
        film("some", seconds="some"),
        picture("one"),
        picture("many", n="many"),
        line("spoken", SPEECH, model="simulated-speech", input="Hello."),
        line("custom", "/v1/detect", model="simulated-custom", input="Hello."),
        job("text"),
    ]
    night = night_of(lines)
    status = await night.run(max_cost_usd=Decimal(100))
    assert_whole(night, status)
    assert night.failures() == dict.fromkeys(("endless", "some", "many", "spoken", "custom"), "price_unknown")
    assert set(night.asked()) == {"short", "one", "text"}
    (message, *_) = (found["error"]["message"] for found in night.lines("errors.jsonl"))
    assert "or a film its seconds" in message
    assert_verified(night)


@pytest.mark.parametrize("stop", ["cancelled", "killed"])
async def test_what_was_lost_in_flight_is_listed_at_its_bound(autojump_clock: MockClock, night_of: MakeNight, stop: str) -> None:
    """By the run that was cancelled, or by the next one: pictures at their number, and a cap counts them."""
    rules = tuple(Rule(kind="slow", tag=name, times=1) for name in "ab")
    night = night_of([picture("a", n=4), picture("b", n=2), picture("c")], rules=rules, latency_median_seconds=30.0)

    async def end(run: Run) -> None:
        await trio.sleep(100)
        if stop == "killed":
            night.disk = night.killed()
        run.cancel()

    await night.run(end, max_cost_usd=Decimal(1), max_in_flight=2)
    night.server.hang_up()
    status = await night.run(max_cost_usd=6 * PICTURE_USD)
    assert (status.stopped_by, status.maybe_billed_usd, status.completed) == ("max_cost", 6 * PICTURE_USD, 0)
    lost = {custom_id: (cost.state, cost.cost.amount, cost.units) for (custom_id, _), cost in night.costs().items()}
    assert lost == {
        "a": (Billing.MAYBE, 4 * PICTURE_USD, {"image": Decimal(4)}),
        "b": (Billing.MAYBE, 2 * PICTURE_USD, {"image": Decimal(2)}),
    }
    assert_verified(night)
    status = await night.run(max_cost_usd=Decimal(1))
    assert_whole(night, status)
    assert_verified(night)


async def test_a_bill_whose_records_went_with_the_power_is_still_explained(
    autojump_clock: MockClock, night_of: MakeNight
) -> None:
    """costs.jsonl reached the disk and the journal did not: the amount is adopted with what was asked for, and can be checked."""
    night = night_of([picture("a", n=3)], rules=(Rule(kind="slow", tag="a", times=1),), latency_median_seconds=30.0)
    await night.run(after(100, Run.cancel))
    records = bytes(night.disk.files[JOURNAL]).splitlines(keepends=True)
    sent = next(at for at, record in enumerate(records) if at and isinstance(decode(record), Sent))
    kept = {name: len(data) for name, data in night.disk.files.items()} | {JOURNAL: sum(map(len, records[:sent]))}
    assert kept[COSTS]
    night.disk.synced = dict.fromkeys(night.disk.synced, 0)
    night.disk = night.disk.crash(kept)
    status = await night.run()
    assert (status.completed, status.maybe_billed_usd) == (1, 3 * PICTURE_USD)
    assert_verified(night)


async def test_a_journal_that_says_nothing_of_what_was_asked_for_is_read(
    autojump_clock: MockClock, night_of: MakeNight, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older programs did not write it down: a lost request of theirs has an unknown price, and the run goes on."""
    night = night_of([picture("a", n=3)], rules=(Rule(kind="slow", tag="a", times=1),), latency_median_seconds=30.0)

    async def kill(run: Run) -> None:
        await trio.sleep(100)
        night.disk = night.killed()
        run.cancel()

    with monkeypatch.context() as older:
        older.setattr(Media, "asked", lambda *_: {})
        await night.run(kill)
    night.server.hang_up()
    assert b"units" not in bytes(night.disk.files[JOURNAL])
    status = await night.run()
    assert (status.completed, status.unpriced_attempts) == (1, 1)
    assert not status.maybe_billed_usd
    (cost,) = (cost for cost in night.costs().values() if cost.state is Billing.MAYBE)
    assert (cost.cost.amount, cost.units) == (None, {})
    assert_verified(night)


async def test_a_number_that_is_not_the_journals_is_found(autojump_clock: MockClock, night_of: MakeNight) -> None:
    """What a line of costs says was asked for is checked as its amount is."""
    night = night_of([picture("a", n=3)], rules=(Rule(kind="slow", tag="a", times=1),), latency_median_seconds=30.0)
    await night.run(after(100, Run.cancel))
    costs = night.disk.files[COSTS]
    assert b'"units":{"image":3}' in costs
    costs[:] = costs.replace(b'"units":{"image":3}', b'"units":{"image":2}')
    report = verify(written(night.disk, night.path.with_suffix(".run"), run_id="night", prices=PRICES))
    assert any(finding.code == "cost" and "units is" in finding.what for finding in report.findings)
