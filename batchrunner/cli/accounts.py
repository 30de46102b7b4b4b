"""The account that a command works with: its options and tables brought together, its key files read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import click
from click.core import ParameterSource

from batchrunner.account import Account, Asked, choose, settle, with_keys
from batchrunner.account_table import KeySource, Table
from batchrunner.cli.settings import Configuration
from batchrunner.config import SIMULATED_KEY
from batchrunner.errors import UsageError
from batchrunner.secret import Secret
from batchrunner.transport import Origin

#: A file of keys is short: what is longer is some other file.
KEY_FILE_BYTES = 64 * 1024
#: whose options go before a table's settings
BY_HAND = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def account_of(context: click.Context, environment: Mapping[str, str]) -> Account:
    """The account that a command was asked to work with, with its keys.

    Raises: UsageError, which names the file, the account and the key, or the option or variable, that cannot work.
    """
    account, table = settled(context)
    return keyed(context, account, table, environment)


def simulated_account(context: click.Context) -> Account:
    """The embedded platform's account, which has nothing to do with tables, variables or files of keys."""
    asked = _asked(context)
    Origin.parse(asked.base_url)  # it is not used, and yet written down and shown
    return Account(name=asked.account, base_url=asked.base_url, keys=(Secret(SIMULATED_KEY),), rpm=asked.rpm, tpm=asked.tpm)


def settled(context: click.Context) -> tuple[Account, Table | None]:
    """The account without its keys, and the table that it has. Raises: UsageError."""
    asked = _asked(context)
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


def _asked(context: click.Context) -> Asked:
    given = {name: context.params[name] for name in ("account", "base_url", "rpm", "tpm")}
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
