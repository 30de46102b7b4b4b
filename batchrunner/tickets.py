"""What admission is given and gives: a job sized up, why one is not sent, leave to send one, what becomes of it then."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from batchrunner import budget
from batchrunner.job import Job, RequestSize, Usage
from batchrunner.lookahead import offer_of
from batchrunner.status import Cause


class Candidate(msgspec.Struct, frozen=True):
    """A job read from its file and sized up."""

    job: Job
    size: RequestSize
    #: what it is expected to use
    predicted: Usage

    @property
    def tokens(self) -> int:
        return self.predicted.total_tokens

    @property
    def offer(self) -> budget.Offer:
        return offer_of(self.size, self.predicted)


class NotNow(enum.Enum):
    """Why the job of a slot is not sent."""

    WITHDRAWN = "withdrawn"  # never: whoever loads jobs has dealt with it
    WAIT = "wait"  # not before something that is in flight has ended


class Held(msgspec.Struct, frozen=True):
    """The job of a slot is kept aside with all others under `name`, until `due_ns`, or until it is said when (None)."""

    #: None: with those that wait for the server itself
    name: str | None
    due_ns: int | None


class Backoff(msgspec.Struct, frozen=True):
    """The job is to have another attempt after a wait; as a `repeat` of what failed, when the retry budget allows it."""

    after_ns: int
    repeat: bool = False


#: What becomes of a job whose request has ended; None: it has ended too.
Then = Backoff | Held | None


class Due(msgspec.Struct, frozen=True):
    """When the next request may go: now, later, or (None) not before something in flight has ended."""

    at_ns: int | None
    #: what stands in its way
    reason: Cause
    #: the same of a question after what the server works on, which sends nothing anew
    asks_ns: int | None

    def sends(self, now_ns: int) -> bool:
        """Whether any request may go now."""
        return self.at_ns is not None and self.at_ns <= now_ns

    def asks(self, now_ns: int) -> bool:
        """Whether a question may."""
        return self.asks_ns is not None and self.asks_ns <= now_ns

    def next_ns(self, question_ns: int | None) -> int | None:
        """Until when there is nothing to do, the next question being due then; None: until something changes."""
        asks_ns = None if self.asks_ns is None or question_ns is None else max(self.asks_ns, question_ns)
        return min((at_ns for at_ns in (self.at_ns, asks_ns) if at_ns is not None), default=None)


class Ticket(msgspec.Struct, frozen=True):
    """Leave to send one request now. It must be handed back by exactly one of the methods of Admission."""

    candidate: Candidate
    entry: int
    sent_ns: int
    wait_seconds: float
    #: no other tokens are in the window
    alone: bool
    #: what the job has waited for since it last ended, or since the beginning: milliseconds by cause
    waits: Mapping[str, int] = {}

    @property
    def job(self) -> Job:
        return self.candidate.job
