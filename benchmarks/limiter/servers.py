"""The servers that clients are tried on: windows of the embedded platform, begun at a random point of their minute."""

from __future__ import annotations

import msgspec

from batchrunner import budget
from batchrunner.clock import NS_PER_SECOND
from batchrunner.simulator.limits import Accepted, Limits, Refused
from batchrunner.simulator.settings import Charging, WindowShape
from batchrunner.simulator.window_shapes import REQUESTS, TOKENS


class Model(msgspec.Struct, frozen=True):
    """How a server counts requests; tokens are counted the same way where anybody does."""

    shape: WindowShape
    #: what a bucket of requests holds; 0: a minute's worth
    burst: int = 0
    #: what it turns away counts too
    count_rejected: bool = False

    def sustained_rpm(self, rpm: int) -> int:
        """What it lets in for ever: the limit, unless rounding takes some of it."""
        return 6 * (rpm // 6) if self.shape is WindowShape.TEN_SECONDS else rpm


SERVERS = {
    "fixed": Model(WindowShape.CALENDAR),
    "anchored": Model(WindowShape.ANCHORED),
    "sliding": Model(WindowShape.SLIDING),
    "sliding-counts": Model(WindowShape.SLIDING, count_rejected=True),
    "two-bucket": Model(WindowShape.TWO_BUCKET),
    "two-bucket-strict": Model(WindowShape.TWO_BUCKET_STRICT),
    "bucket-full": Model(WindowShape.BUCKET),
    "bucket-10": Model(WindowShape.BUCKET, burst=10),
    "bucket-3": Model(WindowShape.BUCKET, burst=3),
    "bucket-2": Model(WindowShape.BUCKET, burst=2),
    "spacing": Model(WindowShape.SPACING),
    "seconds": Model(WindowShape.SECONDS),
    "ten-seconds": Model(WindowShape.TEN_SECONDS),
}

#: servers that let a whole small file in at once, or at least ten of it
WITH_BURST = ("fixed", "anchored", "sliding", "sliding-counts", "two-bucket", "two-bucket-strict", "bucket-full", "bucket-10")


class Server:
    """One account's limits; its clock reads `phase_ns` when the run begins.

    `hints`: its 429s say when to come back. `headers`: so they do, and every answer says what is left of the limits.
    """

    def __init__(
        self,
        model: Model,
        rpm: int,
        tpm: int,
        charging: Charging,
        *,
        phase_ns: int,
        hints: bool = False,
        headers: bool = False,
    ) -> None:
        self.phase_ns = phase_ns
        self._hints = hints or headers
        self._headers = headers
        requests, tokens = REQUESTS[model.shape](rpm, model.burst), TOKENS[model.shape](tpm, 0)
        self._limits = Limits(requests, tokens, charging, count_rejected=model.count_rejected)

    def arrive(self, now_ns: int, tokens: int) -> Accepted | Refused:
        """A request reaches the server that may take `tokens`, its prompt and its cap."""
        return self._limits.admit(self.phase_ns + now_ns, tokens)

    def end(self, now_ns: int, accepted: Accepted, tokens: int) -> None:
        """One that was let in has ended, and took `tokens`."""
        self._limits.spend(self.phase_ns + now_ns, accepted, tokens)

    def change(self, now_ns: int, rpm: int) -> None:
        """Go by another limit of requests from now on."""
        self._limits.change(self.phase_ns + now_ns, rpm=rpm)

    def said(self, now_ns: int) -> budget.Hints | None:
        """What the headers of an answer that leaves now say of both limits; None where the server sends none."""
        if not self._headers:
            return None
        at_ns = self.phase_ns + now_ns
        requests, tokens = self._limits.requests(at_ns), self._limits.tokens(at_ns)
        assert requests is not None
        assert tokens is not None
        return budget.Hints(requests.limit, requests.left, requests.refill_ns, tokens.limit, tokens.left, tokens.refill_ns)

    def hint_ns(self, refused: Refused) -> int | None:
        """The `Retry-After` that comes with a 429, in whole seconds as the header has it; None where the server sends none."""
        return -(-refused.retry_after_ns // NS_PER_SECOND) * NS_PER_SECOND if self._hints else None
