"""The job file of a seed: chats, answers that come as streams, and work that the server takes on.

Which nights have streams and works is drawn apart from all else, so that a night without them is what it was before there were
any.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from tests.sim.nights import CHAT, job

MODELS = ("simulated-small", "simulated-large", "simulated-reasoner")
#: of works too, as one of which what it may have cost is known by the request
WORK_MODEL = "simulated-per-request"
NO_JOBS = (b"no job at all\n", b'{"custom_id":"job-0"}\n', b'{"custom_id":7}\n')

_TEXT = "How high is the moon?"
_TURNS = [{"role": "user", "content": _TEXT}]
#: by where they are asked for; what does not tell of usage unasked is asked to
STREAMS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": _TURNS, "max_tokens": 50, "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": _TEXT, "max_tokens": 50, "stream_options": {"include_usage": True}},
    "/v1/responses": {"input": _TEXT, "max_output_tokens": 50},
    "/v1/messages": {"messages": _TURNS, "max_tokens": 50},
}
_WORKS: dict[str, dict[str, Any]] = {
    "/v1/videos/generations": {"prompt": "The moon"},
    "/v1/audio/transcriptions": {"audio_url": "https://example.com/a.mp3"},
}


def lines_of(seed: int) -> list[bytes]:
    """Up to 100 jobs of some models, and sometimes lines that are none, or that repeat an id."""
    chance, shapes = random.Random(f"jobs {seed}"), _Shapes(seed)
    models = chance.sample(MODELS, chance.randint(1, 3))
    count = chance.choice([chance.randint(1, 5), chance.randint(5, 40), chance.randint(40, 100)])
    lines = [shapes.shaped(f"job-{number}", chance.choice(models)) for number in range(count)]
    for line in NO_JOBS:
        if chance.random() < 0.2:
            lines.insert(chance.randint(1, len(lines)), line)
    if chance.random() < 0.2:
        lines.append(job(f"job-{chance.randrange(count)}", model=models[0], text="How deep is the sea?"))
    return lines


class _Shapes:
    """Which jobs of a night are streamed, and which are work."""

    def __init__(self, seed: int) -> None:
        self._chance = chance = random.Random(f"shapes {seed}")
        self._streams = chance.choice([0, 0, 0.3, 1])
        self._works = chance.choice([0, 0, 0.1, 0.5])

    def shaped(self, custom_id: str, model: str) -> bytes:
        chance = self._chance
        if chance.random() < self._works:
            url = chance.choice(list(_WORKS))
            body = {"model": chance.choice([model, WORK_MODEL])} | _WORKS[url]
        elif chance.random() < self._streams:
            url = chance.choice(list(STREAMS))
            body = {"model": model, "stream": True} | STREAMS[url]
        else:
            return job(custom_id, model=model)
        body |= {"metadata": {"custom_id": custom_id}}
        return msgspec.json.encode({"custom_id": custom_id, "url": url, "body": body}) + b"\n"
