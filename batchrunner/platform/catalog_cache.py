"""Catalogs kept on this machine, a file for each server, for when the server cannot be asked.

A file is a line of JSON about what follows, and then the server's answer as it came: a newer program may read more of it.
Whatever is wrong with a file, there is just no catalog in it.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from batchrunner.clock import NS_PER_SECOND
from batchrunner.disk import SystemDisk
from batchrunner.errors import DiskError
from batchrunner.transport import Origin

VERSION: Final = 1
#: No catalog comes near this: what is longer is some other file.
MAX_BYTES: Final = 64 << 20


class Kept(msgspec.Struct, frozen=True):
    """A catalog, and when it was fetched."""

    body: bytes
    #: RFC 3339, UTC
    fetched_at: str

    def age_seconds(self, wall_ns: int) -> float | None:
        """How old it is; None where its date cannot be read, or lies ahead."""
        try:
            age = wall_ns / NS_PER_SECOND - datetime.fromisoformat(self.fetched_at).timestamp()
        except (ValueError, OverflowError):
            return None
        return age if age >= 0 else None


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    server: str
    fetched_at: str
    #: CRC-32 of what follows
    crc: int


_header = msgspec.json.Decoder(_Header)


class CatalogCache:
    """The catalogs in one directory, which is made when the first is kept: 0700, its files 0600.

    `say` gets a warning for what is wrong with a file or the directory; nothing is raised for it.
    """

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say

    def path(self, origin: Origin) -> Path:
        """The file of a server."""
        readable = re.sub(r"[^a-z0-9.-]+", "_", origin.host)[:100]
        return self._directory / f"{readable}-{hashlib.sha256(str(origin).encode()).hexdigest()[:12]}.catalog"

    def keep(self, origin: Origin, kept: Kept) -> None:
        """Put a server's catalog in the place of an older one, at one stroke."""
        header = msgspec.json.encode(_Header(VERSION, str(origin), kept.fetched_at, zlib.crc32(kept.body)))
        try:
            SystemDisk(self._directory).replace(self.path(origin).name, [header, b"\n", kept.body], durable=False)
        except DiskError as failed:
            self._say(f"warning: the catalog is not kept for later: {failed.path}: {failed.cause.strerror or failed.cause}.")

    def find(self, origin: Origin) -> Kept | None:
        """A server's catalog; None where none was kept, or it is of no use."""
        path = self.path(origin)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as cause:
            self._say(f"warning: {path}: cannot be read: {cause.strerror or cause}. It would be the catalog of {origin}.")
            return None
        kept = _read(data, origin)
        if kept is None:
            self._say(f"warning: {path}: is damaged, or another program's. `batchrun models` replaces it.")
        return kept


def _read(data: bytes, origin: Origin) -> Kept | None:
    first, _, body = data.partition(b"\n")
    try:
        header = _header.decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    known = (header.version, header.server, header.crc) == (VERSION, str(origin), zlib.crc32(body))
    return Kept(body, header.fetched_at) if known else None
