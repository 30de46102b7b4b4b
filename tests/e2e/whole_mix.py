"""Job files over all that the platform has: each endpoint, each model and unit of its catalog, streamed and not, work that is
asked for.
"""

from __future__ import annotations

import json
import random
from typing import Any, Final

from tests.e2e.mixed_jobs import CONVERSATIONS, LONG_PROMPT, MODELS, OTHERS, Shape

Json = dict[str, Any]

#: so many jobs, whatever the size, ask a model that is offline: more in a row, and it is waited for
OFFLINE_JOBS: Final = 2
#: so many prompts are beyond the first price tier of `simulated-large`
LONG_JOBS: Final = 3
#: billed by what no answer, or no request, counts
UNCOUNTED: Final = frozenset({"simulated-custom"})
TOOLS: Final = ({"type": "web_search"}, {"type": "code_interpreter"})


def whole_lines(count: int, seed: int) -> dict[str, bytes]:
    """Job lines by custom_id, each shape as often as every other."""
    rng = random.Random(seed)
    lines = {}
    offline = set(range(count // 8, count, count // OFFLINE_JOBS))
    long = set(range(count // 7, count, count // LONG_JOBS))
    for number in range(count):
        custom_id = f"job-{number:06}"
        prompt = rng.choice(("Say why. ", "Dlaczego żółw? ", "为什么? ", "🐢 ")) * rng.randint(1, 60)
        shape = SHAPES[number % len(SHAPES)]
        if number in offline:
            line = CONVERSATIONS[0](custom_id, "simulated-offline", prompt, rng) | {"batchrun": {"max_attempts": 1}}
        elif number in long:
            line = CONVERSATIONS[0](custom_id, "simulated-large", LONG_PROMPT, rng)
        else:
            line = shape(custom_id, rng.choice(MODELS), prompt, rng)
        lines[custom_id] = json.dumps(line).encode() + b"\n"
    return lines


def _streamed(shape: Shape, *, tells_usage: bool) -> Shape:
    """A shape that is answered by events. `tells_usage`: because it is asked to; some shapes do so unasked."""

    def line(custom_id: str, model: str, prompt: str, rng: random.Random) -> Json:
        asked = shape(custom_id, model, prompt, rng)
        body = asked["body" if "body" in asked else "params"]
        body["stream"] = True
        if tells_usage:
            body["stream_options"] = {"include_usage": True}
        return asked

    return line


def _with_tools(custom_id: str, _model: str, prompt: str, rng: random.Random) -> Json:
    asked = CONVERSATIONS[number := rng.randrange(2)](custom_id, "simulated-large", prompt, rng)
    asked["body"]["tools"] = list(TOOLS[: rng.randint(1, 2)]) if number else list(TOOLS)
    return asked


def _custom(custom_id: str, _model: str, prompt: str, rng: random.Random) -> Json:
    return CONVERSATIONS[0](custom_id, "simulated-custom", prompt, rng)


def _picture(custom_id: str, _model: str, prompt: str, rng: random.Random) -> Json:
    model = rng.choice(("simulated-image", "simulated-image-tokens"))
    return _line(custom_id, "/v1/images/generations", {"model": model, "prompt": prompt, "n": rng.randint(1, 4)})


def _speech(custom_id: str, _model: str, prompt: str, _rng: random.Random) -> Json:
    return _line(custom_id, "/v1/audio/speech", {"model": "simulated-speech", "input": prompt})


def _detection(custom_id: str, _model: str, prompt: str, _rng: random.Random) -> Json:
    return _line(custom_id, "/v1/detect", {"model": "simulated-detect", "text": prompt})


def _film(custom_id: str, _model: str, prompt: str, rng: random.Random) -> Json:
    body = {"model": "simulated-video", "prompt": prompt, "seconds": rng.choice((4, 8, 12))}
    return _line(custom_id, "/v1/videos/generations", body)


def _transcription(custom_id: str, _model: str, _prompt: str, rng: random.Random) -> Json:
    address = f"https://example.com/{rng.randrange(10_000)}.mp3"
    return _line(custom_id, "/v1/audio/transcriptions", {"model": "simulated-transcription", "audio_url": address})


def _line(custom_id: str, url: str, body: Json) -> Json:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body | {"user": custom_id}}


SHAPES: Final[tuple[Shape, ...]] = (
    *CONVERSATIONS,
    *OTHERS[:4],
    _streamed(CONVERSATIONS[0], tells_usage=True),
    _streamed(CONVERSATIONS[0], tells_usage=False),
    *(_streamed(shape, tells_usage=False) for shape in CONVERSATIONS[1:3]),
    _streamed(OTHERS[0], tells_usage=True),
    _with_tools,
    _custom,
    _picture,
    _speech,
    _detection,
    _film,
    _transcription,
)
