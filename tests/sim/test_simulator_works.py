"""Work that the simulated platform takes on: its states, whose it is, how long it is kept, what it costs."""

from __future__ import annotations

from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from batchrunner.simulator.platform import Platform
from batchrunner.simulator.settings import AccountSettings
from tests.sim.simulated import ask, entries_of, platform_of, request

VIDEOS = "/v1/videos/generations"
KEYS = ("sk-empiriolabs-test-one", "sk-empiriolabs-test-two")
FILM = msgspec.json.encode(
    {"model": "simulated-per-request", "prompt": "The moon", "seconds": 8, "metadata": {"custom_id": "film"}}
)


async def submitted(platform: Platform, **headers: str) -> str:
    """The path at which the work is asked for."""
    reply = (await ask(platform, request(VIDEOS, FILM, **headers))).json()
    assert (reply["status"], reply["polling_url"]) == ("queued", f"/v1/jobs/{reply['job_id']}")
    return str(reply["polling_url"])


async def asked(platform: Platform, path: str, **headers: str) -> tuple[int | None, Any]:
    got = await ask(platform, request(path, b"", method="GET", **headers))
    return got.status, got.json()


async def test_work_goes_through_its_states(autojump_clock: MockClock) -> None:
    """Queued, processing, completed with its result; billed when it was taken on, once, to whoever asked for it."""
    platform = platform_of(work_seconds=60.0)
    path = await submitted(platform)
    (entry,) = await entries_of(platform, 0, b"")
    assert (entry.path, entry.custom_id) == (VIDEOS, "film")
    seen: list[str] = []
    while not seen or seen[-1] != "completed":
        status, said = await asked(platform, path)
        assert status == 200
        seen.append(said["status"])
        await trio.sleep(5)
    assert list(dict.fromkeys(seen)) == ["queued", "processing", "completed"]
    assert said["result"]["data"][0]["seconds"] == 8
    assert len(await entries_of(platform, 0, b"")) == 1


async def test_results_are_kept_for_an_hour(autojump_clock: MockClock) -> None:
    """From its end on, whether it was asked for or not; then nobody knows it, and it takes no memory."""
    platform = platform_of(work_seconds=10.0)
    path = await submitted(platform)
    await trio.sleep(3600)
    assert (await asked(platform, path))[1]["status"] == "completed"
    await trio.sleep(100)
    status, said = await asked(platform, path)
    assert (status, said["error"]["code"]) == (404, "job_not_found")
    await submitted(platform)
    assert len(platform.works) == 1


async def test_work_is_its_accounts_own(autojump_clock: MockClock) -> None:
    """Another account finds nothing; without a key nobody finds anything."""
    accounts = tuple(AccountSettings(name=key[-3:], keys=(key,)) for key in KEYS)
    platform = platform_of(accounts=accounts)
    one, two = ({"authorization": f"Bearer {key}"} for key in KEYS)
    path = await submitted(platform, **one)
    assert (await asked(platform, path, **one))[0] == 200
    assert (await asked(platform, path, **two))[0] == 404
    assert (await asked(platform, path, authorization=""))[0] == 401


async def test_a_question_counts_among_the_requests(autojump_clock: MockClock) -> None:
    """Of its account's minute: one too many is told to slow down."""
    platform = platform_of(rpm=3)
    path = await submitted(platform)
    assert [(await asked(platform, path))[0] for _ in range(3)] == [200, 200, 429]


async def test_the_same_work_takes_the_same_time(autojump_clock: MockClock) -> None:
    """By seed and order of arrival."""
    ends = []
    for seed in (1, 1, 2):
        platform = platform_of(seed=seed, latency_sigma=0.0)
        await submitted(platform)
        (work,) = platform.works._works.values()
        ends.append(work.ends_ns - work.began_ns)
    assert ends[0] == ends[1] != ends[2]


async def test_files_are_served_where_the_platform_is(autojump_clock: MockClock) -> None:
    """Addresses in answers lead there, and nowhere where it is not served; names that cannot be are not found."""
    platform = platform_of(work_seconds=1.0)
    platform.url = "http://127.0.0.1:9"
    path = await submitted(platform)
    await trio.sleep(60)
    address = (await asked(platform, path))[1]["result"]["data"][0]["url"]
    assert address.startswith("http://127.0.0.1:9/files/")
    got = await ask(platform, request(address.removeprefix("http://127.0.0.1:9"), b"", method="GET", authorization=""))
    assert (got.status, got.headers["content-type"], len(got.body) > 0) == (200, "video/mp4", True)
    assert (await asked(platform, "/files/../secrets"))[0] == 404
