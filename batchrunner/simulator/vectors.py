"""A vector for each text, always the same one for the same text and seed; embeddings and reranks are made of them."""

from __future__ import annotations

import base64
import hashlib
import math
import operator
import struct
from typing import Any

from batchrunner.simulator.asks import Ask

_WORD_BYTES = 4


def vector(seed: int, text: bytes, dimensions: int) -> list[float]:
    """A vector of length 1, in numbers that fit into 32 bits; its direction is drawn from the text."""
    digest = hashlib.shake_128(b"%d " % seed + text).digest(_WORD_BYTES * dimensions)
    coordinates = [word / (1 << 31) for word in struct.unpack(f"<{dimensions}i", digest)]
    length = math.hypot(*coordinates) or 1.0
    packed = _packed([coordinate / length for coordinate in coordinates])
    return list(struct.unpack(f"<{dimensions}f", packed))


def embeddings(ask: Ask, seed: int) -> dict[str, Any]:
    """The answer to a request for embeddings, in the order of its inputs."""
    vectors = [vector(seed, text, ask.dimensions) for text in ask.parts]
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(_packed(found)).decode() if ask.in_base64 else found,
            }
            for index, found in enumerate(vectors)
        ],
        "model": ask.model.id,
        "usage": {"prompt_tokens": ask.input_tokens, "total_tokens": ask.input_tokens},
    }


def rerank(ask: Ask, seed: int, request_id: str) -> dict[str, Any]:
    """The documents by how near their vectors are to the query's, the nearest first."""
    query, *documents = (vector(seed, text, ask.dimensions) for text in ask.parts)
    scores = {index: (1 + sum(map(operator.mul, query, document))) / 2 for index, document in enumerate(documents)}
    nearest = sorted(scores, key=lambda index: (-scores[index], index))[: ask.choices]
    return {
        "output": {"results": [{"index": index, "relevance_score": round(scores[index], 6)} for index in nearest]},
        "usage": {"input_tokens": ask.input_tokens, "output_tokens": 0, "total_tokens": ask.input_tokens},
        "request_id": request_id,
    }


def _packed(coordinates: list[float]) -> bytes:
    return struct.pack(f"<{len(coordinates)}f", *coordinates)
