"""What an answer says about the limits, in each provider's spelling."""

from __future__ import annotations

from typing import Any

import pytest

from batchrunner.simulator.limits import Accepted, Limits
from batchrunner.simulator.rate_headers import duration, rate_headers, retry_after
from batchrunner.simulator.settings import Charging, RateHeaders, RetryAfter, Settings

SECOND_NS = 1_000_000_000
#: 2026-01-02T03:04:05Z
NOW_NS = 1_767_323_045 * SECOND_NS


def shown(style: RateHeaders, **settings: Any) -> dict[str, str]:
    """After three requests of 1,234 tokens each, a second apart, the last one now."""
    limits = Limits.of(Settings(charging=Charging.ESTIMATE, rate_headers=style, **settings))
    for seconds_ago in (2, 1, 0):
        assert isinstance(limits.admit(NOW_NS - seconds_ago * SECOND_NS, 1_234), Accepted)
    return dict(rate_headers(style, limits, NOW_NS, 1_234))


def test_openai() -> None:
    """Limit, remaining and a Go duration until all is back."""
    assert shown(RateHeaders.OPENAI, rpm=50, tpm=10_000) == {
        "x-ratelimit-limit-requests": "50",
        "x-ratelimit-remaining-requests": "47",
        "x-ratelimit-reset-requests": "1m0s",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "6298",
        "x-ratelimit-reset-tokens": "1m0s",
    }


def test_anthropic() -> None:
    """Times are RFC 3339, tokens are rounded to the nearest thousand and named three times."""
    headers = shown(RateHeaders.ANTHROPIC, rpm=50, tpm=10_000)
    assert {name: value for name, value in headers.items() if "-requests-" in name} == {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "47",
        "anthropic-ratelimit-requests-reset": "2026-01-02T03:05:05Z",
    }
    for tokens in ("tokens", "input-tokens", "output-tokens"):
        assert headers[f"anthropic-ratelimit-{tokens}-limit"] == "10000"
        assert headers[f"anthropic-ratelimit-{tokens}-remaining"] == "6000"
        assert headers[f"anthropic-ratelimit-{tokens}-reset"] == "2026-01-02T03:05:05Z"
    assert len(headers) == 12


def test_anthropics_rounding_never_exceeds_the_limit() -> None:
    """900 left of 4,600 round to 1,000, but all of a limit is the limit."""
    assert shown(RateHeaders.ANTHROPIC, tpm=4_602)["anthropic-ratelimit-tokens-remaining"] == "1000"
    limits = Limits.of(Settings(tpm=4_600))
    assert dict(rate_headers(RateHeaders.ANTHROPIC, limits, 0, 1))["anthropic-ratelimit-tokens-remaining"] == "4600"


def test_azure() -> None:
    """Only what remains."""
    assert shown(RateHeaders.AZURE, rpm=50, tpm=10_000) == {
        "x-ratelimit-remaining-requests": "47",
        "x-ratelimit-remaining-tokens": "6298",
    }


def test_groq() -> None:
    """Requests are those of a day, tokens those of a minute, under OpenAI's names."""
    headers = shown(RateHeaders.GROQ, rpm=10, tpm=10_000)
    assert headers["x-ratelimit-limit-requests"] == "14400"
    assert headers["x-ratelimit-remaining-requests"] == "14397"
    assert headers["x-ratelimit-reset-requests"] == "16s"
    assert headers["x-ratelimit-remaining-tokens"] == "6298"


def test_mistral() -> None:
    """Tokens only, and what the request cost."""
    assert shown(RateHeaders.MISTRAL, rpm=50, tpm=10_000) == {
        "x-ratelimitbysize-limit-minute": "10000",
        "x-ratelimitbysize-remaining-minute": "6298",
        "ratelimitbysize-limit": "10000",
        "ratelimitbysize-remaining": "6298",
        "ratelimitbysize-reset": "60",
        "ratelimitbysize-query-cost": "1234",
    }


@pytest.mark.parametrize("style", list(RateHeaders))
def test_a_limit_that_does_not_exist_is_not_shown(style: RateHeaders) -> None:
    """Without limits there are no headers in any style; with one, only its own."""
    assert shown(style) == {}
    assert not any("tokens" in name for name in shown(style, rpm=50))


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (120 * 1_000_000, "120ms"),
        (999_999_999, "1s"),
        (SECOND_NS, "1s"),
        (1_500_000_000, "1.5s"),
        (59_951_000_000, "59.951s"),
        (360 * SECOND_NS, "6m0s"),
        (179_560_000_000, "2m59.56s"),
        (3_600 * SECOND_NS, "1h0m0s"),
        (86_399 * SECOND_NS, "23h59m59s"),
    ],
)
def test_durations_are_written_as_go_does(ns: int, text: str) -> None:
    """Rounded up to the millisecond, trailing zeros left out."""
    assert duration(ns) == text


@pytest.mark.parametrize(
    ("form", "style", "headers"),
    [
        (RetryAfter.NONE, RateHeaders.AZURE, {}),
        (RetryAfter.SECONDS, RateHeaders.NONE, {"retry-after": "2"}),
        (RetryAfter.DECIMAL, RateHeaders.NONE, {"retry-after": "1.235"}),
        (RetryAfter.DATE, RateHeaders.NONE, {"retry-after": "Fri, 02 Jan 2026 03:04:07 GMT"}),
        (RetryAfter.MILLISECONDS, RateHeaders.NONE, {"retry-after-ms": "1235"}),
        (RetryAfter.PROVIDER, RateHeaders.NONE, {}),
        (RetryAfter.PROVIDER, RateHeaders.OPENAI, {"retry-after": "2"}),
        (RetryAfter.PROVIDER, RateHeaders.ANTHROPIC, {"retry-after": "2"}),
        (RetryAfter.PROVIDER, RateHeaders.GROQ, {"retry-after": "2"}),
        (RetryAfter.PROVIDER, RateHeaders.AZURE, {"retry-after": "2", "retry-after-ms": "1235"}),
        (RetryAfter.PROVIDER, RateHeaders.MISTRAL, {}),
    ],
)
def test_a_429_says_when_in_each_form(form: RetryAfter, style: RateHeaders, headers: dict[str, str]) -> None:
    """1.2341 s, never rounded to less than that."""
    assert dict(retry_after(form, style, NOW_NS, 1_234_100_000)) == headers
