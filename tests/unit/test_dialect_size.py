from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from batchrunner import dialect
from batchrunner.dialect.size import input_size
from batchrunner.job import RequestSize

URLS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
PICTURE = base64.b64encode(bytes(30_000)).decode()


def size(url: str, body: dict[str, Any]) -> RequestSize:
    return dialect.for_url(url).size(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("url", "body", "cap"),
    [
        (URLS[0], {"max_tokens": 100}, 100),
        (URLS[0], {"max_tokens": 100, "max_completion_tokens": 50}, 50),
        (URLS[0], {"max_tokens": 100, "n": 3}, 300),
        (URLS[0], {"n": 3}, None),
        (URLS[0], {"max_tokens": 10**30, "n": 10**30}, 1_000_000_000),
        (URLS[0], {"max_output_tokens": 9}, None),
        (URLS[1], {"max_output_tokens": 100}, 100),
        (URLS[1], {"max_tokens": 100}, None),
        (URLS[2], {"max_tokens": 100, "n": 3}, 100),
    ],
)
def test_the_cap_is_the_bodys_own(url: str, body: dict[str, Any], cap: int | None) -> None:
    """Each shape has its own word for it."""
    assert size(url, body | {"model": "m"}).output_cap_tokens == cap


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("value", ["100", 0, -5, 1.5, True, None, [], {}])
def test_a_cap_that_is_no_number_of_tokens_counts_as_none(url: str, value: object) -> None:
    """The server will say what it thinks of it; sizing does not fail."""
    body = dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "n"), value)
    assert size(url, body | {"model": ["m"]}) == RequestSize("", size(url, body | {"model": ["m"]}).input_tokens, None)


@pytest.mark.parametrize("url", URLS)
def test_text_counts_by_its_bytes(url: str) -> None:
    """About four bytes a token, the model's name taken from the body."""
    found = size(url, {"model": "m", "input": "word " * 1000})
    assert found.model == "m"
    assert 1250 <= found.input_tokens <= 1270
    assert not found.opaque_parts


def test_escaped_text_weighs_as_much_as_plain() -> None:
    """How a file spells its characters says nothing about tokens."""
    body = {"messages": [{"role": "user", "content": "日本語のテキスト" * 100}]}
    assert input_size(json.dumps(body, ensure_ascii=False).encode()) == input_size(json.dumps(body).encode())


PARTS: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}"},
    {"type": "input_audio", "input_audio": {"data": PICTURE, "format": "wav"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": PICTURE}},
    {"type": "input_file", "file_data": PICTURE},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PICTURE}},
    {"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": PICTURE}}]},
    {"whatever": f"data:application/pdf;base64,{PICTURE}"},
]


@pytest.mark.parametrize("part", PARTS)
def test_base64_is_not_counted_as_text(part: dict[str, Any]) -> None:
    """Parts whose tokens bytes cannot tell are left out and told; the text beside them counts."""
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "word " * 800}, part]}]}
    found = size(URLS[0], body)
    assert found.opaque_parts
    assert 1000 <= found.input_tokens <= 1100


@pytest.mark.parametrize(
    "part",
    [
        {"type": "document", "source": {"type": "text", "data": "word " * 800}},
        {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "word " * 800}]}},
        {"type": "text", "text": "data: " + "word " * 800},
        {"type": "text", "text": "word " * 800, "image": None},
        {"type": {"file": 1}, "text": "word " * 800},
    ],
)
def test_text_in_the_dress_of_a_part_is_text(part: dict[str, Any]) -> None:
    """Documents given as text count by their bytes; a word such as data is no picture."""
    found = size(URLS[2], {"messages": [{"content": [part]}]})
    assert 1000 <= found.input_tokens <= 1060
    assert not found.opaque_parts


def test_an_image_by_address_is_opaque() -> None:
    """Its tokens are as unknown as those of one that is inlined."""
    body = {"messages": [{"content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]}
    assert size(URLS[0], body).opaque_parts


def test_an_opaque_part_without_strings_is_opaque() -> None:
    """What it is counts, not what it holds."""
    assert size(URLS[0], {"messages": [{"content": [{"type": "image", "id": 7}]}]}).opaque_parts


@pytest.mark.parametrize("url", [*dialect.URLS, "/v1/any/thing"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"type":"image","x":"\xff"}',
        b'{"type":"image","x":1e999}',
        b'{"type":"image","x":' + b"[" * 100_000,
        b'{"type":"image","x":' + b"[" * 990 + b"]" * 990 + b"}",
        b'{"model":"\\ud800"}',
    ],
)
def test_what_cannot_be_decoded_is_sized_by_all_of_its_bytes(url: str, body: bytes) -> None:
    """Too much is the safe side, and nothing raises."""
    found = dialect.for_url(url).size(body)
    assert not found.output_cap_tokens
    assert found.input_tokens == max(0, len(body) - 3 * body.count(b"\\u")) // 4 + 1
