"""What commands print: data on stdout, everything else on stderr, and no error from either ends a run."""

from __future__ import annotations

import json
import sys
from decimal import Decimal

import msgspec

from batchrunner.pricing import json_number
from batchrunner.secret import without_keys
from batchrunner.status import Status, StoppedBy
from batchrunner.wording import escape_terminal

#: How a stopped run exits. A signal's own code is added by whoever caught it.
STOPPED_EXIT_CODES: dict[StoppedBy, int] = {
    "signal": 130,
    "credits": 69,
    "keys": 69,
    "unreachable": 69,
    "max_cost": 3,
    "failures": 3,
    "disk": 74,
    "input": 65,
}
UNEXPLAINED_EXIT_CODE = 70


class _Counts(msgspec.Struct):
    total: int
    completed: int
    failed: int


class _Usage(msgspec.Struct):
    input_tokens: int
    cached_tokens: int
    output_tokens: int


class _Cost(msgspec.Struct):
    #: exact numbers; what has no known price is in neither. Null where nothing but that is known to have been billed.
    amount: msgspec.Raw
    currency: str
    maybe_billed: msgspec.Raw
    unpriced_attempts: int


class Summary(msgspec.Struct):
    """The `--json` document of `submit`."""

    run_dir: str
    status: str
    stopped_by: StoppedBy | None
    request_counts: _Counts
    usage: _Usage
    cost: _Cost
    #: USD, exact: what the accounts have left, and what open jobs will cost; null where that is not known
    balance: msgspec.Raw
    forecast: msgspec.Raw
    attempts: int
    rate_limited: int
    wall_seconds: float


def summary(status: Status, wall_seconds: float) -> bytes:
    """The contract's summary of a run, as JSON."""
    return msgspec.json.encode(
        Summary(
            run_dir=status.run_dir,
            status=status.state,
            stopped_by=status.stopped_by,
            request_counts=_Counts(status.total, status.completed, status.failed),
            usage=_Usage(status.usage.input_tokens, status.usage.cached_tokens, status.usage.output_tokens),
            cost=_Cost(
                _known(status.billed_usd, status),
                "USD",
                _known(status.maybe_billed_usd, status),
                status.unpriced_attempts,
            ),
            balance=_number(status.balance_usd),
            forecast=_number(status.forecast_usd),
            attempts=status.attempts,
            rate_limited=status.rate_limited,
            wall_seconds=round(wall_seconds, 3),
        )
    )


def _known(amount: Decimal, status: Status) -> msgspec.Raw:
    """An unknown amount is said to be unknown, never zero."""
    unknown = status.unpriced_attempts and not status.billed_usd and not status.maybe_billed_usd
    return _number(None if unknown else amount)


def _number(amount: Decimal | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if amount is None else json_number(amount).encode())


def exit_code(status: Status, *, terminated: bool) -> int:
    """The contract's exit code of a run that ended with this status. `terminated`: by SIGTERM."""
    if status.stopped_by == "signal" and terminated:
        return 143
    if status.stopped_by is not None:
        return STOPPED_EXIT_CODES[status.stopped_by]
    if status.state == "stopped":  # jobs are left, and nobody has said why: a defect, which must not pass for success
        return UNEXPLAINED_EXIT_CODE
    return 1 if status.failed else 0


def print_json(document: bytes) -> None:
    """One JSON document on stdout, and nothing else there. What has power over a terminal stands in it as JSON's escapes."""
    text = document.decode().rstrip("\n")
    if not text.isprintable():  # inside of strings alone: between tokens our encoders write nothing of the kind
        text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    _write_out(text + "\n")


def print_text(text: str) -> None:
    """Lines for people, on stdout, none of them with power over a terminal."""
    _write_out("\n".join(map(escape_terminal, text.split("\n"))))


def _write_out(text: str) -> None:
    """Write to stdout. A reader that has gone is no error of ours."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        return


def say(text: str) -> None:
    """A line for people, on stderr. That nobody can read it any more never ends anything.

    What looks like a key is not shown: messages quote options and files, and people put keys where they do not belong.
    """
    try:
        sys.stderr.write(escape_terminal(without_keys(text)) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        return
