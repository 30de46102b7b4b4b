"""Whole runs in virtual time: what is left to pay with is known and shown; without any a run stops, or waits for it gently."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner.balances import ASK_SECONDS, RARER
from batchrunner.cli.output import exit_code
from batchrunner.events import AttemptResult
from batchrunner.journal.files import JOURNAL
from batchrunner.runner import Run
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.settings import AccountSettings, Change, Settings
from batchrunner.status import Status
from tests.sim.nights import MakeNight, Night, WatchedPlatform, after, assert_bill, assert_once, assert_whole, jobs
from tests.sim.scripts import WORDS, Spelling, in_every_spelling, openai_error
from tests.sim.scripts import night as scripted
from tests.sim.test_run_stops import JOB_CEILING_USD
from tests.sim.test_several_accounts import KEYS, accounts_of

USAGE = "/v1/account/usage?limit=1"
TOP_UP = Decimal(100)


class AskedPlatform(WatchedPlatform):
    """Notes when it was asked for the balance; `usage` is what it says then, in place of the truth."""

    def __init__(self, settings: Settings, usage: Answer | None = None) -> None:
        super().__init__(settings)
        self.balances: list[float] = []
        self._usage = usage

    async def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        if target == USAGE:
            self.balances.append(trio.current_time())
        if target.startswith("/v1/account/usage") and self._usage is not None:
            await trio.lowlevel.checkpoint()
            return self._usage
        return await super().answer(method, target, headers, body)


def night_of(tmp_path: Path, nursery: trio.Nursery, count: int, usage: Answer | None = None, **settings: object) -> Night:
    """A night that asks for its balance."""
    platform = AskedPlatform(Settings(**settings), usage)  # type: ignore[arg-type]
    night = Night(tmp_path / "jobs.jsonl", nursery, jobs(count), platform)
    night.asks_for_balance = True
    return night


def balances_asked(night: Night) -> list[float]:
    assert isinstance(night.platform, AskedPlatform)
    return night.platform.balances


def refusals(night: Night) -> int:
    """Requests that were refused for want of credits."""
    return sum(event.result is AttemptResult.ACCOUNT for event in night.events)


# ---------------------------------------------------------------------------------------------------------- what is known


async def test_the_balance_is_known_from_the_start_and_to_the_end(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Asked at once, every five minutes and at the end: what was billed is off it then. Not one job waits for it."""
    night = night_of(tmp_path, nursery, 600, balance_usd=Decimal(20))
    began = trio.current_time()
    seen: list[Status] = []
    status = await night.run(after(1, lambda run: seen.append(run.status())), rpm=50)
    assert_whole(night, status)
    assert seen[0].balance_usd == Decimal(20)
    assert seen[0].balance_at is not None
    assert seen[0].balance_at < (status.balance_at or "")
    assert status.balance_usd == Decimal(20) - status.billed_usd
    ended = trio.current_time()
    times = balances_asked(night)
    assert times[0] == pytest.approx(began, abs=0.5)
    assert len(times) == int((ended - began) / (ASK_SECONDS * RARER)) + 2
    assert times[-1] == pytest.approx(ended, abs=1)
    left = msgspec.json.decode(bytes(night.disk.files["status.json"]))
    assert Decimal(left["balance_usd"]) == status.balance_usd


@pytest.mark.parametrize(
    "usage",
    [
        Answer(404, b'{"error":{"code":"not_found"}}', "r"),
        Answer(403, b"<html>no</html>", "r"),
        Answer(200, b'{"data":[]}', "r"),
        Answer(200, b'{"data":[],"balance":"1e999999"}', "r"),
    ],
    ids=["404", "403", "no balance", "no balance of anybody's"],
)
async def test_a_server_that_has_no_balance_to_tell(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, usage: Answer
) -> None:
    """It is asked once, and not known; nothing else is different, and nobody is told."""
    night = night_of(tmp_path, nursery, 600, usage)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert (status.balance_usd, status.balance_at) == (None, None)
    assert len(balances_asked(night)) == 1
    assert night.said == []


@pytest.mark.parametrize(
    "usage",
    [Answer(200, b"<html>later</html>", "r"), Answer(401, b'{"error":{"code":"invalid_api_key"}}', "r"), Answer(503, b"", "r")],
    ids=["html", "401", "503"],
)
async def test_a_server_that_does_not_tell_now_is_asked_again(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, usage: Answer
) -> None:
    """Five minutes later; the run does not notice."""
    night = night_of(tmp_path, nursery, 600, usage)
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert status.balance_usd is None
    assert len(balances_asked(night)) >= 3


async def test_people_are_forewarned_while_it_is_still_time(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Once, long before the end, with what it will come to; the forecast is within a fifth of what it comes to."""
    night = night_of(tmp_path, nursery, 400, balance_usd=200 * JOB_CEILING_USD, output_median_tokens=40, output_sigma=0.2)
    seen: list[Status] = []
    first = await night.run(after(60, lambda run: seen.append(run.status())), rpm=100)
    assert (first.stopped_by, exit_code(first, terminated=False)) == ("credits", 69)
    (warning,) = [said for said in night.said if said.startswith("warning")]
    assert "Top it up" in warning
    assert seen[0].forecast_usd is not None
    left = seen[0].total - seen[0].done
    mean = first.billed_usd / first.completed
    assert seen[0].forecast_usd == pytest.approx(mean * left, rel=Decimal("0.2"))
    night.platform.accounts.all[0].balance_usd += TOP_UP
    status = await night.run()
    assert_whole(night, status)
    assert status.forecast_usd == 0
    assert len([said for said in night.said if said.startswith("warning")]) == 1


# ----------------------------------------------------------------------------------------------------------------- without


def short_night(tmp_path: Path, nursery: trio.Nursery, *, count: int = 60, tells: bool, top_up_seconds: float) -> Night:
    """Credits for about 20 jobs, and for all of them once it is topped up."""
    night = night_of(
        tmp_path,
        nursery,
        count,
        balance_usd=20 * JOB_CEILING_USD,
        changes=(Change(at_seconds=top_up_seconds, top_up_usd=TOP_UP),),
        output_median_tokens=50,
        output_sigma=0.0,
    )
    night.asks_for_balance = tells
    return night


async def test_without_credits_a_run_stops_at_once(autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery) -> None:
    """Unless it was asked to wait: 69, no job failed, and topped up the same command goes on."""
    night = short_night(tmp_path, nursery, tells=True, top_up_seconds=10_000)
    first = await night.run(max_in_flight=5)
    assert (first.state, first.stopped_by, first.failed) == ("stopped", "credits", 0)
    assert first.balance_usd is not None
    assert first.balance_usd <= 0
    assert first.without_credits == 0
    night.platform.accounts.all[0].balance_usd += TOP_UP
    assert_whole(night, await night.run(max_attempts=1))


async def test_a_run_that_waits_goes_on_once_the_balance_says_so(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """The free question is asked every half minute, requests hardly ever; nothing is lost, and no attempt is spent."""
    night = short_night(tmp_path, nursery, tells=True, top_up_seconds=7_200)
    began = trio.current_time()
    seen: list[Status] = []
    status = await night.run(
        after(3_600, lambda run: seen.append(run.status())), max_in_flight=5, max_attempts=1, wait_for_credits=True
    )
    assert_whole(night, status)
    assert status.completed == 60
    assert (seen[0].without_credits, seen[0].binding, seen[0].state) == (1, "credits", "running")
    assert seen[0].in_flight == 0
    assert seen[0].balance_usd is not None
    assert seen[0].balance_usd <= 0
    assert status.without_credits == 0
    assert began + 7_200 <= trio.current_time() < began + 7_200 + 2 * ASK_SECONDS
    assert refusals(night) <= 5 + 7_200 / 900 + 1
    assert not night.maybe_billed()
    assert [said for said in night.said if "credits" in said] == [
        "no credits are left; waiting until the account is topped up: The account needs credits.",
        "the account has credits again",
    ]


async def test_where_nobody_tells_the_next_jobs_own_request_asks(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """At 1, 2, 4, 8, 15, 15 ... minutes, one at a time."""
    night = short_night(tmp_path, nursery, tells=False, top_up_seconds=3_700)
    status = await night.run(max_in_flight=1, max_attempts=1, wait_for_credits=True)
    assert_whole(night, status)
    refused = [number for number, event in enumerate(night.events) if event.result is AttemptResult.ACCOUNT]
    times = [night.platform.asked[number].at_seconds for number in refused]
    gaps = [round((later - earlier) / 60) for earlier, later in pairwise(times)]
    assert gaps == [1, 2, 4, 8, 15, 15, 15]


async def test_the_last_cents_do_not_make_it_ask_in_a_circle(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery
) -> None:
    """A balance that is more than nothing and does not suffice admits one probe; then they go by the clock."""
    night = night_of(
        tmp_path, nursery, 3, Answer(200, b'{"data":[],"balance":0.004}', "r"), balance_usd=Decimal(0),
        changes=(Change(at_seconds=3_600, top_up_usd=TOP_UP),),
    )  # fmt: skip
    status = await night.run(max_in_flight=1, wait_for_credits=True)
    assert_whole(night, status)
    assert refusals(night) <= 8


async def test_others_go_on_while_one_account_waits(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What came back goes to them; topped up, it works beside them again."""
    accounts = (
        AccountSettings(
            name="a", keys=KEYS["a"], balance_usd=5 * JOB_CEILING_USD, changes=(Change(at_seconds=600, top_up_usd=TOP_UP),)
        ),
        AccountSettings(name="b", keys=KEYS["b"]),
    )
    night = make_night(jobs(1000), accounts=accounts, output_median_tokens=50, output_sigma=0.0)
    night.accounts = dict(KEYS)
    night.asks_for_balance = True
    seen: list[Status] = []
    began = trio.current_time()
    status = await night.run(after(300, lambda run: seen.append(run.status())), rpm=50, max_attempts=1, wait_for_credits=True)
    assert_once(night, status)
    assert_bill(night, status)
    assert status.completed == 1000
    assert seen[0].without_credits == 1
    assert seen[0].completed >= 240  # at the other's pace
    assert trio.current_time() - began < 60 * 1000 / 50 - 200  # and faster in the end
    twice = [job for job, names in accounts_of(night).items() if names == {"a", "b"}]
    assert twice  # a was refused, and b did it


@pytest.mark.parametrize("tells", [True, False])
async def test_a_run_that_waits_for_credits_can_be_stopped(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, tells: bool
) -> None:
    """At once, and goes on later."""
    night = short_night(tmp_path, nursery, tells=tells, top_up_seconds=10_000)
    began = trio.current_time()
    first = await night.run(after(1_000, Run.drain), max_in_flight=5, wait_for_credits=True)
    assert trio.current_time() - began == pytest.approx(1_000, abs=1)
    assert (first.stopped_by, first.without_credits, first.failed) == ("signal", 0, 0)
    night.platform.accounts.all[0].balance_usd += TOP_UP
    assert_whole(night, await night.run(max_attempts=1))


async def test_a_run_that_is_killed_while_it_waits_loses_nothing(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery
) -> None:
    night = short_night(tmp_path, nursery, tells=True, top_up_seconds=2_000)
    left = []

    async def die(_: Run) -> None:
        await trio.sleep(1_000)
        left.append(night.killed())

    with trio.move_on_after(1_000.001):
        await night.run(die, max_in_flight=5, wait_for_credits=True)
    (night.disk,) = left
    night.server.hang_up()
    status = await night.run(max_in_flight=5, max_attempts=1, wait_for_credits=True)
    assert_whole(night, status)
    assert not night.maybe_billed()
    assert night.disk.files[JOURNAL]


@in_every_spelling
async def test_every_spelling_of_no_credits_can_be_waited_out(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling
) -> None:
    """Without any for a quarter of an hour: probes by the clock, no job fails, spends an attempt or is charged for it."""
    refusal = spelling.error(402, "insufficient_credits")
    began = trio.current_time()

    def answer(_: object) -> Answer | None:
        return refusal if 0.5 < trio.current_time() - began < 800 else None

    begun = scripted(tmp_path, nursery, spelling.jobs(40), answer)
    status = await begun.run(max_in_flight=2, max_attempts=1, rpm=60, wait_for_credits=True)
    assert_whole(begun, status)
    assert (status.completed, exit_code(status, terminated=False)) == (40, 0)
    assert trio.current_time() - began == pytest.approx(60 + 120 + 240 + 480 + 40, abs=45)
    assert begun.asked().total() <= 40 + 2 + 4
    assert not begun.maybe_billed()


@pytest.mark.parametrize("status_code", [400, 429, 503])
async def test_a_probe_that_ends_in_another_way_says_nothing_of_credits(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, status_code: int
) -> None:
    """Another goes behind it, still one at a time, until one is answered; people hear of no news before."""
    refusal, other = openai_error(402, "insufficient_credits"), openai_error(status_code, "something_else")
    began = trio.current_time()
    probes = iter([other, other, refusal])
    in_flight: list[int] = []
    runs: list[Run] = []

    def answer(_: object) -> Answer | None:
        seconds = trio.current_time() - began
        if seconds < 30:
            return refusal if seconds > 0.2 else None
        in_flight.append(runs[0].status().in_flight)
        return next(probes, None)

    async def watch(run: Run) -> None:
        await trio.lowlevel.checkpoint()
        runs.append(run)

    begun = scripted(tmp_path, nursery, jobs(20), answer)
    status = await begun.run(watch, max_in_flight=3, rpm=60, wait_for_credits=True)
    assert_whole(begun, status)
    assert in_flight[:4] == [1, 1, 1, 1]
    assert status.failed == (2 if status_code == 400 else 0)
    assert [said for said in begun.said if "credits" in said] == [
        "no credits are left; waiting until the account is topped up: " + WORDS,
        "the account has credits again",
    ]
