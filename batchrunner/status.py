"""The live figures of a run: one frozen record that `status.json`, the progress display and the summary are made from."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from batchrunner.job import Usage

#: What holds the run's speed down at the moment.
Binding = Literal["requests", "tokens", "in_flight", "rate_limited", "server", "keys", "work", "none"]
RunState = Literal["running", "draining", "completed", "stopped"]
#: Why a run stopped before its end, in the contract's words; `input`: the job file changed under it.
StoppedBy = Literal["signal", "credits", "keys", "max_cost", "failures", "unreachable", "disk", "input"]


class Status(msgspec.Struct, frozen=True):
    """A run as it stands. Jobs and money count only what is on disk."""

    run_dir: str
    run_id: str
    state: RunState
    stopped_by: StoppedBy | None
    simulated: bool
    #: process that wrote this; meaningful while `state` is running or draining
    pid: int
    #: RFC 3339, UTC
    at: str
    total: int
    completed: int
    failed: int
    in_flight: int
    #: waiting out a backoff
    backing_off: int
    attempts: int
    rate_limited: int
    #: succeeded, but cut at the output cap, refused, or without text
    finish_length: int
    finish_refusal: int
    finish_empty: int
    usage: Usage
    billed_usd: Decimal
    maybe_billed_usd: Decimal
    #: attempts billed or maybe billed at an unknown price: the sums leave them out
    unpriced_attempts: int
    rpm_limit: int
    tpm_limit: int
    #: in the window that the budget keeps (60.25 s); tokens of requests in flight as predicted
    requests_last_minute: int
    tokens_last_minute: int
    binding: Binding
    #: of the process that wrote this
    elapsed_seconds: float
    #: its means; None in its first minute, which says nothing about a limit per minute
    requests_per_minute: float | None
    tokens_per_minute: float | None
    eta_seconds: float | None

    @property
    def done(self) -> int:
        return self.completed + self.failed

    @property
    def pending(self) -> int:
        return self.total - self.done - self.in_flight - self.backing_off


def encode(status: Status) -> bytes:
    """`status.json`: one JSON document, money as exact decimal strings."""
    return msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n"


def decode(data: bytes) -> Status:
    """Read what `encode` wrote. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=Status)
