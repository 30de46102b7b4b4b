"""The options about accounts: one, in a few words, or several, in a file.

The file is TOML or, where its name ends in .json, JSON; a table `accounts` with the fields of `AccountSettings` each:

    [[accounts]]
    name = "night"
    keys = ["sk-empiriolabs-test-one", "sk-empiriolabs-test-two"]
    balance_usd = 5
    rpm = 50
    changes = [{at_seconds = 600, rpm = 25}, {at_request = 100, delete_key = 1}, {at_seconds = 900, top_up_usd = 5}]
    foreign = [{rpm = 25, tpm = 100000, burst = 5, from_seconds = 600, until_seconds = 1500}]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import msgspec

from batchrunner.simulator.settings import AccountSettings, Change, Foreign

#: what a change can be on the command line -> the field, and how its value is read
_CHANGES: dict[str, tuple[str, Callable[[str], int | Decimal]]] = {
    "rpm": ("rpm", int),
    "tpm": ("tpm", int),
    "top-up": ("top_up_usd", Decimal),
    "delete-key": ("delete_key", int),
    "restore-key": ("restore_key", int),
}


class _File(msgspec.Struct, forbid_unknown_fields=True):
    accounts: tuple[AccountSettings, ...]


def add_account_options(of: argparse.ArgumentParser) -> None:
    """Add the group to a parser."""
    accounts = of.add_argument_group("accounts", "What happens in mid-run; times are since the first request to a model.")
    accounts.add_argument(
        "--change",
        type=change,
        action="append",
        default=[],
        metavar="AT=WHAT:N",
        help=f"at so many seconds, or at the N-th request (@N), {', '.join(_CHANGES)}: 600=rpm:25,tpm:100000, @100=delete-key:1",
    )
    accounts.add_argument(
        "--foreign",
        type=foreign,
        action="append",
        default=[],
        metavar="RPM[:TPM][*BURST][@FROM-UNTIL]",
        help="another program that uses the account: 25, 25:100000*5, 25@600-1500",
    )
    accounts.add_argument(
        "--accounts", type=account_file, default=(), metavar="FILE", help="several, each with keys of its own, in TOML or JSON"
    )


def account_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of Settings that these options make. Raises: ValueError where both ways of saying it are mixed."""
    if options.accounts and (options.keys or options.change or options.foreign):
        raise ValueError("with --accounts, keys, changes and other programs are said in its file: leave out the options.")
    return {"accounts": options.accounts, "changes": tuple(options.change), "foreign": tuple(options.foreign)}


def account_file(path: str) -> tuple[AccountSettings, ...]:
    """The accounts in a file. Raises: argparse.ArgumentTypeError, which names the file and never a value in it."""
    decode = msgspec.json.decode if path.endswith(".json") else msgspec.toml.decode
    try:
        found = decode(Path(path).read_bytes(), type=_File).accounts
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from error
    if not found:
        raise argparse.ArgumentTypeError(f"{path}: there is no account in it")
    return found


def change(text: str) -> Change:
    """600=rpm:25,tpm:100000 or @100=delete-key:1. Raises: argparse.ArgumentTypeError."""
    at, _, effects = text.partition("=")
    fields: dict[str, Any] = {}
    try:
        fields |= {"at_request": int(at[1:])} if at.startswith("@") else {"at_seconds": float(at)}
        for effect in effects.split(","):
            what, _, value = effect.partition(":")
            field, read = _CHANGES[what.strip()]
            fields[field] = read(value)
    except (ValueError, KeyError, InvalidOperation) as error:
        known = ", ".join(_CHANGES)
        message = f"{text!r}: say AT=WHAT:N,..., AT in seconds or as @REQUEST, WHAT one of {known}"
        raise argparse.ArgumentTypeError(message) from error
    return Change(**fields)


def foreign(text: str) -> Foreign:
    """25, 25:100000*5, 25@600-1500, 25@600-. Raises: argparse.ArgumentTypeError."""
    rates, _, times = text.partition("@")
    rates, _, burst = rates.partition("*")
    rpm, _, tpm = rates.partition(":")
    begins, _, ends = times.partition("-")
    try:
        return Foreign(
            rpm=int(rpm),
            tpm=int(tpm or 0),
            burst=int(burst or 1),
            from_seconds=float(begins or 0),
            until_seconds=float(ends) if ends else None,
        )
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: say RPM, RPM:TPM, either with *BURST and @FROM-UNTIL in seconds") from error
