"""Accounts of one run that share its jobs: whoever is free first takes the next, and none is done before all are."""

from __future__ import annotations

from typing import Protocol

import trio


class Member(Protocol):
    """What an account's admission is to the others."""

    @property
    def idle(self) -> bool:
        """Nothing of it is in flight, and nothing waits that it could send."""
        ...

    def wake(self) -> None:
        """Have it look anew."""
        ...


class Crew:
    """Admissions of several accounts that draw from the same lanes: none is done before all are."""

    def __init__(self) -> None:
        self._members: list[Member] = []
        #: Between the look at the queue and the removal of a job nobody else may take it.
        self.turnstile = trio.Lock()

    def join(self, member: Member) -> None:
        self._members.append(member)

    @property
    def idle(self) -> bool:
        """Nothing is in flight anywhere, and nobody could send anything."""
        return all(member.idle for member in self._members)

    def wake(self) -> None:
        """Something has changed that others may wait for."""
        for member in self._members:
            member.wake()
