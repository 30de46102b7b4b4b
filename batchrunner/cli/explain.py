"""`batchrun explain`: the story of one job."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from batchrunner.cli.output import print_json, print_text
from batchrunner.errors import InvalidInput
from batchrunner.journal import is_locked
from batchrunner.run_directory import read_status
from batchrunner.status import Status
from batchrunner.story import Story, tell
from batchrunner.story_text import story_text


class _Document(msgspec.Struct):
    """The `--json` document. Money is exact decimal strings, as in `status.json`."""

    run_dir: str
    #: a process is at work on the run
    live: bool
    story: Story


@click.command(short_help="Tell the story of one job.")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("custom_id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def explain(run_dir: Path, custom_id: str, as_json: bool) -> None:  # noqa: FBT001 - click's calling convention
    """Tell what happened to the job CUSTOM_ID of a live or ended run: each time that it was sent, what came of it and what
    that cost, kills between, where its final line stands; and what it waits for, where it has not ended.

    It only reads. A job that the journal does not know is exit code 65.
    """
    live = is_locked(run_dir)
    story = tell(run_dir, custom_id)
    if as_json:
        print_json(msgspec.json.encode(_Document(str(run_dir), live, story)))
    else:
        print_text(story_text(story, _status(run_dir), live=live))


def _status(run_dir: Path) -> Status | None:
    try:
        return read_status(run_dir)
    except InvalidInput:  # it says what a job waits for, and nothing else here
        return None
