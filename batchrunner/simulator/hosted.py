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
    seconds = {unit.replace("-second", "_seconds"): float(held) for unit, held in ask.units.items() if unit.endswith("-second")}
    return {
        "id": f"gen_{reply_id}",
        "created": created_seconds,
        "model": ask.model.id,
        **_found(ask, seed, reply_id),
        "usage": {"input_tokens": ask.input_tokens, "output_tokens": 0, "total_tokens": ask.input_tokens} | seconds,
    }


def output_urls(ask: Ask, reply_id: str) -> tuple[str, ...]:
    """Where the media stand that a request has made: pictures, speech, films."""
    match ask.dialect:
        case Dialect.VIDEOS:
            return (f"{HOST}/{reply_id}.mp4",)
        case Dialect.IMAGES:
            return tuple(f"{HOST}/{reply_id}-{index}.png" for index in range(ask.choices))
        case Dialect.SPEECH:
            return (f"{HOST}/{reply_id}.mp3",)
        case _:
            return ()


def _found(ask: Ask, seed: int, reply_id: str) -> dict[str, Any]:
    address = f"{HOST}/{reply_id}"
    match ask.dialect:
        case Dialect.IMAGES:
            return {"data": [{"url": url} for url in output_urls(ask, reply_id)]}
        case Dialect.SPEECH:
            return {"url": output_urls(ask, reply_id)[0]}
        case Dialect.VIDEOS:
            return {"data": [{"url": url, "seconds": ask.seconds} for url in output_urls(ask, reply_id)]}
        case Dialect.TRANSCRIPTIONS:
            return {"text": f"What was said in {reply_id}.", "duration": ask.seconds}
        case Dialect.SEARCH:
            pages = [{"title": f"Result {index + 1}", "url": f"{address}-{index}.html"} for index in range(RESULTS)]
            return {"results": pages}
        case _:
            score = round(Draws(seed, b"detect", ask.parts[0]).uniform(0), 6)
            return {"label": "generated" if score < 0.5 else "genuine", "score": score, "report_url": f"{address}.json"}
