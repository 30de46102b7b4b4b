"""What the dispatcher waits for, and what each job has waited for by the time it is sent. Pure: `now_ns` is an argument.

Jobs wait together: what the dispatcher waits for while a job is waiting is what that job waits for too, besides its own
backoff and the absence of its model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

import msgspec

from batchrunner.status import Cause

#: What a job waits for whatever the others do: its own pause after a failure, or that its model or the server comes back.
OwnCause = Literal["backoff", "held"]

_NS_PER_MS: Final = 1_000_000
CAUSES: Final[tuple[Cause, ...]] = get_args(Cause)
_NOTHING: Final[Mapping[Cause, int]] = MappingProxyType({})


class Waits(msgspec.Struct, frozen=True):
    """What the dispatcher waits for and has waited for. Never changed, so that other threads may look at it."""

    #: by cause; those that were never waited for are not there
    ended_ns: Mapping[Cause, int] = _NOTHING
    cause: Cause | None = None
    since_ns: int = 0

    def begin(self, cause: Cause, now_ns: int) -> Waits:
        return Waits(self.ended_ns, cause, now_ns)

    def end(self, now_ns: int) -> Waits:
        return Waits(self.at(now_ns))

    def at(self, now_ns: int) -> Mapping[Cause, int]:
        """By cause, up to now."""
        if self.cause is None:
            return self.ended_ns
        return {**self.ended_ns, self.cause: self.ended_ns.get(self.cause, 0) + max(0, now_ns - self.since_ns)}


class _Back(msgspec.Struct):
    """A job that came back, or was put aside: since when it waits, what the dispatcher had waited for by then, its own causes."""

    at_ns: int
    before_ns: Mapping[Cause, int]
    backoff_ns: int = 0
    held: bool = False
    held_ns: int = 0


class JobWaits:
    """Since when jobs wait. Those that were never sent or held wait since the beginning, and cost no memory."""

    def __init__(self) -> None:
        self._back: dict[int, _Back] = {}

    def back(self, number: int, now_ns: int, waits: Waits, *, backoff_ns: int = 0) -> None:
        """A job waits again from now on, for so long through its own backoff."""
        self._back[number] = _Back(now_ns, waits.at(now_ns), backoff_ns)

    def held(self, number: int, now_ns: int, waits: Waits) -> None:
        """A job is put aside from now on. One that waits already keeps what it waited for before."""
        back = self._back.setdefault(number, _Back(now_ns, waits.at(now_ns)))
        back.held = True
        back.at_ns = now_ns

    def released(self, numbers: Iterable[int], now_ns: int) -> None:
        """Jobs are not held any more."""
        for number in numbers:
            back = self._back.get(number)
            if back is not None and back.held:
                back.held = False
                back.held_ns += now_ns - back.at_ns

    def gone(self, number: int) -> None:
        """A job has ended without being sent."""
        self._back.pop(number, None)

    def sent(self, number: int, now_ns: int, waits: Waits) -> dict[str, int]:
        """What a job has waited for by now, in milliseconds by cause; what was shorter than one is left out. It waits no more."""
        if number not in self._back:
            return {cause: ns // _NS_PER_MS for cause, ns in waits.at(now_ns).items() if ns >= _NS_PER_MS}
        self.released([number], now_ns)
        back = self._back.pop(number)
        found: dict[str, int] = {"backoff": back.backoff_ns, "held": back.held_ns}
        found |= {cause: ns - back.before_ns.get(cause, 0) for cause, ns in waits.at(now_ns).items()}
        return {cause: ns // _NS_PER_MS for cause, ns in found.items() if ns >= _NS_PER_MS}
