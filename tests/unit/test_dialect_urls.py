from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner import dialect
from batchrunner.dialect import ASYNCHRONOUS_URLS, MAX_URL_BYTES, URLS, is_read_only, is_sound
from batchrunner.job import Job


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/v1/chat/completions", "chat_completions"),
        ("/v1/responses", "responses"),
        ("/v1/messages", "messages"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/completions", "completions"),
        ("/v1/reranks", "reranks"),
        ("/v1/rerank", "reranks"),
        ("/v1/images/generations", "images"),
        ("/v1/messages/count_tokens", "generic"),
        ("/v1/whatever/comes/next", "generic"),
    ],
)
def test_a_url_has_its_dialect(url: str, name: str) -> None:
    """Some shapes are known by their path; every other path is taken as it comes."""
    assert dialect.for_url(url).name == name
    assert dialect.of(Job(0, 1, "a", url, b"{}", 0)) is dialect.for_url(url)


@pytest.mark.parametrize(
    "url",
    [
        *URLS,
        *sorted(ASYNCHRONOUS_URLS),
        "/v1/x",
        "/v1/...",
        "/v1/.well-known/x",
        "/v1/a..b/c",
        "/v1/models/openai%2Fgpt:free",
        "/v1/v1/x",
        "/v1/" + "x" * (MAX_URL_BYTES - 4),
    ],
)
def test_a_sound_url(url: str) -> None:
    """Any path below /v1/ that nobody on the way will read as another."""
    assert is_sound(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/",
        "/v1",
        "/v1/",
        "v1/chat/completions",
        "/v2/chat/completions",
        "/chat/completions",
        "//v1/chat/completions",
        "/v1//chat",
        "/v1/chat/completions/",
        "/v1/../admin",
        "/v1/.",
        "/v1/./x",
        "/v1/x/..",
        "/v1/%2e%2e/admin",
        "/v1/.%2E/admin",
        "/v1/%2e",
        "/v1/x?a=1",
        "/v1/x#a",
        "/v1/a b",
        "/v1/a\r\nX-Header: b",
        "/v1/x\n",
        "/v1/x\x00",
        "/v1/é",
        "/v1/%zz",
        "/v1/%4",
        "/v1/a\\b",
        '/v1/"x"',
        "https://api.example.com/v1/chat/completions",
        "/v1/" + "x" * (MAX_URL_BYTES - 3),
    ],
)
def test_an_unsound_url(url: str) -> None:
    """Another server, another tree, a query, a header smuggled in, or too long for a record."""
    assert not is_sound(url)


@given(st.text(max_size=30), st.text(alphabet="/.%2eEv1ax", max_size=30))
def test_a_sound_url_is_one_line_of_visible_ascii_without_steps(anything: str, crafted: str) -> None:
    """Whatever is let through can stand in a request line as it is."""
    for tail in (anything, crafted):
        url = "/v1/" + tail
        if is_sound(url):
            assert url.isascii()
            assert url.isprintable()
            assert not {"", ".", ".."} & set(url[1:].lower().replace("%2e", ".").split("/"))
            assert not set(' ?#\\"<>') & set(url)


@pytest.mark.parametrize(
    ("url", "read_only"),
    [
        ("/v1/models", True),
        ("/v1/models/gpt-x", True),
        ("/v1/account/usage", True),
        ("/v1/jobs/job_1", True),
        ("/v1/playground/conversations/1", True),
        ("/v1/modelsmith", False),
        ("/v1/account", False),
        ("/v1/x/models", False),
        *((url, False) for url in URLS),
    ],
)
def test_what_is_asked_with_get(url: str, read_only: bool) -> None:
    """Catalog, account, jobs and saved chats take no request of a batch."""
    assert is_read_only(url) == read_only
