"""`batchrun models`: the catalog of a server, filtered, one by one, and without the server."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchrunner.clock import SystemClock
from batchrunner.costs import timestamp
from batchrunner.platform.catalog_cache import CatalogCache, Kept
from batchrunner.transport import Origin
from tests.e2e.cli_support import Ended, batchrun, platform, server

ODD = [
    {"id": "odd\u001b[31m-one", "pricing": {"unit": "gpu-hour", "price": "1"}, "status": "down"},
    {
        "id": "plain",
        "provider": "P",
        "pricing": {"image": "0.04"},
        "supported_parameters": ["size"],
        "output_modalities": ["image"],
    },
    {"id": "talker", "provider": "Q", "pricing": {"prompt": "0.000001", "completion": "0.000004"}, "category": "text"},
    {"no": "id"},
]


def ids(ended: Ended) -> list[str]:
    assert ended.code == 0, ended.stderr
    return [model["id"] for model in ended.summary["models"]]


def test_all_models_of_a_server_and_one_of_them(tmp_path: Path) -> None:
    """No key is needed; prices are exact and in units that people use; parameters are shown."""
    with platform(tmp_path) as running:
        listed = batchrun(tmp_path, "models", "--base-url", running.url)
        one = batchrun(tmp_path, "models", "simulated-large", "--base-url", running.url)
        document = batchrun(tmp_path, "models", "simulated-speech", "--base-url", running.url, "--json")
    assert listed.code == 0
    (small,) = [line for line in listed.stdout.splitlines() if line.startswith("simulated-small ")]
    cells = ["simulated-small", "simulated", "text", "->", "text", "131,072", "8,192", "loopback", "available"]
    assert small.split() == [*cells, "$0.15", "in,", "$0.60", "out,", "$0.075", "cached", "per", "1M", "tokens"]
    assert "$15 per 1M output tokens, from 200,000 input tokens on" in one.stdout
    assert "max_tokens               integer, 1 to 65536" in one.stdout
    (model,) = msgspec.json.decode(document.stdout, type=dict[str, Any])["models"]
    assert model["prices"] == [{"what": "audio-second", "per": "second", "usd": 0.00025, "from_tokens": 0, "to_tokens": None}]
    assert b'"usd":0.00025,' in document.stdout.encode()


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ((), ["odd\x1b[31m-one", "plain", "talker"]),
        (("--provider", "q"), ["talker"]),
        (("--modality", "IMAGE"), ["plain"]),
        (("--category", "text"), ["talker"]),
        (("--status", "available"), ["plain", "talker"]),
        (("--status", "Down"), ["odd\x1b[31m-one"]),
        (("--supports", "size"), ["plain"]),
        (("--supports", "size", "--supports", "n"), []),
        (("--search", "LK"), ["talker"]),
        (("--max-price", "4"), ["plain", "talker"]),
        (("--max-price", "3.99"), ["plain"]),
        (("--region", "eu"), []),
    ],
)
def test_filters(odd: tuple[Path, str], filters: tuple[str, ...], expected: list[str]) -> None:
    """Each leaves what it names; a price that is unknown is below none."""
    home, url = odd
    assert ids(batchrun(home, "models", "--base-url", url, "--json", *filters)) == expected


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with server(200, msgspec.json.encode({"data": ODD})) as url:
        yield tmp_path_factory.mktemp("home"), url


def test_what_a_catalog_says_has_no_power_over_a_terminal(odd: tuple[Path, str]) -> None:
    """Names come from the server."""
    home, url = odd
    for more in ((), ("--json",), ("odd\x1b[31m-one",)):
        ended = batchrun(home, "models", "--base-url", url, *more)
        assert ended.code == 0
        assert "\x1b" not in ended.stdout
    assert "unknown" in batchrun(home, "models", "--base-url", url).stdout


def test_offline_shows_what_was_last_seen_and_when(tmp_path: Path) -> None:
    """After the server is gone, with its date; what was never asked for is said to be missing, and nobody is asked."""
    with platform(tmp_path) as running:
        online = batchrun(tmp_path, "models", "--base-url", running.url, "--json")
    offline = batchrun(tmp_path, "models", "--base-url", running.url, "--json", "--offline")
    assert (offline.summary["from_cache"], offline.summary["models"]) == (True, online.summary["models"])
    assert offline.summary["fetched_at"] == online.summary["fetched_at"]
    told = batchrun(tmp_path, "models", "--base-url", running.url, "--offline")
    assert f"catalog of {online.summary['fetched_at']} from {running.url}" in told.stderr
    never = batchrun(tmp_path, "models", "--offline")
    assert (never.code, never.stdout) == (2, "")
    assert "no catalog of https://api.empiriolabs.ai is kept" in never.stderr


def test_a_model_that_is_not_there(odd: tuple[Path, str]) -> None:
    """2, with names that come near."""
    home, url = odd
    ended = batchrun(home, "models", "talk", "--base-url", url)
    assert ended.code == 2
    assert "talk: the catalog has no such model. Near it: talker." in ended.stderr


def test_a_server_without_a_catalog(tmp_path: Path) -> None:
    """69, and what was kept before stays as it is."""
    with server(404, b"{}") as url:
        ended = batchrun(tmp_path, "models", "--base-url", url)
    assert ended.code == 69
    assert "status 404" in ended.stderr


def test_a_run_uses_what_is_kept(tmp_path: Path) -> None:
    """A server whose catalog has gone: amounts by the one that was fetched before, with a warning that names its date."""
    reply = b'{"id":"1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":1},"data":[]}'
    (tmp_path / "jobs.jsonl").write_bytes(
        b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"talker","messages":[],"max_tokens":5}}\n'
    )
    with server(200, reply) as url:  # an empty list of models is no catalog
        catalog = Kept(msgspec.json.encode({"data": ODD}), timestamp(SystemClock().wall_ns()))
        CatalogCache(tmp_path / ".cache" / "batchrun" / "catalogs", print).keep(Origin.parse(url), catalog)
        key = {"BATCHRUN_API_KEY": "sk-empiriolabs-test-kept"}
        ended = batchrun(tmp_path, "submit", "jobs.jsonl", "--base-url", url, "--max-cost", "1", "--json", env=key)
    assert ended.code == 0, ended.stderr
    assert Decimal(str(ended.summary["cost"]["amount"])) == Decimal("0.000011")
    assert "Prices are those of the catalog of" in ended.stderr
