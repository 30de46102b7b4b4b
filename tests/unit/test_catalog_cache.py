"""Catalogs kept on this machine: found again with their date, and never believed where a bit of them has changed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.disk import SystemDisk
from batchrunner.errors import DiskError
from batchrunner.platform.catalog_cache import CatalogCache, Kept
from batchrunner.transport import Origin

ORIGIN = Origin.parse("https://api.example.com")
KEPT = Kept(b'{"data":[{"id":"m"}]}\n', "2026-01-02T03:04:05.678Z")


class Cache(CatalogCache):
    """One that remembers what it said."""

    def __init__(self, directory: Path) -> None:
        self.said: list[str] = []
        super().__init__(directory, self.said.append)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "not" / "there" / "yet")


def test_what_is_kept_is_found_with_its_date(cache: Cache) -> None:
    """Byte for byte; the newer takes the place of the older."""
    assert cache.find(ORIGIN) is None
    cache.keep(ORIGIN, KEPT)
    assert cache.find(ORIGIN) == KEPT
    newer = Kept(b"[]", "2026-02-02T03:04:05.678Z")
    cache.keep(ORIGIN, newer)
    assert cache.find(ORIGIN) == newer
    assert cache.said == []


@pytest.mark.parametrize("other", ["https://api.example.org", "https://api.example.com:444", "https://api.example.com/eu"])
def test_each_server_has_its_own(cache: Cache, other: str) -> None:
    """Told apart by host, port and path; the usual /v1 is no path."""
    cache.keep(ORIGIN, KEPT)
    assert cache.find(Origin.parse(other)) is None
    assert cache.find(Origin.parse("https://api.example.com/v1/")) == KEPT


def test_it_is_the_owners_alone(cache: Cache) -> None:
    """0700 and 0600, whatever the umask."""
    before = os.umask(0)
    try:
        cache.keep(ORIGIN, KEPT)
    finally:
        os.umask(before)
    path = cache.path(ORIGIN)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)


DAMAGE: list[Callable[[bytes], bytes]] = [
    lambda data: data[:-1],
    lambda data: data + b" ",
    lambda data: data.replace(b'"m"', b'"n"'),
    lambda data: data.replace(b'"version":1', b'"version":2'),
    lambda data: data.replace(b"api.example.com", b"api.example.org"),
    lambda data: b"\xff" + data,
    lambda _data: b"",
    lambda _data: b"[" * 100_000,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_has_changed_is_no_catalog(cache: Cache, damage: Callable[[bytes], bytes]) -> None:
    """By a bit, of another server or version, cut short or empty: a warning that names it, and the next one takes its place."""
    cache.keep(ORIGIN, KEPT)
    path = cache.path(ORIGIN)
    path.write_bytes(damage(path.read_bytes()))
    assert cache.find(ORIGIN) is None
    (warning,) = cache.said
    assert str(path) in warning
    cache.keep(ORIGIN, KEPT)
    assert cache.find(ORIGIN) == KEPT


def test_what_cannot_be_read_is_a_warning(cache: Cache) -> None:
    """A directory in its place, say: named, in the system's words."""
    cache.path(ORIGIN).mkdir(parents=True)
    assert cache.find(ORIGIN) is None
    assert "Is a directory" in cache.said[0]


def test_what_cannot_be_written_is_a_warning(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk takes nobody's prices."""

    def full(self: SystemDisk, *_: object, **__: object) -> None:
        raise DiskError(str(self.directory), "replacing", OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(SystemDisk, "replace", full)
    cache.keep(ORIGIN, KEPT)
    assert "No space left on device" in cache.said[0]
    assert cache.find(ORIGIN) is None


@pytest.mark.parametrize(
    ("fetched_at", "age"),
    [("1970-01-01T00:00:10Z", 90.0), ("1970-01-01T00:02:00Z", None), ("yesterday", None), ("1970-01-01T00:01:40Z", 0.0)],
)
def test_its_age(fetched_at: str, age: float | None) -> None:
    """None for a date that says nothing, or that lies ahead: a clock was set."""
    assert Kept(b"", fetched_at).age_seconds(100 * 1_000_000_000) == age
