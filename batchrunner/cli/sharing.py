"""Where a run's account lives: with those of all runs of this user on this machine, or, for the embedded platform, by itself."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import platformdirs
import trio

from batchrunner.account_file import AccountFile, file_name
from batchrunner.account_store import AccountStore, MemoryStore
from batchrunner.budget import Limits
from batchrunner.clock import Clock
from batchrunner.shared_account import SharedAccount
from batchrunner.shared_store import SharedStore


class OpenedAccount(Protocol):
    """Opens the account of an identity, as either of the functions below."""

    def __call__(
        self, identity: str, *, limits: Limits, say: Callable[[str], None]
    ) -> contextlib.AbstractAsyncContextManager[AccountStore]: ...


def accounts_directory(state_dir: str | None) -> Path:
    """The directory of this machine's accounts: its name is in the path, since a home may be mounted by several.

    Where there is no home either, the path is relative, and of no use.
    """
    base = Path(platformdirs.user_state_dir("batchrun")) if state_dir is None else Path(state_dir).absolute()
    host = re.sub(r"[^A-Za-z0-9.-]+", "_", socket.gethostname()).strip(".") or "localhost"
    return base / "accounts" / host


@contextlib.asynccontextmanager
async def shared_account(
    identity: str, limits: Limits, say: Callable[[str], None], *, clock: Clock, state_dir: str | None
) -> AsyncIterator[AccountStore]:
    """The account of this identity, shared with every run that uses it. `say` is called with what is wrong about that."""
    token = trio.lowlevel.current_trio_token()
    account = SharedAccount(
        AccountFile(accounts_directory(state_dir) / file_name(identity)),
        limits,
        clock,
        name=f"{os.getpid()}-{secrets.token_hex(4)}",
        say=lambda text: token.run_sync_soon(say, text),
    )
    async with SharedStore(account, clock) as store:
        yield store


@contextlib.asynccontextmanager
async def own_account(identity: str, limits: Limits, say: Callable[[str], None]) -> AsyncIterator[AccountStore]:  # noqa: ARG001
    """An account that is nobody else's: there is nothing to say of it."""
    await trio.lowlevel.checkpoint()
    yield MemoryStore(limits)
