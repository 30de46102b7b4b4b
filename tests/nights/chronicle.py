"""What happened in a night: all of it, in order, and how often each fault fired."""

from __future__ import annotations

import hashlib
from collections import Counter, deque

import trio

#: entries that a failing night tells
TOLD = 40


class Chronicle:
    """Every disk operation, request, answer, event and fault, with its time. Two nights of one seed have equal ones."""

    def __init__(self) -> None:
        self.fired: Counter[str] = Counter()
        #: of all entries, so that whole nights can be compared
        self.entries: list[tuple[float, str, object]] = []

    def note(self, what: str, which: object = "") -> None:
        self.entries.append((trio.current_time(), what, which))

    def fire(self, fault: str) -> None:
        """A fault did something."""
        self.fired[fault] += 1
        self.note("fault", fault)

    def digest(self) -> str:
        """Of all entries, down to the last digit of a time."""
        return hashlib.sha256(repr(self.entries).encode()).hexdigest()

    def told(self, lines: int = TOLD) -> str:
        """The end of it, for people."""
        return "\n".join(f"{at:14.6f} {what} {which}" for at, what, which in deque(self.entries, lines))
