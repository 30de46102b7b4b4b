"""What holds after every test on real processes, and what those share that start hundreds of small ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import canary
from tests.e2e.faulty_runs import quick_platform
from tests.e2e.harness import Simulated
from tests.e2e.many_runs import Pair, two_launchers


@pytest.fixture(autouse=True)
def no_key_is_left(tmp_path: Path) -> Iterator[None]:
    """S-01: nothing that a process left or printed holds a key that it was given, in any form."""
    canary.begin()
    yield
    found = canary.search(tmp_path)
    assert not found, "\n".join(found)


@pytest.fixture(autouse=True)
def nobody_elses_accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test shares an account with another, or with whoever runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulated]:
    """One for many small runs, for as long as a module lasts."""
    with quick_platform(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture(scope="module")
def launchers() -> Iterator[Pair]:
    with two_launchers() as pair:
        yield pair
