"""The accounts that a command works with: options and tables brought together, key files read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from batchrunner.account import Account, Asked, choose, settle, with_keys
from batchrunner.account_table import KeySource, Table
from batchrunner.cli.settings import Configuration
from batchrunner.config import SIMULATED_KEY
from batchrunner.errors import UsageError
from batchrunner.index import MOST_ACCOUNTS
from batchrunner.secret import Secret
from batchrunner.transport import Origin

#: A file of keys is short: what is longer is some other file.
KEY_FILE_BYTES = 64 * 1024
#: whose options go before a table's settings
BY_HAND = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


class Names(click.ParamType):  # type: ignore[type-arg]  # generic in the newest versions alone
    """An account's name, or several separated by commas, as they stand in a variable or a file."""

    name = "name"
    envvar_list_splitter = ","

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name without the blanks around it."""
        found = str(value).strip()
        if not found:
            self.fail("an account's name is not empty.", param, ctx)
        return found


def joined(_context: click.Context, _option: click.Parameter, names: tuple[str, ...]) -> str | None:
    """Whatever was named, as one text: what people know by one name stays one."""
    return ",".join(names) or None


def accounts_of(context: click.Context, environment: Mapping[str, str]) -> tuple[Account, ...]:
    """The accounts that a command was asked to work with, with their keys.

    Raises: UsageError, which names the file, the account and the key, or the option or variable, that cannot work.
    """
    names = _names(context)
    accounts = tuple(keyed(context, *settled(context, name), environment) for name in names)
    if len(names) > 1:
        _refuse_unless_several(context, names, accounts)
    return accounts


def _names(context: click.Context) -> Sequence[str | None]:
    given: str | None = context.params["account"]
    return [None] if given is None else [name.strip() for name in given.split(",")]


def _refuse_unless_several(context: click.Context, names: Sequence[str | None], accounts: Sequence[Account]) -> None:
    """Raise UsageError where what are named are not several accounts."""
    if not _tables(context):
        raise UsageError(f"--account: several accounts ({', '.join(map(str, names))}) each need a table [accounts.NAME].")
    if len(names) > MOST_ACCOUNTS:
        raise UsageError(f"--account: {len(names)} accounts are named; a run works with {MOST_ACCOUNTS} at the most.")
    for place, account in enumerate(accounts):
        for other in accounts[:place]:
            if account.name == other.name:
                raise UsageError(f"--account {account.name}: is named twice. Name each account once.")
            if set(account.keys) & set(other.keys):
                raise UsageError(
                    f"accounts {other.name} and {account.name} have a key in common: they are one account, whose limit would be "
                    "used twice. Name one of them."
                )


def simulated_account(context: click.Context) -> Account:
    """The embedded platform's account, which has nothing to do with tables, variables or files of keys."""
    asked = _asked(context, context.params["account"])
    if len(_names(context)) > 1:
        raise UsageError("--account: the embedded platform of --simulate is one account. Name one, or leave --account out.")
    Origin.parse(asked.base_url)  # it is not used, and yet written down and shown
    return Account(name=asked.account, base_url=asked.base_url, keys=(Secret(SIMULATED_KEY),), rpm=asked.rpm, tpm=asked.tpm)


def settled(context: click.Context, name: str | None) -> tuple[Account, Table | None]:
    """The account of a name, or the only one, without its keys, and the table that it has. Raises: UsageError."""
    asked = _asked(context, name)
    table = choose(_tables(context), asked)
    account = settle(asked, table)
    try:
        Origin.parse(account.base_url)
    except UsageError as refused:
        if table is None or account.base_url != table.base_url:
            raise
        raise UsageError(f"{table.place}: base_url: {refused}") from None
    return account, table


def keyed(context: click.Context, account: Account, table: Table | None, environment: Mapping[str, str]) -> Account:
    """The account with its keys. Raises: UsageError."""
    files = {source: _key_file(table, source) for source in table.keys if source.kind == "file"} if table is not None else {}
    try:
        return with_keys(account, table, environment, files)
    except UsageError as refused:
        if table is not None or not (tables := _tables(context)):
            raise
        names = ", ".join(tables)
        raise UsageError(
            f"{refused} Accounts that are configured ({names}) are used with --base-url where --account names one."
        ) from None


def _tables(context: click.Context) -> Mapping[str, Table]:
    configuration = context.find_object(Configuration)
    return configuration.tables() if configuration is not None else {}


def _asked(context: click.Context, account: str | None) -> Asked:
    given = {"account": account} | {name: context.params[name] for name in ("base_url", "rpm", "tpm")}
    return Asked(**given, by_hand=frozenset(name for name in given if context.get_parameter_source(name) in BY_HAND))


def _key_file(table: Table, source: KeySource) -> str:
    """The text of a file of keys, which its owner alone may read. Raises: UsageError."""
    path = Path(table.file).parent / Path(source.where).expanduser()
    place = f"{table.place}: keys: {path}"
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UsageError(f"{place}: is no file. Name a file with one key a line.")
            if found.st_mode & 0o066:
                raise UsageError(f"{place}: others than its owner may read or write it. Run `chmod 600 {path}`.")
            data = file.read(KEY_FILE_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{place}: no such file. Write one key a line into it, with mode 600, or take the entry out.") from None
    except (OSError, RuntimeError) as cause:
        why = cause.strerror if isinstance(cause, OSError) else cause
        raise UsageError(f"{place}: cannot be read: {why}. Let its owner run this, with mode 600.") from None
    if len(data) > KEY_FILE_BYTES:
        raise UsageError(f"{place}: is too long for a file of keys. Name a file with one key a line.")
    return data.decode("utf-8", errors="replace")  # what is no key is refused by the one rule for keys


def _without_waiting(path: str, flags: int) -> int:
    """Open a FIFO, too, at once: there may be nobody who writes into it."""
    return os.open(path, flags | os.O_NONBLOCK)
