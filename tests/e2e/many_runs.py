"""Many small runs against one platform, two at a time: as many as there are cores to count on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

from tests.e2e import canary
from tests.e2e.harness import Simulated, simulated
from tests.e2e.preforked import Launcher, launcher

Result = TypeVar("Result")
Which = TypeVar("Which")
Pair = tuple[Launcher, Launcher]


@contextlib.contextmanager
def customers(home: Path, keys: Mapping[str, str], *options: str) -> Iterator[Simulated]:
    """A platform on which each of these names is an account with this key, and so has books of its own."""
    server = home / "platform"
    server.mkdir()
    accounts = [{"name": name, "keys": [key]} for name, key in keys.items()]
    (server / "accounts.json").write_text(json.dumps({"accounts": accounts}))
    canary.own(server / "accounts.json")
    with simulated(server, "--accounts", str(server / "accounts.json"), *options) as platform:
        yield platform


@contextlib.contextmanager
def two_launchers() -> Iterator[Pair]:
    """One for each half of `two_at_a_time`."""
    with launcher() as one, launcher() as other:
        yield one, other


def two_at_a_time(carry_out: Callable[[Which, Launcher], Result], which: Iterable[Which], launchers: Pair) -> dict[Which, Result]:
    """What came of each, in their order. Each half has a launcher of its own."""
    todo = list(which)

    def work(half: list[Which], mine: Launcher) -> list[tuple[Which, Result]]:
        return [(one, carry_out(one, mine)) for one in half]

    with ThreadPoolExecutor(2) as threads:
        done = dict(chain.from_iterable(threads.map(work, (todo[::2], todo[1::2]), launchers)))
    return {one: done[one] for one in todo}
