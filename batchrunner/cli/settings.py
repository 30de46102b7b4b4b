"""`batchrun.toml`: the same options as on the command line, one key each."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import platformdirs

from batchrunner.errors import UsageError

FILE = "batchrun.toml"
#: Options of `submit` that make sense for more than one run.
KEYS = frozenset(
    {
        "base_url",
        "account",
        "rpm",
        "tpm",
        "max_in_flight",
        "max_attempts",
        "timeout",
        "max_cost",
        "drain_seconds",
        "metrics",
        "progress",
    }
)


def default_map() -> dict[str, Any]:
    """What the configuration files say, as defaults for click: the user's own, then the one in this directory.

    The environment and the command line go before them. Raises: UsageError, which names the file and the key.
    """
    merged: dict[str, Any] = {}
    for path in (Path(platformdirs.user_config_dir("batchrun")) / FILE, Path(FILE)):
        merged |= _read(path)
    return {"submit": merged}


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as cause:
        raise UsageError(f"{os.fspath(path)}: cannot be read: {cause.strerror or cause}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
        raise UsageError(f"{os.fspath(path)}: is not TOML: {cause}.") from None
    settings = {key.replace("-", "_"): value for key, value in found.items()}
    unknown = sorted(settings.keys() - KEYS)
    if unknown:
        raise UsageError(f"{os.fspath(path)}: unknown key {unknown[0]!r}. Known are {', '.join(sorted(KEYS))}.")
    return settings
