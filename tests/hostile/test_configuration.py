"""Files of a checkout, or of a run directory, from somebody else: refused by name, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrunner.cli.settings import read
from batchrunner.cli.submit import submit
from batchrunner.errors import InvalidInput, UsageError
from batchrunner.run_directory import read_status

DEEP = 100_000
BAD = {
    "deep": b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "digits": b'{"pid":' + b"9" * 5000 + b"}",
    "bytes": b'{"at":"\xff"}',
    "list": b"[]",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BAD)
def test_a_status_of_nonsense_is_refused(tmp_path: Path, name: str) -> None:
    """`status` on a directory that somebody sent ends with one line, and never as a defect of ours."""
    (tmp_path / "status.json").write_bytes(BAD[name])
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_status(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"x = " + b"[" * DEEP + b"]" * DEEP, id="deep"),
        pytest.param(b"rpm = " + b"9" * 5000, id="digits"),
        pytest.param(b'run_dir = "\xff"', id="bytes"),
        pytest.param(b"\0", id="NUL"),
    ],
)
def test_a_configuration_of_nonsense_is_refused(tmp_path: Path, content: bytes) -> None:
    """The batchrun.toml of a checkout is read wherever a command is run: what is no TOML is told by the file's name."""
    (tmp_path / "batchrun.toml").write_bytes(content)
    with pytest.raises(UsageError, match="is not TOML"):
        read(submit.params, named=str(tmp_path / "batchrun.toml"))
