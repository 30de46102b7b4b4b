"""What stands in `batchrun.toml` (options, one key each, and accounts) and in `BATCHRUN_*` variables."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec
import platformdirs

from batchrunner.account_table import Table, read_tables, shown
from batchrunner.cli.output import say
from batchrunner.config import KEY_VARIABLE
from batchrunner.errors import UsageError

FILE = "batchrun.toml"
PREFIX = "BATCHRUN"
#: Variables of ours that are no options.
OTHER_VARIABLES = frozenset({KEY_VARIABLE})
#: the key under which accounts stand
ACCOUNTS = "accounts"


class Configuration(msgspec.Struct, frozen=True):
    """What the files say: the user's own, then the one in this directory, which goes before it; or one that was named."""

    #: those that were there
    files: tuple[str, ...] = ()
    #: values by click's name of the option, as the command line would take them
    defaults: dict[str, Any] = {}
    #: and the file that each comes from
    origins: dict[str, str] = {}
    #: what stands under `accounts`, by file; checked by `tables` alone: a run that needs no account is not kept from it
    accounts: dict[str, object] = {}

    def tables(self) -> dict[str, Table]:
        """The accounts by name. One that is in both files is the later file's, whole: half a table would be nobody's.

        Raises: UsageError.
        """
        merged: dict[str, Table] = {}
        for file, found in self.accounts.items():
            merged |= read_tables(found, file)
        return merged


def configure(context: click.Context, _option: click.Parameter, file: str | None) -> None:
    """Give a command the files' values as its defaults, and warn of variables that mean nothing.

    The environment and the command line go before them. Raises: UsageError, which names the file and the key.
    """
    configuration = read(context.command.params, named=file)
    context.obj = configuration
    context.default_map = configuration.defaults
    for line in unknown_variables(os.environ, context.command.params, configuration):
        say(f"warning: {line}")


#: Comes before all other options, whose defaults it sets.
CONFIG_OPTION = click.option(
    "--config",
    type=click.Path(),
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=configure,
    help=f"Read this file alone.  [default: {FILE} here, and the user's own]",
)


def read(parameters: Iterable[click.Parameter], *, named: str | None = None) -> Configuration:
    """Read the file that is named, which has to be there, or else those of the two usual ones that are.

    Raises: UsageError, which names the file and the key.
    """
    options = {key(option): option for option in parameters if isinstance(option, click.Option) and option.expose_value}
    found = Configuration()
    for path in [Path(named)] if named is not None else [Path(platformdirs.user_config_dir("batchrun")) / FILE, Path(FILE)]:
        content = _content(path)
        if content is None:
            if named is not None:
                raise UsageError(f"{path}: no such file; it is named by --config or {PREFIX}_CONFIG.")
            continue
        file = os.fspath(path)
        values = {
            str(option.name): _several(path, name, value, option) if option.multiple else _checked(path, name, value, option)
            for name, value in content.items()
            if name != ACCOUNTS
            for option in [_option(path, name, options)]
        }
        found = Configuration(
            files=(*found.files, file),
            defaults=found.defaults | values,
            origins=found.origins | dict.fromkeys(values, file),
            accounts=found.accounts | ({file: content[ACCOUNTS]} if ACCOUNTS in content else {}),
        )
    return found


def unknown_variables(
    environment: Mapping[str, str], parameters: Iterable[click.Parameter], configuration: Configuration
) -> list[str]:
    """A line for each `BATCHRUN_*` variable that means nothing, so that a misspelt spend cap does not go unseen."""
    options = {variable(option) for option in parameters if isinstance(option, click.Option)}
    known = options | OTHER_VARIABLES | _named_variables(configuration.accounts)
    return [
        f"{name} is set, and no option of `batchrun submit` has this name: it is ignored."
        + "".join(f" Did you mean {near}?" for near in difflib.get_close_matches(name.upper(), sorted(known), n=1))
        for name in sorted(environment)
        if name.upper().startswith(PREFIX + "_") and name not in known
    ]


def key(option: click.Option) -> str:
    """An option's name in a file: that of its long form, with underscores."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def variable(option: click.Option) -> str:
    """An option's name in the environment."""
    return f"{PREFIX}_{key(option).upper()}"


def _named_variables(found: object) -> set[str]:
    """Variables that accounts take their keys from."""
    if isinstance(found, str):
        return {found.removeprefix("env:")} if found.startswith("env:") else set()
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return set().union(*map(_named_variables, parts))


def _content(path: Path) -> dict[str, Any] | None:
    """A file's keys and tables; None where there is no such file. Raises: UsageError."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise UsageError(f"{os.fspath(path)}: cannot be read: {cause.strerror or cause}.") from None
    except (ValueError, RecursionError) as cause:  # TOMLDecodeError is one, and so is what int() says to thousands of digits
        raise UsageError(f"{os.fspath(path)}: is not TOML: {cause}.") from None


def _option(path: Path, name: str, options: Mapping[str, click.Option]) -> click.Option:
    """The option that a key stands for. Raises: UsageError."""
    option = options.get(name.replace("-", "_"))
    if option is None:
        known = ", ".join(sorted([*options, ACCOUNTS]))
        raise UsageError(f"{os.fspath(path)}: unknown key {shown(name)}. Known are {known}.")
    return option


def _several(path: Path, name: str, value: object, option: click.Option) -> object:
    """The values of an option that can be given more than once: a list, or one by itself. Raises: UsageError."""
    values = value if isinstance(value, list) else [value]
    return [_checked(path, name, one, option) for one in values]


def _checked(path: Path, name: str, value: object, option: click.Option) -> object:
    """A value as the command line would take it. Raises: UsageError."""
    try:
        if not isinstance(value, bool if option.is_flag else str | int | float) or isinstance(value, bool) != option.is_flag:
            raise click.BadParameter(f"{'give true or false' if option.is_flag else 'give a number or a text'}.")
        if isinstance(option.type, click.types.IntParamType) and isinstance(value, float):
            raise click.BadParameter(f"{value} is not a whole number.")
        option.type.convert(value, option, None)
    except click.BadParameter as refused:
        raise UsageError(f"{os.fspath(path)}: {name}: {refused.message}") from None
    return value
