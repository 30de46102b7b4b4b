"""`plan --sample`: real jobs, run where `submit` would run them, and what they took."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import click
import msgspec

from batchrunner.cli.core_dumps import forbid_core_dumps
from batchrunner.cli.part import Part
from batchrunner.cli.signals import Signals
from batchrunner.cli.submit import run_jobs
from batchrunner.clock import Clock
from batchrunner.costs import CostLine, read_cost_line
from batchrunner.errors import InvalidInput
from batchrunner.estimate import Estimator
from batchrunner.journal.files import COSTS, ERRORS
from batchrunner.plan import Measured, Stratum
from batchrunner.status import Status


class Paid(msgspec.Struct, frozen=True):
    """What came of a sample."""

    status: Status
    #: by custom_id; without those that did not end, or whose cost is not known
    measured: dict[str, Measured]
    #: None where nothing was left to send
    lengths: Estimator | None
    #: stopped by SIGTERM
    terminated: bool


def pay_for(context: click.Context, clock: Clock, run_dir: str, strata: Sequence[Stratum]) -> Paid:
    """Run what was drawn, as `submit` in this context would, and leave it all in the run directory. Raises as `submit` does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    forbid_core_dumps()
    drawn = frozenset(job.custom_id for stratum in strata for job in stratum.drawn)
    part, signals = Part(drawn), Signals()
    status = run_jobs(context, clock, signals, part)
    return Paid(status, _measured(Path(run_dir), drawn), part.lengths, signals.terminated)


def measured_of(strata: Sequence[Stratum], measured: dict[str, Measured]) -> list[tuple[Stratum, list[Measured]]]:
    """What was measured, by stratum."""
    return [(stratum, [measured[job.custom_id] for job in stratum.drawn if job.custom_id in measured]) for stratum in strata]


def _measured(run_dir: Path, wanted: Collection[str]) -> dict[str, Measured]:
    """What the run's files say of these jobs: all attempts that were or may have been billed, together."""
    attempts: dict[tuple[str, int], CostLine] = {}
    for raw in _lines(run_dir / COSTS):
        line = read_cost_line(raw)
        if line is not None and line.custom_id in wanted:
            attempts[line.custom_id, line.attempt] = line
    found = {custom_id: Measured(0.0, 0.0, 0.0) for custom_id in _failed(run_dir, wanted)}
    unknown: set[str] = set()
    for (custom_id, _), line in attempts.items():
        before = found.get(custom_id, Measured(0.0, 0.0, 0.0))
        if line.cost.amount is None:
            unknown.add(custom_id)
        found[custom_id] = Measured(
            before.input_tokens + (line.tokens.input or 0),
            before.output_tokens + (line.tokens.output or 0),
            before.usd + float(line.cost.amount or 0),
        )
    return {custom_id: measured for custom_id, measured in found.items() if custom_id not in unknown}


class _Failure(msgspec.Struct):
    custom_id: str | None = None


_failure = msgspec.json.Decoder(_Failure).decode


def _failed(run_dir: Path, wanted: Collection[str]) -> set[str]:
    """Those that ended in failure, which may have cost nothing."""
    found: set[str] = set()
    for raw in _lines(run_dir / ERRORS):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            custom_id = _failure(raw).custom_id
            if custom_id is not None and custom_id in wanted:
                found.add(custom_id)
    return found


def _lines(path: Path) -> Iterator[bytes]:
    """One by one: a run's files have no bound."""
    try:
        with path.open("rb") as file:
            yield from file
    except FileNotFoundError:
        return
    except OSError as cause:
        raise InvalidInput(f"{path}: cannot be read: {cause.strerror or cause}.") from None
