"""Job files that mix everything: each shape of request, models of each way of pricing, capped and not, in several scripts.

Each job names itself in its body, by which the platform's ledger knows it again.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]
#: custom_id, model, prompt and chance -> a job line
Shape = Callable[[str, str, str, random.Random], Json]

MODELS = ("simulated-small", "simulated-large", "simulated-reasoner", "simulated-per-request")
#: a prompt beyond the first price tier of `simulated-large`
LONG_PROMPT = "tier " * 170_000
#: every so many-th job asks for a model that does not exist, where such are wanted
UNKNOWN_EVERY = 97
UNKNOWN_MODEL = "simulated-none"


class Inputs(NamedTuple):
    """Jobs in several inputs, one of them packed, one of them for standard input."""

    ids: list[str]
    #: as `submit` is to be given them
    names: tuple[str, ...]
    stdin: Path


def write_jobs(path: Path, count: int, seed: int, name: str = "job") -> list[str]:
    """A job file over the three conversational shapes, and Anthropic's own line; the custom_ids."""
    lines = mixed_lines(count, seed, shapes=CONVERSATIONS, name=name)
    path.write_bytes(b"".join(lines.values()))
    return list(lines)


def write_inputs(directory: Path, lines: dict[str, bytes], name: str) -> Inputs:
    """Spread jobs over two plain files, a gzip file and one for standard input, a fourth to each."""
    parts = [list(lines.values())[number::4] for number in range(4)]
    for number, part in enumerate(parts):
        data = b"".join(part)
        (directory / _input(name, number)).write_bytes(gzip.compress(data, 1) if number == 1 else data)
    names = (_input(name, 0), _input(name, 1), "-", _input(name, 3))
    return Inputs(list(lines), names, directory / _input(name, 2))


def _input(name: str, number: int) -> str:
    return f"{name}.{number}.jsonl" + (".gz" if number == 1 else "")


def mixed_lines(
    count: int,
    seed: int,
    *,
    shapes: Sequence[Shape] = (),
    name: str = "job",
    unknown_models: bool = False,
    long_prompts: bool = False,
) -> dict[str, bytes]:
    """Job lines by custom_id. `shapes`: all, unless they are named. `long_prompts`: some are in the second price tier."""
    rng = random.Random(seed)
    lines: dict[str, bytes] = {}
    shapes = shapes or (*CONVERSATIONS, *OTHERS)
    for number in range(count):
        custom_id = f'{name} {number}: "żółw"\\🐢' if number % 11 == 0 else f"{name}-{number:06}"
        model = rng.choice(MODELS)
        prompt = rng.choice(("Say why. ", "Dlaczego żółw? ", "为什么? ", "🐢 ")) * rng.randint(1, 60)
        line = shapes[number % len(shapes)](custom_id, model, prompt, rng)
        if long_prompts and number % 2000 == 1500:
            line = _chat(custom_id, "simulated-large", LONG_PROMPT, rng)
        if unknown_models and number % UNKNOWN_EVERY == UNKNOWN_EVERY - 1:
            line["body" if "body" in line else "params"]["model"] = UNKNOWN_MODEL
        lines[custom_id] = json.dumps(line, ensure_ascii=rng.random() < 0.5).encode() + b"\n"
    return lines


def _line(custom_id: str, url: str, body: Json) -> Json:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def _chat(custom_id: str, model: str, prompt: str, rng: random.Random) -> Json:
    turns = [{"role": "system", "content": "Be brief."}] * rng.randint(0, 1) + [{"role": "user", "content": prompt}]
    body: Json = {"model": model, "messages": turns, "metadata": {"custom_id": custom_id}}
    cap = rng.choice((None, "max_tokens", "max_completion_tokens"))
    if cap is not None:
        body |= {cap: rng.choice((1, 40, 900)), "n": rng.choice((1, 1, 3))}
    return _line(custom_id, "/v1/chat/completions", body)


def _response(custom_id: str, model: str, prompt: str, rng: random.Random) -> Json:
    body: Json = {"model": model, "input": prompt, "user": custom_id}
    if rng.random() < 0.7:
        body["max_output_tokens"] = rng.choice((1, 40, 900))
    return _line(custom_id, "/v1/responses", body)


def _message(custom_id: str, model: str, prompt: str, rng: random.Random) -> Json:
    turns = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    return _line(custom_id, "/v1/messages", _params(custom_id, model, turns, rng))


def _anthropic(custom_id: str, model: str, prompt: str, rng: random.Random) -> Json:
    params = _params(custom_id, model, [{"role": "user", "content": prompt}], rng)
    return {"custom_id": custom_id, "params": params | {"system": "Be brief."}}


def _params(custom_id: str, model: str, turns: list[Json], rng: random.Random) -> Json:
    cap = rng.choice((1, 40, 900))
    return {"model": model, "max_tokens": cap, "messages": turns, "metadata": {"user_id": custom_id}}


def _completion(custom_id: str, model: str, prompt: str, rng: random.Random) -> Json:
    asked = rng.choice((prompt, [prompt, "And why not?"], [9906, 11, 1917]))
    body: Json = {"model": model, "prompt": asked, "user": custom_id}
    if rng.random() < 0.7:
        body |= {"max_tokens": rng.choice((1, 40, 900)), "n": rng.choice((1, 2))}
    return _line(custom_id, "/v1/completions", body)


def _embedding(custom_id: str, _model: str, prompt: str, rng: random.Random) -> Json:
    asked = rng.choice((prompt, [prompt, "And why not?"], [[9906, 11, 1917], [1]]))
    body = {"model": "simulated-embedding", "input": asked, "encoding_format": rng.choice(("float", "base64"))}
    return _line(custom_id, "/v1/embeddings", body | {"user": custom_id})


def _rerank(custom_id: str, _model: str, prompt: str, rng: random.Random) -> Json:
    documents = [prompt, "And why not?", {"text": "No reason."}][: rng.randint(1, 3)]
    body = {"model": "simulated-rerank", "query": "why?", "documents": documents, "user": custom_id}
    return _line(custom_id, "/v1/reranks", body)


def _search(custom_id: str, model: str, prompt: str, _rng: random.Random) -> Json:
    return _line(custom_id, "/v1/search", {"model": model, "query": prompt, "user": custom_id})


def _picture(custom_id: str, model: str, prompt: str, rng: random.Random) -> Json:
    body = {"model": model, "prompt": prompt, "n": rng.choice((1, 2)), "user": custom_id}
    return _line(custom_id, "/v1/images/generations", body)


def _speech(custom_id: str, model: str, prompt: str, _rng: random.Random) -> Json:
    return _line(custom_id, "/v1/audio/speech", {"model": model, "input": prompt, "user": custom_id})


def _detection(custom_id: str, model: str, prompt: str, _rng: random.Random) -> Json:
    return _line(custom_id, "/v1/detect", {"model": model, "text": prompt, "user": custom_id})


CONVERSATIONS = (_chat, _response, _message, _anthropic)
OTHERS = (_completion, _embedding, _rerank, _search, _completion, _picture, _speech, _embedding, _detection)
