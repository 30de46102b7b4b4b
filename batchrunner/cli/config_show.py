"""`batchrun config show`: what `submit` would go by, and where each setting comes from. Never a key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from batchrunner.account import Account
from batchrunner.account_table import Table
from batchrunner.cli.accounts import BY_HAND, accounts_of, keyed, settled, simulated_account
from batchrunner.cli.output import print_json, print_text
from batchrunner.cli.settings import Configuration, key, variable
from batchrunner.cli.submit import submit
from batchrunner.errors import UsageError
from batchrunner.secret import looks_like_a_key
from batchrunner.wording import escape_terminal

_JSON = msgspec.json.Encoder(decimal_format="number")


class Setting(msgspec.Struct, frozen=True, omit_defaults=True):
    """One setting as it is in force; null where it is not set."""

    value: Any
    #: a file, with the table where it is in one; a variable; an option of this command; or `default`
    origin: str | None = None


class Shown(msgspec.Struct, frozen=True):
    """The `--json` document."""

    #: those that were read, the one that goes first last
    files: tuple[str, ...]
    #: that are configured
    accounts: list[str]
    settings: dict[str, Setting]


@click.group(no_args_is_help=False, short_help="Show what settings are in force, and where they come from.")
def config() -> None:
    """Look at the configuration."""


@config.command(short_help="Show the settings in force, and where they come from.")
@click.option("--account", metavar="NAME", help="The account that `batchrun submit --account NAME` would use.")
@click.option("--config", metavar="FILE", help="Read this file alone, as `batchrun submit --config FILE` would.")
@click.option("--origin", is_flag=True, help="Say where each setting comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(account: str | None, config: str | None, origin: bool, as_json: bool) -> None:  # noqa: FBT001 - click's calling convention
    """Show the settings that `batchrun submit` would go by here and now, its account's included.

    Each is shown by its name in batchrun.toml. Of keys it shows where they are and how many, never one. Exit code 2 where
    submit would be refused for its configuration.
    """
    given = {"--account": account, "--config": config}
    # As submit reads them: what is shown is what it would go by.
    context = submit.make_context("submit", [*(f"{name}={value}" for name, value in given.items() if value is not None), "-"])
    shown, problem = _shown(context)
    if as_json:
        settings = {name: setting if origin else Setting(setting.value) for name, setting in shown.settings.items()}
        print_json(_JSON.encode(msgspec.structs.replace(shown, settings=settings)))
    else:
        print_text("".join(f"{line.rstrip()}\n" for line in _lines(shown, origin=origin)))
    if problem is not None:
        raise problem


def _shown(context: click.Context) -> tuple[Shown, UsageError | None]:
    """All settings, and what keeps the account from having its keys: the others are no less worth seeing."""
    configuration = context.find_object(Configuration) or Configuration()
    if context.params["simulate"]:
        account = simulated_account(context)
        return Shown(configuration.files, [], _settings(context, configuration, account, None)), None
    # Of several accounts the first is shown; each by itself with --account.
    name = context.params["account"]
    account, table = settled(context, None if name is None else name.split(",")[0])
    problem = None
    try:
        account = keyed(context, account, table, os.environ)
        accounts_of(context, os.environ)
    except UsageError as refused:
        problem = refused
    return Shown(configuration.files, sorted(configuration.tables()), _settings(context, configuration, account, table)), problem


def _settings(context: click.Context, configuration: Configuration, account: Account, table: Table | None) -> dict[str, Setting]:
    """Each option by its name in a file, in the order of `submit --help`, and then what only an account has."""
    options = [option for option in submit.params if isinstance(option, click.Option) and option.expose_value]
    settings = {key(option): _setting(context, configuration, option) for option in options}
    variable_of_keys = next((source.where for source, _ in account.key_sources), "default")
    of_account = {
        "base_url": account.base_url,
        "rpm": account.rpm,
        "tpm": account.tpm,
        "keys": _keys(context, account, table),
        "auth": account.auth,
        "headers": dict(account.headers),
    }
    for name, value in of_account.items():
        in_table = table is not None and getattr(table, name) not in (None, ())
        if table is not None and in_table and context.get_parameter_source(name) not in BY_HAND:
            settings[name] = Setting(value, _place(table))
        elif name not in settings:
            settings[name] = Setting(value, variable_of_keys if name == "keys" else "default")
    if table is not None and settings["account"].value is None:
        settings["account"] = Setting(table.name, f"{_place(table)}, the only one")
    return settings


def _setting(context: click.Context, configuration: Configuration, option: click.Option) -> Setting:
    """An option's value, and who gave it."""
    name = str(option.name)
    value = context.params[name]
    origin = {
        ParameterSource.COMMANDLINE: f"--{key(option)}",
        ParameterSource.ENVIRONMENT: variable(option),
        ParameterSource.DEFAULT_MAP: configuration.origins.get(name, ""),
    }
    source = context.get_parameter_source(name)
    shown = "(not shown: it looks like a key)" if looks_like_a_key(str(value)) else value
    return Setting(shown, origin.get(source, "default") if source is not None else "default")


def _keys(context: click.Context, account: Account, table: Table | None) -> list[str]:
    """Where the keys are, and how many; only where, if they cannot be had."""
    if context.params["simulate"]:
        return ["built in, 1 key"]
    if account.key_sources or table is None:
        return [f"{source}, {count} key{'' if count == 1 else 's'}" for source, count in account.key_sources]
    return [str(source) for source in table.keys]


def _place(table: Table) -> str:
    return f"{table.file} [accounts.{table.name}]"


def _lines(shown: Shown, *, origin: bool) -> Iterator[str]:
    """A line for each setting: name, value and, if asked for, origin."""
    rows = [(name, _text(setting.value), setting.origin or "") for name, setting in shown.settings.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, where in rows:
        yield f"{name:{widths[0]}}  {value:{widths[1]}}  {escape_terminal(where) if origin else ''}"
    yield ""
    yield f"files: {escape_terminal(', '.join(shown.files)) or 'none'}"
    yield f"accounts: {', '.join(shown.accounts) or 'none'}"


def _text(value: Any) -> str:
    match value:
        case None | "":
            return "not set"
        case bool():
            return "true" if value else "false"
        case list():
            return "; ".join(map(escape_terminal, value)) or "none"
        case dict():
            return ", ".join(f"{name}: {text}" for name, text in value.items()) or "none"
    return escape_terminal(str(value))
