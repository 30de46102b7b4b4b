"""What the platform billed, one JSON line a request, on file before the answer's first byte is sent.

The file is plain and outlives both sides: after the runner, the server or both were killed, it still says what was paid for.
"""

from __future__ import annotations

import errno
import os
from decimal import Decimal
from typing import Protocol

import msgspec


class Tokens(msgspec.Struct, frozen=True):
    """`input` includes cached."""

    input: int
    output: int
    cached: int
    total: int


NO_TOKENS = Tokens(0, 0, 0, 0)


class Cost(msgspec.Struct, frozen=True):
    #: exact, and written as a JSON number without exponent
    amount: msgspec.Raw
    currency: str = "USD"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request that was worked on and billed, whether or not its answer will arrive; or a replay of one."""

    seq: int
    #: Unix nanoseconds of the platform's clock
    at_ns: int
    path: str
    model: str
    #: the first 8 hex digits of the key's SHA-256
    account: str
    key_fingerprint: str
    tokens: Tokens
    cost: Cost
    #: the status that was, or would have been, sent
    status: int
    #: the kind of fault that the answer met
    fault: str
    tag: str | None = None
    custom_id: str | None = None
    idempotency_key: str | None = None
    #: the answer of an earlier request was sent again: nothing was done, the cost is 0, and the tokens are those it tells of
    replay: bool = False
    #: the usage event that tells of it
    event: str | None = None
    #: who asked for it, where that was not a client of this server: `stranger` or `playground`. Of theirs, what failed and
    #: cost nothing stands here too.
    owner: str | None = None


class Ledger(Protocol):
    """Takes entries in the order in which they are billed."""

    def append(self, entry: Entry) -> None:
        """Return once the entry is safe from a kill of this process."""
        ...


class MemoryLedger:
    """Keeps the entries for a test to look at."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)


class NoLedger:
    """Forgets: for a server that nobody asked to keep one."""

    def append(self, entry: Entry) -> None:
        pass


class LedgerError(OSError):
    """The ledger's file cannot be opened or written: nothing more may be answered."""


class FileLedger:
    """Appends to a file, each entry with one write. Raises: LedgerError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as cause:
            raise LedgerError(cause.errno, cause.strerror, path) from cause

    def append(self, entry: Entry) -> None:
        line = self._encoder.encode(entry) + b"\n"
        try:
            written = os.write(self._fd, line)
        except OSError as cause:
            raise LedgerError(cause.errno, cause.strerror, self._path) from cause
        if written != len(line):
            raise LedgerError(errno.ENOSPC, f"only {written} of {len(line)} bytes were written", self._path)

    def close(self) -> None:
        os.close(self._fd)


def exact_number(amount: Decimal) -> msgspec.Raw:
    """A JSON number with all its digits and no exponent."""
    return msgspec.Raw(format(amount, "f").encode())
