"""S-02: a file of keys is its owner's alone, or it is not read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.account_table import KeySource, read_tables
from batchrunner.cli.accounts import _key_file
from batchrunner.errors import UsageError

KEY = "sk-empiriolabs-test-file"


def read(home: Path, name: str = "keys") -> str:
    tables = read_tables({"mine": {"keys": [f"file:{name}"]}}, str(home / "batchrun.toml"))
    return _key_file(tables["mine"], KeySource("file", name))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_S02_a_file_of_its_owners_is_read(tmp_path: Path, mode: int) -> None:
    """Nobody else may so much as look."""
    (tmp_path / "keys").write_text(KEY)
    (tmp_path / "keys").chmod(mode)
    assert read(tmp_path) == KEY


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o644, 0o660, 0o666, 0o777])
@pytest.mark.parametrize("linked", [False, True])
def test_S02_a_file_of_others_is_refused(tmp_path: Path, mode: int, linked: bool) -> None:
    """Whoever may read it has the key, and whoever may write it has the account's requests; a link hides nothing of that."""
    (tmp_path / "real").write_text(KEY)
    (tmp_path / "real").chmod(mode)
    (tmp_path / "keys").symlink_to("real") if linked else (tmp_path / "real").rename(tmp_path / "keys")
    with pytest.raises(UsageError, match="chmod 600") as caught:
        read(tmp_path)
    assert KEY not in str(caught.value)


def test_S02_a_link_to_a_file_of_its_owners_is_read(tmp_path: Path) -> None:
    """As secrets are mounted into containers."""
    (tmp_path / "real").write_text(KEY)
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "keys").symlink_to("real")
    assert read(tmp_path) == KEY


@pytest.mark.parametrize(("make", "words"), [(os.mkdir, "cannot be read"), (os.mkfifo, "is no file")])
def test_S02_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """A pipe into which nobody writes would be waited for without end."""
    make(tmp_path / "keys")
    with pytest.raises(UsageError, match=words):
        read(tmp_path)
