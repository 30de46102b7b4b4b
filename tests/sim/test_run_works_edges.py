"""Whole runs in virtual time: work answered at once, lines changed or taken out meanwhile, and what stands beside work."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner.runner import Run
from batchrunner.simulator.accounts import digest
from batchrunner.simulator.answers import Answer
from batchrunner.simulator.settings import AccountSettings
from tests.sim.nights import CHAT, Night, WatchedPlatform, after, assert_once, assert_whole, jobs
from tests.sim.works import (
    assert_verified,
    json_answer,
    line,
    lines,
    maker,
    platform,
    submissions,
)


@pytest.fixture
def night_of(tmp_path: Path, nursery: trio.Nursery) -> Any:
    return maker(tmp_path, nursery)


@pytest.mark.parametrize(
    ("answer", "failures"),
    [
        ({"text": "at once", "result": {"text": "at once"}}, {}),
        ({"job_id": "j", "status": "succeeded", "output": {"text": "at once"}}, {}),
        ({"text": "at once"}, {}),
        ({"id": "t-1", "text": "at once"}, {}),
        ({"id": "v-1", "url": "https://files.example.com/a.mp4"}, {}),
        ({"status": "queued"}, {"work-0": "unreadable_reply"}),
        ({"job_id": "", "status": "queued"}, {"work-0": "unreadable_reply"}),
        ({"job_id": "x" * 1000, "status": "queued"}, {"work-0": "unreadable_reply"}),
        ({"job_id": "..", "status": "queued"}, {"work-0": "unreadable_reply"}),
        ({"job_id": "j", "status": "failed", "error": {"code": "nsfw", "message": "m"}}, {"work-0": "nsfw"}),
    ],
)
async def test_a_submission_may_be_answered_at_once(
    autojump_clock: MockClock, night_of: Any, answer: dict[str, Any], failures: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the result, or its failure; what names nothing to ask for was paid for in vain, perhaps."""
    night = night_of(lines(1))

    async def at_once(*_: object) -> Answer:
        return json_answer(200, answer)

    monkeypatch.setattr(WatchedPlatform, "answer", at_once)
    status = await night.run()
    assert_once(night, status)
    assert (night.failures(), night.maybe_billed()) == (failures, set(failures))
    assert platform(night).questions == []


async def test_a_changed_line_gives_its_work_up(autojump_clock: MockClock, night_of: Any) -> None:
    """It may have been billed; with --accept-changes the new line is submitted, without it the run is refused."""
    night = night_of(lines(1), work_seconds=600.0)
    await night.run(after(30, Run.drain))
    night.path.write_bytes(line("work-0", prompt="The sun"))
    with pytest.raises(Exception, match="changed"):
        await night.run()
    status = await night.run(accept_changes=True)
    assert_once(night, status)
    assert (status.completed, night.asked()["work-0"], night.maybe_billed()) == (1, 2, {"work-0"})
    assert_verified(night)


async def test_work_of_a_line_that_was_taken_out_is_given_up(autojump_clock: MockClock, night_of: Any) -> None:
    """Nobody will ask for it any more: it may have been billed, once."""
    night = night_of([line("work-0"), *jobs(1)], work_seconds=600.0)
    await night.run(after(30, Run.drain))
    night.path.write_bytes(b"".join(jobs(1)))
    for _ in range(2):
        status = await night.run()
        assert (status.completed, night.maybe_billed(), len(night.costs())) == (1, {"work-0"}, 2)


async def test_chat_jobs_beside_work_are_not_held_up(autojump_clock: MockClock, night_of: Any) -> None:
    """Work that takes long holds no place in flight."""
    night = night_of([*lines(5), *jobs(20)], work_seconds=1000.0)
    done_at: dict[int, float] = {}

    async def watch(run: Run) -> None:
        while True:
            done_at.setdefault(run.status().completed, trio.current_time())
            await trio.sleep(1)

    status = await night.run(watch, max_in_flight=1)
    assert_whole(night, status)
    assert done_at[20] < 60
    assert CHAT in {event.endpoint for event in night.events}


KEYS = {"a": ("sk-empiriolabs-test-account-a",), "b": ("sk-empiriolabs-test-account-b",)}


def spend_all(night: Night, account: str) -> None:
    owner = night.platform.accounts.owner(digest(KEYS[account][0]))
    assert owner is not None
    owner.balance_usd = Decimal(0)


def of_two_accounts(night_of: Any, job_lines: list[bytes], work_seconds: float, *names: str) -> Night:
    """A night of a platform with two accounts, of which a run goes under those that are named, or under both."""
    accounts = tuple(AccountSettings(name=name, keys=keys) for name, keys in KEYS.items())
    night: Night = night_of(job_lines, accounts=accounts, work_seconds=work_seconds)
    night.accounts = {name: KEYS[name] for name in names or KEYS}
    return night


async def test_work_is_asked_for_by_the_account_that_submitted_it(autojump_clock: MockClock, night_of: Any) -> None:
    """Another one's key would find nothing there; the next process keeps to that too."""
    night = of_two_accounts(night_of, lines(20), 600.0)
    await night.run(after(60, Run.drain), rpm=60)
    assert {record.account for record in submissions(night)} == {"a", "b"}
    status = await night.run(rpm=60)
    assert_whole(night, status)
    assert (status.completed, night.maybe_billed(), len(night.platform.asked)) == (20, set(), 20)


async def test_work_of_an_account_that_is_given_up_is_left_to_the_next_process(autojump_clock: MockClock, night_of: Any) -> None:
    """The other account of the run does not ask for it, and goes on with its own."""
    night = of_two_accounts(night_of, lines(10), 300.0)

    async def close_a(run: Run) -> None:
        await trio.sleep(30)
        night.platform.delete_key(KEYS["a"][0])

    status = await night.run(close_a, rpm=60)
    left = {record.id for record in submissions(night) if record.account == "a"}
    assert left
    assert (status.state, status.stopped_by) == ("stopped", "keys")
    assert set(night.succeeded()) == {f"work-{n}" for n in range(10)} - left
    assert not night.maybe_billed()
    night.platform.accounts.restore_key(KEYS["a"][0])
    status = await night.run(rpm=60)
    assert_whole(night, status)
    assert (status.completed, len(night.platform.asked)) == (10, 10)


async def test_work_is_kept_by_an_account_that_cannot_connect(autojump_clock: MockClock, night_of: Any) -> None:
    """Jobs that came back from it go to the others meanwhile; what the server works on for it, it alone can ask for."""
    night = of_two_accounts(night_of, lines(10), 300.0)

    async def cut_a_off(run: Run) -> None:
        await trio.sleep(30)
        night.away = frozenset("a")
        night.server.hang_up()
        await trio.sleep(60)
        night.away = frozenset()

    status = await night.run(cut_a_off, rpm=60)
    assert {record.account for record in submissions(night)} == {"a", "b"}
    assert_whole(night, status)
    assert (status.completed, len(night.platform.asked), night.maybe_billed()) == (10, 10, set())


async def test_work_is_kept_by_an_account_that_waits_for_credits(autojump_clock: MockClock, night_of: Any) -> None:
    """Others have some perhaps, and know nothing of the work."""
    night = of_two_accounts(night_of, lines(10), 300.0)

    async def without_credits(_: Run) -> None:
        await trio.sleep(30)
        platform(night).instead = [json_answer(402, {"error": {"code": "insufficient_credits", "message": "m"}})]

    status = await night.run(without_credits, rpm=60, wait_for_credits=True)
    assert_whole(night, status)
    assert (status.completed, len(night.platform.asked), night.maybe_billed()) == (10, 10, set())


async def test_work_is_asked_for_by_an_account_that_has_no_credits_any_more(autojump_clock: MockClock, night_of: Any) -> None:
    """What it submitted was paid for; the other account takes the rest, and the run is whole in one go."""
    night = of_two_accounts(night_of, lines(100), 300.0)

    async def without_credits(_: Run) -> None:
        await trio.sleep(3)
        spend_all(night, "a")

    status = await night.run(without_credits, rpm=60)
    by_a = {record.id for record in submissions(night) if record.account == "a"}
    assert 0 < len(by_a) < 50
    assert any("'a' is not used any more" in line for line in night.said)
    assert_whole(night, status)
    assert (status.completed, night.maybe_billed()) == (100, set())
    assert max(night.asked().values()) == 2, "what was refused for want of credits, and nothing else, went out again"


async def test_an_account_without_credits_that_loses_its_key_too_ends(autojump_clock: MockClock, night_of: Any) -> None:
    """Nothing can be asked for then; what it submitted is left to the next process, and the others come to their end."""
    night = of_two_accounts(night_of, lines(100), 600.0)

    async def without_credits(_: Run) -> None:
        await trio.sleep(3)
        spend_all(night, "a")
        await trio.sleep(60)
        night.platform.delete_key(KEYS["a"][0])

    status = await night.run(without_credits, rpm=60)
    left = {record.id for record in submissions(night) if record.account == "a"} - set(night.succeeded())
    assert left
    assert (status.state, status.stopped_by, status.submitted) == ("stopped", "credits", len(left))
    assert sum("is not used any more" in line for line in night.said) == 1


async def test_work_of_an_account_that_is_not_there_is_not_given_up(autojump_clock: MockClock, night_of: Any) -> None:
    """A start without the account that submitted it: another one is told 404 of what is none of its own, and proves nothing."""
    night = of_two_accounts(night_of, lines(4), 300.0, "a")
    await night.run(after(30, Run.drain), rpm=60)
    night.accounts = {"b": KEYS["b"]}
    status = await night.run(after(900, Run.drain), rpm=60)
    assert (status.submitted, night.failures()) == (4, {})
    assert any("were submitted under 'a', which this start does not have: 'b' is asked" in line for line in night.said)
    night.accounts = {"a": KEYS["a"]}
    status = await night.run(rpm=60)
    assert_whole(night, status)
    assert (status.completed, night.maybe_billed(), len(night.platform.asked)) == (4, set(), 4)


async def test_work_of_an_account_that_never_comes_back_is_given_up_in_the_end(autojump_clock: MockClock, night_of: Any) -> None:
    night = of_two_accounts(night_of, lines(1), 300.0, "a")
    await night.run(after(30, Run.drain), rpm=60)
    night.accounts = {"b": KEYS["b"]}
    began = trio.current_time()
    await night.run(rpm=60)
    assert night.failures() == {"work-0": "job_expired"}
    assert 6_000 < trio.current_time() - began < 9_000


async def test_work_waits_out_an_outage_and_is_found_in_time(autojump_clock: MockClock, night_of: Any) -> None:
    """Half an hour without a server, and more results to be asked for than repeats would be allowed: none expires."""
    night = night_of(lines(300), work_seconds=60.0)

    async def outage(run: Run) -> None:
        await trio.sleep(600)
        night.server.go_down()
        await trio.sleep(1800)
        night.server.down = False

    status = await night.run(outage, rpm=60)
    assert_whole(night, status)
    assert (status.completed, night.failures()) == (300, {})
