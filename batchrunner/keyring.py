"""Which of an account's keys goes out: the first live one; one that is refused after it had worked gets another chance. Pure.

A key that never worked in this process is retired at its first 401: it is wrong. One that did work is suspended (keys are
rotated, gateways hiccup) and probed by the next job's own request, three times within five minutes, then retired.
Keys go by number here; what they are is `heads`' secret.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

NS: Final = 1_000_000_000
#: when a suspended key is probed, counted from its suspension
PROBES_NS: Final = (30 * NS, 120 * NS, 300 * NS)

News = Literal["retired", "suspended", "known"]


class Use(msgspec.Struct, frozen=True):
    """A request goes out with this key."""

    number: int
    #: to see whether a suspended key works again
    probe: bool = False


class Statistics(msgspec.Struct, frozen=True):
    """How many keys there are of each kind."""

    live: int
    suspended: int
    retired: int


class _Key(msgspec.Struct):
    worked: bool = False
    retired: bool = False
    suspended_ns: int | None = None
    #: probes that were refused
    refused: int = 0
    #: a probe of it is out
    probing: bool = False

    @property
    def live(self) -> bool:
        return not self.retired and self.suspended_ns is None

    def probe_due_ns(self) -> int | None:
        """When it may be probed; None where it is not to be, or one is out."""
        if self.retired or self.suspended_ns is None or self.probing:
            return None
        return self.suspended_ns + PROBES_NS[self.refused]


class KeyRing:
    """The keys 0 to `count` - 1, in the order in which they are to be used."""

    def __init__(self, count: int) -> None:
        self._keys = [_Key() for _ in range(count)]

    @property
    def any_left(self) -> bool:
        """Whether some key is live, or may be again."""
        return any(not key.retired for key in self._keys)

    @property
    def suspended(self) -> int:
        return sum(key.suspended_ns is not None and not key.retired for key in self._keys)

    def statistics(self) -> Statistics:
        return Statistics(
            live=sum(key.live for key in self._keys), suspended=self.suspended, retired=sum(key.retired for key in self._keys)
        )

    def due_ns(self, now_ns: int) -> int | None:
        """When the next request may go: now with a live key, else when a probe is due; None while all that is left is out."""
        if any(key.live for key in self._keys):
            return now_ns
        probes = [due_ns for key in self._keys if (due_ns := key.probe_due_ns()) is not None]
        return max(now_ns, min(probes)) if probes else None

    def choose(self, now_ns: int) -> Use:
        """The key for a request that goes out now: one whose probe is due, else the first live one.

        Where there is none at all, the last one: whoever sends without having asked `due_ns` gets a 401 for it.
        """
        for number, key in enumerate(self._keys):
            due_ns = key.probe_due_ns()
            if due_ns is not None and due_ns <= now_ns:
                key.probing = True
                return Use(number, probe=True)
        return Use(next((number for number, key in enumerate(self._keys) if key.live), len(self._keys) - 1))

    def accepted(self, use: Use) -> bool:
        """The server took a request with this key. True where that brings a suspended one back."""
        key = self._keys[use.number]
        key.worked = True
        if not use.probe or key.suspended_ns is None:
            return False  # a request from before its suspension proves nothing about now
        key.suspended_ns = None
        key.refused = 0
        key.probing = False
        return True

    def refused(self, use: Use, now_ns: int) -> News:
        """The server refused this key. `known`: its fate had been decided, or is not yet."""
        key = self._keys[use.number]
        if key.retired:
            return "known"
        if key.suspended_ns is not None:
            if not use.probe:
                return "known"
            key.probing = False
            key.refused += 1
            key.retired = key.refused >= len(PROBES_NS)
        elif key.worked:
            key.suspended_ns = now_ns
            return "suspended"
        else:
            key.retired = True
        return "retired" if key.retired else "known"

    def ended(self, use: Use) -> None:
        """A request has ended without a word about its key; if it was a probe, another may go at once."""
        if use.probe:
            self._keys[use.number].probing = False
