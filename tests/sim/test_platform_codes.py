"""Each error code of the platform, by its name: what comes of job, key, account, costs and exit, however it is spelt.

In OpenAI's envelope the code itself comes; in Anthropic's only a type that many codes share; from a proxy only a status.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from batchrunner.cli.output import exit_code
from batchrunner.events import AttemptResult
from batchrunner.journal.files import ERRORS
from batchrunner.simulator.settings import TEST_KEY
from batchrunner.status import Status
from tests.sim.nights import Night, assert_whole
from tests.sim.scripts import OPENAI, SPELLINGS, WORDS, Spelling, in_every_spelling, night, only

REFUSED_KEY = "sk-empiriolabs-test-refused"


def with_statuses(*, always: list[int], by_code: list[int]) -> list[object]:
    """Every spelling with each of the statuses that speak for themselves; those that need a code's word with that alone."""
    pairs = [(spelling, status) for spelling in SPELLINGS for status in always] + [(OPENAI, status) for status in by_code]
    return [pytest.param(spelling, status, id=f"{spelling.name}-{status}") for spelling, status in pairs]


def exits(status: Status) -> int:
    return exit_code(status, terminated=False)


def assert_not_billed(ended: Night, *custom_ids: str) -> None:
    """What the server refused stands in no line of costs.jsonl: each job there was charged for its one answer alone."""
    charged = Counter(custom_id for custom_id, _ in ended.costs())
    assert charged == Counter(ended.succeeded())
    assert not charged.keys() & set(custom_ids)
    assert not ended.maybe_billed()


@in_every_spelling
async def test_missing_api_key(autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling) -> None:
    """A run without a key: every job is kept, none is charged, 69; with a key the same run goes on to its end."""
    refusal = spelling.error(401, "missing_api_key")
    begun = night(tmp_path, nursery, spelling.jobs(20), lambda ask: None if ask.authorization else refusal)
    begun.keys = ()
    first = await begun.run(max_in_flight=3)
    assert (first.stopped_by, first.completed, first.failed, exits(first)) == ("keys", 0, 0, 69)
    assert begun.asked().total() <= 3
    assert_not_billed(begun)
    assert any(line.startswith("stopping: ") for line in begun.said)
    begun.keys = (TEST_KEY,)
    status = await begun.run(max_attempts=1)
    assert_whole(begun, status)
    assert (status.completed, exits(status)) == (20, 0)


@in_every_spelling
async def test_invalid_api_key(autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling) -> None:
    """The key is retired and the account's next one takes over: no job fails, spends an attempt or is charged for it."""
    refusal = spelling.error(401, "invalid_api_key")
    begun = night(tmp_path, nursery, spelling.jobs(20), lambda ask: refusal if REFUSED_KEY in ask.authorization else None)
    begun.keys = (REFUSED_KEY, TEST_KEY)
    status = await begun.run(max_in_flight=3, max_attempts=1)
    assert_whole(begun, status)
    assert (status.completed, exits(status)) == (20, 0)
    used = Counter(asked.key for asked in begun.platform.asked)
    assert 1 <= used[f"Bearer {REFUSED_KEY}"] <= 3
    assert used[f"Bearer {TEST_KEY}"] == 20
    assert_not_billed(begun)


@in_every_spelling
async def test_invalid_api_key_of_every_key(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling
) -> None:
    """No key left: 69 with every job kept, and the same command goes on with a good one."""
    refusal = spelling.error(401, "invalid_api_key")
    begun = night(tmp_path, nursery, spelling.jobs(20), lambda ask: refusal if REFUSED_KEY in ask.authorization else None)
    begun.keys = (REFUSED_KEY, REFUSED_KEY + "-too")
    first = await begun.run(max_in_flight=3)
    assert (first.stopped_by, first.completed, first.failed, exits(first)) == ("keys", 0, 0, 69)
    assert begun.asked().total() <= 6
    begun.keys = (TEST_KEY,)
    assert_whole(begun, await begun.run(max_attempts=1))
    assert_not_billed(begun)


@in_every_spelling
async def test_insufficient_credits(autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling) -> None:
    """The account is paused at once: what was answered is kept, no job fails, 69; once paid for, the run goes on."""
    refusal = spelling.error(402, "insufficient_credits")
    paid = {f"job-{number}" for number in range(8)}
    begun = night(tmp_path, nursery, spelling.jobs(20), lambda ask: None if ask.custom_id in paid else refusal)
    first = await begun.run(max_in_flight=2)
    assert (first.stopped_by, first.completed, first.failed, exits(first)) == ("credits", 8, 0, 69)
    assert begun.asked().total() <= 8 + 2
    assert_not_billed(begun, *(f"job-{number}" for number in range(8, 20)))
    if spelling.words:
        assert f"stopping: {WORDS}" in begun.said
    paid.update(f"job-{number}" for number in range(20))
    status = await begun.run(max_attempts=1)
    assert_whole(begun, status)
    assert (status.completed, exits(status)) == (20, 0)


@in_every_spelling
async def test_model_not_found(autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling) -> None:
    """The job fails at once and unbilled, with what the server said; the others succeed, and the exit is 1."""
    begun = night(tmp_path, nursery, spelling.jobs(20), only("job-3", spelling.error(404, "model_not_found")))
    status = await begun.run()
    assert_whole(begun, status)
    assert_failed_at_once(begun, status, spelling, 404, "model_not_found")


@pytest.mark.parametrize(("spelling", "came_with"), with_statuses(always=[429], by_code=[503]))
async def test_rate_limit_exceeded(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling, came_with: int
) -> None:
    """The account waits: the job succeeds on its only attempt after four refusals, and none of them is charged."""
    refusal = spelling.error(came_with, "rate_limit_exceeded")
    begun = night(tmp_path, nursery, spelling.jobs(20), only("job-3", refusal, times=4))
    status = await begun.run(max_attempts=1)
    assert_whole(begun, status)
    assert (status.completed, status.rate_limited, status.attempts, exits(status)) == (20, 4, 24, 0)
    assert_not_billed(begun)


@in_every_spelling
async def test_rate_limit_exceeded_for_all(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling
) -> None:
    """One canary at a time while the account is closed: an hour of refusals costs few requests, and no job."""
    refusal = spelling.error(429, "rate_limit_exceeded")
    begun = night(tmp_path, nursery, spelling.jobs(20), lambda _: refusal if trio.current_time() < 3600 else None)
    status = await begun.run(rpm=50, max_attempts=1)
    assert_whole(begun, status)
    assert (status.completed, exits(status)) == (20, 0)
    assert status.rate_limited < 60


@pytest.mark.parametrize("code", ["gpu_limit_exceeded", "agent_limit_reached"])
@pytest.mark.parametrize(("spelling", "came_with"), with_statuses(always=[400, 403], by_code=[409, 429]))
async def test_gpu_limit_exceeded_and_agent_limit_reached(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling, code: str, came_with: int
) -> None:
    """A limit that no waiting lifts fails its job at once, whatever 4xx it comes with, and nobody else's."""
    begun = night(tmp_path, nursery, spelling.jobs(20), only("job-3", spelling.error(came_with, code)))
    status = await begun.run()
    assert_whole(begun, status)
    assert_failed_at_once(begun, status, spelling, came_with, code)
    assert status.rate_limited == 0


@in_every_spelling
@pytest.mark.parametrize(("code", "came_with"), [("model_unavailable", 503), ("upstream_error", 502)])
async def test_model_unavailable_and_upstream_error(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling, code: str, came_with: int
) -> None:
    """The job is tried again after a backoff and succeeds; the others go on meanwhile, and no refusal is charged."""
    begun = night(tmp_path, nursery, spelling.jobs(20), only("job-3", spelling.error(came_with, code), times=2))
    status = await begun.run(max_in_flight=2)
    assert_whole(begun, status)
    assert (status.completed, status.attempts, exits(status)) == (20, 22, 0)
    assert Counter(event.result for event in begun.events)[AttemptResult.SERVER_ERROR] == 2
    assert_not_billed(begun)


@in_every_spelling
@pytest.mark.parametrize(("code", "came_with"), [("model_unavailable", 503), ("upstream_error", 502)])
async def test_model_unavailable_and_upstream_error_until_attempts_are_spent(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery, spelling: Spelling, code: str, came_with: int
) -> None:
    """Bounded: the job fails with the server's last answer, unbilled, and --retry-failed takes it in again."""
    begun = night(tmp_path, nursery, spelling.jobs(20), only("job-3", spelling.error(came_with, code), times=3))
    status = await begun.run(max_attempts=3)
    assert_whole(begun, status)
    assert begun.failures() == {"job-3": spelling.code(came_with, code)}
    assert (begun.asked()["job-3"], status.completed, exits(status)) == (3, 19, 1)
    assert_not_billed(begun, "job-3")
    status = await begun.run(retry_failed=True)
    assert_whole(begun, status)
    assert (status.completed, exits(status)) == (20, 0)


def assert_failed_at_once(ended: Night, status: Status, spelling: Spelling, came_with: int, code: str) -> None:
    """job-3 was sent once and has failed with the server's own answer, at no cost; all others have succeeded."""
    assert ended.failures() == {"job-3": spelling.code(came_with, code)}
    assert (status.completed, status.attempts, exits(status)) == (19, 20, 1)
    (line,) = ended.lines(ERRORS)
    assert line["response"]["status_code"] == came_with
    # Behind them stands, for a limit of the account, what it is.
    assert line["error"]["message"].startswith(WORDS if spelling.words else f"the server answered with status {came_with}")
    assert_not_billed(ended, "job-3")
