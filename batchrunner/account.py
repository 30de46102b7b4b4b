"""Whose requests they are: one account, from the tables, options, variables and key files that speak of it. Pure.

Each setting comes from the first that has it: the command line, the environment, the account's table, the top level of the
files, the default. Keys are those of the table, else of BATCHRUN_API_KEY or EMPIRIOLABS_API_KEY. Two rules keep a key from
going where it does not belong: a base URL that is given by hand (on the command line or in the environment) without an
account's name is not about any table, so that no table is used; and the keys of a table that names its server go to that
host and to loopback only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from batchrunner.account_table import Auth, KeySource, Table
from batchrunner.config import (
    DEFAULT_BASE_URL,
    DEFAULT_RPM,
    DEFAULT_TPM,
    PLATFORM_KEY_VARIABLE,
    is_loopback,
    is_platform,
    key_variable,
    keys_for,
    read_keys,
)
from batchrunner.errors import UsageError
from batchrunner.secret import Secret, looks_like_a_key


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What options say of the account, wherever they come from."""

    account: str | None = None
    base_url: str = DEFAULT_BASE_URL
    rpm: int = DEFAULT_RPM
    tpm: int = DEFAULT_TPM
    #: names of those above that stand on the command line or in the environment: they go before a table
    by_hand: frozenset[str] = frozenset()


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A server, whom it takes us for, and what it allows us."""

    name: str | None = None
    base_url: str = DEFAULT_BASE_URL
    #: the first live one is used, the others stand by; none where the server, on this machine, wants none
    keys: tuple[Secret, ...] = ()
    auth: Auth = "bearer"
    #: sent with every request; names in lower case
    headers: tuple[tuple[str, str], ...] = ()
    #: 0: no limit
    rpm: int = DEFAULT_RPM
    tpm: int = DEFAULT_TPM
    #: where the keys were found, and how many in each place
    key_sources: tuple[tuple[KeySource, int], ...] = ()

    @property
    def identity(self) -> str:
        """What tells this account from others: host and name, else host and a fingerprint of the first key.

        The host has its port where that is not the scheme's own: two servers on one machine are two.
        """
        host = _authority(self.base_url)
        if self.name is not None:
            return f"{host}/{self.name}"
        return f"{host}#{self.keys[0].fingerprint(host)}" if self.keys else host


def choose(tables: Mapping[str, Table], asked: Asked) -> Table | None:
    """The table that is meant: the one that is named, or the only one. None where there is none, or none is meant.

    Where there are no tables, a name is a mere alias. Raises: UsageError where a name is not among them, or none was given
    and there are several.
    """
    if asked.account is not None and looks_like_a_key(asked.account):
        raise UsageError("--account: give the account's name; what stands there looks like a key, and is not shown.")
    if not tables:
        return None
    known = ", ".join(f"{name} ({table.file})" for name, table in tables.items())
    if asked.account is not None:
        if asked.account not in tables:
            raise UsageError(f"--account {asked.account}: there is no such account. Configured are {known}.")
        return tables[asked.account]
    if "base_url" in asked.by_hand:
        return None
    if len(tables) > 1:
        raise UsageError(f"several accounts are configured: {known}. Choose one with --account NAME.")
    return next(iter(tables.values()))


def settle(asked: Asked, table: Table | None) -> Account:
    """The account without its keys."""
    if table is None:
        return Account(name=asked.account, base_url=asked.base_url, rpm=asked.rpm, tpm=asked.tpm)
    own = {name: value for name in ("base_url", "rpm", "tpm") if (value := getattr(table, name)) is not None}
    given = {name: getattr(asked, name) for name in ("base_url", "rpm", "tpm") if name in asked.by_hand or name not in own}
    return Account(name=table.name, auth=table.auth or "bearer", headers=table.headers, **(own | given))


def with_keys(
    account: Account, table: Table | None, environment: Mapping[str, str], key_files: Mapping[KeySource, str]
) -> Account:
    """The account with its keys, each once. `key_files`: the text of each file that the table names.

    Raises: UsageError, where a source has no key, or no key may go to this server.
    """
    if table is not None and table.keys:
        _refuse_foreign_server(account, table)
        found = [(source, _keys_in(source, account, table, environment, key_files)) for source in table.keys]
    else:
        keys = keys_for(account.base_url, environment)
        variable = key_variable(account.base_url, environment)
        found = [(KeySource("env", variable), keys)] if variable is not None else []
    return msgspec.structs.replace(
        account,
        keys=tuple(dict.fromkeys(key for _, keys in found for key in keys)),
        key_sources=tuple((source, len(keys)) for source, keys in found),
    )


def _keys_in(
    source: KeySource,
    account: Account,
    table: Table,
    environment: Mapping[str, str],
    key_files: Mapping[KeySource, str],
) -> Sequence[Secret]:
    place = f"{table.place}: keys: {source}"
    if source.kind == "file":
        keys = read_keys(key_files[source].splitlines(), place)
        if not keys:
            raise UsageError(f"{place}: the file has no key in it. Write one key a line, or take the entry out.")
        return keys
    if source.where == PLATFORM_KEY_VARIABLE and not (is_platform(account.base_url) or is_loopback(_host(account.base_url))):
        raise UsageError(f"{place} is not sent to {_host(account.base_url)}. Put the key of that server into another variable.")
    keys = read_keys(environment.get(source.where, "").split(","), place)
    if not keys:
        raise UsageError(f"{place}: the variable is not set, or is empty. Set it, or take the entry out.")
    return keys


def _refuse_foreign_server(account: Account, table: Table) -> None:
    host = _host(account.base_url)
    if table.base_url is not None and host != _host(table.base_url) and not is_loopback(host):
        raise UsageError(
            f"{table.place}: keys are for {_host(table.base_url)}, and are not sent to {host}. "
            "Give that server a table of its own, or leave the other base URL out."
        )


def _host(base_url: str) -> str:
    return urlsplit(base_url).hostname or ""


def _authority(base_url: str) -> str:
    """The host, in small letters, with its port where that is not the scheme's."""
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    own_port = {"https": 443, "http": 80}.get(parts.scheme)
    return host if parts.port in (None, own_port) else f"{host}:{parts.port}"


def names_to_bind_to(accounts: Sequence[Account]) -> list[str]:
    """The accounts that jobs are told apart by: none where there is but one."""
    return [account.name for account in accounts if account.name is not None] if len(accounts) > 1 else []
