"""An account's RPM and TPM as one gate: who is let in, and what is counted for it, when.

Pure, as the windows are.
"""

from __future__ import annotations

import msgspec

from batchrunner.simulator.settings import AccountSettings, Charging, LogAt, RateHeaders, Settings
from batchrunner.simulator.window_shapes import REQUESTS, TOKENS
from batchrunner.simulator.windows import UNLIMITED, Charge, TokenBucket, Window

MINUTES_PER_DAY = 1_440


class Accepted(msgspec.Struct, frozen=True):
    """A request was let in; `tokens` is what the TPM window was charged for it, None where nothing yet."""

    tokens: Charge | None


class Refused(msgspec.Struct, frozen=True):
    """A request was turned away."""

    retry_after_ns: int
    #: "requests" or "tokens": the window that has to be waited for longest
    resource: str


class Level(msgspec.Struct, frozen=True):
    """How full a window is, as headers tell it."""

    limit: int
    left: int
    #: until nothing of what was taken counts any more
    refill_ns: int


class Limits:
    """An account's two windows; either may be missing."""

    def __init__(
        self,
        requests: Window | None,
        tokens: Window | None,
        charging: Charging,
        *,
        count_rejected: bool = False,
        log_at: LogAt = LogAt.START,
        day: TokenBucket | None = None,
    ) -> None:
        self._requests = requests
        self._tokens = tokens
        # Asked once and not for each request: to name a member of an enum costs something.
        self._charges_at_start = charging is not Charging.ACTUAL
        self._charges_at_end = charging is not Charging.ESTIMATE
        self._count_rejected = count_rejected
        self._logs_at_start = log_at is LogAt.START
        #: a day's requests: only ever shown
        self._day = day

    @classmethod
    def of(cls, settings: Settings, account: AccountSettings | None = None) -> Limits:
        """The limits of an account; without one, those that the settings have for all."""
        named = account or AccountSettings(name="", keys=(), changes=settings.changes)
        rpm = settings.rpm if named.rpm is None else named.rpm
        tpm = settings.tpm if named.tpm is None else named.tpm
        # A limit that is to come is counted for from the start: what was taken before it does not come free.
        counts_requests = rpm or any(change.rpm for change in named.changes)
        counts_tokens = tpm or any(change.tpm for change in named.changes)
        return cls(
            REQUESTS[settings.window](rpm or UNLIMITED, settings.burst) if counts_requests else None,
            TOKENS[settings.window](tpm or UNLIMITED, settings.burst_tokens) if counts_tokens else None,
            settings.charging,
            count_rejected=settings.count_rejected,
            log_at=settings.log_at,
            day=TokenBucket(rpm, rpm * MINUTES_PER_DAY) if rpm and settings.rate_headers is RateHeaders.GROQ else None,
        )

    def admit(self, now_ns: int, tokens: int) -> Accepted | Refused:
        """Let a request in that may take `tokens` (its prompt and its cap), or say when to come back."""
        asked = max(1, tokens) if self._charges_at_start else 1
        for_requests = self._requests.wait_ns(now_ns, 1) if self._requests else 0
        for_tokens = self._tokens.wait_ns(now_ns, asked) if self._tokens else 0
        if for_requests or for_tokens:
            resource = "tokens" if for_tokens > for_requests else "requests"
            if self._requests and self._count_rejected:
                self._requests.take(now_ns, 1)
                for_requests = self._requests.wait_ns(now_ns, 1)
            return Refused(max(for_requests, for_tokens), resource)
        if self._requests and self._logs_at_start:
            self._requests.take(now_ns, 1)
        if self._day:
            self._day.take(now_ns, 1)
        if self._tokens and self._charges_at_start:
            return Accepted(self._tokens.take(now_ns, asked))
        return Accepted(None)

    def spend(self, now_ns: int, accepted: Accepted, tokens: int, *, succeeded: bool = True) -> None:
        """A request that was let in has ended and took `tokens`."""
        if self._requests and not self._logs_at_start and succeeded:
            self._requests.take(now_ns, 1)
        if self._tokens is None or not self._charges_at_end:
            return
        if accepted.tokens is not None:
            self._tokens.correct(now_ns, accepted.tokens, tokens)
        elif tokens:
            self._tokens.take(now_ns, tokens)

    def change(self, now_ns: int, *, rpm: int | None = None, tpm: int | None = None) -> None:
        """Go by other limits from now on: 0 is none, None leaves one as it is. A limit must have been announced to `of`."""
        if self._requests and rpm is not None:
            self._requests.change(now_ns, rpm or UNLIMITED)
        if self._tokens and tpm is not None:
            self._tokens.change(now_ns, tpm or UNLIMITED)

    def requests(self, now_ns: int) -> Level | None:
        """None where there is no limit."""
        return _level(self._requests, now_ns)

    def tokens(self, now_ns: int) -> Level | None:
        return _level(self._tokens, now_ns)

    def requests_of_day(self, now_ns: int) -> Level | None:
        """A day's worth of requests at the RPM that the account began with."""
        if self._day is None:
            return None
        return Level(self._day.limit * MINUTES_PER_DAY, self._day.left(now_ns), self._day.refill_ns(now_ns))


def _level(window: Window | None, now_ns: int) -> Level | None:
    if window is None or window.limit == UNLIMITED:
        return None
    return Level(window.limit, window.left(now_ns), window.refill_ns(now_ns))
