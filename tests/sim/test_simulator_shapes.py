"""What the simulated platform answers on its other paths: embeddings, legacy completions, reranks, hosted files."""

from __future__ import annotations

import base64
import math
import struct
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from trio.testing import MockClock

from batchrunner.simulator.platform import Platform
from tests.sim.simulated import ask, entries_of, platform_of, request

EMBEDDINGS = "/v1/embeddings"
COMPLETIONS = "/v1/completions"
RERANKS = "/v1/reranks"
TEXTS = ["How high is the moon?", "How low is the sun?"]


async def post(platform: Platform, path: str, model: str = "simulated-embedding", **fields: Any) -> Any:
    """The reply to a request that must succeed, as JSON."""
    got = await ask(platform, request(path, msgspec.json.encode({"model": model} | fields)))
    assert got.status == 200, got.body
    return got.json()


async def refused(path: str, model: str = "simulated-embedding", **fields: Any) -> tuple[int | None, str]:
    """Status and message of the refusal of a request."""
    got = await ask(platform_of(), request(path, msgspec.json.encode({"model": model} | fields)))
    return got.status, got.json()["error"]["message"]


async def cost_of(platform: Platform) -> Decimal:
    """What the one request was billed that there has been."""
    (entry,) = await entries_of(platform, 0, b"")
    return Decimal(bytes(entry.cost.amount).decode())


async def test_an_embedding_for_each_input(autojump_clock: MockClock) -> None:
    """In their order, of length 1, small unless another size is asked for, and billed by the prompt alone."""
    platform = platform_of()
    reply = await post(platform, EMBEDDINGS, input=TEXTS)
    assert [item["index"] for item in reply["data"]] == [0, 1]
    assert all(len(item["embedding"]) == 8 for item in reply["data"])
    assert math.hypot(*reply["data"][0]["embedding"]) == pytest.approx(1.0)
    assert reply["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    assert await cost_of(platform) == 10 * Decimal("0.00000002")
    wide = await post(platform, EMBEDDINGS, input="x", dimensions=1024)
    assert len(wide["data"][0]["embedding"]) == 1024


async def test_the_same_text_has_the_same_embedding(autojump_clock: MockClock) -> None:
    """Wherever it stands and whoever asks; another text and another seed have another one."""
    together = (await post(platform_of(), EMBEDDINGS, input=TEXTS))["data"]
    first, second = (item["embedding"] for item in together)
    alone = (await post(platform_of(latency_sigma=0.0), EMBEDDINGS, input=TEXTS[1]))["data"][0]["embedding"]
    elsewhere = (await post(platform_of(seed=2), EMBEDDINGS, input=TEXTS[1]))["data"][0]["embedding"]
    assert alone == second
    assert first != second != elsewhere


async def test_base64_holds_the_same_numbers(autojump_clock: MockClock) -> None:
    """Little-endian 32-bit floats, equal to those of the plain answer."""
    plain = await post(platform_of(), EMBEDDINGS, input=TEXTS)
    packed = await post(platform_of(), EMBEDDINGS, input=TEXTS, encoding_format="base64")
    for one, other in zip(plain["data"], packed["data"], strict=True):
        assert list(struct.unpack("<8f", base64.b64decode(other["embedding"]))) == one["embedding"]


@pytest.mark.parametrize(("ids", "count", "tokens"), [([7, 8, 9], 1, 3), ([[7, 8], [9]], 2, 3), (["four", [9]], 2, 2)])
async def test_token_ids_are_an_input(ids: list[Any], count: int, tokens: int, autojump_clock: MockClock) -> None:
    """One array of them is one input; each counts as a token."""
    reply = await post(platform_of(), EMBEDDINGS, input=ids)
    assert (len(reply["data"]), reply["usage"]["prompt_tokens"]) == (count, tokens)


async def test_legacy_completions(autojump_clock: MockClock) -> None:
    """`n` texts for each prompt, cut at the cap, with usage in OpenAI's words."""
    platform = platform_of(output_sigma=0.0, output_median_tokens=100)
    reply = await post(platform, COMPLETIONS, "simulated-small", prompt=TEXTS, n=2, max_tokens=5)
    assert reply["object"] == "text_completion"
    assert [(choice["index"], choice["finish_reason"]) for choice in reply["choices"]] == [(i, "length") for i in range(4)]
    assert all(len(choice["text"]) == 20 for choice in reply["choices"])
    assert (reply["usage"]["completion_tokens"], reply["usage"]["total_tokens"]) == (20, reply["usage"]["prompt_tokens"] + 20)


async def test_a_rerank_names_the_nearest_documents(autojump_clock: MockClock) -> None:
    """`top_n` of them, the best first; the query itself is nearest to the query."""
    platform = platform_of()
    documents = ["A house.", {"text": "A mouse."}, TEXTS[0], "A louse."]
    reply = await post(platform, RERANKS, "simulated-rerank", query=TEXTS[0], documents=documents, top_n=3)
    results = reply["output"]["results"]
    assert (results[0]["index"], results[0]["relevance_score"]) == (2, pytest.approx(1.0))
    scores = [result["relevance_score"] for result in results]
    assert (scores, len(scores)) == (sorted(scores, reverse=True), 3)
    assert reply["usage"]["total_tokens"] == reply["usage"]["input_tokens"] > 0
    assert reply["request_id"].startswith("req_")
    everything = await post(platform, RERANKS, "simulated-rerank", query="x", documents=documents)
    assert len(everything["output"]["results"]) == len(documents)


@pytest.mark.parametrize(
    ("path", "fields", "found"),
    [
        ("/v1/images/generations", {"prompt": "a moon", "n": 2}, lambda reply: [item["url"] for item in reply["data"]]),
        ("/v1/audio/speech", {"input": "Hello."}, lambda reply: [reply["url"]]),
        ("/v1/search", {"query": "moon"}, lambda reply: [item["url"] for item in reply["results"]]),
        ("/v1/detect", {"text": "Written by whom?"}, lambda reply: [reply["report_url"]]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_hosted_is_billed_by_request(path: str, fields: Any, found: Any, autojump_clock: MockClock) -> None:
    """The answer points at files of its own, none of them anywhere, at the model's price for a request."""
    platform = platform_of()
    urls = found(await post(platform, path, "simulated-per-request", **fields))
    assert urls
    assert all(url.startswith("https://files.simulated.invalid/") for url in urls)
    assert len(set(urls)) == len(urls)
    assert await cost_of(platform) == Decimal("0.005")
    assert (await entries_of(platform, 0, b""))[0].path == path


@pytest.mark.parametrize(
    ("path", "fields", "field"),
    [
        (EMBEDDINGS, {}, "input"),
        (EMBEDDINGS, {"input": ["a", ""]}, "input"),
        (EMBEDDINGS, {"input": [["a"]]}, "input"),
        (EMBEDDINGS, {"input": ["a"] * 2_049}, "input"),
        (EMBEDDINGS, {"input": "a", "dimensions": 0}, "dimensions"),
        (EMBEDDINGS, {"input": "a", "dimensions": 5_000}, "dimensions"),
        (COMPLETIONS, {"prompt": "a", "n": 17}, "n"),
        (COMPLETIONS, {"prompt": [{}]}, "prompt"),
        (RERANKS, {"documents": ["a"]}, "query"),
        (RERANKS, {"query": "a", "documents": []}, "documents"),
        (RERANKS, {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/v1/detect", {"query": "a"}, "input or text or prompt"),
    ],
)
async def test_what_does_not_fit_is_refused_by_its_field(path: str, fields: Any, field: str, autojump_clock: MockClock) -> None:
    """400, and the message begins with the field."""
    status, message = await refused(path, **fields)
    assert status == 400
    assert message.startswith(field)


async def test_the_catalog_shows_what_each_model_is_for(autojump_clock: MockClock) -> None:
    """Embedding and rerank models have categories and prices of their own, and no cap to set."""
    listed = (await ask(platform_of(), request("/v1/models", method="GET"))).json()["data"]
    models = {model["id"]: model for model in listed}
    assert models["simulated-small"]["supported_parameters"][0]["name"] == "max_tokens"
    for model, category, price, parameters in (
        ("simulated-embedding", "embedding", "0.00000002", ["dimensions", "encoding_format"]),
        ("simulated-rerank", "rerank", "0.00000005", ["top_n"]),
    ):
        shown = models[model]
        assert (shown["category"], shown["pricing"]["prompt"]) == (category, price)
        assert [parameter["name"] for parameter in shown["supported_parameters"]] == parameters
