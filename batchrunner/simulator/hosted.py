"""Answers that point at files: pictures, speech, search, detection. Nothing is behind the addresses but where it is served."""

from __future__ import annotations

from typing import Any

from batchrunner.simulator.asks import Ask, Dialect
from batchrunner.simulator.draws import Draws

#: reserved for names that lead nowhere
HOST = "https://files.simulated.invalid"
RESULTS = 3


def reply(ask: Ask, seed: int, reply_id: str, created_seconds: int) -> dict[str, Any]:
    """What a request gets that is answered by files; what is found out follows from seed and prompt."""
    return {
        "id": f"gen_{reply_id}",
        "created": created_seconds,
        "model": ask.model.id,
        **_found(ask, seed, f"{HOST}/{reply_id}"),
        "usage": {"input_tokens": ask.input_tokens, "output_tokens": 0, "total_tokens": ask.input_tokens},
    }


def _found(ask: Ask, seed: int, address: str) -> dict[str, Any]:
    match ask.dialect:
        case Dialect.VIDEOS:
            return {"data": [{"url": f"{address}.mp4", "seconds": ask.seconds}]}
        case Dialect.TRANSCRIPTIONS:
            return {"text": f"What was said in {address.rpartition('/')[2]}.", "duration": ask.seconds}
        case Dialect.IMAGES:
            return {"data": [{"url": f"{address}-{index}.png"} for index in range(ask.choices)]}
        case Dialect.SPEECH:
            return {"url": f"{address}.mp3"}
        case Dialect.SEARCH:
            pages = [{"title": f"Result {index + 1}", "url": f"{address}-{index}.html"} for index in range(RESULTS)]
            return {"results": pages}
        case _:
            score = round(Draws(seed, b"detect", ask.parts[0]).uniform(0), 6)
            return {"label": "generated" if score < 0.5 else "genuine", "score": score, "report_url": f"{address}.json"}
