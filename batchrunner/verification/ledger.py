"""What the journal says of each job, and whether it could have happened so.

An index of its own, by id: each job's newest telling record (its end, where it has ended) is read again when it is asked
for. Memory: about 70 bytes a job, and some 250 for each attempt that was or may have been billed and did not end its job.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from batchrunner.events import Billing
from batchrunner.index import Index
from batchrunner.journal.files import ERRORS, JOURNAL, RESULTS
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
    decode,
)
from batchrunner.lifecycle import FINAL, Happening, IllegalTransitionError, State, after
from batchrunner.verification.chain import Chain
from batchrunner.verification.reader import RunReader
from batchrunner.verification.report import DEFECT, Findings, Place
from batchrunner.verification.sums import Sums, costs

#: Marks of a job, see `Ledger.marks`.
LINE: Final = 1  # its final line was found
BILL: Final = 2  # the bill of the attempt that ended it was found
ASKED: Final = 4  # it stands in the job files

#: a job has an attempt that has not ended
OPEN: Final = frozenset({State.IN_FLIGHT, State.SUBMITTED})

_ATTEMPT_BITS: Final = 24
_LENGTH_BITS: Final = 24

#: A job's number and an attempt of it in one.
Key = int
_AboutJob = Ended | Sent | Reopened | Refunded | Settled | Submitted


class Ledger:
    """The journal's story, taken in record by record with `read`; then asked by the other checks."""

    def __init__(self, reader: RunReader, findings: Findings) -> None:
        self.index = Index(self._id_of)
        #: State of each job
        self.standing = bytearray()
        self.marks = bytearray()
        #: how often each was sent
        self.sends = array("I")
        self.sums = Sums()
        #: wall time and offset of the newest `started`
        self.started: tuple[int, int] | None = None
        #: the newest record is `finished`
        self.finished: Finished | None = None
        self.finished_at = 0
        #: since the newest start: commits, and whether anything was sent or ended after the first of them
        self.commits = 0
        self.at_work = False
        #: reopened since the newest commit: their old lines may still stand in errors.jsonl
        self.reopened: set[int] = set()
        #: billed or perhaps billed attempts other than those which ended their job -> where the record stands
        self.others: dict[Key, int] = {}
        #: attempts of which the platform's events tell -> where the newest record about that stands
        self.settled: dict[Key, int] = {}
        self._reader = reader
        self._findings = findings
        self._known: tuple[int, _AboutJob] | None = None
        self._intact = True

    def read(self, chain: Chain) -> None:
        """Take in all records."""
        for place, line, record in chain:
            self._intact = not chain.damaged
            self.finished = None
            self._take(place, len(line), record)

    # Asked ----------------------------------------------------------------------------------------------------------

    def find(self, custom_id: str, fingerprint: int | None = None) -> int | None:
        """The number of the job with this id."""
        return self.index.find(custom_id, fingerprint)

    def ended(self, number: int) -> Ended | None:
        """How a job ended; None where it has not."""
        if self.standing[number] not in FINAL:
            return None
        record = self._record(self.index.offsets[number], self.index.lengths[number])
        return record if isinstance(record, Ended) else None

    def charged(self, number: int, attempt: int) -> tuple[Ended, Place] | None:
        """The record that says what an attempt was charged; None where it cost nothing, or was not heard of."""
        where = self.others.get(key_of(number, attempt))
        if where is not None:
            offset, length = where >> _LENGTH_BITS, where & ((1 << _LENGTH_BITS) - 1)
            record = self._record(offset, length)
            assert isinstance(record, Ended)
            return record, Place(JOURNAL, offset)
        ended = self.ended(number)
        if ended is None or ended.attempt != attempt or not costs(ended.charge):
            return None
        return ended, Place(JOURNAL, self.index.offsets[number])

    def settlement(self, key: Key) -> tuple[Settled, Place] | None:
        """The record that says what the platform charged an attempt; None where nothing is known of that."""
        where = self.settled.get(key)
        if where is None:
            return None
        offset, length = where >> _LENGTH_BITS, where & ((1 << _LENGTH_BITS) - 1)
        record = self._record(offset, length)
        assert isinstance(record, Settled)
        return record, Place(JOURNAL, offset)

    def place(self, number: int) -> Place:
        """Where the journal tells how a job ended."""
        return Place(JOURNAL, self.index.offsets[number])

    def is_open(self, number: int, attempt: int) -> bool:
        """Whether a job is open and this attempt in flight, or not heard of yet."""
        if self.standing[number] in FINAL:
            return False
        flying = self.standing[number] in OPEN and attempt == self.sends[number]
        return flying or attempt > self.sends[number]

    def in_flight(self) -> Iterator[int]:
        """Jobs with an attempt that nothing is known to have come of."""
        return (number for number, state in enumerate(self.standing) if state == State.IN_FLIGHT)

    # Taken in -------------------------------------------------------------------------------------------------------

    def _take(self, place: Place, length: int, record: Record) -> None:
        offset = place.offset or 0
        match record:
            case Started():
                self.started = record.wall_ns, offset
                self.commits, self.at_work = 0, False
            case Sent():
                self._sent(place, length, record)
            case Submitted():
                number = self._number(record.id, record.fp, offset, length)
                self._move(number, Happening.SUBMIT, State.SUBMITTED, place, record.id)
            case Ended():
                self._ended(place, length, record)
            case Reopened():
                self._reopened(place, length, record)
            case Refunded():
                self._number(record.id, record.fp, offset, length)
            case Settled():
                self._settled(place, length, record)
            case Synced():
                self._synced(place, record)
            case Finished():
                self._synced(place, record.synced)
                self.finished, self.finished_at = record, offset

    def _synced(self, place: Place, marks: Synced) -> None:
        if marks.journal > (place.offset or 0):
            self._impossible(place, None, f"it names {marks.journal:,} bytes of the journal as synced, which did not exist then")
        self.commits += 1
        self.reopened.clear()

    def _sent(self, place: Place, length: int, sent: Sent) -> None:
        number = self._number(sent.id, sent.fp, place.offset or 0, length)
        self.at_work |= self.commits > 0
        if sent.attempt != self.sends[number] + 1:
            what = f"attempt {sent.attempt} was sent after {self.sends[number]} sends"
            self._impossible(place, sent.id, what)
        self.sends[number] = max(self.sends[number], sent.attempt)
        self.sums.attempts += 1
        self._move(number, Happening.SEND, State.IN_FLIGHT, place, sent.id)
        self.index.offsets[number], self.index.lengths[number] = place.offset or 0, length

    def _ended(self, place: Place, length: int, ended: Ended) -> None:
        number = self._number(ended.id, ended.fp, place.offset or 0, length)
        self.at_work |= self.commits > 0
        if ended.attempt > self.sends[number]:  # adopted: its `sent` went with the power
            self.sums.attempts += ended.attempt - self.sends[number]
            self.sends[number] = ended.attempt
        self._judge(place, ended)
        self.sums.count(ended)
        self._charge(number, place, length, ended)
        self._end(number, place, ended)
        if ended.line is not None:
            self.index.offsets[number], self.index.lengths[number] = place.offset or 0, length
            self.marks[number] &= ~(LINE | BILL)

    def _judge(self, place: Place, ended: Ended) -> None:
        """Whether an attempt that ended so can have had this line and this charge."""
        file = {What.DONE: RESULTS, What.FAILED: ERRORS}.get(ended.what)
        if (ended.line and ended.line.file) != file:
            self._impossible(place, ended.id, f"it is {ended.what}, and names {ended.line and ended.line.file} for its line")
        billing = Billing.NOT if ended.charge is None else ended.charge.billing
        crashed = ended.what is What.LOST and ended.why == "the process ended"
        allowed = {
            What.DONE: {Billing.BILLED},
            What.REFUSED: {Billing.NOT},
            # A bill may outlive its reply in a power cut. Without one, an attempt that nobody saw the end of may be billed.
            What.LOST: {Billing.MAYBE, Billing.BILLED} if crashed else {Billing.MAYBE, Billing.NOT},
        }.get(ended.what, {Billing.MAYBE, Billing.NOT})
        if billing not in allowed:
            self._impossible(place, ended.id, f"an attempt that is {ended.what} cannot be {billing}", code="billing")

    def _charge(self, number: int, place: Place, length: int, ended: Ended) -> None:
        """Take a charge into the sums. One of an attempt that was counted as lost takes that one's place."""
        earlier = self.charged(number, ended.attempt)
        if earlier is not None:
            if earlier[0].what is not What.LOST and costs(ended.charge):
                what = f"attempt {ended.attempt} was charged before, in the record at byte {earlier[1].offset:,}"
                self._impossible(place, ended.id, what, code="charged_twice")
            elif earlier[0].what is What.LOST and ended.spent:  # a job that fails unsent names the attempt before
                self.sums.add(earlier[0].charge, -1)
                del self.others[key_of(number, ended.attempt)]
        self.sums.add(ended.charge, 1)
        if ended.line is None and costs(ended.charge):
            self.others[key_of(number, ended.attempt)] = _at(place.offset or 0, length)

    def _settled(self, place: Place, length: int, settled: Settled) -> None:
        number = self.index.find(settled.id, int(settled.fp, 16))  # its line may have been changed since
        if number is None:
            number = self._number(settled.id, settled.fp, place.offset or 0, length)
        key = key_of(number, settled.attempt)
        earlier = self.settlement(key)
        charged = self.charged(number, settled.attempt)
        believed = earlier[0].charge if earlier is not None else charged and charged[0].charge
        if believed != settled.was:
            what = f"attempt {settled.attempt} is settled from a charge that it did not have"
            self._impossible(place, settled.id, what, code="settled")
        self.sums.add(settled.was, -1)
        self.sums.add(settled.charge, 1)
        self.settled[key] = _at(place.offset or 0, length)

    def _end(self, number: int, place: Place, ended: Ended) -> None:
        flying = self.standing[number] in OPEN
        match ended.what:
            case What.DONE:
                happening = Happening.SUCCEED if flying else Happening.ADOPT
                self._move(number, happening, State.SUCCEEDED, place, ended.id)
            case What.FAILED:
                self._move(number, Happening.FAIL, State.FAILED, place, ended.id)
            case What.AGAIN:
                self._move(number, Happening.AGAIN, State.BACKING_OFF, place, ended.id)
                self._move(number, Happening.READY, State.PENDING, place, ended.id)
            case What.REFUSED:
                self._move(number, Happening.REFUSE, State.PENDING, place, ended.id)
            case What.LOST if flying:
                self._move(number, Happening.LOSE, State.PENDING, place, ended.id)
            case What.LOST:
                pass  # known by its bill alone: the job stands where it stood

    def _reopened(self, place: Place, length: int, reopened: Reopened) -> None:
        number = self._number(reopened.id, reopened.fp, place.offset or 0, length)
        ended = self.ended(number)
        if ended is not None:
            if costs(ended.charge):  # bills stay
                self.others[key_of(number, ended.attempt)] = _at(self.index.offsets[number], self.index.lengths[number])
            happening = Happening.REOPEN if ended.what is What.FAILED else Happening.LOSE
            self._move(number, happening, State.PENDING, place, reopened.id)
        self.sends[number] = max(self.sends[number], reopened.attempt)
        self.reopened.add(number)

    def _move(self, number: int, happening: Happening, implied: State, place: Place, custom_id: str) -> None:
        try:
            self.standing[number] = after(State(self.standing[number]), happening, custom_id)
        except IllegalTransitionError as error:
            self._impossible(place, custom_id, str(error))
            self.standing[number] = implied

    def _impossible(self, place: Place, custom_id: str | None, what: str, code: str = "impossible") -> None:
        """Whole records that contradict each other. Where records are missing or altered, those are the finding."""
        if self._intact:
            self._findings.add(code, place, what, DEFECT, custom_id)

    # The table ------------------------------------------------------------------------------------------------------

    def _number(self, custom_id: str, fp: str, offset: int, length: int) -> int:
        fingerprint = int(fp, 16)
        number = self.index.find(custom_id, fingerprint)
        if number is not None:
            self.index.fingerprints[number] = fingerprint
            return number
        added = self.index.add(custom_id, fingerprint, offset, length, 0)
        assert isinstance(added, int)
        self.standing.append(State.PENDING)
        self.marks.append(0)
        self.sends.append(0)
        return added

    def _id_of(self, number: int) -> str | None:
        return self._record(self.index.offsets[number], self.index.lengths[number]).id

    def _record(self, offset: int, length: int) -> _AboutJob:
        """A record about a job, read again; the last one read is at hand."""
        if self._known is None or self._known[0] != offset:
            record = decode(self._reader.read(JOURNAL, offset, length))
            assert isinstance(record, Ended | Sent | Reopened | Refunded | Settled | Submitted)
            self._known = offset, record
        return self._known[1]


def key_of(number: int, attempt: int) -> Key:
    return number << _ATTEMPT_BITS | attempt


def parts_of(key: Key) -> tuple[int, int]:
    """Job number and attempt."""
    return key >> _ATTEMPT_BITS, key & ((1 << _ATTEMPT_BITS) - 1)


def _at(offset: int, length: int) -> int:
    return offset << _LENGTH_BITS | length
