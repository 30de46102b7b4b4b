"""`[accounts.NAME]` in batchrun.toml: what a file says of an account, checked. No message shows what may be a key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from batchrunner.config import MOST_A_MINUTE
from batchrunner.errors import UsageError
from batchrunner.secret import looks_like_a_key

Auth = Literal["bearer", "x-api-key"]

_ACCOUNT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
#: a word of a header's name that says that its value lets somebody in
_SECRET_WORDS = re.compile(r"auth|key|token|secret|cookie|passw|credential|signature", re.IGNORECASE)
#: each request has its own, or the connection sets them
HEADERS_OF_OURS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)


class KeySource(msgspec.Struct, frozen=True):
    """Where keys are: in a variable of the environment (comma-separated), or in a file (one a line)."""

    kind: Literal["env", "file"]
    #: the variable's name, or the path as it was written
    where: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.where}"


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One account as a file has it; None and empty where the file leaves it to others."""

    #: as it is called in messages
    file: str
    name: str
    base_url: str | None = None
    keys: tuple[KeySource, ...] = ()
    auth: Auth | None = None
    #: names in lower case
    headers: tuple[tuple[str, str], ...] = ()
    rpm: int | None = None
    tpm: int | None = None

    @property
    def place(self) -> str:
        return f"{self.file}: [accounts.{self.name}]"


class _WrongError(Exception):
    """What is wrong with a value, and what would be right."""


def read_tables(found: object, file: str) -> dict[str, Table]:
    """What stands under `accounts` in a file, by name.

    Raises: UsageError, which names file, account and key, and says what to write; a value is never shown.
    """
    if not isinstance(found, dict):
        raise UsageError(f"{file}: accounts: write a table for each account, such as [accounts.prod].")
    return {name: _table(file, name, settings) for name, settings in found.items()}


def shown(name: str) -> str:
    """A name that somebody wrote, for a message: quoted, unless it is rather a key."""
    return "(not shown: it looks like a key)" if looks_like_a_key(name) else repr(name)


def _table(file: str, name: str, found: object) -> Table:
    if looks_like_a_key(name) or not _ACCOUNT_NAME.fullmatch(name):
        raise UsageError(
            f"{file}: accounts: a name has up to 64 letters, digits, dots, dashes and underscores, and is no key. "
            "(What stands there is not shown, in case it is one.)"
        )
    table = Table(file=file, name=name)
    if not isinstance(found, dict):
        raise UsageError(f"{table.place}: write a table, with keys such as {', '.join(_CHECKS)}.")
    checked: dict[str, Any] = {}
    for written, value in found.items():
        key = written.replace("-", "_")
        check = _CHECKS.get(key)
        if check is None:
            raise UsageError(f"{table.place}: unknown key {shown(written)}. {_known(key)}")
        if key in checked:
            raise UsageError(f"{table.place}: {key} stands there twice, with a dash and with an underscore. Leave one.")
        try:
            checked[key] = check(value)
        except _WrongError as wrong:
            raise UsageError(f"{table.place}: {key}: {wrong}") from None
    return msgspec.structs.replace(table, **checked)


def _known(key: str) -> str:
    near = difflib.get_close_matches(key, _CHECKS, n=1)
    return f"Did you mean {near[0]}?" if near else f"Known are {', '.join(sorted(_CHECKS))}."


def _base_url(value: object) -> str:
    if not isinstance(value, str):
        raise _WrongError('give a URL in quotes, such as "https://api.example.com".')
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_A_MINUTE:
        raise _WrongError(f"give a whole number, {MOST_A_MINUTE:,} at the most; 0 means no limit.")
    return value


def _auth(value: object) -> Auth:
    match value:
        case "bearer" | "x-api-key":
            return value
    raise _WrongError('give "bearer" (Authorization: Bearer KEY) or "x-api-key".')


def _keys(value: object) -> tuple[KeySource, ...]:
    if not isinstance(value, list) or not value:
        raise _WrongError('give a list of where keys are, such as ["env:EMPIRIOLABS_API_KEY"], or leave it out.')
    return tuple(_key_source(number, entry) for number, entry in enumerate(value, 1))


def _key_source(number: int, entry: object) -> KeySource:
    kind, _, where = entry.partition(":") if isinstance(entry, str) else ("", "", "")
    if kind == "env" and _VARIABLE.fullmatch(where):
        return KeySource("env", where)
    if kind == "file" and where.isprintable() and where and not looks_like_a_key(where):
        return KeySource("file", where)
    raise _WrongError(
        f"entry {number} is neither env:NAME (capital letters, digits, underscores) nor file:PATH; it is not shown, in case it "
        "is a key. Put the key into a variable of the environment, or into a file of its own with mode 600."
    )


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict):
        raise _WrongError('give a table of names and values, such as { "anthropic-version" = "2023-06-01" }.')
    headers = {name.lower(): _header_value(number, name, text) for number, (name, text) in enumerate(value.items(), 1)}
    if len(headers) < len(value):
        raise _WrongError("a header stands there twice: their names are the same in capital and in small letters. Leave one.")
    return tuple(headers.items())


def _header_value(number: int, name: str, value: object) -> str:
    if looks_like_a_key(name) or not _HEADER_NAME.fullmatch(name):
        # The name is not shown: where name and value were swapped, it may be a key.
        raise _WrongError(f"header {number} has a name that HTTP does not allow (letters, digits and dashes only).")
    if _SECRET_WORDS.search(name):
        raise _WrongError(f"header {name!r} could hold a secret, and is refused. Keys go into `keys`, their form into `auth`.")
    if name.lower() in HEADERS_OF_OURS:
        raise _WrongError(f"header {name!r} is set by batchrun itself. Leave it out.")
    if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
        raise _WrongError(f"header {name!r} needs a text in ASCII, without a line break and without blanks at its ends.")
    if looks_like_a_key(value):
        raise _WrongError(f"header {name!r} holds what looks like a key. Keys go into `keys`.")
    return value


_CHECKS: dict[str, Callable[[object], object]] = {
    "base_url": _base_url,
    "keys": _keys,
    "auth": _auth,
    "headers": _headers,
    "rpm": _count,
    "tpm": _count,
}
