"""What a run's journal says of its jobs, replayed record by record.

Memory: five bytes a job beside the index, a small object for each job that was sent and has not ended.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Container
from typing import Final, TypeAlias

import msgspec

from batchrunner.clock import NS_PER_SECOND
from batchrunner.costs import Charge, Totals
from batchrunner.index import Index
from batchrunner.journal.records import (
    Ended,
    Finished,
    Record,
    Refunded,
    Reopened,
    Sent,
    Settled,
    Started,
    Submitted,
    Synced,
    What,
)
from batchrunner.lifecycle import FINAL, Happening, State, after

#: how far back sends may still weigh on a rate limit: two of its windows
RECENT_NS: Final = 120 * NS_PER_SECOND


class History(msgspec.Struct):
    """What a job that has not ended went through."""

    #: how often it was sent, whatever came of it
    sends: int = 0
    #: of these, how many count toward max_attempts
    spent: int = 0
    #: how many do not, because outages took them
    excused: int = 0
    #: sends of whose work the server has said that nothing came: what follows is a new request, under another name
    in_vain: int = 0
    #: sends before it was last reopened, or -1: final lines of these do not count any more
    reopened: int = -1
    #: what attempts were charged that were counted as lost, by their ordinals: a line of theirs may turn up yet
    lost: dict[int, Charge] = {}
    #: what the server works on, and is asked for; None where there is nothing of the kind
    submission: Submitted | None = None

    def __str__(self) -> str:
        reopened = f", reopened after {self.reopened}" if self.reopened >= 0 else ""
        return f"sent {self.sends} times, {self.spent} of them counted, {self.excused} excused, {self.in_vain} in vain{reopened}"

    def refund(self, attempts: int) -> None:
        """So many attempts do not count any more."""
        self.spent -= attempts
        self.excused += attempts


#: A job's number, or the custom_id of one that the input does not hold any more.
Key: TypeAlias = int | str


class InFlight(msgspec.Struct, frozen=True):
    """An attempt that nothing is known to have come of."""

    key: Key
    sent: Sent


class Replay:
    """The state that the records add up to. `index.state` holds each job's, and no job is left in flight in it but by name."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.totals = Totals()
        self.histories: dict[Key, History] = {}
        self.in_flight: dict[str, InFlight] = {}
        #: attempts that the server works on
        self.submitted: dict[str, InFlight] = {}
        #: CRC-32 of each ended job's final line
        self.line_crcs = array("I", bytes(4 * len(index)))
        #: custom_ids of the jobs whose newest record is of another line than the input's
        self.changed: dict[int, str] = {}
        #: final lines of jobs that the input does not hold any more
        self.removed = 0
        #: ended or settled behind the newest sync, with a line in costs.jsonl: (offset in the journal, record)
        self.unsynced: deque[tuple[int, Ended | Settled]] = deque()
        #: (monotonic ns, tokens, account) of the sends of the newest boot's last two minutes
        self.recent: deque[tuple[int, int, str | None]] = deque()
        self.boot: str | None = None

    def apply(self, offset: int, record: Record) -> None:
        """Take in the next record. Raises lifecycle.IllegalTransitionError where it tells an impossible story."""
        match record:
            case Sent():
                self._sent(record)
            case Submitted():
                self._submitted(record)
            case Ended():
                self._ended(offset, record)
            case Synced():
                self._synced(record)
            case Finished():
                self._synced(record.synced)
            case Reopened():
                self._reopened(record)
            case Refunded():
                self._refunded(record)
            case Settled():
                self._settled(offset, record)
            case Started():
                self._under_boot(record.boot)

    def key(self, custom_id: str, fingerprint: int | None = None) -> Key:
        """The number of the job with this id, or the id itself where the input has no such job.

        `fingerprint`: of the line that the job had, where it is known; it saves reading the line again.
        """
        number = self.index.find(custom_id, fingerprint)
        return custom_id if number is None else number

    def sends(self, key: Key) -> int:
        """How often a job that has not ended was sent."""
        history = self.histories.get(key)
        return 0 if history is None else history.sends

    def _key(self, custom_id: str, fp: str) -> Key:
        key = self.key(custom_id, int(fp, 16))
        self._compare(key, custom_id, fp)
        return key

    def _compare(self, key: Key, custom_id: str, fp: str) -> None:
        if not isinstance(key, int):
            return
        if int(fp, 16) != self.index.fingerprints[key]:
            self.changed[key] = custom_id
        elif self.changed:
            self.changed.pop(key, None)

    def _history(self, key: Key) -> History:
        return self.histories.setdefault(key, History())

    def _under_boot(self, boot: str) -> None:
        if boot != self.boot:
            self.recent.clear()
            self.boot = boot

    def _move(self, number: int, happening: Happening, custom_id: str) -> None:
        history = self.histories.get(number, "")
        self.index.state[number] = after(State(self.index.state[number]), happening, custom_id, history)

    def _sent(self, sent: Sent) -> None:
        key = self._key(sent.id, sent.fp)
        history = self._history(key)
        history.sends = max(history.sends, sent.attempt)
        self.in_flight[sent.id] = InFlight(key, sent)
        self.totals.attempts += 1
        if isinstance(key, int):
            self._move(key, Happening.SEND, sent.id)
        self._under_boot(sent.boot)
        self.recent.append((sent.mono_ns, sent.reserve, sent.account))
        while self.recent[0][0] < sent.mono_ns - RECENT_NS:
            self.recent.popleft()

    def _submitted(self, submitted: Submitted) -> None:
        key = self._key(submitted.id, submitted.fp)
        flight = self.in_flight.pop(submitted.id, None)
        if flight is not None:
            self.submitted[submitted.id] = flight
        self._history(key).submission = submitted
        if isinstance(key, int):
            self._move(key, Happening.SUBMIT, submitted.id)

    def open_attempt(self, custom_id: str, attempt: int) -> InFlight | None:
        """An attempt that is in flight, or that the server works on."""
        for attempts in (self.in_flight, self.submitted):
            found = attempts.get(custom_id)
            if found is not None and found.sent.attempt == attempt:
                return found
        return None

    def abandoned(self, unwanted: Container[int]) -> list[Sent]:
        """Attempts that nobody waits for: what was in flight; what the server works on for jobs that are gone, `unwanted`, or
        ended by a later attempt, whose line outlived a power cut that took the end of this one.
        """
        submitted = (
            flight
            for flight in self.submitted.values()
            if isinstance(flight.key, str) or flight.key in unwanted or self.index.state[flight.key] in FINAL
        )
        return [flight.sent for flight in (*self.in_flight.values(), *submitted)]

    def _ended(self, offset: int, ended: Ended) -> None:
        flight = self.open_attempt(ended.id, ended.attempt)
        if flight is not None:
            self.in_flight.pop(ended.id, None)
            self.submitted.pop(ended.id, None)
            key = flight.key
            self._compare(key, ended.id, ended.fp)
            self._history(key).submission = None
        else:
            key = self._key(ended.id, ended.fp)
        history = self._history(key)
        if flight is None and ended.attempt > history.sends:  # adopted: its `sent` went with the power
            self.totals.attempts += ended.attempt - history.sends
            history.sends = ended.attempt
        history.spent += ended.spent
        history.in_vain += ended.in_vain
        if ended.spent:  # a job that fails unsent names the attempt before, whose bill stays
            self.totals.take_back(history.lost.pop(ended.attempt, None))
        self.totals.add(ended.charge)
        if ended.what is What.LOST and ended.charge is not None:
            history.lost[ended.attempt] = ended.charge
        self.totals.rate_limited += ended.what is What.REFUSED
        self.totals.add_finish(ended.finish)
        if ended.charge is not None:
            self.unsynced.append((offset, ended))
        if isinstance(key, int):
            self._end_state(key, ended, known=flight is not None)
        if ended.line is not None:
            del self.histories[key]  # a job that is reopened brings its own
            if isinstance(key, int):
                self.line_crcs[key] = ended.line.crc
            else:
                self.removed += 1

    def _end_state(self, number: int, ended: Ended, *, known: bool) -> None:
        state = self.index.state[number]
        flying = state == State.IN_FLIGHT or (state == State.SUBMITTED and known)
        match ended.what:
            case What.DONE:
                self._move(number, Happening.SUCCEED if flying else Happening.ADOPT, ended.id)
            case What.FAILED:
                self._move(number, Happening.FAIL, ended.id)
            case What.AGAIN:
                self._move(number, Happening.AGAIN, ended.id)
                self._move(number, Happening.READY, ended.id)  # whatever the backoff was, it is over
            case What.REFUSED:
                self._move(number, Happening.REFUSE, ended.id)
            case What.LOST if flying:  # else adopted from its cost line: the job stands where it stood
                self._move(number, Happening.LOSE, ended.id)
            case What.LOST:
                pass

    def _reopened(self, reopened: Reopened) -> None:
        key = self._key(reopened.id, reopened.fp)
        if isinstance(key, int):
            state = State(self.index.state[key])
            if state in FINAL:
                self._move(key, Happening.REOPEN if state is State.FAILED else Happening.LOSE, reopened.id)
            self.line_crcs[key] = 0
        elif key not in self.histories:
            self.removed -= 1
        self.histories[key] = History(sends=reopened.attempt, in_vain=reopened.attempt, reopened=reopened.attempt)

    def _refunded(self, refunded: Refunded) -> None:
        history = self.histories.get(self._key(refunded.id, refunded.fp))
        if history is not None:
            history.refund(refunded.attempts)

    def _settled(self, offset: int, settled: Settled) -> None:
        self.totals.take_back(settled.was)
        self.totals.add(settled.charge)
        history = self.histories.get(self.key(settled.id, int(settled.fp, 16)))
        if history is not None and settled.attempt in history.lost:
            history.lost[settled.attempt] = settled.charge
        self.unsynced.append((offset, settled))

    def _synced(self, synced: Synced) -> None:
        while self.unsynced and self.unsynced[0][0] < synced.journal:
            self.unsynced.popleft()
