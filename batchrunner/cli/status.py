"""`batchrun status`: how a run stands, from the figures that it leaves behind every few seconds."""

from __future__ import annotations

from pathlib import Path

import click

from batchrunner.cli.output import print_json, print_text
from batchrunner.journal import is_locked
from batchrunner.run_directory import read_status
from batchrunner.status import Status, encode
from batchrunner.wording import AGAIN, BINDING_TEXT, duration, summary_text


@click.command(short_help="Show how a live or ended run stands.")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(run_dir: Path, as_json: bool) -> None:  # noqa: FBT001 - click's calling convention
    """Show counts, spend, rate and remaining time of a live or ended run.

    RUN_DIR is where `batchrun submit` keeps the run: jobs.run beside jobs.jsonl, unless --run-dir says otherwise. Figures
    are those of the last five seconds. Exit code 0 however the run ended; 65 where there is none.
    """
    found = read_status(run_dir)
    if as_json:
        print_json(encode(found))
    else:
        print_text(summary_text(found) + now_text(found, alive=is_locked(run_dir)))


def now_text(found: Status, *, alive: bool) -> str:
    """What a run that had not ended is doing, or that nobody is at it any more."""
    if found.state not in ("running", "draining"):
        return ""
    if not alive:
        return f"\nAs of {found.at}. No process is at work on it: {AGAIN}.\n"
    eta = "" if found.eta_seconds is None else f", about {duration(found.eta_seconds)} to go"
    binding = BINDING_TEXT["paused" if found.paused else found.binding]
    held = f", {found.held:,} held back" if found.held else ""
    return f"\nAs of {found.at}: {found.in_flight:,} in flight{held}{eta}{binding and ', ' + binding}.\n"
