"""An attempt under way, and what the attempts of all accounts know together: records."""

from __future__ import annotations

import msgspec

from batchrunner import outcome
from batchrunner.job import Job
from batchrunner.keyring import Use
from batchrunner.tickets import Ticket
from batchrunner.transport import Connection


class Flight(msgspec.Struct):
    """An attempt under way."""

    ticket: Ticket
    connection: Connection
    #: the ordinal of this send among all of the job's
    attempt: int
    key: Use
    idempotency_key: str | None
    began_ns: int
    #: asks for what the server works on, and sends nothing anew
    asks: bool = False
    #: of the attempt, so far
    seconds: float = 0.0
    #: from the send to the first of a streamed answer's own words
    first_token_seconds: float | None = None

    @property
    def job(self) -> Job:
        return self.ticket.job


class Common(msgspec.Struct):
    """What the attempts of all accounts know together."""

    #: jobs that failed, counted as soon as written, as the spend cap counts; earlier processes' and bad lines included
    failures: int
    #: people have the run send nothing for now
    paused: bool = False
    #: jobs whose connection was found closed when they were sent
    stale: set[int] = msgspec.field(default_factory=set)
    same_error: outcome.SameError = msgspec.field(default_factory=outcome.SameError)
