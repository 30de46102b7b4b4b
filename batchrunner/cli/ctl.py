"""`batchrun ctl`: change a live run's limits and spend cap, pause it, let it go on or end."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec

from batchrunner import live
from batchrunner.cli.output import print_json, print_text
from batchrunner.cli.status import now_text
from batchrunner.errors import InvalidInput, NotRunning, UsageError
from batchrunner.journal import is_locked
from batchrunner.live_socket import Unreachable, ask
from batchrunner.run_directory import read_manifest
from batchrunner.wording import summary_text


@click.command(short_help="Change the limits of a live run, pause it or end it.")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("action", type=click.Choice(live.ACTIONS))
@click.argument("settings", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def ctl(run_dir: Path, action: str, settings: tuple[str, ...], as_json: bool) -> None:  # noqa: FBT001 - click's calling convention
    """Speak to the live run in RUN_DIR, where `batchrun submit` keeps it.

    \b
      set rpm=N tpm=N max-cost=USD  other limits a minute (0: none), another
                                    spend cap (none: no cap); of several
                                    accounts, account=NAME says whose limits
      pause                         send nothing more for now; submitted work is asked for
      resume                        go on sending
      drain                         end once what is in flight has ended,
                                    as Ctrl-C does; submit resumes it
      show                          change nothing, show how it stands

    What is set holds for the next request, and until this process of the run ends: a later `batchrun submit` goes by its own
    options again. Several settings are taken together or not at all.

    \b
    Exit codes:
      0   done
      2   there is no such setting, or this run cannot take it
      65  no run directory, or not yours
      69  no process is at work on the run, or it does not answer
    """  # noqa: D301 - click reads the backspace: the table stays a table
    try:
        command = live.parse(action, settings)
    except live.Refused as refusal:
        raise UsageError(f"{action}: {refusal}") from None
    answer = _asked(run_dir, command)
    if as_json:
        print_json(msgspec.json.encode(answer))
        return
    status = answer.status
    lines = "".join(f"{change[0].upper()}{change[1:]}.\n" for change in answer.changed) or "Nothing has changed.\n"
    print_text(lines if action != "show" or status is None else summary_text(status) + now_text(status, alive=True))


def _asked(run_dir: Path, command: live.Command) -> live.Answer:
    """What the run answers. Raises: InvalidInput, NotRunning, UsageError."""
    read_manifest(run_dir)  # says what is wrong with it
    if os.stat(run_dir).st_uid != os.geteuid():
        raise InvalidInput(f"{run_dir}: belongs to another user. Only its owner can speak to its run.")
    try:
        answer = live.decode_answer(ask(run_dir, live.encode(command)))
    except (Unreachable, OSError) as cause:
        if not is_locked(run_dir):
            raise NotRunning(
                f"{run_dir}: no process is at work on it. Give `batchrun submit` what it is to go by when it resumes."
            ) from None
        raise NotRunning(
            f"{run_dir}: the process that is at work on it cannot be spoken to: {cause}. Signals reach it."
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise NotRunning(f"{run_dir}: the run's answer cannot be read. Use the same version of batchrun for both.") from None
    if answer.error is not None:
        raise UsageError(f"{run_dir}: {answer.error}")
    return answer
