"""The live figures of a run: one frozen record that `status.json`, the progress display and the summary are made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final, Literal

import msgspec

#: What the dispatcher can wait for. `rate_limited`: the account is closed after a 429; `retries`: all that could be sent is
#: waiting out a backoff, or for the retry budget; `submitted`: the server works on all that is left, and is asked now and then;
#: `credits`: the account has none; `models`: the models of all that could be sent are offline; `paused`: people want it so;
#: `work`: there is nothing that could be.
Cause = Literal[
    "requests",
    "tokens",
    "in_flight",
    "rate_limited",
    "server",
    "keys",
    "credits",
    "models",
    "retries",
    "submitted",
    "paused",
    "work",
]
#: What holds the run's speed down at the moment.
Binding = Literal[Cause, "none"]
RunState = Literal["running", "draining", "completed", "stopped"]
#: Why a run stopped before its end, in the contract's words; `input`: the job file changed under it.
StoppedBy = Literal["signal", "credits", "keys", "max_cost", "failures", "unreachable", "disk", "input"]


#: How many offline models a status names, and how much of each name: a job file can hold any number, of any length.
MODELS_NAMED: Final = 5
MODEL_CHARACTERS: Final = 64


class TokenSums(msgspec.Struct, frozen=True):
    """Tokens of all billed attempts."""

    #: includes cached
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    #: part of output
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it stands. Jobs and money count only what is on disk. What has a default was missing from earlier ones."""

    run_dir: str
    run_id: str
    state: RunState
    #: people have it send nothing for now (`batchrun ctl`)
    paused: bool = False
    stopped_by: StoppedBy | None
    simulated: bool
    #: process that wrote this; meaningful while `state` is running or draining
    pid: int
    #: RFC 3339, UTC
    at: str
    total: int
    completed: int
    failed: int
    #: ended once, and not in the input any more; in none of these counts
    removed: int = 0
    in_flight: int
    #: waiting out a backoff
    backing_off: int
    #: kept aside while their model, or the server, is away
    held: int = 0
    #: of all these, those that the server works on: they are asked for now and then
    submitted: int = 0
    attempts: int
    rate_limited: int
    #: succeeded, but cut at the output cap, refused, or without text
    finish_length: int
    finish_refusal: int
    finish_empty: int
    usage: TokenSums
    billed_usd: Decimal
    maybe_billed_usd: Decimal
    #: attempts billed or maybe billed at an unknown price: the sums leave them out
    unpriced_attempts: int
    #: the spend cap that holds now, which may have been changed since the start; None: there is none
    max_cost_usd: Decimal | None = None
    #: what the accounts have left together, as their servers said at that time; None where one does not say, and at what time
    balance_usd: Decimal | None = None
    balance_at: str | None = None
    #: what the jobs that are left will cost, by what others have; None as long as that says little
    forecast_usd: Decimal | None = None
    #: accounts that were refused for want of any, and not accepted since
    without_credits: int = 0
    #: of all accounts together
    rpm_limit: int
    tpm_limit: int
    #: what they come to at the moment, where that is less: a server lets less through, or another run has smaller ones; else 0
    rpm_effective: int = 0
    tpm_effective: int = 0
    #: in the window that the budget keeps (60.25 s); tokens of requests in flight as predicted
    requests_last_minute: int
    tokens_last_minute: int
    binding: Binding
    #: the first few, shortened; hostile text
    models_offline: tuple[str, ...] = ()
    #: with those that are not named
    models_offline_total: int = 0
    #: keys that had worked, are refused, and will be tried again
    keys_suspended: int = 0
    #: fingerprints of keys that were refused and are not used any more
    keys_retired: tuple[str, ...] = ()
    #: jobs that this process sent though they were expected to take more than a minute's tokens
    oversize_jobs: int = 0
    #: of predicted tokens, of those used, in about the last 500 answers of each model; None where there are none
    input_prediction_error: float | None = None
    output_prediction_error: float | None = None
    #: of this process's newest streamed answers, from the send to the first words: the median
    first_token_seconds_p50: float | None = None
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
        return self.total - self.done - self.in_flight - self.backing_off - self.held


def named(models: Sequence[str]) -> tuple[str, ...]:
    """As many names as a status takes, none of them longer than it takes."""
    return tuple(
        model if len(model) <= MODEL_CHARACTERS else model[: MODEL_CHARACTERS - 1] + "…" for model in models[:MODELS_NAMED]
    )


def sum_of_limits(limits: Iterable[int]) -> int:
    """Of several accounts together; 0, no limit, if one of them has none."""
    every = list(limits)
    return sum(every) if all(every) else 0


def less_than(limits: Iterable[int], effective: Iterable[int]) -> int:
    """What accounts with these limits come to together, where it is less than the limits; else 0."""
    pairs = list(zip(limits, effective, strict=True))
    most = sum_of_limits(limit for limit, _ in pairs)
    found = sum(min(limit, now) for limit, now in pairs)
    return found if found < most else 0


def encode(status: Status) -> bytes:
    """`status.json`: one JSON document, money as exact decimal strings."""
    return msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n"


def decode(data: bytes) -> Status:
    """Read what `encode` wrote. Raises msgspec.DecodeError."""
    return msgspec.json.decode(data, type=Status)
