"""What a check of a run directory found: findings, each with its place, and notes on what a start would settle."""

from __future__ import annotations

from typing import Final

import msgspec

from batchrunner.verification.sums import Sums

#: findings that are listed; all of them are counted
LISTED: Final = 1_000

RESTORE: Final = "Restore the run directory from a copy, or start over with another --run-dir."
PUT_BY: Final = "The next start puts it into results.cut, and so does verify --repair."
DEFECT: Final = "Not what batchrun writes: a file was changed by hand, or this is a defect. Keep a copy, and report it."
RESUME: Final = "The same submit again, or verify --repair, settles it."


#: notes on what a start sets right
SETTLED: Final = frozenset(
    {
        "torn_journal",
        "torn_results.jsonl",
        "torn_errors.jsonl",
        "torn_costs",
        "uncommitted_line",
        "uncommitted_bill",
        "unsynced_line",
        "unsynced_bill",
        "stale_line",
        "in_flight",
    }
)


class Place(msgspec.Struct, frozen=True):
    """Where in a run directory."""

    file: str
    #: byte at which it begins; None where it is the file as a whole
    offset: int | None = None
    #: 1-based
    line: int | None = None

    def __str__(self) -> str:
        parts = [self.file]
        if self.line is not None:
            parts.append(f"line {self.line:,}")
        if self.offset is not None:
            parts.append(f"byte {self.offset:,}")
        return ", ".join(parts)


class Finding(msgspec.Struct, frozen=True):
    """Something that must not be."""

    #: closed set, see the checks
    code: str
    place: Place
    custom_id: str | None
    what: str
    remedy: str


class Note(msgspec.Struct):
    """Something that is as a crash or a live run leaves it, counted by its kind."""

    code: str
    count: int
    #: the first of them
    place: Place
    custom_id: str | None
    what: str


class Checked(msgspec.Struct):
    """How much was looked at."""

    records: int = 0
    jobs: int = 0
    results: int = 0
    errors: int = 0
    bad_lines: int = 0
    cost_lines: int = 0
    bytes: int = 0
    #: amounts that were computed again from usage and price table
    amounts: int = 0
    #: lines of the job files; None where none were given
    input_lines: int | None = None


class Report(msgspec.Struct):
    """The outcome of one check."""

    run_dir: str
    run_id: str
    #: a process is at work on it; what it has not committed yet was left out
    live: bool
    #: every job had ended when the last process did
    finished: bool
    checked: Checked
    sums: Sums
    #: how many there are; `findings` lists the first LISTED
    count: int
    findings: list[Finding]
    notes: list[Note]

    @property
    def clean(self) -> bool:
        return self.count == 0

    @property
    def unsettled(self) -> bool:
        """Whether a start would find something to set right, or to refuse."""
        return self.count > 0 or any(note.code in SETTLED for note in self.notes)


class Findings:
    """Collects what the checks find."""

    def __init__(self) -> None:
        self.count = 0
        self.listed: list[Finding] = []
        self._notes: dict[str, Note] = {}

    @property
    def notes(self) -> list[Note]:
        return list(self._notes.values())

    def add(self, code: str, place: Place, what: str, remedy: str, custom_id: str | None = None) -> None:
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append(Finding(code, place, custom_id, what, remedy))

    def note(self, code: str, place: Place, what: str, custom_id: str | None = None) -> None:
        """Count something that is no fault. `what` must be true of all of its kind: the first one's is kept."""
        known = self._notes.get(code)
        if known is None:
            self._notes[code] = Note(code, 1, place, custom_id, what)
        else:
            known.count += 1
