"""`batchrun`: its commands, and what becomes of an error that ends one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from batchrunner import __version__
from batchrunner.cli.output import say
from batchrunner.cli.settings import default_map
from batchrunner.cli.simulate import simulate
from batchrunner.cli.status import status
from batchrunner.cli.submit import submit
from batchrunner.errors import BatchrunError

INTERRUPTED = 130


class _Group(click.Group):
    """Reads `batchrun.toml` before a command's options are looked at."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        return super().make_context(info_name, args, parent, default_map=default_map(), **extra)


@click.group(cls=_Group, context_settings={"auto_envvar_prefix": "BATCHRUN", "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="batchrun")
def batchrun() -> None:
    """Run files of LLM requests to the end: at the whole paid rate, crash-safe, every cent accounted for."""


batchrun.add_command(submit)
batchrun.add_command(status)
batchrun.add_command(simulate)


def main() -> NoReturn:
    """Run the command line and exit with the contract's code."""
    try:
        # Outside of its standalone mode click returns what `Context.exit` was given.
        code = batchrun.main(standalone_mode=False) or 0
    except click.Abort:
        code = INTERRUPTED
    except click.ClickException as error:
        say(f"batchrun: {error.format_message()}")
        code = error.exit_code
    except KeyboardInterrupt:
        say("batchrun: interrupted; run the same command again to resume.")
        code = INTERRUPTED
    except BaseException as error:
        known = next(_batchrun_errors(error), None)
        if known is None:
            raise
        say(f"batchrun: {known}")
        code = known.exit_code
    _leave(code)


def _batchrun_errors(error: BaseException) -> Iterator[BatchrunError]:
    """Our own errors in what was raised, the gravest first: tasks that fail together fail in a group."""
    found = sorted(_leaves(error), key=lambda leaf: -leaf.exit_code if isinstance(leaf, BatchrunError) else 0)
    if all(isinstance(leaf, BatchrunError) for leaf in found):
        yield from (leaf for leaf in found if isinstance(leaf, BatchrunError))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _leave(code: int) -> NoReturn:
    """Exit without a word about streams whose readers have gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            # Python would try again at exit, and change the exit code over it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
