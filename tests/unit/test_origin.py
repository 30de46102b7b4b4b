"""Base URLs: what they mean, and what is refused before a key could leave."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.errors import UsageError
from batchrunner.transport import Origin


@pytest.mark.parametrize(
    ("base_url", "target"),
    [
        ("https://api.example.com", "/v1/chat/completions"),
        ("https://api.example.com/", "/v1/chat/completions"),
        ("https://api.example.com/v1", "/v1/chat/completions"),
        ("https://api.example.com/v1/", "/v1/chat/completions"),
        ("https://api.example.com/openai/v2", "/openai/v2/chat/completions"),
        ("https://api.example.com/api/v1/", "/api/v1/chat/completions"),
    ],
)
def test_a_path_of_its_own_replaces_the_leading_v1(base_url: str, target: str) -> None:
    """A base URL works with or without /v1, and its own path stands for the /v1 of a job's url."""
    assert Origin.parse(base_url).target("/v1/chat/completions") == target


def test_with_and_without_v1_are_the_same_origin() -> None:
    """Two spellings of one server are equal, so that they share an account."""
    assert Origin.parse("https://api.example.com/v1/") == Origin.parse("HTTPS://API.example.com:443")


@pytest.mark.parametrize(
    ("job_url", "target"),
    [("/v1", "/base"), ("/v1?x=1", "/base?x=1"), ("/v10/chat", "/base/v10/chat"), ("/chat", "/base/chat")],
)
def test_only_a_whole_leading_v1_is_replaced(job_url: str, target: str) -> None:
    """A first part that merely begins like /v1 is kept."""
    assert Origin.parse("https://h/base").target(job_url) == target


def test_a_job_url_that_names_a_server_is_refused() -> None:
    """A job file cannot send the key to another host."""
    with pytest.raises(UsageError, match="must be a path"):
        Origin.parse("https://h").target("https://elsewhere.example/v1/chat/completions")


@pytest.mark.parametrize(
    ("base_url", "host", "port", "authority"),
    [
        ("https://h", "h", 443, "h"),
        ("https://h:8443", "h", 8443, "h:8443"),
        ("http://localhost:80", "localhost", 80, "localhost"),
        ("http://127.0.0.1:8000", "127.0.0.1", 8000, "127.0.0.1:8000"),
        ("http://[::1]:8000", "::1", 8000, "[::1]:8000"),
        ("https://[2001:db8::1]", "2001:db8::1", 443, "[2001:db8::1]"),
    ],
)
def test_host_port_and_host_header(base_url: str, host: str, port: int, authority: str) -> None:
    """The Host header names the port only where it is not the scheme's own, and brackets IPv6."""
    origin = Origin.parse(base_url)
    assert (origin.host, origin.port, origin.authority) == (host, port, authority)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"])
def test_loopback_is_known_by_name_or_address(host: str) -> None:
    """Plain http goes to this machine."""
    assert Origin.parse(f"http://{host}:8000").is_loopback


@pytest.mark.parametrize(
    "host", ["api.example.com", "10.0.0.1", "0.0.0.0", "localhost.example.com", "127.1", "[::]", "[::ffff:10.0.0.1]"]
)
def test_plain_http_to_another_machine_is_refused(host: str) -> None:
    """A key never travels in clear."""
    with pytest.raises(UsageError, match="in clear"):
        Origin.parse(f"http://{host}:8000")
    assert not Origin.parse(f"https://{host}:8000").is_loopback


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.example.com",
        "ftp://h",
        "https://",
        "https://:443",
        "https://h:0",
        "https://h:99999",
        "https://h:port",
        "https://[::1",
        "https://[fe80::1%25eth0]",
        "https://h/a b",
        "https://h/a//b",
        "https://h\\@elsewhere",
        "https://h/\r\nx-evil: 1",
        "https://h\t",
        "https://münchen.example",
        "https://-h",
        "https://h..example",
        "https://h/<v1>",
    ],
)
def test_what_is_no_base_url_is_refused(base_url: str) -> None:
    """Anything doubtful is refused at the start, not by a server."""
    with pytest.raises(UsageError):
        Origin.parse(base_url)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://user:sk-empiriolabs-test-1@h",
        "https://sk-empiriolabs-test-1@h",
        "https://h?key=sk-empiriolabs-test-1",
        "https://h/v1#sk-empiriolabs-test-1",
        "http://sk-empiriolabs-test-1@10.0.0.1",
    ],
)
def test_a_secret_in_the_url_is_refused_and_not_shown(base_url: str) -> None:
    """User name, query and fragment are refused, and their text appears nowhere."""
    with pytest.raises(UsageError) as caught:
        Origin.parse(base_url)
    assert "sk-empiriolabs" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("mark", ["?", "#"])
def test_an_empty_query_or_fragment_is_refused(mark: str) -> None:
    """Not even an empty one: it would swallow the path."""
    with pytest.raises(UsageError):
        Origin.parse(f"https://h/v1{mark}")


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """No text makes parse fail in another way, and what is accepted reads back as itself."""
    for base_url in (text, f"https://{text}"):
        try:
            origin = Origin.parse(base_url)
        except UsageError:
            continue
        assert Origin.parse(str(origin)) == origin
