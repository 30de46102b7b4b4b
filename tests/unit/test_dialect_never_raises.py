"""Nothing that stands in a request or a reply makes a dialect raise."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner import dialect
from batchrunner.dialect import Dialect, Finish

SHAPES = [*{one.name: one for one in dialect.URLS.values()}.values(), dialect.for_url("/v1/any/thing")]

#: the words that any of the shapes looks for
WORDS = [
    *("model", "input", "prompt", "n", "best_of", "max_tokens", "max_completion_tokens", "max_output_tokens", "stream"),
    *("usage", "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens", "total_tokens", "tool_usage", "metadata"),
    *("prompt_tokens_details", "completion_tokens_details", "cached_tokens", "reasoning_tokens"),
    *("cache_read_input_tokens", "cache_creation_input_tokens", "choices", "message", "content", "output", "type", "text"),
    *("finish_reason", "status", "stop_reason", "incomplete_details", "reason", "refusal", "tool_calls", "data", "embedding"),
    *("source", "image", "document", "audio", "url", "b64_json", "seconds", "duration", "result", "results", "detail"),
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 1000)
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["stop", "completed", "end_turn", "incomplete", "image", "document", "data:image/png;base64,AA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=20,
)
#: JSON that is spelt in every way, and damaged; lone surrogates and NaN among it
BODIES = (
    JSON.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    | st.binary(max_size=100)
    | st.text(alphabet='{}[]":,\\u0123data/imagetyp', max_size=60).map(str.encode)
    | st.tuples(JSON, st.integers(0, 200)).map(lambda pair: json.dumps(pair[0]).encode()[: pair[1]])
)


def test_all_shapes_are_meant() -> None:
    """Each under its own name: a closed set, fit for a label."""
    names = ["chat_completions", "responses", "messages", "embeddings", "completions", "reranks"]
    names += ["images", "speech", "search", "detect", "videos", "transcriptions", "generic"]
    assert [one.name for one in SHAPES] == names


@pytest.mark.parametrize("shape", SHAPES, ids=lambda one: one.name)
@given(body=BODIES)
def test_any_body_has_a_size(shape: Dialect, body: bytes) -> None:
    """Figures are what their names say, whatever the body is."""
    size = shape.size(body)
    assert size.input_tokens >= 1
    assert size.output_cap_tokens is None or size.output_cap_tokens >= 0
    assert size.choices >= 1
    assert isinstance(size.model, str)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda one: one.name)
@given(body=BODIES)
def test_any_reply_is_read(shape: Dialect, body: bytes) -> None:
    """It has an end of the closed set and usage that makes sense or none; it is None exactly where it is no JSON."""
    facts = shape.read(body)
    assert (facts is not None) == dialect.is_json(dialect.without_bom(body))
    if facts is not None:
        assert facts.finish in Finish
        usage = facts.usage
        assert usage is None or (0 <= usage.cached_tokens <= usage.input_tokens and usage.output_tokens >= usage.reasoning_tokens)
