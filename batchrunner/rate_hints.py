"""What an answer says of the account's limits, in each provider's spelling. Pure.

| spelling | who |
| --- | --- |
| x-ratelimit-{limit,remaining,reset}-{requests,tokens}; resets like 1s, 6m0s, 120ms | OpenAI, Azure, Groq, LiteLLM |
| the same with -minute behind; resets in seconds | Cerebras |
| x-ratelimit-{limit,remaining}-{req,tokens}-minute | Mistral since 2026 |
| x-ratelimitbysize-{limit,remaining}-minute, ratelimitbysize-{limit,remaining,reset} | Mistral before, of tokens |
| anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}; RFC 3339 | Anthropic |
| ratelimit: "name";r=50;t=30 with ratelimit-policy: "name";q=100;w=60 | draft-ietf-httpapi-ratelimit-headers, from 8 on |
| ratelimit: limit=100, remaining=50, reset=5; or ratelimit-{limit,remaining,reset} | the same, 7; or up to 6 |
| x-ratelimit-{limit,remaining,reset}; resets in seconds or Unix time | gateways; in the body of a 429 OpenRouter |
| "(RPM): Limit 3, Used 3", "(TPM): Limit 40000, Used 39500" in the words of a 429 | OpenAI, Groq |

The first spelling of a resource that is there speaks for it. Windows of other than a minute are left out where they can be told:
by name (-day), by the policy's `w`, by a reset that no minute has, or by one that grows as a day's does (Groq, OpenAI's small
accounts: after u of n requests the reset is u / n of a day). A value that is no number, negative, huge, said twice in two ways or
above its limit is no value. None of it is needed, and what is left may still be wrong: `budget` confirms before it believes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from batchrunner.budget import Hints
from batchrunner.exchange import Reply
from batchrunner.retry_after import NS, message_of, read_error_object, server_ns, wait_ns

#: More than any account may use in a minute.
MOST = 10**12
#: A minute is over in a minute, or in two where the last one counts too: what resets later is another window's.
LONGEST_RESET_NS = 122 * NS
DAY_NS = 86_400 * NS

#: limit, left, nanoseconds until all is back; None for what is not said
_Level = tuple[int | None, int | None, int | None]
_NOTHING: _Level = (None, None, None)

#: names of limit, left and reset, in the order in which they are believed
_REQUESTS = (
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-limit-requests-minute", "x-ratelimit-remaining-requests-minute", "x-ratelimit-reset-requests-minute"),
    ("x-ratelimit-limit-req-minute", "x-ratelimit-remaining-req-minute", "x-ratelimit-reset-req-minute"),
    ("anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
)
_PLAIN = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
_TOKENS = (
    ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("x-ratelimit-limit-tokens-minute", "x-ratelimit-remaining-tokens-minute", "x-ratelimit-reset-tokens-minute"),
    ("x-ratelimitbysize-limit-minute", "x-ratelimitbysize-remaining-minute", "ratelimitbysize-reset"),
    ("ratelimitbysize-limit", "ratelimitbysize-remaining", "ratelimitbysize-reset"),
    ("anthropic-ratelimit-tokens-limit", "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
)
_INPUT, _OUTPUT = (
    (f"anthropic-ratelimit-{kind}-limit", f"anthropic-ratelimit-{kind}-remaining", f"anthropic-ratelimit-{kind}-reset")
    for kind in ("input-tokens", "output-tokens")
)
#: fields of the draft that are lists, and may come in several lines
_LISTS = frozenset({"ratelimit", "ratelimit-policy"})
_WORDS = re.compile(r"\b(RPM|TPM)\)?: Limit ([0-9]{1,12}), Used ([0-9]{1,12})\b")

_Found = Mapping[str, str | None]


def read(reply: Reply, wall_ns: int) -> Hints | None:
    """What the answer says of requests and tokens a minute; None where it says nothing.

    Resets count from now; `wall_ns` stands in for the server's clock where the reply has no Date.
    """
    found = _collected(reply.headers)
    error = read_error_object(reply.body) if reply.status == 429 else {}
    if error and not found:
        found = _collected(_headers_of(error))
    requests = tokens = _NOTHING
    if found:
        now_ns = server_ns(reply, wall_ns)
        requests = _first(found, now_ns, _REQUESTS) or _draft(found, now_ns) or _first(found, now_ns, (_PLAIN,)) or _NOTHING
        if _is_of_a_day(*requests):
            requests = _NOTHING
        tokens = _first(found, now_ns, _TOKENS) or _input_and_output(found, now_ns)
    for kind, limit, used in _WORDS.findall(message_of(error)) if error else ():
        level = _level(_count(limit, 1), max(0, int(limit) - int(used)), None)
        if kind == "RPM" and requests == _NOTHING:
            requests = level
        elif kind == "TPM" and tokens == _NOTHING:
            tokens = level
    return None if requests == tokens == _NOTHING else Hints(*requests, *tokens)


def _collected(headers: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """Headers about rate limits by name; None for one that was said twice in two ways."""
    found: dict[str, str | None] = {}
    for name, value in headers:
        if "ratelimit" not in name:  # almost all of almost all answers: nothing may cost more than this look
            continue
        if name in _LISTS and name in found:
            found[name] = f"{found[name]}, {value}"
        else:
            found[name] = value if found.get(name, value) == value else None
    return found


def _headers_of(error: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Headers that a router has put into an error's metadata."""
    metadata = error.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    return ((str(name).lower(), str(value)) for name, value in headers.items()) if isinstance(headers, dict) else ()


def _first(found: _Found, now_ns: int, spellings: Iterable[tuple[str, str, str]]) -> _Level | None:
    """Limit, left and reset in the first spelling of which a number is there."""
    for of_limit, of_left, of_reset in spellings:
        limit, left = _count(found.get(of_limit), 1), _count(found.get(of_left))
        if limit is not None or left is not None:
            return _level(limit, left, _reset(found.get(of_reset), now_ns))
    return None


def _level(limit: int | None, left: int | None, reset_ns: int | None) -> _Level:
    """What is said of one resource; nothing where it contradicts itself, or speaks of a window that is not a minute."""
    if reset_ns is not None and reset_ns > LONGEST_RESET_NS:
        return _NOTHING
    if limit is not None and left is not None and left > limit:
        return _NOTHING
    return _NOTHING if limit is left is None else (limit, left, reset_ns)


def _is_of_a_day(limit: int | None, left: int | None, reset_ns: int | None) -> bool:
    """Whether what was used flows back in as slowly as a day's limit does. Both are rounded, by half at the most."""
    if limit is None or left is None or reset_ns is None:
        return False
    used = limit - left
    return used * DAY_NS < 2 * reset_ns * limit <= 3 * used * DAY_NS


def _input_and_output(found: _Found, now_ns: int) -> _Level:
    """Anthropic's two limits as one of their sum, used up with either."""
    match _first(found, now_ns, (_INPUT,)), _first(found, now_ns, (_OUTPUT,)):
        case (int(read), int(read_left), int(read_ns)), (int(written), int(written_left), int(written_ns)):
            left = read_left + written_left if read_left and written_left else 0
            return read + written, left, max(read_ns, written_ns)
        case _:
            return _NOTHING


def _draft(found: _Found, now_ns: int) -> _Level | None:
    """The draft's fields, newest form first."""
    stated, limits = _items(found.get("ratelimit")), _items(found.get("ratelimit-limit"))
    policies = {item.name: item.parameters for item in (*_items(found.get("ratelimit-policy")), *limits[1:])}
    if stated and "=" not in stated[0].name:
        return _of_policies(stated, policies, now_ns)
    if stated:
        said = dict(item.name.split("=", 1) for item in stated if "=" in item.name)
        limit, left, reset = (said.get(name) for name in ("limit", "remaining", "reset"))
    else:
        limit = limits[0].name if limits else None
        left, reset = found.get("ratelimit-remaining"), found.get("ratelimit-reset")
    if limit is None and left is None:
        return None
    if not _is_a_minute(policies.get(limit or "", {})):
        return _NOTHING
    return _level(_count(limit, 1), _count(left), _reset(reset, now_ns))


def _of_policies(stated: Iterable[_Item], policies: Mapping[str, Mapping[str, str]], now_ns: int) -> _Level:
    """Of several windows the first one that is a minute, or does not say what it is, and counts requests."""
    for item in stated:
        policy = policies.get(item.name, {})
        if _is_a_minute(policy) and policy.get("qu", "requests") == "requests":
            left, reset = (item.parameters.get(key) for key in ("r", "t"))
            return _level(_count(policy.get("q"), 1), _count(left), _reset(reset, now_ns))
    return _NOTHING


class _Item(msgspec.Struct, frozen=True):
    """A member of a structured list, quotes off: `"name";key=value`."""

    name: str
    parameters: dict[str, str]


def _items(text: str | None) -> list[_Item]:
    items = []
    for member in text.split(",") if text else ():
        name, *parameters = (part.strip() for part in member.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        items.append(_Item(name.strip('"'), {key.strip(): value.strip(' "') for key, _, value in pairs}))
    return items


def _is_a_minute(policy: Mapping[str, str]) -> bool:
    return policy.get("w", "60") == "60"


def _reset(text: str | None, now_ns: int) -> int | None:
    return None if text is None else wait_ns(text, now_ns)


def _count(text: str | None, least: int = 0) -> int | None:
    """A number of requests or tokens. A limit of none at all (Mistral's, of keys without a plan) says nothing that helps."""
    text = (text or "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 13):
        return None
    count = int(text)
    return count if least <= count <= MOST else None
