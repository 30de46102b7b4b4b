"""`batchrun simulate`, and the platform that `--simulate` starts beside a run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import click
import msgspec

from batchrunner.errors import UsageError

#: Variables that Python, the loader, the locale and the tests' measuring go by. A list of those that may hold keys could never
#: be whole: an account may name any (`env:NAME`), and other programs have theirs.
NEEDED = frozenset({"PATH", "HOME", "LANG", "LANGUAGE", "TERM", "COLUMNS", "TZ", "TMPDIR"})
NEEDED_PREFIXES = ("PYTHON", "LC_", "LD_LIBRARY_PATH", "DYLD_", "COVERAGE_")


def needed(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment goes to a process that must not know any key."""
    return {name: value for name, value in environment.items() if name in NEEDED or name.startswith(NEEDED_PREFIXES)}


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    short_help="The embedded platform, as a server on loopback.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def simulate(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Serve a simulated platform on loopback. `batchrun simulate --help` lists its options."""
    from batchrunner.simulator import main as simulator  # noqa: PLC0415 - `submit` needs nothing of it

    # Its one line on stdout is JSON as it is.
    context.exit(simulator.main([argument for argument in arguments if argument != "--json"]))


class SimulatedPlatform:
    """The embedded platform as a child process, which ends when this process does, however it does.

    It has a session of its own: a Ctrl-C in the terminal is for the run, which then drains what is in flight there.
    """

    def __init__(self, *, rpm: int, tpm: int, options: str = "") -> None:
        try:
            arguments = ["--exit-with-stdin", "--rpm", str(rpm), "--tpm", str(tpm), *shlex.split(options)]
        except ValueError as cause:
            raise UsageError(f"--simulate-options {options!r}: {cause}; quote it as a shell would want it.") from None
        self._process = subprocess.Popen(  # noqa: S603 - our own module, and options of the person who runs it
            [sys.executable, "-m", "batchrunner.simulator", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=needed(os.environ),
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        try:
            self.url: str = msgspec.json.decode(line)["url"]
        except (msgspec.DecodeError, KeyError, TypeError):
            self.close()
            raise UsageError("the simulated platform did not start; its own message stands above.") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let it end, and wait for it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()
