"""Saved playground conversations: text, read-only, at most 50 an account; what is said in them follows from seed and account."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from batchrunner.simulator.asks import Refusal
from batchrunner.simulator.catalog import MODELS
from batchrunner.simulator.draws import Draws
from batchrunner.simulator.replies import some_text
from batchrunner.simulator.usage import page_limit

PATH = "/v1/playground/conversations"
#: conversations that an account may save
CAP = 50
MOST_TURNS = 4
_ID_PREFIX = "conv_"
#: the newest one's day; each older one is of the day before
_NEWEST = datetime(2026, 1, 2, 9, 0, tzinfo=UTC)
_MODELS = tuple(model.id for model in MODELS if model.category == "text")

# What the numbers that are drawn for a conversation are used for; see `draws`.
_MODEL, _TURNS, _SYSTEM = range(3)


def answer(path: str, query: dict[str, str], *, seed: int, account: str, count: int) -> bytes:
    """The list, newest first and without messages, or one conversation with all of them. Raises: Refusal."""
    saved = _saved(seed, account, min(count, CAP))
    if path == PATH:
        limit = page_limit(query)
        first = next((place + 1 for place, one in enumerate(saved) if one["id"] == query.get("before")), 0)
        shown = [{name: value for name, value in one.items() if name != "messages"} for one in saved[first : first + limit]]
        return msgspec.json.encode({"object": "list", "data": shown, "has_more": first + limit < len(saved), "total": len(saved)})
    found = next((one for one in saved if path == f"{PATH}/{one['id']}"), None)
    if found is None:
        raise Refusal(404, "conversation_not_found", "There is no such conversation.")
    return msgspec.json.encode(found)


@functools.lru_cache(16)
def _saved(seed: int, account: str, count: int) -> tuple[dict[str, Any], ...]:
    return tuple(_conversation(seed, account, number) for number in range(count, 0, -1))


def _conversation(seed: int, account: str, number: int) -> dict[str, Any]:
    name = f"{account}/{number}"
    draws = Draws(seed, b"chat", name.encode())
    began = _NEWEST - timedelta(days=CAP - number)
    messages: list[dict[str, Any]] = []
    if draws.uniform(_SYSTEM) < 0.5:
        messages.append({"role": "system", "content": "Answer in few words."})
    for turn in range(1 + int(draws.uniform(_TURNS) * MOST_TURNS)):
        words = Draws(seed, b"turn", f"{name}/{turn}".encode())
        messages.append({"role": "user", "content": some_text(words, 0, 60) + "?"})
        messages.append({"role": "assistant", "content": some_text(words, 1, 200) + "."})
    stamped = [
        {"id": f"msg_{number:03d}_{place:02d}", **message, "created_at": _text(began + timedelta(minutes=place))}
        for place, message in enumerate(messages)
    ]
    return {
        "id": f"{_ID_PREFIX}{seed:x}_{number:03d}",
        "object": "conversation",
        "title": messages[-2]["content"][:40],
        "model": _MODELS[int(draws.uniform(_MODEL) * len(_MODELS))],
        "created_at": _text(began),
        "updated_at": stamped[-1]["created_at"],
        "message_count": len(stamped),
        "messages": stamped,
    }


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
