"""`[accounts.NAME]`: what a file may say of an account, and that a refusal names the place and shows no secret."""

from __future__ import annotations

import tomllib

import pytest

from batchrunner.account_table import HEADERS_OF_OURS, KeySource, Table, read_tables
from batchrunner.errors import UsageError
from batchrunner.transport.wire import RESERVED_HEADERS

CANARY = "sk-empiriolabs-test-canary-7Qz"
#: of a server of somebody's own, without the look of a key
ODD_CANARY = "hunter2hunter2"


def read(toml: str) -> dict[str, Table]:
    return read_tables(tomllib.loads(toml)["accounts"], "batchrun.toml")


def refusal(toml: str) -> str:
    with pytest.raises(UsageError) as refused:
        read(toml)
    return str(refused.value)


def test_the_example_of_the_documentation() -> None:
    """Each key of a table, as it is used."""
    tables = read(
        """
        [accounts.prod]
        base_url = "https://api.empiriolabs.ai"
        keys = ["env:EMPIRIOLABS_API_KEY", "file:/run/secrets/empiriolabs"]
        auth = "x-api-key"
        headers = { "Anthropic-Version" = "2023-06-01" }
        rpm = 50
        tpm = 2_000_000
        """
    )
    assert tables == {
        "prod": Table(
            file="batchrun.toml",
            name="prod",
            base_url="https://api.empiriolabs.ai",
            keys=(KeySource("env", "EMPIRIOLABS_API_KEY"), KeySource("file", "/run/secrets/empiriolabs")),
            auth="x-api-key",
            headers=(("anthropic-version", "2023-06-01"),),
            rpm=50,
            tpm=2_000_000,
        )
    }


def test_a_table_may_say_nothing() -> None:
    """What it leaves out is left to options and variables."""
    assert read("[accounts.dev]") == {"dev": Table(file="batchrun.toml", name="dev")}


def test_names_may_have_dashes() -> None:
    """As options have in files."""
    assert read("[accounts.dev]\nbase-url = 'http://localhost'")["dev"].base_url == "http://localhost"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("url = 'https://x'", "unknown key 'url'. Known are auth, base_url, headers, keys, rpm, tpm."),
        ("base_urls = 'https://x'", "unknown key 'base_urls'. Did you mean base_url?"),
        ("base_url = 1", "base_url: give a URL in quotes"),
        ("base_url = 'https://x'\nbase-url = 'https://y'", "base_url stands there twice"),
        ("rpm = -1", "rpm: give a whole number"),
        ("rpm = 1.5", "rpm: give a whole number"),
        ("tpm = true", "tpm: give a whole number"),
        ("tpm = '50'", "tpm: give a whole number"),
        ("auth = 'basic'", 'auth: give "bearer"'),
        ("keys = 'env:KEY'", "keys: give a list of where keys are"),
        ("keys = []", "keys: give a list of where keys are"),
        ("keys = ['env:KEY', 1]", "keys: entry 2 is neither env:NAME"),
        ("keys = ['env:']", "keys: entry 1 is neither env:NAME"),
        ("keys = ['file:']", "keys: entry 1 is neither env:NAME"),
        ("headers = ['a']", "headers: give a table of names and values"),
        ("headers = { 'X-A' = '1', 'x-a' = '2' }", "headers: a header stands there twice"),
        ("headers = { a = 1 }", "headers: header 'a' needs a text in ASCII"),
        ("headers = { a = '' }", "headers: header 'a' needs a text in ASCII"),
        ('headers = { a = "b\\r\\nc: d" }', "headers: header 'a' needs a text in ASCII"),
        ("headers = { a = 'é' }", "headers: header 'a' needs a text in ASCII"),
        ("headers = { 'a b' = 'c' }", "headers: header 1 has a name that HTTP does not allow"),
        ("headers = { User-Agent = 'c' }", "headers: header 'User-Agent' is set by batchrun itself"),
        ("headers = { host = 'c' }", "headers: header 'host' is set by batchrun itself"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_file_account_and_key(settings: str, message: str) -> None:
    assert refusal(f"[accounts.prod]\n{settings}").startswith(f"batchrun.toml: [accounts.prod]: {message}")


@pytest.mark.parametrize("toml", ["accounts = 'prod'", "[[accounts]]\nrpm = 1"])
def test_accounts_are_tables(toml: str) -> None:
    assert refusal(toml).startswith("batchrun.toml: accounts: write a table for each account")


def test_an_account_is_a_table() -> None:
    assert refusal("[accounts]\nprod = 'https://x'").startswith("batchrun.toml: [accounts.prod]: write a table")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "ä", "a" * 65, CANARY])
def test_names_that_no_account_has_are_refused_unshown(name: str) -> None:
    """They stand in file names, metrics and URLs; what was written there may be a key."""
    message = refusal(f'[accounts."{name}"]')
    assert message.startswith("batchrun.toml: accounts: a name has up to 64 letters")
    assert CANARY not in message


@pytest.mark.parametrize(
    "settings",
    [
        f"keys = '{CANARY}'",
        f"keys = ['{CANARY}']",
        f"keys = ['{ODD_CANARY}']",
        f"keys = ['env:{CANARY}']",
        f"keys = ['env:{ODD_CANARY}']",
        f"keys = ['file:{CANARY}']",
        f"keys = [{{ key = '{CANARY}' }}]",
        f"key = '{CANARY}'",
        f"{CANARY} = true",
        f"auth = '{CANARY}'",
        f"rpm = '{CANARY}'",
        f"base_url = ['{CANARY}']",
        f"headers = '{CANARY}'",
        f"headers = {{ Authorization = 'Bearer {CANARY}' }}",
        f"headers = {{ x-note = 'Bearer {ODD_CANARY}' }}",
        f"headers = {{ x-note = '{CANARY}' }}",
        f"headers = {{ '{CANARY}' = 'x' }}",
        f"headers = {{ '{CANARY} ' = 'x' }}",
        f'headers = {{ x-note = "{ODD_CANARY}\\n" }}',
    ],
)
def test_a_key_that_was_written_into_the_file_is_not_shown(settings: str) -> None:
    """Wherever it was put, the refusal tells the place and not the value."""
    message = refusal(f"[accounts.prod]\n{settings}")
    assert message.startswith("batchrun.toml: [accounts.prod]: ")
    assert CANARY not in message
    assert ODD_CANARY not in message


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Proxy-Authorization",
        "x-api-key",
        "Api-Key",
        "cookie",
        "x-auth-token",
        "Ocp-Apim-Subscription-Key",
        "x-amz-security-token",
        "x-client-secret",
    ],
)
def test_headers_that_could_hold_a_secret_are_refused(name: str) -> None:
    """The remedy is `keys`."""
    message = refusal(f"[accounts.prod]\nheaders = {{ {name} = '{ODD_CANARY}' }}")
    assert f"header {name!r} could hold a secret, and is refused. Keys go into `keys`" in message
    assert ODD_CANARY not in message


@pytest.mark.parametrize("name", ["anthropic-version", "anthropic-beta", "OpenAI-Organization", "openai-project", "HTTP-Referer"])
def test_headers_that_providers_ask_for_are_taken(name: str) -> None:
    """Their names in small letters, as comparing them wants it."""
    assert read(f"[accounts.prod]\nheaders = {{ {name} = 'a, b' }}")["prod"].headers == ((name.lower(), "a, b"),)


def test_what_the_connection_sets_is_refused_in_the_file() -> None:
    """And not by the first request only, when the run has begun."""
    assert RESERVED_HEADERS <= HEADERS_OF_OURS
