"""What processes of this machine share of an account: one SQLite file, in it a row with the budget and one with learned lengths.

A transaction reads the budget's row, changes it, writes it back; lengths are read and written without one. Whatever goes wrong is
one kind of error, `Unusable`, which says what to do; the file may be whole again any time, and is looked at anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from batchrunner.budget.holders import Shared
from batchrunner.budget.leases import Knock

#: Written into the file's header, so that nobody else's database is taken for ours: "brun".
APPLICATION_ID: Final = 0x6272756E
#: Another number for each change of the row that older or newer programs cannot read.
VERSION: Final = 1
#: How long a transaction waits for those of others, which take a millisecond.
BUSY_SECONDS: Final = 2.0
#: Learned lengths are of no use beyond that: no account has so many models.
LENGTHS_MAX_BYTES: Final = 1 << 20

#: what a killed process leaves beside the file: a new one of the same name would take it for its own
_LEFT_BEHIND: Final = ("-wal", "-shm", "-journal")

_T = TypeVar("_T")
_SCHEMA: Final = (
    """
CREATE TABLE account (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    boot TEXT NOT NULL,
    shared BLOB NOT NULL,
    knocks BLOB NOT NULL,
    wall_ns INTEGER NOT NULL
)
""",
    """
CREATE TABLE lengths (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    learned BLOB NOT NULL
)
""",
)
_READ: Final = "SELECT boot, shared, knocks, wall_ns FROM account WHERE id = 1"
_WRITE: Final = "INSERT OR REPLACE INTO account (id, boot, shared, knocks, wall_ns) VALUES (1, ?, ?, ?, ?)"
_READ_LENGTHS: Final = "SELECT CAST(learned AS BLOB) FROM lengths WHERE id = 1 AND length(CAST(learned AS BLOB)) <= ?"
_WRITE_LENGTHS: Final = "INSERT OR REPLACE INTO lengths (id, learned) VALUES (1, ?)"
_SHARED: Final = msgspec.msgpack.Decoder(Shared)
_KNOCKS: Final = msgspec.msgpack.Decoder(list[Knock])


class Unusable(Exception):
    """The budget cannot be shared through this file now. The message says why, and what to do."""


class Row(msgspec.Struct):
    """An account's budget as it was last written."""

    #: monotonic times mean something under the same boot only
    boot: str
    shared: Shared
    #: who waits for the account while another has it for itself
    knocks: list[Knock]
    #: for people who look into the file
    wall_ns: int


def file_name(identity: str) -> str:
    """The name of an account's file: what can be read of its identity, and a hash of all of it."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", identity)[:60].strip("._")
    return f"{readable}-{hashlib.sha256(identity.encode()).hexdigest()[:10]}.sqlite"


class AccountFile:
    """One account's row. Made where it is missing; opened at the first transaction, by the thread that asks for it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        #: the row as this process wrote it, good for as long as nobody else writes
        self._kept: Row | None = None
        self._kept_version = -1

    def transact(self, change: Callable[[Row | None], tuple[Row | None, _T]], *, busy_seconds: float = BUSY_SECONDS) -> _T:
        """Call `change` with the row (None: there is none yet) and write what it returns (None: nothing). All of it or nothing.

        Raises: Unusable; the row is then as it was, and what `change` was given must not be used any more.
        """
        with self._explained():
            return self._transact(change, busy_seconds)

    def lengths(self) -> bytes | None:
        """What was last written of learned lengths; None where there is nothing, or more than anybody would write.

        Raises: Unusable.
        """
        with self._explained():
            found = self._connected(BUSY_SECONDS).execute(_READ_LENGTHS, (LENGTHS_MAX_BYTES,)).fetchone()
            return None if found is None else bytes(found[0])

    def write_lengths(self, learned: bytes, *, busy_seconds: float = BUSY_SECONDS) -> None:
        """Put learned lengths in the place of those of whoever wrote last. Raises: Unusable."""
        with self._explained():
            self._connected(busy_seconds).execute(_WRITE_LENGTHS, (learned,))

    def close(self) -> None:
        """Give the file up. The next transaction opens it again."""
        self._kept = None
        if self._database is not None:
            database, self._database = self._database, None
            with contextlib.suppress(sqlite3.Error):
                database.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Whatever goes wrong in here gives the file up, and what is the file's fault is said in words."""
        try:
            yield
        except BaseException as error:
            self.close()
            if isinstance(error, (sqlite3.Error, OSError, msgspec.MsgspecError)):
                raise Unusable(f"{self.path}: {_what(error)} {_remedy(error)}") from error
            raise

    def _transact(self, change: Callable[[Row | None], tuple[Row | None, _T]], busy_seconds: float) -> _T:
        database = self._connected(busy_seconds)
        database.execute("BEGIN IMMEDIATE")
        version = database.execute("PRAGMA data_version").fetchone()[0]
        row = self._kept if self._kept is not None and version == self._kept_version else _read(database)
        changed, answer = change(row)
        if changed is not None:
            database.execute(
                _WRITE,
                (
                    changed.boot,
                    msgspec.msgpack.encode(changed.shared),
                    msgspec.msgpack.encode(changed.knocks),
                    changed.wall_ns,
                ),
            )
        database.execute("COMMIT")
        self._kept, self._kept_version = changed or row, version
        return answer

    def _connected(self, busy_seconds: float) -> sqlite3.Connection:
        if self._database is not None and _identity(self.path) != self._opened:
            self.close()  # it was removed or replaced: others are at work on the new one
        database = self._database if self._database is not None else self._open(busy_seconds)
        database.execute(f"PRAGMA busy_timeout = {round(busy_seconds * 1000)}")
        return database

    def _open(self, busy_seconds: float) -> sqlite3.Connection:
        if not self.path.is_absolute():
            raise OSError(0, "there is no home directory")
        self.path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        if _identity(self.path) is None:
            _make(self.path)
        self._opened = _identity(self.path)
        # Only one thread uses it, which need not be the one that closes it.
        self._database = database = sqlite3.connect(
            self.path, timeout=busy_seconds, isolation_level=None, check_same_thread=False
        )
        # A commit need not outlive a power cut, after which times of the clock mean nothing; the file does.
        database.execute("PRAGMA synchronous = NORMAL")
        ours = (database.execute("PRAGMA application_id").fetchone()[0], database.execute("PRAGMA user_version").fetchone()[0])
        if ours[0] != APPLICATION_ID:
            raise Unusable(
                f"{self.path}: is another program's database. Move it away, or choose another directory with --state-dir."
            )
        if ours[1] != VERSION:
            raise Unusable(
                f"{self.path}: was written by another version of batchrun. Use one version for all runs of the account, or "
                "remove the file once none is at work."
            )
        return database


def _make(path: Path) -> None:
    """Put a new file in its place at one stroke, unless another process has been faster: nobody sees a part of one."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    os.close(os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = WAL")  # where that cannot be, as on some file systems, it stays as it is
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {VERSION}")
            for table in _SCHEMA:
                database.execute(table)
        with _alone_in(path.parent) as alone, contextlib.suppress(FileExistsError):
            if alone and _identity(path) is None:
                for leftover in _LEFT_BEHIND:
                    path.with_name(path.name + leftover).unlink(missing_ok=True)
            os.link(aside, path)
    finally:
        os.unlink(aside)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[bool]:
    """Whether nobody else makes files in this directory meanwhile; no where directories cannot be locked."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _read(database: sqlite3.Connection) -> Row | None:
    found = database.execute(_READ).fetchone()
    if found is None:
        return None
    boot, shared, knocks, wall_ns = found
    return Row(boot, _SHARED.decode(shared), _KNOCKS.decode(knocks), wall_ns)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another of the same name; None where there is none."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "is no regular file")
    if found.st_uid != os.geteuid():
        raise OSError(0, "belongs to another user")
    return found.st_dev, found.st_ino


def _what(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{(error.strerror or str(error)).lower()}."
    if isinstance(error, msgspec.MsgspecError):
        return "its content cannot be read."
    return f"{error}."


def _remedy(error: Exception) -> str:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return "Some process keeps it locked; end that one."
    damaged = not isinstance(error, sqlite3.OperationalError) or "no such table" in str(error)
    if isinstance(error, (msgspec.MsgspecError, sqlite3.DatabaseError)) and damaged:
        return "Remove the file once no run of the account is at work; a new one is made then."
    return "Make the directory writable and give it room, or choose another one with --state-dir."
