"""What the commands that ask the control plane have in common: whose account it is, and a connection to ask through."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import click
import trio

from batchrunner.account import Account
from batchrunner.cli.accounts import keyed, settled
from batchrunner.cli.core_dumps import forbid_core_dumps
from batchrunner.cli.output import say
from batchrunner.cli.submit import submit
from batchrunner.errors import UsageError
from batchrunner.heads import Heads
from batchrunner.platform.control import ControlPlane
from batchrunner.transport import Origin, Pool

Answer = TypeVar("Answer")
Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--base-url", metavar="URL", help="The server, as `batchrun submit --base-url URL` would use it."),
    click.option(
        "--account", metavar="NAME", help="The account of batchrun.toml, as `batchrun submit --account NAME` would use it."
    ),
    click.option("--config", metavar="FILE", help="Read this file alone, as `batchrun submit --config FILE` would."),
)


def account_options(command: Command) -> Command:
    """The options that say whose account is meant."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def account_of(given: Mapping[str, Any], *, needs_key: bool = True) -> Account:
    """The account that `submit` would use by the same options, variables and files, with its keys.

    `needs_key`: whether one without any is of no use. Raises: UsageError.
    """
    options = {f"--{name.replace('_', '-')}": given[name] for name in ("base_url", "account", "config")}
    context = submit.make_context(
        "batchrun submit", [*(f"{name}={value}" for name, value in options.items() if value is not None), "-"]
    )
    name: str | None = context.params["account"]
    if name is not None and "," in name:
        raise UsageError(f"--account {name}: ask for one account at a time.")
    account, table = settled(context, name)
    try:
        return keyed(context, account, table, os.environ)
    except UsageError:
        if needs_key:
            raise
        return account


def ask(account: Account, question: Callable[[ControlPlane], Awaitable[Answer]]) -> Answer:
    """Put a question to an account's server. Raises: what the question does."""
    forbid_core_dumps()
    return trio.run(_ask, account, question)


async def _ask(account: Account, question: Callable[[ControlPlane], Awaitable[Answer]]) -> Answer:
    origin = Origin.parse(account.base_url)
    pool = Pool(origin)
    try:
        heads = Heads(origin, account.keys, auth=account.auth, headers=account.headers)
        return await question(ControlPlane(pool, heads, say))
    finally:
        await pool.aclose()
