"""What becomes of an error that ends a command: words on stderr, an exit code, and never a traceback where it is no defect."""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import resource
import sys
from collections.abc import Callable

import click
import pytest

from batchrunner.cli import core_dumps
from batchrunner.cli.simulate import SimulatedPlatform
from batchrunner.errors import AccountError, DiskError, InvalidInput, UsageError

#: the package shows its function alone
command_line = importlib.import_module("batchrunner.cli.main")


@pytest.fixture
def ended_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """The exit code of a command that raises this."""

    def end(error: BaseException) -> int:
        def raise_it(**_: object) -> None:
            raise error

        monkeypatch.setattr(command_line.batchrun, "main", raise_it)
        code: int = command_line._code_of_the_command()
        return code

    return end


DISK = DiskError("journal.jsonl", "syncing", OSError(5, "broken"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no key"), 2),
        (InvalidInput("bad file"), 65),
        (AccountError("no credits"), 69),
        (ExceptionGroup("tasks", [UsageError("no key"), ExceptionGroup("more", [DISK, AccountError("no credits")])]), 74),
        (KeyboardInterrupt(), 130),
        (BaseExceptionGroup("tasks", [KeyboardInterrupt(), BaseExceptionGroup("more", [KeyboardInterrupt()])]), 130),
        (click.Abort(), 130),
        (click.UsageError("no such option"), 2),
        (SystemExit(3), 3),
        (SystemExit(None), 0),
    ],
)
def test_an_error_of_ours_ends_with_its_code_and_its_words(
    error: BaseException, code: int, ended_by: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of tasks that failed together, the gravest."""
    assert ended_by(error) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "defect" not in said
    if code == 74:
        assert said == f"batchrun: {DISK}\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), ExceptionGroup("tasks", [UsageError("no key"), KeyError("oops")])])
def test_a_defect_is_called_one(
    error: Exception, ended_by: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """70, with a traceback, and with what there is to do; also where an error of ours came with it."""
    assert ended_by(error) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith(
        "batchrun: this is a defect of batchrun. What was recorded is safe: run the same command again to resume.\n"
    )


def test_a_choice_that_is_missing_is_told_on_one_line(
    ended_by: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Click gives each of several choices a line of its own; escaped, they could not be read."""
    missing = click.MissingParameter(
        "", param_type="argument", param=click.Argument(["what"], type=click.Choice(["set", "pause"]))
    )
    assert ended_by(missing) == 2
    said = capsys.readouterr().err
    assert "\\" not in said
    assert said.count("\n") == 1
    assert "set, pause" in said


def test_a_platform_that_does_not_start_is_a_usage_error() -> None:
    """Its own message has gone to stderr; it has ended, and so has our end of its pipes."""
    with pytest.raises(UsageError, match="did not start"):
        SimulatedPlatform(rpm=0, tpm=0, options="--seed none")


def test_options_of_a_platform_that_no_shell_would_take_are_refused() -> None:
    with pytest.raises(UsageError, match=r"--simulate-options .*quote it"):
        SimulatedPlatform(rpm=0, tpm=0, options="'")


def test_where_there_is_no_prctl_cores_are_forbidden_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS: the limit is all that there is."""
    limits: list[object] = []
    libraries: list[object] = []
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    monkeypatch.setattr(ctypes, "CDLL", libraries.append)
    monkeypatch.setattr(faulthandler, "enable", lambda **_: None)
    monkeypatch.setattr(sys, "platform", "darwin")
    core_dumps.forbid_core_dumps()
    assert limits == [(resource.RLIMIT_CORE, (0, 0))]
    assert libraries == []
