"""`batchrun verify`: whether a run directory is what the journal says, and what is wrong where it is not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from batchrunner.cli.output import print_json, print_text, say
from batchrunner.clock import SystemClock
from batchrunner.errors import InvalidInput, UsageError
from batchrunner.inputs import Inputs
from batchrunner.sources import opened
from batchrunner.verification import Repair, Report, repair, repair_text, report_text, verify


class _Document(msgspec.Struct):
    """The `--json` document. Money is exact decimal strings, as in `status.json`."""

    clean: bool
    report: Report
    repaired: Repair | None


@click.command(name="verify", short_help="Check a run directory from outside.")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--jobs", multiple=True, type=click.Path(), metavar="FILE", help="A job file of the run; once for each.")
@click.option("--repair", "repairing", is_flag=True, help="First set right what a start would, and say what was done.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def verify_command(
    context: click.Context,
    run_dir: Path,
    jobs: tuple[str, ...],
    repairing: bool,  # noqa: FBT001 - click's calling convention
    as_json: bool,  # noqa: FBT001 - click's calling convention
) -> None:
    """Check that RUN_DIR holds what its journal says: each job's line once and as it was written, each attempt's bill, exact
    amounts, sums, and what was safely on disk.

    It only reads, and needs neither job file nor key; with --jobs the job files are held against the run too. A run that is
    at work is not disturbed: what it has committed is checked.

    --repair does what the next submit would before it sends anything: torn ends are cut, lines that match nothing go to
    results.cut, what was in flight is listed as perhaps billed. It invents nothing, and refuses damage below what was
    once safely on disk, as submit does.

    \b
    Exit codes:
      0   nothing is wrong
      2   an option makes no sense, or a job file is missing
      65  something is wrong: each finding names file, line, byte and job; or it is no run directory
      74  a file cannot be read or written
      75  another process is at work: --repair needs quiet, as does a check in the moment of a start
    """  # noqa: D301 - click reads the backspace: the table stays a table
    repaired = None
    with _inputs(jobs) as inputs:
        report = verify(run_dir, inputs)
        if repairing and report.unsettled:
            repaired = repair(run_dir, SystemClock())
            for line in repair_text(repaired).splitlines():
                say(line)
            report = verify(run_dir, inputs)
    if as_json:
        print_json(msgspec.json.encode(_Document(report.clean, report, repaired)))
    else:
        print_text(report_text(report))
    context.exit(_exit_code(report))


def _exit_code(report: Report) -> int:
    return 0 if report.clean else InvalidInput.exit_code


@contextlib.contextmanager
def _inputs(jobs: tuple[str, ...]) -> Iterator[Inputs | None]:
    """The job files, open. Raises: UsageError for what cannot be read as it is: the run has a copy of that."""
    if not jobs:
        yield None
        return
    with opened(jobs) as sources:
        files = []
        for source in sources:
            plain = source.as_it_is()
            if plain is None:
                raise UsageError(f"{source.name}: packed, or a pipe; name its copy in the run directory, input.jsonl, instead.")
            files.append(plain)
        yield Inputs(files)
