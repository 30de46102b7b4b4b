"""What holds after every test on real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import canary


@pytest.fixture(autouse=True)
def no_key_is_left(tmp_path: Path) -> Iterator[None]:
    """S-01: nothing that a process left or printed holds a key that it was given, in any form."""
    canary.begin()
    yield
    found = canary.search(tmp_path)
    assert not found, "\n".join(found)
