"""What a reply says it took, read from each spelling of its `usage`: input includes cached, output includes reasoning.

None where input or output is missing, where a figure is no number of tokens, or where more was cached than read: a wrong
figure would become a wrong amount.
"""

from __future__ import annotations

from typing import Any, Final

from batchrunner.dialect import facts
from batchrunner.job import Usage

_BESIDE_INPUT: Final = ("cache_read_input_tokens", "cache_creation_input_tokens")


def by_prompt(reply: dict[str, Any]) -> Usage | None:
    """OpenAI's older spelling: `prompt_tokens` and `completion_tokens`."""
    return _spelled(_said(reply), "prompt", "completion")


def by_input(reply: dict[str, Any]) -> Usage | None:
    """OpenAI's newer spelling: `input_tokens` and `output_tokens`."""
    return _spelled(_said(reply), "input", "output")


def beside_cache(reply: dict[str, Any]) -> Usage | None:
    """Anthropic's spelling, which counts what was read from and written to the cache beside its input."""
    said = _said(reply)
    plain = facts.count(said.get("input_tokens"))
    cached, made = (0 if said.get(name) is None else facts.count(said[name]) for name in _BESIDE_INPUT)
    if plain is None or cached is None or made is None:
        return None
    return _usage(plain + cached + made, said.get("output_tokens"), cached)


def input_alone(reply: dict[str, Any]) -> Usage | None:
    """Of a model that only reads: the usage of many servers is a total and nothing else."""
    said = _said(reply)
    taken = _first(said, "prompt_tokens", "input_tokens", "total_tokens")
    given = _first(said, "completion_tokens", "output_tokens")
    cached = facts.mapping(said.get("prompt_tokens_details")).get("cached_tokens")
    return _usage(taken, 0 if given is None else given, cached)


def in_any_spelling(reply: dict[str, Any]) -> Usage | None:
    """Of a shape that nobody knows. A total tells what was written only beside what was read: alone it could be either."""
    said = _said(reply)
    if any(name in said for name in _BESIDE_INPUT):
        return beside_cache(reply)
    read, written = ("input", "output") if said.get("input_tokens") is not None else ("prompt", "completion")
    total, taken = facts.count(said.get("total_tokens")), facts.count(said.get(f"{read}_tokens"))
    if said.get(f"{written}_tokens") is None and total is not None and taken is not None:
        said = said | {f"{written}_tokens": total - taken}
    return _spelled(said, read, written)


def tool_usage_of(reply: dict[str, Any]) -> dict[str, int]:
    """Calls by tool that the platform bills beside the tokens: the reply's own map, or its usage's or metadata's."""
    for place in (reply, _said(reply), facts.mapping(reply.get("metadata"))):
        fired = {tool: calls for tool, value in facts.mapping(place.get("tool_usage")).items() if (calls := facts.count(value))}
        if fired:
            return fired
    return {}


def _said(reply: dict[str, Any]) -> dict[str, Any]:
    return facts.mapping(reply.get("usage"))


def _first(said: dict[str, Any], *names: str) -> object:
    """The first of these fields that is there."""
    return next((said[name] for name in names if said.get(name) is not None), None)


def _spelled(said: dict[str, Any], read: str, written: str) -> Usage | None:
    return _usage(
        said.get(f"{read}_tokens"),
        said.get(f"{written}_tokens"),
        facts.mapping(said.get(f"{read}_tokens_details")).get("cached_tokens"),
        facts.mapping(said.get(f"{written}_tokens_details")).get("reasoning_tokens"),
        said.get("total_tokens"),
    )


def _usage(
    input_tokens: object,
    output_tokens: object,
    cached_tokens: object,
    reasoning_tokens: object = None,
    total_tokens: object = None,
) -> Usage | None:
    """Details that are missing count as 0. Reasoning that a total shows to be kept apart from the output is added to it."""
    taken = facts.count(input_tokens)
    given = facts.count(output_tokens)
    cached = 0 if cached_tokens is None else facts.count(cached_tokens)
    reasoning = 0 if reasoning_tokens is None else facts.count(reasoning_tokens)
    if taken is None or given is None or cached is None or reasoning is None or cached > taken:
        return None
    if reasoning and facts.count(total_tokens) == taken + given + reasoning:
        given += reasoning
    return Usage(taken, given, cached, min(reasoning, given))
