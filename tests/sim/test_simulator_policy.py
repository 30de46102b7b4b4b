"""The simulated platform's policy, request by request: limits, headers, accounts, idempotency. In virtual time."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from batchrunner.simulator.faults import KINDS, Bill, Content, Delivery
from batchrunner.simulator.ledger import Entry, MemoryLedger
from batchrunner.simulator.platform import Platform
from batchrunner.simulator.settings import TEST_KEY, AccountSettings, Change, Foreign, LogAt, RateHeaders, RetryAfter, WindowShape
from tests.sim.simulated import CHAT, Got, ask, body, entries_of, platform_of, request, tagged

KEYS = [f"sk-empiriolabs-test-{name}" for name in ("one", "two", "three")]
STATISTICS = request("/simulator/statistics", method="GET", authorization="")


def bearing(key: str, *, idempotency_key: str = "") -> bytes:
    return request(authorization=f"Bearer {key}", idempotency_key=idempotency_key)


async def statistics(platform: Platform) -> dict[str, Any]:
    found: dict[str, Any] = (await ask(platform, STATISTICS)).json()
    return found


async def statuses(platform: Platform, count: int, data: bytes) -> list[int | None]:
    """Of requests one after the other."""
    return [(await ask(platform, data)).status for _ in range(count)]


async def at_once(platform: Platform, count: int, data: bytes) -> list[Got]:
    got: list[Got] = []

    async def one() -> None:
        got.append(await ask(platform, data))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return got


def ledger_of(platform: Platform) -> list[Entry]:
    assert isinstance(platform.ledger, MemoryLedger)
    return platform.ledger.entries


@pytest.mark.parametrize(
    ("window", "accepted"),
    [
        (WindowShape.SLIDING, 100),
        (WindowShape.CALENDAR, 100),
        (WindowShape.ANCHORED, 100),
        (WindowShape.TWO_BUCKET, 100),
        (WindowShape.TWO_BUCKET_STRICT, 99),
        (WindowShape.BUCKET, 109),
        (WindowShape.SPACING, 100),
        (WindowShape.SECONDS, 100),
        (WindowShape.TEN_SECONDS, 96),
    ],
)
async def test_every_window_keeps_its_limit_on_the_wire(window: WindowShape, accepted: int, autojump_clock: MockClock) -> None:
    """Of 200 requests, one each 600 ms of two minutes, a limit of 50 lets in this many; a bucket also what it held, 10."""
    platform = platform_of(rpm=50, window=window, burst=10, latency_median_seconds=0.0)
    for number in range(200):
        await trio.sleep_until(number * 0.6)
        await ask(platform, request())
    assert platform.account.counts.accepted == accepted
    assert platform.account.counts.rejected_by["requests"] == 200 - accepted


async def test_an_answer_says_what_is_left_and_so_does_a_rejection(autojump_clock: MockClock) -> None:
    """OpenAI's headers on 200 and 429, Retry-After only on the second; none on what the limits were never asked for."""
    platform = platform_of(rpm=2, rate_headers=RateHeaders.OPENAI, latency_sigma=0.0)
    got = [await ask(platform, request()) for _ in range(3)]
    assert [one.headers["x-ratelimit-remaining-requests"] for one in got] == ["1", "0", "0"]
    assert [one.headers.get("retry-after") for one in got] == [None, None, "59"]
    assert got[2].headers["x-ratelimit-reset-requests"] == "59.5s"
    unknown = await ask(platform, request(payload=body(model="nobody")))
    assert not any(name.startswith("x-ratelimit") for name in unknown.headers)


@pytest.mark.parametrize("style", [style for style in RateHeaders if style is not RateHeaders.NONE])
async def test_headers_of_each_provider_reach_the_client(style: RateHeaders, autojump_clock: MockClock) -> None:
    """At least what is left of tokens."""
    got = await ask(platform_of(rpm=50, tpm=1_000_000, rate_headers=style), request())
    assert any("token" in name or "bysize" in name for name in got.headers)


async def test_a_date_to_come_back_at_is_one_that_suffices(autojump_clock: MockClock) -> None:
    """Who comes back at the second that is named is let in."""
    platform = platform_of(rpm=1, retry_after=RetryAfter.DATE, latency_median_seconds=0.3)
    await ask(platform, request())
    assert (await ask(platform, request())).headers["retry-after"] == "Thu, 01 Jan 1970 00:01:00 GMT"
    await trio.sleep_until(60)
    assert (await ask(platform, request())).status == 200


async def test_requests_count_at_completion_where_they_do(autojump_clock: MockClock) -> None:
    """Five at once pass a limit of two, since none has ended; then none does, and failures have not counted."""
    platform = platform_of(rpm=2, log_at=LogAt.COMPLETION, script=("error500",) * 2, latency_sigma=0.0)
    assert sorted(got.status or 0 for got in await at_once(platform, 5, request())) == [200, 200, 200, 500, 500]
    assert await statuses(platform, 1, request()) == [429]
    await trio.sleep(60)
    assert sorted(got.status or 0 for got in await at_once(platform, 2, request())) == [200, 200]


async def test_rejections_count_where_they_do(autojump_clock: MockClock) -> None:
    """Who asks every ten seconds never gets in again."""
    platform = platform_of(rpm=1, count_rejected=True)
    for number in range(20):
        assert (await ask(platform, request())).status == (429 if number else 200)
        await trio.sleep(10)
    await trio.sleep(60)
    assert await statuses(platform, 1, request()) == [200]


async def test_jitter_delays_arrival_at_the_limits(autojump_clock: MockClock) -> None:
    """Requests sent together arrive apart, within the bounds, and the same in every run with the same seed."""

    async def durations(seed: int) -> list[float]:
        platform = platform_of(seed=seed, rpm=1, jitter_seconds=(1.0, 3.0))
        assert await statuses(platform, 1, request()) == [200]
        found = []
        for _ in range(20):
            began = trio.current_time()
            assert await statuses(platform, 1, request()) == [429]
            found.append(round(trio.current_time() - began, 6))
        return found

    first = await durations(1)
    assert all(1.0 <= seconds <= 3.0 for seconds in first)
    assert len(set(first)) == 20
    await trio.sleep(60)
    assert first == await durations(1) != await durations(2)


def two_accounts() -> tuple[AccountSettings, ...]:
    return (
        AccountSettings(name="a", keys=(KEYS[0], KEYS[1]), rpm=2, balance_usd=Decimal(1)),
        AccountSettings(name="b", keys=(KEYS[2],), balance_usd=Decimal("0.000001")),
    )


async def test_accounts_have_budgets_of_their_own_and_keys_share_them(autojump_clock: MockClock) -> None:
    """The third request of an account is rejected whichever key it bears; the other account goes on, until it has no credits."""
    platform = platform_of(accounts=two_accounts())
    got = [(await ask(platform, bearing(KEYS[key]))).status for key in (0, 1, 0, 1, 2, 2)]
    assert got == [200, 200, 429, 429, 200, 402]
    assert (await ask(platform, bearing(TEST_KEY))).status == 401
    assert [entry.account for entry in ledger_of(platform)] == ["a", "a", "b"]
    whole = await statistics(platform)
    assert (whole["accepted"], whole["rejected"], whole["peak_accepted_per_minute"], whole["billed"]) == (3, 2, 3, 3)
    assert whole["peak_tokens_per_minute"] == sum(entry.tokens.total for entry in ledger_of(platform))
    found = whole["accounts"]
    assert (found["a"]["accepted"], found["a"]["rejected_by"]) == (2, {"requests": 2})
    assert (found["b"]["accepted"], found["b"]["rejected_by"], found["b"]["billed"]) == (1, {}, 1)


async def test_usage_shows_the_account_of_the_key(autojump_clock: MockClock) -> None:
    """Two keys of one account see the same events; another account sees its own."""
    platform = platform_of(accounts=two_accounts())
    await ask(platform, bearing(KEYS[0]))
    pages = [
        (await ask(platform, request("/v1/account/usage", method="GET", authorization=f"Bearer {key}"))).json() for key in KEYS
    ]
    assert [len(page["data"]) for page in pages] == [1, 1, 0]
    assert pages[0]["balance"]["amount"] == pages[1]["balance"]["amount"] < 1


async def test_a_key_dies_in_mid_run_and_the_accounts_other_goes_on(autojump_clock: MockClock) -> None:
    """From the second request on the first key is refused; a minute after the first request it is back."""
    changes = (Change(at_request=2, delete_key=1), Change(at_seconds=60, restore_key=1))
    platform = platform_of(accounts=(AccountSettings(name="a", keys=tuple(KEYS), changes=changes),))
    got = [(await ask(platform, bearing(KEYS[key]))).status for key in (0, 0, 1)]
    assert got == [200, 401, 200]
    await trio.sleep(60)
    assert (await ask(platform, bearing(KEYS[0]))).status == 200


async def test_credits_run_out_and_are_topped_up(autojump_clock: MockClock) -> None:
    """402 from when the balance is spent until the top-up."""
    platform = platform_of(balance_usd=Decimal("0.000001"), changes=(Change(at_seconds=100, top_up_usd=Decimal(5)),))
    assert await statuses(platform, 2, request()) == [200, 402]
    await trio.sleep(100)
    assert await statuses(platform, 1, request()) == [200]
    assert 4 < platform.account.balance_usd < 5


async def test_a_limit_that_is_halved_holds_from_its_moment_on(autojump_clock: MockClock) -> None:
    """Four a minute, then two."""
    platform = platform_of(rpm=4, window=WindowShape.CALENDAR, changes=(Change(at_seconds=60, rpm=2),), latency_sigma=0.0)
    assert (await statuses(platform, 6, request())).count(200) == 4
    await trio.sleep_until(121)
    assert (await statuses(platform, 6, request())).count(200) == 2


@pytest.mark.parametrize("burst", [1, 5])
async def test_another_program_takes_its_share(burst: int, autojump_clock: MockClock) -> None:
    """Of 50 a minute another program asks for 25 and we for 40: together we get 50, and both are refused at times."""
    platform = platform_of(rpm=50, foreign=(Foreign(rpm=25, burst=burst),), latency_sigma=0.0, latency_median_seconds=0.0)
    for _ in range(400):
        await ask(platform, request())
        await trio.sleep(1.5)
    found = (await statistics(platform))["accounts"]["default"]
    assert 10 * 50 - 10 <= found["accepted"] + found["foreign_accepted"] <= 11 * 50
    assert 150 <= found["foreign_accepted"] <= 250
    assert found["foreign_rejected"] > 0
    assert found["rejected_by"]["requests"] > 0


async def test_an_idempotency_key_is_ignored_unless_it_is_to_be_honoured(autojump_clock: MockClock) -> None:
    """By default each request is done and billed; where keys count, the answer is told again and costs nothing."""
    deaf, honouring = platform_of(), platform_of(idempotency=True, rpm=1)
    for platform in (deaf, honouring):
        await entries_of(platform, 2, request(idempotency_key="k"))
    assert [entry.replay for entry in ledger_of(deaf)] == [False, False]
    assert (await statistics(deaf))["doubles"] == 1
    first, again = ledger_of(honouring)
    assert (first.replay, again.replay, bytes(again.cost.amount), again.tokens) == (False, True, b"0", first.tokens)
    assert (again.seq, again.idempotency_key) == (2, "k")
    found = await statistics(honouring)
    assert (found["billed"], found["replays"], found["doubles"], found["rejected"]) == (1, 1, 0, 0)


async def test_a_replay_is_the_same_answer(autojump_clock: MockClock) -> None:
    """Byte for byte, marked as told again, under a request id of its own; a key of another account is another key."""
    platform = platform_of(idempotency=True, accounts=two_accounts())
    first, again = [await ask(platform, bearing(KEYS[0], idempotency_key="k")) for _ in range(2)]
    assert (again.status, again.body) == (200, first.body)
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    other = await ask(platform, bearing(KEYS[2], idempotency_key="k"))
    assert "idempotent-replayed" not in other.headers


async def test_a_key_in_use_and_a_key_for_something_else_are_refused(autojump_clock: MockClock) -> None:
    """409 while the first request is being worked on, 400 for another body; neither is billed."""
    platform = platform_of(idempotency=True)
    got = await at_once(platform, 3, request(idempotency_key="k"))
    assert sorted(one.status or 0 for one in got) == [200, 409, 409]
    other = await ask(platform, request(payload=tagged("other"), idempotency_key="k"))
    assert (other.status, other.json()["error"]["code"]) == (400, "idempotency_error")
    assert len(ledger_of(platform)) == 1


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_no_fault_makes_a_repeated_key_cost_twice(kind: str, autojump_clock: MockClock) -> None:
    """After each kind of fault the same key is billed once in all, and its last answer is whole: the platform's own."""
    platform = platform_of(idempotency=True, script=(kind,))
    headers = {"authorization": f"Bearer {TEST_KEY}", "idempotency-key": "k"}
    for _ in range(3):
        answer = await platform.answer("POST", CHAT, headers, body())
    fault = KINDS[kind]
    told_again = fault.content is Content.ERROR and fault.bill is Bill.NEVER and not fault.at_door
    assert (answer.status, answer.delivery) == (fault.status if told_again else 200, Delivery.WHOLE)
    assert [entry.replay for entry in ledger_of(platform)].count(False) == (0 if told_again else 1)
    assert (await statistics(platform))["doubles"] == 0


async def test_work_that_is_given_up_leaves_its_key_free(autojump_clock: MockClock) -> None:
    """When a server is stopped in mid-work nothing is kept."""
    platform = platform_of(idempotency=True)
    with trio.move_on_after(0.01):
        await ask(platform, request(idempotency_key="k"))
    assert await statuses(platform, 1, request(idempotency_key="k")) == [200]


async def test_statistics_tell_the_peak_of_each_window(autojump_clock: MockClock) -> None:
    """Two at 00:59 and three at 01:01 are five in 60 s and never more than three in a minute, ten seconds or second."""
    platform = platform_of(latency_sigma=0.0, output_sigma=0.0, cached_share=0.0)
    for at_seconds, count in ((59, 2), (61, 3)):
        await trio.sleep_until(at_seconds)
        await at_once(platform, count, request())
    found = (await statistics(platform))["accounts"]["default"]
    assert found["peak_requests"] == {"sliding": 5, "calendar": 3, "ten-seconds": 3, "seconds": 3}
    each = ledger_of(platform)[0].tokens.total
    assert found["peak_tokens"] == {"sliding": 5 * each, "calendar": 3 * each, "ten-seconds": 3 * each, "seconds": 3 * each}


async def test_doubles_are_known_by_job_and_else_by_body(autojump_clock: MockClock) -> None:
    """A job that is billed twice is a double though its body differs; of bodies without a name equal ones are."""
    platform = platform_of()
    for payload in (tagged("a"), tagged("b"), tagged("a"), body(), body(text="other"), body()):
        await ask(platform, request(payload=payload))
    assert (await statistics(platform))["doubles"] == 2


async def test_the_same_settings_give_the_same_night(autojump_clock: MockClock) -> None:
    """Statistics and ledger of two runs with everything on are equal but for the seed's sake."""

    async def night(seed: int) -> object:
        platform = platform_of(
            seed=seed,
            accounts=(
                AccountSettings(name="a", keys=(KEYS[0],), rpm=20, foreign=(Foreign(rpm=10, burst=4),)),
                AccountSettings(name="b", keys=(KEYS[1],), tpm=3_000, changes=(Change(at_seconds=20, tpm=600),)),
            ),
            window=WindowShape.TWO_BUCKET,
            jitter_seconds=(0.01, 0.2),
            faults={"error500": 0.1, "rate_limited": 0.1},
            rate_headers=RateHeaders.ANTHROPIC,
        )
        began_ns = round(trio.current_time() * 1e9)
        for number in range(60):
            await ask(platform, bearing(KEYS[number % 2]))
        entries = [(entry.at_ns - began_ns, entry.account, entry.tokens, entry.fault) for entry in ledger_of(platform)]
        return entries, platform.counters.statistics().accounts

    nights = []
    for seed in (1, 1, 2):
        await trio.sleep(600 - trio.current_time() % 600)
        nights.append(await night(seed))
    assert nights[0] == nights[1] != nights[2]
