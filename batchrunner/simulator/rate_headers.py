"""How much of its limits a client is told is left, in the spelling of each provider.

| headers of | on every answer that the limits were asked for | on a 429 besides |
| --- | --- | --- |
| openai | x-ratelimit-{limit,remaining,reset}-{requests,tokens}, resets like 1s, 6m0s, 120ms | retry-after |
| anthropic | anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}, RFC 3339 | retry-after |
| azure | x-ratelimit-remaining-{requests,tokens} | retry-after, retry-after-ms |
| groq | as openai, but the requests are those of a day | retry-after |
| mistral | x-ratelimitbysize-{limit,remaining}-minute, ratelimitbysize-{limit,remaining,reset,query-cost}; no requests | |

What is shown is how things stand when the answer is ready. A limit that does not exist is not shown. Anthropic's limits for
input and output tokens are shown as the one for all tokens that there is here, and what is left of tokens is rounded to the
nearest thousand, as there. Groq's day is a bucket that flows in over a day; it is shown and never enforced.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate

from batchrunner.simulator.limits import Level, Limits
from batchrunner.simulator.settings import RateHeaders, RetryAfter

NS_PER_SECOND = 1_000_000_000
NS_PER_MILLISECOND = 1_000_000

Headers = tuple[tuple[str, str], ...]

#: what a provider's 429 says where the settings leave it to the provider
_PROVIDERS: dict[RateHeaders, tuple[RetryAfter, ...]] = {
    RateHeaders.NONE: (),
    RateHeaders.OPENAI: (RetryAfter.SECONDS,),
    RateHeaders.ANTHROPIC: (RetryAfter.SECONDS,),
    RateHeaders.AZURE: (RetryAfter.SECONDS, RetryAfter.MILLISECONDS),
    RateHeaders.GROQ: (RetryAfter.SECONDS,),
    RateHeaders.MISTRAL: (),
}


def rate_headers(style: RateHeaders, limits: Limits, now_ns: int, cost_tokens: int) -> Headers:
    """What an answer says about the limits. `now_ns` is Unix time; `cost_tokens` what the request was, or was taken for."""
    return _STYLES[style](limits, now_ns, cost_tokens) if style is not RateHeaders.NONE else ()


def retry_after(form: RetryAfter, style: RateHeaders, now_ns: int, wait_ns: int) -> Headers:
    """What a 429 says about when to come back: never too early, in whatever unit it is said."""
    forms = _PROVIDERS[style] if form is RetryAfter.PROVIDER else (form,)
    return tuple(_FORMS[one](now_ns, wait_ns) for one in forms if one is not RetryAfter.NONE)


def duration(ns: int) -> str:
    """Milliseconds, rounded up, as Go writes a duration: 0s, 120ms, 1.5s, 6m0s, 1h0m0s."""
    milliseconds = -(-ns // NS_PER_MILLISECOND)
    if 0 < milliseconds < 1_000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds, fraction = divmod(rest, 1_000)
    text = f"{seconds}.{fraction:03d}".rstrip("0") if fraction else str(seconds)
    prefix = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{prefix}{text}s"


def _seconds(_now_ns: int, wait_ns: int) -> tuple[str, str]:
    return "retry-after", str(-(-wait_ns // NS_PER_SECOND))


def _decimal(_now_ns: int, wait_ns: int) -> tuple[str, str]:
    milliseconds = -(-wait_ns // NS_PER_MILLISECOND)
    return "retry-after", f"{milliseconds // 1_000}.{milliseconds % 1_000:03d}"


def _date(now_ns: int, wait_ns: int) -> tuple[str, str]:
    return "retry-after", formatdate(-(-(now_ns + wait_ns) // NS_PER_SECOND), usegmt=True)


def _milliseconds(_now_ns: int, wait_ns: int) -> tuple[str, str]:
    return "retry-after-ms", str(-(-wait_ns // NS_PER_MILLISECOND))


_FORMS: dict[RetryAfter, Callable[[int, int], tuple[str, str]]] = {
    RetryAfter.SECONDS: _seconds,
    RetryAfter.DECIMAL: _decimal,
    RetryAfter.DATE: _date,
    RetryAfter.MILLISECONDS: _milliseconds,
}


def _openai(limits: Limits, now_ns: int, _cost_tokens: int) -> Headers:
    return _openai_like(("requests", limits.requests(now_ns)), ("tokens", limits.tokens(now_ns)))


def _groq(limits: Limits, now_ns: int, _cost_tokens: int) -> Headers:
    return _openai_like(("requests", limits.requests_of_day(now_ns)), ("tokens", limits.tokens(now_ns)))


def _openai_like(*levels: tuple[str, Level | None]) -> Headers:
    headers: list[tuple[str, str]] = []
    for resource, level in levels:
        if level is not None:
            headers += [
                (f"x-ratelimit-limit-{resource}", str(level.limit)),
                (f"x-ratelimit-remaining-{resource}", str(level.left)),
                (f"x-ratelimit-reset-{resource}", duration(level.refill_ns)),
            ]
    return tuple(headers)


def _anthropic(limits: Limits, now_ns: int, _cost_tokens: int) -> Headers:
    headers: list[tuple[str, str]] = []
    tokens = limits.tokens(now_ns)
    if tokens is not None:
        tokens = Level(tokens.limit, min(tokens.limit, (tokens.left + 500) // 1_000 * 1_000), tokens.refill_ns)
    shown = (("requests", limits.requests(now_ns)), ("tokens", tokens), ("input-tokens", tokens), ("output-tokens", tokens))
    for resource, level in shown:
        if level is not None:
            whole_seconds = -(-(now_ns + level.refill_ns) // NS_PER_SECOND)
            headers += [
                (f"anthropic-ratelimit-{resource}-limit", str(level.limit)),
                (f"anthropic-ratelimit-{resource}-remaining", str(level.left)),
                (f"anthropic-ratelimit-{resource}-reset", f"{datetime.fromtimestamp(whole_seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"),
            ]
    return tuple(headers)


def _azure(limits: Limits, now_ns: int, _cost_tokens: int) -> Headers:
    levels = (("requests", limits.requests(now_ns)), ("tokens", limits.tokens(now_ns)))
    return tuple((f"x-ratelimit-remaining-{resource}", str(level.left)) for resource, level in levels if level is not None)


def _mistral(limits: Limits, now_ns: int, cost_tokens: int) -> Headers:
    level = limits.tokens(now_ns)
    if level is None:
        return ()
    return (
        ("x-ratelimitbysize-limit-minute", str(level.limit)),
        ("x-ratelimitbysize-remaining-minute", str(level.left)),
        ("ratelimitbysize-limit", str(level.limit)),
        ("ratelimitbysize-remaining", str(level.left)),
        ("ratelimitbysize-reset", str(-(-level.refill_ns // NS_PER_SECOND))),
        ("ratelimitbysize-query-cost", str(cost_tokens)),
    )


_STYLES: dict[RateHeaders, Callable[[Limits, int, int], Headers]] = {
    RateHeaders.OPENAI: _openai,
    RateHeaders.ANTHROPIC: _anthropic,
    RateHeaders.AZURE: _azure,
    RateHeaders.GROQ: _groq,
    RateHeaders.MISTRAL: _mistral,
}
