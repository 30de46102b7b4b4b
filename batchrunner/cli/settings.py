"""The options of `submit` that stand elsewhere: in `batchrun.toml`, one key each, and in `BATCHRUN_*` variables."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import platformdirs

from batchrunner.errors import UsageError

FILE = "batchrun.toml"
PREFIX = "BATCHRUN"
#: Variables of ours that are no options.
OTHER_VARIABLES = frozenset({"BATCHRUN_API_KEY"})


def default_map(parameters: Iterable[click.Parameter]) -> dict[str, Any]:
    """What the configuration files say, as defaults for click: the user's own, then the one in this directory.

    The environment and the command line go before them. Raises: UsageError, which names the file and the key.
    """
    options = {_key(option): option for option in parameters if isinstance(option, click.Option)}
    merged: dict[str, Any] = {}
    for path in (Path(platformdirs.user_config_dir("batchrun")) / FILE, Path(FILE)):
        merged |= _read(path, options)
    return merged


def unknown_variables(environment: Mapping[str, str], parameters: Iterable[click.Parameter]) -> list[str]:
    """Names of `BATCHRUN_*` variables that mean nothing, so that a misspelt spend cap does not go unseen."""
    known = {f"{PREFIX}_{_key(option).upper()}" for option in parameters if isinstance(option, click.Option)}
    return sorted(name for name in environment if name.startswith(PREFIX + "_") and name not in known | OTHER_VARIABLES)


def _key(option: click.Option) -> str:
    """An option's name in a file: that of its long form, with underscores."""
    return max(option.opts, key=len).lstrip("-").replace("-", "_")


def _read(path: Path, options: Mapping[str, click.Option]) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as cause:
        raise UsageError(f"{os.fspath(path)}: cannot be read: {cause.strerror or cause}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise UsageError(f"{os.fspath(path)}: is not TOML: {cause}.") from None
    settings: dict[str, Any] = {}
    for name, value in found.items():
        option = options.get(name.replace("-", "_"))
        if option is None:
            known = ", ".join(sorted(options))
            raise UsageError(f"{os.fspath(path)}: unknown key {name!r}. Known are {known}.")
        settings[str(option.name)] = _checked(path, name, value, option)
    return settings


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
