"""What a run was asked to do: where its directory is, which keys go where, how much may be in flight."""

from __future__ import annotations

import msgspec
import pytest

from batchrunner.config import (
    DEFAULT_BASE_URL,
    MAX_IN_FLIGHT,
    MIN_DESCRIPTORS,
    RESERVED_DESCRIPTORS,
    MaxFailures,
    Options,
    default_run_dir,
    in_flight_cap,
    is_loopback,
    keys_for,
)
from batchrunner.errors import UsageError
from batchrunner.secret import Secret

OWN, OTHER = "sk-empiriolabs-test-own", "sk-empiriolabs-test-other"
BOTH = {"EMPIRIOLABS_API_KEY": OWN, "BATCHRUN_API_KEY": OTHER}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("jobs.jsonl", "jobs.run"),
        ("jobs.jsonl.gz", "jobs.run"),
        ("jobs.gz", "jobs.run"),
        ("jobs", "jobs.run"),
        ("jobs.json", "jobs.json.run"),
        ("a/b.c/jobs.v2.jsonl", "a/b.c/jobs.v2.run"),
        ("/data/jobs.jsonl", "/data/jobs.run"),
        ("../jobs.jsonl", "../jobs.run"),
    ],
)
def test_default_run_dir(path: str, expected: str) -> None:
    """Beside the first job file: its name without .gz and .jsonl, plus .run."""
    assert default_run_dir(path, simulate=False) == expected
    assert default_run_dir(path, simulate=True) == expected.removesuffix(".run") + ".simulated.run"


@pytest.mark.parametrize("name", ["-", "/dev/fd/63", "/dev/stdin", "/proc/self/fd/11"])
def test_what_has_no_place_of_its_own_gives_no_run_dir(name: str) -> None:
    """The same command must find the same run again; the remedy is named."""
    with pytest.raises(UsageError, match="--run-dir DIR"):
        default_run_dir(name, simulate=False)


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        (DEFAULT_BASE_URL, OTHER),
        ("https://eu.api.empiriolabs.ai/v1", OTHER),
        ("https://api.example.com", OTHER),
        ("http://localhost:8000", OTHER),
    ],
)
def test_batchrun_api_key_goes_anywhere(base_url: str, expected: str) -> None:
    """BATCHRUN_API_KEY is for whatever server is named, and stands above the platform's own."""
    assert keys_for(base_url, BOTH) == (Secret(expected),)


@pytest.mark.parametrize(
    "base_url",
    [DEFAULT_BASE_URL, "https://empiriolabs.ai", "https://EU.API.EmpirioLabs.ai/v1", "http://127.0.0.1:1", "http://[::1]:1"],
)
def test_empiriolabs_api_key_goes_home(base_url: str) -> None:
    """EMPIRIOLABS_API_KEY goes to the platform's host, to those below it, and to loopback."""
    assert keys_for(base_url, {"EMPIRIOLABS_API_KEY": OWN}) == (Secret(OWN),)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://api.example.com",
        "https://empiriolabs.ai.example.com",
        "https://notempiriolabs.ai",
        "https://example.com/api.empiriolabs.ai",
        "https://empiriolabs.aix",
    ],
)
def test_empiriolabs_api_key_goes_nowhere_else(base_url: str) -> None:
    """To any other host it is not sent, and the message says which variable is, without showing a key."""
    with pytest.raises(UsageError, match=r"EMPIRIOLABS_API_KEY is not sent to .*Set BATCHRUN_API_KEY") as caught:
        keys_for(base_url, {"EMPIRIOLABS_API_KEY": OWN})
    assert OWN not in str(caught.value)


def test_several_keys_in_their_order() -> None:
    """Comma-separated keys are used from the left; blanks and empty parts are no keys."""
    keys = keys_for(DEFAULT_BASE_URL, {"EMPIRIOLABS_API_KEY": f" {OWN} ,,{OTHER}, "})
    assert keys == (Secret(OWN), Secret(OTHER))


@pytest.mark.parametrize("value", ["", " ", ",", " , "])
def test_an_empty_variable_is_none(value: str) -> None:
    """A variable that names no key leaves the choice to the other one."""
    assert keys_for(DEFAULT_BASE_URL, {"BATCHRUN_API_KEY": value, "EMPIRIOLABS_API_KEY": OWN}) == (Secret(OWN),)


@pytest.mark.parametrize("key", ["sk-empiriolabs-test-a\nb", "sk-empiriolabs-test-\x00", "sk-empiriolabs-test-é"])
@pytest.mark.parametrize("name", ["BATCHRUN_API_KEY", "EMPIRIOLABS_API_KEY"])
def test_what_no_key_holds_is_refused(name: str, key: str) -> None:
    """A key that could not stand in a header is refused before anything is sent, by its variable's name and not shown."""
    with pytest.raises(UsageError, match=f"{name} holds what no key holds") as caught:
        keys_for(DEFAULT_BASE_URL, {name: f"{OWN},{key}"})
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    ("base_url", "names"),
    [
        (DEFAULT_BASE_URL, "Set EMPIRIOLABS_API_KEY or BATCHRUN_API_KEY"),
        ("https://api.example.com", "Set BATCHRUN_API_KEY,"),
    ],
)
def test_no_key_is_refused(base_url: str, names: str) -> None:
    """Without a key a server elsewhere is not asked; the message names what would be looked at."""
    with pytest.raises(UsageError, match=names):
        keys_for(base_url, {})


def test_loopback_needs_no_key() -> None:
    """A server on this machine may want none."""
    assert keys_for("http://localhost:8000", {}) == ()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    """This machine by its names and addresses."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "a.localhost", "localhost.example.com", "mylocalhost", "128.0.0.1", "0.0.0.0", "::", "::2", "127.0.0.1.nip.io"]
)
def test_not_loopback(host: str) -> None:
    """Names and addresses that only look like it."""
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("wanted", "descriptors", "expected"),
    [
        (None, 1_024, 1_024 - RESERVED_DESCRIPTORS),
        (None, 1 << 20, MAX_IN_FLIGHT),
        (None, RESERVED_DESCRIPTORS, 1),
        (None, MIN_DESCRIPTORS, 1),
        (7, 1_024, 7),
        (50_000, 1_024, 50_000),
    ],
)
def test_in_flight_cap(wanted: int | None, descriptors: int, expected: int) -> None:
    """What was asked for; else what the descriptors leave room for, between 1 and 10,000."""
    assert in_flight_cap(wanted, descriptors) == expected


@pytest.mark.parametrize("wanted", [None, 1])
def test_too_few_descriptors_for_any_run(wanted: int | None) -> None:
    """Said before the run begins: once it had begun, its first file would be what fails."""
    with pytest.raises(UsageError, match=r"may open 31 files, and a run takes 32 .* \(ulimit -n\)"):
        in_flight_cap(wanted, MIN_DESCRIPTORS - 1)


def test_options_are_what_the_manifest_keeps() -> None:
    """Options come back from JSON as they were, and have the contract's defaults."""
    options = Options(inputs=("jobs.jsonl",), run_dir="jobs.run")
    assert msgspec.json.decode(msgspec.json.encode(options), type=Options) == options
    assert (options.rpm, options.tpm, options.max_attempts, options.timeout_seconds) == (50, 2_000_000, 5, 960.0)
    assert (options.max_in_flight, options.drain_seconds, options.max_cost_usd) == (10_000, 20.0, None)


@pytest.mark.parametrize(
    ("text", "most", "total"),
    [
        ("0", 0, 10),
        ("3", 3, 10),
        (" 20 ", 20, 10**7),
        ("0%", 0, 1_000),
        ("5%", 50, 1_000),
        ("5%", 0, 19),  # one of nineteen is more than a twentieth
        ("33.3%", 333, 1_000),
        ("0.1%", 10_000, 10_000_000),
        ("100%", 7, 7),
    ],
)
def test_max_failures_allows_so_many_and_no_more(text: str, most: int, total: int) -> None:
    """`N` jobs, or `P%` of all jobs, exactly: that many may fail, and one more is too many."""
    limit = MaxFailures.parse(text)
    assert not limit.exceeded(most, total)
    assert limit.exceeded(most + 1, total)
    assert str(limit) == text.strip()


@pytest.mark.parametrize("text", ["", "-1", "1.5", "many", "5 %", "101%", "nan%", "1e3", "%", "\uff15", "5%5"])
def test_max_failures_that_mean_nothing_are_refused(text: str) -> None:
    """What is neither a number of jobs nor a share of them is named, never guessed at."""
    with pytest.raises(ValueError, match=r"neither a number of jobs|more than all jobs") as refused:
        MaxFailures.parse(text)
    assert repr(text) in str(refused.value)


def test_max_failures_are_kept_in_the_manifest() -> None:
    """What run.json holds reads back as the same limit; a manifest from before there was one has none."""
    options = Options(inputs=("jobs.jsonl",), run_dir="jobs.run", max_failures=MaxFailures.parse("2.5%"))
    assert msgspec.json.decode(msgspec.json.encode(options), type=Options) == options
    assert msgspec.json.decode(b'{"inputs":["jobs.jsonl"],"run_dir":"jobs.run"}', type=Options).max_failures is None
