"""All that can be chosen about a simulated platform, in one frozen record."""

from __future__ import annotations

import enum
from decimal import Decimal

import msgspec

#: accepted where no other key is named; worth nothing anywhere else
TEST_KEY = "sk-empiriolabs-test-simulated"


class WindowShape(enum.StrEnum):
    """How the platform looks at the last minute."""

    SLIDING = "sliding"
    CALENDAR = "calendar"
    BUCKET = "bucket"


class Charging(enum.StrEnum):
    """What a request takes out of the TPM window."""

    ESTIMATE = "estimate"  # prompt and cap, when it is admitted; never corrected
    ACTUAL = "actual"  # nothing when it is admitted, as long as anything is left; what it used, once it has ended
    SETTLE = "settle"  # prompt and cap when it is admitted, corrected to what it used once it has ended


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
    #: all of one account, as the platform's are
    keys: tuple[str, ...] = (TEST_KEY,)
    balance_usd: Decimal = Decimal(10_000)

    #: requests and tokens a minute; 0 means no limit
    rpm: int = 0
    tpm: int = 0
    window: WindowShape = WindowShape.SLIDING
    #: how much a full bucket holds, in requests and in tokens; 0 means a minute's worth
    burst: int = 0
    burst_tokens: int = 0
    charging: Charging = Charging.ACTUAL
    #: whether a 429 says when to come back
    retry_after: bool = False

    #: how long a request takes: lognormal, and on top of it so much for each output token
    latency_median_seconds: float = 0.5
    latency_sigma: float = 0.3
    latency_per_token_seconds: float = 0.0

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
        shown = {name: getattr(self, name) for name in self.__struct_fields__ if name != "keys"}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())}, keys=<{len(self.keys)}>)"
