"""A run under several accounts: each its own budget, keys and circuits; jobs that name none go to whichever is free first."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner.dispatcher import CONNECT_BACKOFF_CAP_SECONDS
from batchrunner.journal.files import JOURNAL
from batchrunner.journal.records import Sent, decode
from batchrunner.runner import Run
from batchrunner.simulator.settings import AccountSettings, Change
from tests.sim.nights import MakeNight, Night, after, assert_once, assert_whole, job, jobs
from tests.sim.test_admission import SlowStore
from tests.sim.test_lifecycle_in_runs import KINDS
from tests.sim.test_watching import Scraper

KEYS = {"a": ("sk-empiriolabs-test-account-a",), "b": ("sk-empiriolabs-test-account-b",)}


def two(make_night: MakeNight, lines: list[bytes], a: dict[str, Any] | None = None, **settings: Any) -> Night:
    """A night under two accounts, with what is special about the first of them."""
    accounts = tuple(AccountSettings(name=name, keys=keys, **((a or {}) if name == "a" else {})) for name, keys in KEYS.items())
    night = make_night(lines, accounts=accounts, **settings)
    night.accounts = dict(KEYS)
    return night


def accounts_of(night: Night, *, since: float = 0.0) -> dict[str, set[str]]:
    """The accounts under which each job was asked."""
    names = {f"Bearer {key}": name for name, keys in KEYS.items() for key in keys}
    found: dict[str, set[str]] = {}
    for asked in night.platform.asked:
        if asked.at_seconds >= since:
            found.setdefault(asked.custom_id, set()).add(names[asked.key])
    return found


async def test_two_accounts_are_twice_as_fast(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Jobs that name no account go to whichever is free: each sends half, at its own pace, and neither is refused."""
    night = two(make_night, jobs(400), rpm=50)
    began = trio.current_time()
    status = await night.run(rpm=50)
    assert_whole(night, status)
    assert trio.current_time() - began < 1.1 * 60 * 400 / 100
    sent = Counter(name for names in accounts_of(night).values() for name in names)
    assert abs(sent["a"] - sent["b"]) <= 2
    assert status.rate_limited == 0
    assert (status.rpm_limit, status.tpm_limit) == (100, 0)


async def test_a_job_goes_to_the_account_that_it_names(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """And nowhere else, however long that one is busy; one that names another fails, unsent, and the message has both names."""
    lines = [job(f"job-{n}", account="a") if n % 4 else job(f"job-{n}") for n in range(80)]
    night = two(make_night, [*lines, job("stranger", account="c")], rpm=50)
    status = await night.run(rpm=50)
    assert_once(night, status)
    went = accounts_of(night)
    assert all(went[f"job-{n}"] == {"a"} for n in range(80) if n % 4)
    assert night.failures() == {"stranger": "unknown_account"}
    assert "'a' and 'b'" in night.lines("errors.jsonl")[0]["error"]["message"]


async def test_an_account_without_credits_leaves_its_jobs_to_the_others(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What any may send goes on; what is bound to it stays. The run ends as stopped, for want of credits, and resumes."""
    lines = [job(f"job-{n}", account="a") if n % 10 == 9 else job(f"job-{n}") for n in range(200)]
    night = two(
        make_night, lines, {"balance_usd": Decimal("0.0001"), "changes": (Change(at_seconds=3000, top_up_usd=Decimal(9)),)}
    )
    status = await night.run(rpm=60)
    assert (status.state, status.stopped_by) == ("stopped", "credits")
    assert set(night.succeeded()) >= {f"job-{n}" for n in range(200) if n % 10 != 9}
    assert not night.failures()
    assert any("account 'a' is not used any more, the others go on" in said for said in night.said)
    await trio.sleep(3000)
    assert_whole(night, await night.run(rpm=60))


async def test_the_last_account_to_fail_ends_the_run(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """With both keys deleted nothing can go on; both are told of, and the jobs are kept."""
    night = two(make_night, jobs(200))

    def delete(_: Run) -> None:
        for (key,) in KEYS.values():
            night.platform.delete_key(key)

    status = await night.run(after(20, delete), rpm=60)
    assert (status.state, status.stopped_by) == ("stopped", "keys")
    assert 0 < status.completed < 200
    for (key,) in KEYS.values():
        night.platform.accounts.restore_key(key)
    assert_whole(night, await night.run(rpm=60))


async def test_a_job_that_comes_back_late_from_a_dead_account_is_sent_by_another(
    autojump_clock: MockClock, make_night: MakeNight
) -> None:
    """The others have long sent all the rest when the last request of an account that is out of keys fails: nobody had gone."""
    night = two(make_night, jobs(30), latency_median_seconds=1.0, rules=())
    slow = night.platform.accounts
    status = await night.run(after(4, lambda _: slow.delete_key(KEYS["a"][0])), rpm=120, max_in_flight=40)
    assert_whole(night, status)
    assert status.stopped_by is None
    assert status.completed == 30


async def test_stopping_stops_all_accounts(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """One signal drains both; the same command goes on."""
    night = two(make_night, jobs(200))
    status = await night.run(after(30, Run.drain), rpm=60)
    assert (status.state, status.stopped_by) == ("stopped", "signal")
    assert_whole(night, await night.run(rpm=60))


async def test_a_cap_on_cost_is_one_for_all(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """What one account spends the other cannot spend again."""
    night = two(make_night, jobs(100))
    status = await night.run(rpm=60, max_cost_usd=Decimal("0.0005"))
    assert status.stopped_by == "max_cost"
    assert status.billed_usd + status.maybe_billed_usd <= Decimal("0.0005")
    assert {"a", "b"} == set.union(*accounts_of(night).values())


async def test_each_account_knows_its_own_last_minute(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Cut off and started again at once, no minute of either account holds more than its limit, and none is refused."""
    lines = [job(f"job-{n}", account="a") if n < 100 else job(f"job-{n}", account="b") for n in range(130)]
    night = two(make_night, lines, rpm=30)
    for _ in range(3):
        await night.run(after(25, Run.cancel), rpm=30)
    records = map(decode, bytes(night.disk.files[JOURNAL]).splitlines(keepends=True)[1:])
    assert {record.account for record in records if isinstance(record, Sent)} == {"a", "b"}
    status = await night.run(rpm=30)
    assert_once(night, status)
    assert status.rate_limited == 0


async def test_a_refused_account_holds_nobody_else_up(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """One account's limit is a tenth of what it was thought to be: its 429s close its own gate, and the other goes on."""
    night = two(make_night, jobs(300), {"rpm": 6}, rpm=60)
    began = trio.current_time()
    status = await night.run(rpm=60)
    assert_whole(night, status)
    assert status.rate_limited > 0
    assert trio.current_time() - began < 1.25 * 300


async def test_metrics_tell_the_accounts_apart(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Each account's own parts bear its name; the run's figures are those of all together."""
    night = two(make_night, jobs(120), {"rpm": 6})
    scraper = Scraper(50)
    await night.run(scraper.meanwhile, rpm=60)
    shown = scraper.scrape()
    for name in KEYS:
        assert shown["batchrun_budget_limit"][name, "requests_per_minute"] == 60
        assert shown["batchrun_connections_opened_total"][name,] > 0
        assert shown["batchrun_keys"][name, "live"] == 1
    blocked = shown["batchrun_admission_blocked_seconds_total"]
    assert blocked["a", "rate_limited"] > blocked["b", "rate_limited"] == 0
    assert shown["batchrun_jobs"]["succeeded",] == 120


async def test_a_server_that_never_was_there_stops_all(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Each account finds out for itself, and the last one ends the run."""
    night = two(make_night, jobs(5))
    night.server.down = True
    status = await night.run(rpm=60)
    assert (status.state, status.stopped_by) == ("stopped", "unreachable")
    night.server.down = False
    assert_whole(night, await night.run(rpm=60))


async def test_a_server_that_never_was_there_keeps_its_own_jobs_and_ends_the_run(
    autojump_clock: MockClock, make_night: MakeNight
) -> None:
    """The other account has long been done when the first is given up, and has not waited for anything else to happen."""
    night = two(make_night, [*(job(f"bound-{n}", account="a") for n in range(3)), *jobs(20)])
    night.away = frozenset({"a"})
    status = await night.run(rpm=60)
    assert (status.state, status.stopped_by) == ("stopped", "unreachable")
    assert sorted(night.succeeded()) == sorted(f"job-{n}" for n in range(20))
    assert trio.current_time() < 60
    night.away = frozenset()
    assert_whole(night, await night.run(rpm=60))


@pytest.mark.parametrize("away_after", [0, 30])
async def test_an_account_whose_server_is_away_is_not_waited_for_where_others_have_done_all(
    autojump_clock: MockClock, make_night: MakeNight, away_after: int
) -> None:
    """Whether it was ever there or not: the run ends with its last job."""
    night = two(make_night, jobs(200))

    def go_away(_: Run) -> None:
        night.away = frozenset({"a"})
        night.server.hang_up()

    status = await night.run(after(away_after, go_away), rpm=60)
    assert_once(night, status)
    assert (status.state, status.stopped_by) == ("completed", None)
    assert trio.current_time() < 200 + CONNECT_BACKOFF_CAP_SECONDS + 30


async def test_whatever_happens_to_answers_each_job_ends_once(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Every kind of fault, cut off in the middle, over two accounts, one of which loses its key: nothing is lost or doubled."""
    lines = [job(f"job-{n}", account="b") if n % 7 == 0 else job(f"job-{n}", priority=n % 3) for n in range(150)]
    night = two(make_night, lines, faults=dict.fromkeys(KINDS, 0.03), latency_median_seconds=2.0)
    await night.run(after(15, Run.cancel), max_in_flight=20)
    status = await night.run(after(5, lambda _: night.platform.delete_key(KEYS["a"][0])), max_in_flight=20)
    assert_once(night, status)


async def test_a_store_that_takes_its_time_lets_no_job_go_twice(autojump_clock: MockClock, make_night: MakeNight) -> None:
    """Between the look at the queue and the budget's answer the other account may look too: each job is sent once."""
    night = two(make_night, jobs(60))
    night.store_of = SlowStore
    status = await night.run(rpm=600)
    assert_whole(night, status)
    assert set(night.sends().values()) == {1}
