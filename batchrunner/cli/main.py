"""`batchrun`: its commands, and what becomes of an error that ends one."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

import click

from batchrunner import __version__
from batchrunner.cli.help_text import OnDemand
from batchrunner.cli.output import say
from batchrunner.errors import BatchrunError, UsageError

INTERRUPTED = 130
#: A defect of this program (EX_SOFTWARE). Python's own 1 would read as "finished, some jobs failed".
DEFECT = 70

# A command costs what it needs: to import all of them takes longer than most of them do.
_COMMANDS = {
    "submit": ("batchrunner.cli.submit", "submit"),
    "plan": ("batchrunner.cli.plan", "plan"),
    "status": ("batchrunner.cli.status", "status"),
    "ctl": ("batchrunner.cli.ctl", "ctl"),
    "models": ("batchrunner.cli.models", "models_command"),
    "usage": ("batchrunner.cli.usage", "usage_command"),
    "reconcile": ("batchrunner.cli.reconcile", "reconcile_command"),
    "chats": ("batchrunner.cli.chats", "chats"),
    "simulate": ("batchrunner.cli.simulate", "simulate"),
    "config": ("batchrunner.cli.config_show", "config"),
    "verify": ("batchrunner.cli.verify", "verify_command"),
    "explain": ("batchrunner.cli.explain", "explain"),
}


@click.group(
    cls=OnDemand, places=_COMMANDS, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="batchrun")
@click.pass_context
def batchrun(context: click.Context) -> None:
    """Run files of LLM requests to the end: at the whole paid rate, crash-safe, every cent accounted for.

    \b
      batchrun submit jobs.jsonl --simulate  try it: no key, no network, no cost
      batchrun submit jobs.jsonl             run it; the same again resumes
      batchrun status jobs.run               how it stands, any time
    """  # noqa: D301 - click reads the backspace: the lines stay lines
    if context.invoked_subcommand is None:
        for line in context.get_help().splitlines():
            say(line)
        context.exit(UsageError.exit_code)


def main() -> NoReturn:
    """Run the command line and exit with the contract's code."""
    _open_standard_descriptors()
    _leave(_code_of_the_command())


def _code_of_the_command() -> int:
    try:
        # Outside of its standalone mode click returns what `Context.exit` was given.
        return batchrun.main(prog_name="batchrun", standalone_mode=False) or 0
    except click.ClickException as error:
        say(f"batchrun: {' '.join(error.format_message().split())}")  # a list of choices is one a line
        if isinstance(error, click.UsageError) and error.ctx is not None:
            say(f"`{error.ctx.command_path} --help` lists what there is.")
        return error.exit_code
    except click.Abort:  # what click makes of Ctrl-C
        return _interrupted()
    except SystemExit as ended:  # the simulator's own parser, after its message
        return ended.code if isinstance(ended.code, int) else 0
    except BaseException as error:
        if all(isinstance(leaf, KeyboardInterrupt) for leaf in _leaves(error)):
            return _interrupted()
        known = next(_batchrun_errors(error), None)
        if known is not None:
            say(f"batchrun: {known}")
            return known.exit_code
        for line in traceback.format_exc().splitlines():
            say(line)
        say("batchrun: this is a defect of batchrun. What was recorded is safe: run the same command again to resume.")
        return DEFECT


def _interrupted() -> int:
    """Ctrl-C at a moment when there is no run to drain."""
    say("batchrun: interrupted; run the same command again to resume.")
    return INTERRUPTED


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


def _open_standard_descriptors() -> None:
    """Give those that came closed a place: else the journal would become descriptor 2, and whatever writes there write in it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one


def _leave(code: int) -> NoReturn:
    """Exit without a word about streams whose readers have gone."""
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            # Python would try again at exit, and change the exit code over it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    sys.exit(code)
