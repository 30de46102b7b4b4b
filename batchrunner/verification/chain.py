"""The journal's records, each proven in its place; behind a fault the chain is picked up again, so that the rest is seen too."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from batchrunner.errors import InvalidInput
from batchrunner.journal.files import JOURNAL
from batchrunner.journal.records import (
    VERSION,
    Record,
    Synced,
    check,
    declared_crc,
    decode,
    header,
    is_numbered,
    marks_of,
    read_header,
)
from batchrunner.verification.reader import RunReader
from batchrunner.verification.report import RESTORE, RESUME, Findings, Place

_NOTHING_SYNCED = Synced(0, 0, 0, 0, costs_crc=0)


class Chain:
    """Iterates over (place, line, record) up to `end`, the size that the file has when this is made.

    After the last one `synced` is the newest mark, `records` how many were read, `damaged` whether a part is missing or
    altered, so that what is concluded from the rest may be wrong.

    Raises, while being iterated: InvalidInput where another version wrote the journal; DiskError.
    """

    def __init__(self, reader: RunReader, run_id: str, findings: Findings) -> None:
        self.synced = _NOTHING_SYNCED
        self.records = 0
        self.damaged = False
        self.end = reader.size(JOURNAL)
        self._reader = reader
        self._run_id = run_id
        self._findings = findings
        #: where the chain broke, and how many bytes have not been proven since; None while it holds
        self._broken: Place | None = None
        self._unproven_bytes = 0

    def __iter__(self) -> Iterator[tuple[Place, bytes, Record]]:
        lines = self._reader.lines(JOURNAL, end=self.end)
        seed = self._header(next(lines, None))
        number = 1
        for line_number, (offset, line) in enumerate(lines, 2):
            place = Place(JOURNAL, offset, line_number)
            crc = None if seed is None else check(line, seed)
            if crc is None or not (self._broken or is_numbered(line, number)):
                if self._broken is None:
                    if not self._was_synced(offset):
                        self._torn(place)
                        return
                    self._broken = place
                self._unproven_bytes += len(line)
                seed = declared_crc(line)
                continue
            seed = crc
            record = self._decode(line, place)
            self._pick_up()
            number = _number_of(line) + 1
            self.synced = marks_of(record) or self.synced
            self.records += 1
            yield place, line, record

    def _header(self, first: tuple[int, bytes] | None) -> int | None:
        """The crc of the first line, true or not."""
        expected, crc = header(self._run_id)
        if first is None:
            return None
        line = first[1]
        if line == expected:
            return crc
        if len(line) == self.end <= len(expected) and not line.endswith(b"\n"):
            self._torn(Place(JOURNAL, 0, 1))
            return None
        named = read_header(line)
        if named is not None and named.batchrun_journal != VERSION:
            raise InvalidInput(
                f"{JOURNAL}: written in format {named.batchrun_journal}, and this batchrun reads format {VERSION}. "
                "Use the version that began this run."
            )
        self.damaged = True
        what = "the first line is not a journal's"
        if named is not None and named.run != self._run_id:
            what = f"belongs to run {named.run!r}, and run.json to run {self._run_id!r}: files of two runs were mixed"
        self._findings.add("journal_header", Place(JOURNAL, 0, 1), what, RESTORE)
        return declared_crc(line)

    def _decode(self, line: bytes, place: Place) -> Record:
        try:
            return decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
            raise InvalidInput(
                f"{place}: the record is whole, but of a kind that this batchrun does not know. "
                "Use the version that began this run."
            ) from cause

    def _was_synced(self, offset: int) -> bool:
        """Whether a record behind a fault proves that its place had been on disk: a torn end never was."""
        seed: int | None = None
        for _, line in self._reader.lines(JOURNAL, offset=offset, end=self.end):
            if seed is not None and check(line, seed) is not None:
                try:
                    marks = marks_of(decode(line))
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    marks = None
                if marks is not None and marks.journal > offset:
                    return True
            seed = declared_crc(line)
        return False

    def _pick_up(self) -> None:
        """Tell of what could not be proven, where that ends here."""
        if self._broken is not None:
            self.damaged = True
            what = f"{self._unproven_bytes:,} bytes do not match their checksum, number or place, and were safely on disk once"
            self._findings.add("journal_damaged", self._broken, what, RESTORE)
        self._broken = None
        self._unproven_bytes = 0

    def _torn(self, place: Place) -> None:
        self._findings.note("torn_journal", place, f"a torn end of {self.end - (place.offset or 0):,} bytes. {RESUME}")


def _number_of(line: bytes) -> int:
    """Of a record that stands whole: `{"n":12,`."""
    return int(line[5 : line.index(b",")])
