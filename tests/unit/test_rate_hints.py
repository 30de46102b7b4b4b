"""What answers say of the limits, spelling by spelling; what contradicts itself or is of another window says nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner import rate_hints
from batchrunner.budget import Hints
from batchrunner.exchange import Reply
from batchrunner.simulator.limits import Accepted, Limits
from batchrunner.simulator.rate_headers import rate_headers
from batchrunner.simulator.settings import Charging, RateHeaders, Settings, WindowShape

SECOND = 1_000_000_000
#: 2026-01-02T03:04:05Z
NOW_NS = 1_767_323_045 * SECOND


def read(*headers: tuple[str, str], status: int = 200, body: object = None) -> Hints | None:
    encoded = b"{}" if body is None else json.dumps(body).encode()
    return rate_hints.read(Reply(status, headers, encoded), NOW_NS)


def named(text: str) -> tuple[tuple[str, str], ...]:
    """Headers as one line each."""
    pairs = (line.strip().partition(": ") for line in text.strip().splitlines())
    return tuple((name, value) for name, _, value in pairs)


def hints(
    requests: tuple[int | None, int | None, float | None] = (None, None, None),
    tokens: tuple[int | None, int | None, float | None] = (None, None, None),
) -> Hints:
    """Limit, left and seconds to the reset of each."""
    in_ns = [(limit, left, None if seconds is None else round(seconds * SECOND)) for limit, left, seconds in (requests, tokens)]
    return Hints(*in_ns[0], *in_ns[1])


def test_an_answer_without_such_headers_says_nothing() -> None:
    assert read() is None
    assert read(("content-type", "application/json"), ("retry-after", "5"), ("x-request-id", "1")) is None


def test_openai() -> None:
    """Rate limits guide, "rate limits in headers": limit, remaining, and Go durations until all is back."""
    shown = named(
        """x-ratelimit-limit-requests: 60
        x-ratelimit-limit-tokens: 150000
        x-ratelimit-remaining-requests: 59
        x-ratelimit-remaining-tokens: 149984
        x-ratelimit-reset-requests: 1s
        x-ratelimit-reset-tokens: 6ms"""
    )
    assert read(*shown) == hints((60, 59, 1), (150_000, 149_984, 0.006))


@pytest.mark.parametrize(("text", "seconds"), [("120ms", 0.12), ("1.5s", 1.5), ("59.951s", 59.951), ("1m0s", 60), ("2m0s", 120)])
def test_resets_as_go_writes_them(text: str, seconds: float) -> None:
    assert read(("x-ratelimit-limit-tokens", "10"), ("x-ratelimit-reset-tokens", text)) == hints(tokens=(10, None, seconds))


def test_a_reset_that_no_minute_has_is_of_another_window() -> None:
    """6m0s until all tokens are back: nothing is known of a minute's. The requests beside them stand."""
    shown = named(
        """x-ratelimit-limit-tokens: 150000
        x-ratelimit-remaining-tokens: 140000
        x-ratelimit-reset-tokens: 6m0s
        x-ratelimit-remaining-requests: 7"""
    )
    assert read(*shown) == hints((None, 7, None))


@pytest.mark.parametrize(
    ("limit", "left", "reset"),
    [("14400", "14370", "2m59.56s"), ("14400", "14397", "16s"), ("14400", "14399", "5.9s"), ("10000", "9999", "8.64s")],
)
def test_a_days_requests_are_not_a_minutes(limit: str, left: str, reset: str) -> None:
    """Groq's are always those of a day (console.groq.com, rate limits), OpenAI's on small accounts: a reset gives them away."""
    shown = (
        ("x-ratelimit-limit-requests", limit),
        ("x-ratelimit-remaining-requests", left),
        ("x-ratelimit-reset-requests", reset),
        ("x-ratelimit-limit-tokens", "18000"),
        ("x-ratelimit-remaining-tokens", "17997"),
        ("x-ratelimit-reset-tokens", "7.66s"),
    )
    assert read(*shown) == hints(tokens=(18_000, 17_997, 7.66))


@pytest.mark.parametrize(
    ("left", "reset"), [("49", "1.2s"), ("49", "1m0s"), ("25", "30s"), ("0", "1m0s"), ("0", "500ms"), ("50", "0s")]
)
def test_a_minutes_requests_are_not_a_days(left: str, reset: str) -> None:
    """A bucket, a sliding and a calendar minute, however much of it is used."""
    shown = (
        ("x-ratelimit-limit-requests", "50"),
        ("x-ratelimit-remaining-requests", left),
        ("x-ratelimit-reset-requests", reset),
    )
    found = read(*shown)
    assert found is not None
    assert (found.request_limit, found.requests_left) == (50, int(left))


def test_azure() -> None:
    """Azure OpenAI, manage quota: only what remains; tokens may be shown as -1, which is no number of tokens."""
    assert read(("x-ratelimit-remaining-requests", "47"), ("x-ratelimit-remaining-tokens", "6298")) == hints(
        (None, 47, None), (None, 6_298, None)
    )
    assert read(("x-ratelimit-remaining-requests", "47"), ("x-ratelimit-remaining-tokens", "-1")) == hints((None, 47, None))


def test_anthropic() -> None:
    """Rate limits, response headers: RFC 3339, held against the server's own clock."""
    shown = named(
        """date: Fri, 02 Jan 2026 03:04:00 GMT
        anthropic-ratelimit-requests-limit: 50
        anthropic-ratelimit-requests-remaining: 47
        anthropic-ratelimit-requests-reset: 2026-01-02T03:04:04Z
        anthropic-ratelimit-tokens-limit: 10000
        anthropic-ratelimit-tokens-remaining: 6000
        anthropic-ratelimit-tokens-reset: 2026-01-02T03:04:30Z
        anthropic-ratelimit-input-tokens-limit: 8000
        anthropic-ratelimit-input-tokens-remaining: 5000
        anthropic-ratelimit-input-tokens-reset: 2026-01-02T03:04:30Z"""
    )
    assert read(*shown) == hints((50, 47, 4), (10_000, 6_000, 30))


@pytest.mark.parametrize(("left", "together"), [("1000", 6_000), ("0", 0)])
def test_anthropics_input_and_output_alone(left: str, together: int) -> None:
    """Without the most restrictive of all: their sum, of which nothing is left once either is used up."""
    shown = named(
        f"""anthropic-ratelimit-input-tokens-limit: 8000
        anthropic-ratelimit-input-tokens-remaining: 5000
        anthropic-ratelimit-input-tokens-reset: 2026-01-02T03:04:35Z
        anthropic-ratelimit-output-tokens-limit: 2000
        anthropic-ratelimit-output-tokens-remaining: {left}
        anthropic-ratelimit-output-tokens-reset: 2026-01-02T03:04:45Z"""
    )
    assert read(*shown) == hints(tokens=(10_000, together, 40))
    assert read(*shown[:3]) is None
    assert read(*shown[:5]) is None


def test_mistral() -> None:
    """Kong's headers by size are tokens a minute; its requests a second are not shown."""
    shown = named(
        """x-ratelimitbysize-limit-month: 1000000000
        x-ratelimitbysize-remaining-month: 999967993
        x-ratelimitbysize-limit-minute: 500000
        x-ratelimitbysize-remaining-minute: 467993
        ratelimitbysize-limit: 500000
        ratelimitbysize-remaining: 467993
        ratelimitbysize-reset: 40
        ratelimitbysize-query-cost: 32007"""
    )
    assert read(*shown) == hints(tokens=(500_000, 467_993, 40))
    assert read(*shown[4:]) == hints(tokens=(500_000, 467_993, 40))


def test_mistral_by_the_minute() -> None:
    """As its answers of 2026 have it. A key without a plan is told 0 of 0: nothing to go by."""
    shown = named(
        """x-ratelimit-limit-req-minute: 60
        x-ratelimit-remaining-req-minute: 59
        x-ratelimit-limit-tokens-minute: 50000
        x-ratelimit-remaining-tokens-minute: 47196
        x-ratelimit-limit-tokens-month: 4000000
        x-ratelimit-remaining-tokens-month: 3950246
        x-ratelimit-tokens-query-cost: 2804"""
    )
    assert read(*shown) == hints((60, 59, None), (50_000, 47_196, None))
    none = (("x-ratelimit-limit-req-minute", "0"), ("x-ratelimit-remaining-req-minute", "0"))
    assert read(*none) == hints((None, 0, None))


def test_cerebras() -> None:
    """inference-docs.cerebras.ai, rate limits: windows are named, resets are seconds with many digits; a day's are not read."""
    shown = named(
        """x-ratelimit-limit-requests-day: 1440
        x-ratelimit-remaining-requests-day: 1439
        x-ratelimit-reset-requests-day: 33011.382867097855
        x-ratelimit-limit-tokens-minute: 60000
        x-ratelimit-remaining-tokens-minute: 59000
        x-ratelimit-reset-tokens-minute: 11.382812500"""
    )
    assert read(*shown) == hints(tokens=(60_000, 59_000, 11.3828125))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("ratelimit-limit: 100\nratelimit-remaining: 50\nratelimit-reset: 30", (100, 50, 30)),
        ("ratelimit-limit: 100\nratelimit-remaining: 50\nratelimit-reset: 1767323075", (100, 50, 30)),
        ("ratelimit-limit: 0\nratelimit-remaining: 50", (None, 50, None)),
        ("ratelimit-remaining: 50", (None, 50, None)),
        ("ratelimit: remaining=50, ?1, reset=30", (None, 50, 30)),
        ('ratelimit: "m";r=50;t=30\nratelimit-policy: "m";q=0;w=60', (None, 50, 30)),
        ('ratelimit: "m";r=0;t=30\nratelimit-policy: "m";q=1;w=60', (1, 0, 30)),
        ("ratelimit-limit: 100, 100;w=60\nratelimit-remaining: 50\nratelimit-reset: 30", (100, 50, 30)),
        ("ratelimit-limit: 100, 10;w=1, 100;w=60;comment=x\nratelimit-remaining: 50", (100, 50, None)),
        ("ratelimit-limit: 10, 10;w=1, 100;w=60\nratelimit-remaining: 5\nratelimit-reset: 1", None),
        ("ratelimit-policy: 5000;w=3600\nratelimit-limit: 5000\nratelimit-remaining: 4999", None),
        ("ratelimit: limit=100, remaining=50, reset=30", (100, 50, 30)),
        ("ratelimit: limit=100, remaining=50, reset=30\nratelimit-policy: 100;w=60", (100, 50, 30)),
        ("ratelimit: limit=100, remaining=50, reset=30\nratelimit-policy: 100;w=3600", None),
        ('ratelimit: "default";r=50;t=30', (None, 50, 30)),
        ('ratelimit: "default";r=50;t=30\nratelimit-policy: "default";q=100;w=60', (100, 50, 30)),
        ("ratelimit: default; r=50; t=30\nratelimit-policy: default; q=100; w=60", (100, 50, 30)),
        (
            'ratelimit: "day";r=9;t=5, "minute";r=50;t=30\nratelimit-policy: "day";q=10;w=86400, "minute";q=100;w=60',
            (100, 50, 30),
        ),
        (
            'ratelimit: "d";r=9;t=5\nratelimit: "m";r=50;t=3\nratelimit-policy: "d";q=10;w=86400\nratelimit-policy: "m";q=100',
            (100, 50, 3),
        ),
        ('ratelimit: "bytes";r=50;t=30\nratelimit-policy: "bytes";q=100;w=60;qu="content-bytes"', None),
        ('ratelimit: "hour";r=50;t=30\nratelimit-policy: "hour";q=100;w=3600', None),
        ("ratelimit: ,;=,", None),
        ("ratelimit:  ", None),
        ("ratelimit-policy: 100;w=60", None),
    ],
)
def test_the_ietf_draft_in_each_of_its_forms(fields: str, expected: Any) -> None:
    """draft-ietf-httpapi-ratelimit-headers 00 to 06, 07, and from 08 on; windows of other than a minute say nothing here."""
    assert read(*named(fields)) == (None if expected is None else hints(expected))


@pytest.mark.parametrize(
    ("reset", "seconds"), [("30", 30), ("1767323075", 30), ("1767323075000", 30), ("2026-01-02T03:04:35Z", 30), ("soon", None)]
)
def test_the_plain_headers_of_gateways(reset: str, seconds: float | None) -> None:
    """Kong, LiteLLM, many others: of requests; the reset is a wait, Unix time in seconds or milliseconds, or a date."""
    shown = (("x-ratelimit-limit", "50"), ("x-ratelimit-remaining", "20"), ("x-ratelimit-reset", reset))
    assert read(*shown) == hints((50, 20, seconds))


def test_the_plain_headers_of_an_hour_say_nothing() -> None:
    assert read(("x-ratelimit-limit", "5000"), ("x-ratelimit-remaining", "4999"), ("x-ratelimit-reset", "1767326000")) is None


def test_openrouters_in_the_body_of_a_429() -> None:
    """Its headers stand in the error's metadata, the reset in milliseconds; on any other status a body is not looked at."""
    shown = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767323075000"}
    body = {"error": {"message": "Rate limit exceeded: free-models-per-min", "code": 429, "metadata": {"headers": shown}}}
    assert read(status=429, body=body) == hints((20, 0, 30))
    assert read(status=200, body=body) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.", hints((3, 0, None))),
        ("on tokens per min (TPM): Limit 40000, Used 39500, Requested 1800.", hints(tokens=(40_000, 500, None))),
        ("on tokens per minute (TPM): Limit 6000, Used 7000, Requested 1.", hints(tokens=(6_000, 0, None))),
        ("on requests per day (RPD): Limit 200, Used 200, Requested 1.", None),
        ("on tokens per day (TPD): Limit 500000, Used 499000, Requested 2000.", None),
        ("(RPM): Limit 9999999999999, Used 1", None),
    ],
)
def test_the_words_of_a_429(words: str, expected: Hints | None) -> None:
    """OpenAI and Groq name the limit that was met: of a minute it is a hint, of a day it is none."""
    body = {"error": {"message": f"Rate limit reached for m in organization org-1 {words}", "code": "rate_limit_exceeded"}}
    assert read(status=429, body=body) == expected
    assert read(status=400, body=body) is None


def test_headers_go_before_words() -> None:
    """Resource by resource: requests are in the headers, tokens in the words."""
    body = {"error": {"message": "(RPM): Limit 3, Used 3 and (TPM): Limit 40000, Used 39500"}}
    found = read(("x-ratelimit-limit-requests", "60"), status=429, body=body)
    assert found == hints((60, None, None), (40_000, 500, None))
    found = read(("x-ratelimit-remaining-tokens", "7"), status=429, body=body)
    assert found == hints((3, 0, None), (None, 7, None))


def test_the_specific_goes_before_the_plain() -> None:
    """A gateway's own headers beside its provider's: those that name what they count are believed."""
    shown = (("x-ratelimit-limit", "9"), ("x-ratelimit-limit-requests", "60"), ("ratelimit-limit", "8"))
    assert read(*shown) == hints((60, None, None))


@pytest.mark.parametrize(
    ("limit", "left", "expected"),
    [
        ("50", "51", None),
        ("50", "-1", hints((50, None, None))),
        ("-50", "10", hints((None, 10, None))),
        ("0", "0", hints((None, 0, None))),
        ("50.5", "10", hints((None, 10, None))),
        ("1e2", "10", hints((None, 10, None))),
        ("\u0665\u0660", "10", hints((None, 10, None))),
        ("5_0", "10", hints((None, 10, None))),
        ("unlimited", "lots", None),
        ("9" * 400, "10", hints((None, 10, None))),
        ("1000000000001", "10", hints((None, 10, None))),
        ("", "", None),
        (" 50 ", "10", hints((50, 10, None))),
    ],
)
def test_values_that_are_none(limit: str, left: str, expected: Hints | None) -> None:
    """Negative, fractions, words, digits of other scripts, huge; more left than there is contradicts itself."""
    assert read(("x-ratelimit-limit-requests", limit), ("x-ratelimit-remaining-requests", left)) == expected


def test_what_is_no_number_leaves_the_word_to_the_next_spelling() -> None:
    """A provider's headers in words, and its gateway's in numbers; a reset alone says nothing."""
    words = (("x-ratelimit-limit-requests", "plenty"), ("x-ratelimit-reset-requests", "1s"))
    assert read(*words) is None
    assert read(*words, ("x-ratelimit-limit", "60")) == hints((60, None, None))
    assert read(("ratelimit-limit", "plenty"), ("ratelimit-reset", "1")) is None


def test_what_is_said_twice_in_two_ways_is_not_said() -> None:
    """Twice the same is fine; 50 and 60 are neither, also where 50 comes again."""
    twice = (("x-ratelimit-limit-requests", "50"),) * 2
    left = ("x-ratelimit-remaining-requests", "10")
    assert read(*twice, left) == hints((50, 10, None))
    other = ("x-ratelimit-limit-requests", "60")
    assert read(*twice, other, left) == read(other, *twice, left) == hints((None, 10, None))


@pytest.mark.parametrize(
    "body",
    [
        None,
        {"error": {"metadata": {"headers": "x-ratelimit-limit: 5"}}},
        {"error": {"metadata": ["headers"]}},
        {"error": {"metadata": {"headers": {"X-RateLimit-Limit": {"a": 1}}}}},
        {"error": {"message": ["(RPM): Limit 3, Used 3"]}},
        {"error": 7},
        [],
    ],
)
def test_bodies_of_429s_that_say_nothing(body: object) -> None:
    assert read(status=429, body=body) is None


NAMES = sorted({name for names in (*rate_hints._REQUESTS, *rate_hints._TOKENS, rate_hints._PLAIN) for name in names})
VALUES = st.text(max_size=30) | st.from_regex(r"[0-9.;=,\"msh: TZ-]{0,30}") | st.integers(-5, 10**14).map(str)
FIELDS = st.sampled_from([*NAMES, "ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "date"])


@given(st.lists(st.tuples(FIELDS, VALUES), max_size=8), st.sampled_from([200, 429, 500]), VALUES)
def test_any_headers_are_sound_hints_or_none(headers: list[tuple[str, str]], status: int, body: str) -> None:
    """Nothing raises, and whatever is said could be of a minute."""
    found = rate_hints.read(Reply(status, tuple(headers), body.encode()), NOW_NS)
    if found is None:
        return
    for limit, left, reset_ns in (
        (found.request_limit, found.requests_left, found.requests_reset_ns),
        (found.token_limit, found.tokens_left, found.tokens_reset_ns),
    ):
        assert limit is None or 1 <= limit <= rate_hints.MOST
        assert left is None or 0 <= left <= (rate_hints.MOST if limit is None else limit)
        assert reset_ns is None or 0 <= reset_ns <= rate_hints.LONGEST_RESET_NS


@pytest.mark.parametrize("window", WindowShape)
@pytest.mark.parametrize("style", RateHeaders)
def test_what_the_embedded_platform_says_is_understood(style: RateHeaders, window: WindowShape) -> None:
    """In each style, of each window, request by request: what it counts itself, or nothing; a day's requests never."""
    settings = Settings(rpm=50, tpm=100_000, window=window, charging=Charging.ESTIMATE, rate_headers=style)
    limits = Limits.of(settings)
    told = 0
    for number in range(100):
        now_ns = NOW_NS + number * 1_300_000_000
        assert isinstance(limits.admit(now_ns, 1_200), Accepted)
        found = rate_hints.read(Reply(200, rate_headers(style, limits, now_ns, 1_200), b"{}"), now_ns)
        requests, tokens = limits.requests(now_ns), limits.tokens(now_ns)
        assert requests is not None
        assert tokens is not None
        if found is None:
            continue
        told += 1
        assert found.request_limit in (None, 50)
        assert found.token_limit in (None, 100_000)
        assert found.requests_left in (None, requests.left)
        if found.tokens_left is not None:
            assert abs(found.tokens_left - tokens.left) <= (500 if style is RateHeaders.ANTHROPIC else 0)
        assert style is not RateHeaders.GROQ or found.requests_left is None
        if found.requests_reset_ns is not None:
            rounded_ns = SECOND if style is RateHeaders.ANTHROPIC else SECOND // 1_000
            assert 0 <= found.requests_reset_ns - requests.refill_ns <= rounded_ns
    assert told == (0 if style is RateHeaders.NONE else 100)
