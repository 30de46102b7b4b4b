"""All that can be chosen about a simulated platform, in one frozen record."""

from __future__ import annotations

import enum
from decimal import Decimal

import msgspec

#: accepted where no other key is named; worth nothing anywhere else
TEST_KEY = "sk-empiriolabs-test-simulated"


class WindowShape(enum.StrEnum):
    """How the platform looks at the last minute; `window_shapes` says what each means."""

    SLIDING = "sliding"
    CALENDAR = "calendar"
    ANCHORED = "anchored"
    TWO_BUCKET = "two-bucket"
    TWO_BUCKET_STRICT = "two-bucket-strict"
    BUCKET = "bucket"
    SPACING = "spacing"
    SECONDS = "seconds"
    TEN_SECONDS = "ten-seconds"


class Charging(enum.StrEnum):
    """What a request takes out of the TPM window."""

    ESTIMATE = "estimate"  # prompt and cap, when it is admitted; never corrected
    ACTUAL = "actual"  # nothing when it is admitted, as long as anything is left; what it used, once it has ended
    SETTLE = "settle"  # prompt and cap when it is admitted, corrected to what it used once it has ended


class LogAt(enum.StrEnum):
    """When a request that was let in begins to count toward the RPM."""

    START = "start"
    COMPLETION = "completion"  # when its answer is ready, and only if that is no error


class RateHeaders(enum.StrEnum):
    """Whose headers tell a client how much of its limits is left; `rate_headers` spells them."""

    NONE = "none"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    AZURE = "azure"
    GROQ = "groq"
    MISTRAL = "mistral"


class RetryAfter(enum.StrEnum):
    """How a 429 says when to come back."""

    PROVIDER = "provider"  # as the provider does whose headers are imitated; not at all where none is
    NONE = "none"
    SECONDS = "seconds"
    DECIMAL = "decimal"
    DATE = "date"
    MILLISECONDS = "milliseconds"  # as retry-after-ms


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of an account in mid-run: all that is named here, at the one moment that is named here."""

    #: since the platform's first request to a model
    at_seconds: float | None = None
    #: the platform's so many-th request to a model (the first is 1): before it is looked at
    at_request: int | None = None
    #: 0: no limit any more
    rpm: int | None = None
    tpm: int | None = None
    top_up_usd: Decimal | None = None
    #: which of the account's keys, counted from 1
    delete_key: int | None = None
    restore_key: int | None = None


class Foreign(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another program that uses the account. What is refused to it, it asks for again each second until it gets it."""

    #: requests and tokens a minute
    rpm: int
    tpm: int = 0
    #: how many requests come at once; 1: evenly spaced
    burst: int = 1
    #: since the platform's first request to a model
    from_seconds: float = 0.0
    until_seconds: float | None = None


class AccountSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One customer among several. What is None is as in the platform's settings."""

    name: str
    keys: tuple[str, ...]
    balance_usd: Decimal | None = None
    discount: Decimal | None = None
    rpm: int | None = None
    tpm: int | None = None
    changes: tuple[Change, ...] = ()
    foreign: tuple[Foreign, ...] = ()

    def __repr__(self) -> str:
        return _without_keys(self)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A fault for the requests that match: by tag (see `asks`), by model, or both."""

    kind: str
    tag: str | None = None
    model: str | None = None
    #: how many matching requests meet it; 0 means all
    times: int = 1


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated platform. Two with the same settings answer the same requests in the same way."""

    seed: int = 0
    #: customers, each with keys, budget and balance of its own; none: one, which has the fields that follow
    accounts: tuple[AccountSettings, ...] = ()
    #: all keys of an account share its budget
    keys: tuple[str, ...] = (TEST_KEY,)
    changes: tuple[Change, ...] = ()
    foreign: tuple[Foreign, ...] = ()
    #: these are also every account's that names none of its own
    balance_usd: Decimal = Decimal(10_000)
    #: share of each list price that the account need not pay
    discount: Decimal = Decimal(0)

    #: requests and tokens a minute; 0 means no limit
    rpm: int = 0
    tpm: int = 0
    window: WindowShape = WindowShape.SLIDING
    #: how much a full bucket holds, in requests and in tokens; 0 means a minute's worth
    burst: int = 0
    burst_tokens: int = 0
    charging: Charging = Charging.ACTUAL
    #: whether a request that was turned away for a limit counts toward the RPM all the same
    count_rejected: bool = False
    log_at: LogAt = LogAt.START
    rate_headers: RateHeaders = RateHeaders.NONE
    retry_after: RetryAfter = RetryAfter.PROVIDER
    #: a request reaches the limits so much later than the server, drawn evenly between the two
    jitter_seconds: tuple[float, float] = (0.0, 0.0)
    #: whether a request that bears the Idempotency-Key of an earlier one gets the answer of that
    idempotency: bool = False

    #: requests of others on the same account, for each of its own that is let in; and the share of them from the playground
    strangers: float = 0.0
    playground_share: float = 0.0
    #: saved playground conversations of each account
    chats: int = 12

    #: how long a request takes: lognormal, and on top of it so much for each output token
    latency_median_seconds: float = 0.5
    latency_sigma: float = 0.3
    latency_per_token_seconds: float = 0.0

    #: how long work takes that is asked for: the median
    work_seconds: float = 20.0

    #: how long an answer would be without a cap: lognormal
    output_median_tokens: int = 150
    output_sigma: float = 0.8
    #: share of requests whose prompt is partly cached
    cached_share: float = 0.2

    #: probability by kind of fault, for requests that neither the script nor a rule speaks of
    faults: dict[str, float] = {}
    #: kinds by order of arrival: the first request meets the first ("ok": none)
    script: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()

    def __repr__(self) -> str:
        return _without_keys(self)


def _without_keys(record: Settings | AccountSettings) -> str:
    shown = {name: getattr(record, name) for name in record.__struct_fields__ if name != "keys"}
    fields = ", ".join(f"{name}={value!r}" for name, value in shown.items())
    return f"{type(record).__name__}({fields}, keys=<{len(record.keys)}>)"
