"""Two clients that people use, each as a process that sends a job file to a server.

    python -m benchmarks.limiter.live_peers CLIENT URL JOBS --rpm N --tpm N --latency SECONDS

| client | how it is set up |
| --- | --- |
| lm-deluge | its `LLMClient` with both limits of the account, everything else as it comes: five attempts a job |
| openai | `AsyncOpenAI` with ten retries (two are its default) and a semaphore of twice the requests that the limit needs |

The key stands in the environment. What a client makes of its jobs is counted by the server, not here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODEL = "simulated-small"
KEY_VARIABLE = "BATCHRUN_API_KEY"
RETRIES = 10


def bodies(jobs: Path) -> list[dict[str, Any]]:
    """The bodies of a job file."""
    return [json.loads(line)["body"] for line in jobs.read_bytes().splitlines()]


async def lm_deluge(url: str, asked: Sequence[Mapping[str, Any]], rpm: int, tpm: int, _latency_seconds: float) -> None:
    """All prompts to lm-deluge at once: it queues them itself."""
    from lm_deluge import Conversation, LLMClient  # noqa: PLC0415 - the other client's process needs it not
    from lm_deluge.models import register_model  # noqa: PLC0415

    register_model(MODEL, MODEL, f"{url}/v1", KEY_VARIABLE)
    client = LLMClient(
        MODEL, max_requests_per_minute=rpm, max_tokens_per_minute=tpm, max_new_tokens=asked[0]["max_tokens"], request_timeout=120
    )
    prompts = [Conversation().user(body["messages"][0]["content"]) for body in asked]
    await client.process_prompts_async(prompts, show_progress=False)


async def openai(url: str, asked: Sequence[Mapping[str, Any]], rpm: int, _tpm: int, latency_seconds: float) -> None:
    """A task for each job, as tutorials have it."""
    from openai import APIError, AsyncOpenAI  # noqa: PLC0415

    places = asyncio.Semaphore(max(1, round(2 * rpm / 60 * latency_seconds)))
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=os.environ[KEY_VARIABLE], max_retries=RETRIES) as client:

        async def one(body: Mapping[str, Any]) -> None:
            async with places:
                try:
                    await client.chat.completions.create(**body)
                except APIError:
                    return  # given up: the server knows

        await asyncio.gather(*map(one, asked))


CLIENTS = {"lm-deluge": lm_deluge, "openai": openai}


def main() -> None:
    of = argparse.ArgumentParser(prog="python -m benchmarks.limiter.live_peers")
    of.add_argument("client", choices=CLIENTS)
    of.add_argument("url")
    of.add_argument("jobs", type=Path)
    of.add_argument("--rpm", type=int, required=True)
    of.add_argument("--tpm", type=int, required=True)
    of.add_argument("--latency", type=float, required=True)
    options = of.parse_args()
    asyncio.run(CLIENTS[options.client](options.url, bodies(options.jobs), options.rpm, options.tpm, options.latency))


if __name__ == "__main__":
    main()
