"""Where each job stands in the input: at most 48 bytes a job, duplicates found, lines reread when they are due.

A job costs 34 bytes of columns, a sixteenth of that for arrays that grow, and 6 to 12 bytes in the hash table. Ids
themselves stay in the file: two that share a 64-bit hash are told apart by reading the first one's line again, for which
the index has a callback.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Callable, Collection, Iterable

import msgspec

from batchrunner import jobfile
from batchrunner.job import MAX_STEPS, BadLine, Extras
from batchrunner.jobfile import OVERLONG, BadLineCode, BadLineError, Line

#: different wishes that a byte tells apart
MOST_WISHES = 256
#: The wish of a job that nobody is to send in this start: no lane looks for it.
ASIDE = MOST_WISHES - 1
#: Accounts among which a run may tell, so that each kind of wish has its place.
MOST_ACCOUNTS = MOST_WISHES // (2 * MAX_STEPS + 1) - 1


class Wish(msgspec.Struct, frozen=True):
    """What of a line's wishes says when and where its job goes."""

    #: within MAX_STEPS of 0
    priority: int
    #: None: any, or none of the run's
    account: str | None = None


class Duplicate(msgspec.Struct, frozen=True):
    """The id belongs to an earlier job."""

    #: of that job
    first: int


class Index:
    """The jobs of a run by number, in columns, and by id, in an open-addressing hash table; the files that they come from.

    `offsets`, `lengths`, `lines`, `fingerprints` and `wish` are read by number and written by `add` alone; `state` is one byte
    a job for the caller, 0 at first. `wish` is a place in `wishes`, the first of which is that of lines without any.
    `custom_id_of(number)` gives a job's id again; it is asked where hashes are equal. `priority`: of lines that name none.
    `accounts`: the names of those that jobs may be bound to, where there are several.
    """

    def __init__(
        self,
        custom_id_of: Callable[[int], str | None],
        *,
        hash_of: Callable[[str], int] = hash,
        priority: int = 0,
        accounts: Collection[str] = (),
    ) -> None:
        assert len(accounts) <= MOST_ACCOUNTS
        self.offsets = array("Q")
        self.lengths = array("I")
        self.lines = array("I")
        self.fingerprints = array("Q")
        self.state = bytearray()
        self.wish = bytearray()
        #: jobs that were set aside
        self.aside = 0
        self._accounts = frozenset(accounts)
        self._priority = _within_steps(priority)
        self.wishes = [Wish(self._priority)]
        self._wish_of: dict[tuple[int, str | None], int] = {(self._priority, None): 0}
        self._custom_id_of = custom_id_of
        self._hash_of = hash_of
        self._files: list[str] = []
        self._lines_before: list[int] = []
        self._first_jobs: list[int] = []
        self._hashes = array("q")
        # Slots hold a number plus 1, so that 0 is free. At most two thirds are taken.
        self._table = array("I", bytes(4 * 16))
        self._room = 10

    def __len__(self) -> int:
        return len(self.state)

    def begin_file(self, name: str, lines_before: int) -> None:
        """What is added from here on stands in this file; `lines_before` are in those before it."""
        self._files.append(name)
        self._lines_before.append(lines_before)
        self._first_jobs.append(len(self))

    def files(self) -> list[range]:
        """The jobs of each file; of all, where none was ever begun."""
        starts = self._first_jobs or [0]
        return [range(start, end) for start, end in zip(starts, [*starts[1:], len(self)], strict=True)]

    def place(self, line: int) -> str:
        """A line of the whole input for people: `FILE line N`, N counted in that file."""
        file, number = self.where(line)
        return f"line {number}" if file is None else f"{file} line {number}"

    def where(self, line: int) -> tuple[str | None, int]:
        """The file that holds a line of the whole input, and its number there; None where no file was begun."""
        number = bisect.bisect_left(self._lines_before, line) - 1
        return (None, line) if number < 0 else (self._files[number], line - self._lines_before[number])

    def add(
        self, custom_id: str, fingerprint: int, offset: int, length: int, line: int, extras: Extras | None = None
    ) -> int | Duplicate:
        """Take a job in; its number. A job whose id is known is not taken in."""
        hashes = self._hashes
        number = len(hashes)
        if number >= self._room:
            self._grow()
        table = self._table
        mask = len(table) - 1
        key = self._hash_of(custom_id)
        slot = key & mask
        while entry := table[slot]:
            if hashes[entry - 1] == key and self._custom_id_of(entry - 1) == custom_id:
                return Duplicate(entry - 1)
            slot = (slot + 1) & mask
        table[slot] = number + 1
        hashes.append(key)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.lines.append(line)
        self.fingerprints.append(fingerprint)
        self.state.append(0)
        self.wish.append(0 if extras is None else self._note_wish(extras))
        return number

    def set_aside(self, number: int) -> None:
        """Hide a job, once, from whoever looks for some to send: it stays as it is."""
        self.wish[number] = ASIDE
        self.aside += 1

    def _note_wish(self, extras: Extras) -> int:
        """The place of a line's wishes."""
        priority = self._priority if extras.priority is None else _within_steps(extras.priority)
        account = extras.account if extras.account in self._accounts else None
        place = self._wish_of.setdefault((priority, account), len(self.wishes))
        if place == len(self.wishes):
            self.wishes.append(Wish(priority, account))
        return place

    def find(self, custom_id: str, fingerprint: int | None = None) -> int | None:
        """The number of the job with this id, or None.

        Its line is read again to tell it from another id of the same hash, unless its `fingerprint` is as given: two equal
        64-bit values that have nothing to do with each other are proof enough.
        """
        hashes, table = self._hashes, self._table
        mask = len(table) - 1
        key = self._hash_of(custom_id)
        slot = key & mask
        while entry := table[slot]:
            if hashes[entry - 1] == key:
                known = fingerprint is not None and self.fingerprints[entry - 1] == fingerprint
                if known or self._custom_id_of(entry - 1) == custom_id:
                    return entry - 1
            slot = (slot + 1) & mask
        return None

    def _grow(self) -> None:
        """Double the table. The old one is let go first: both at once would be the peak of the whole process."""
        size = 2 * len(self._table)
        mask = size - 1
        self._table = array("I")
        table = array("I", (0,)) * size
        for number, key in enumerate(self._hashes, 1):
            slot = key & mask
            while table[slot]:
                slot = (slot + 1) & mask
            table[slot] = number
        self._table = table
        self._room = 2 * size // 3


def _within_steps(priority: int) -> int:
    return max(-MAX_STEPS, min(MAX_STEPS, priority))


def custom_id_of(raw: bytes) -> str | None:
    """The id of a job line, None where the line is no job."""
    try:
        return jobfile.check(raw)
    except BadLineError:
        return None


def add_lines(
    index: Index,
    lines: Iterable[tuple[int, int, Line]],
    on_bad_line: Callable[[BadLine], None],
    on_job: Callable[[int, bytes], None] | None = None,
) -> None:
    """Take the jobs among `lines` in, each line with its number and offset; the others, and repeated ids, go to the callback.

    `on_job` is called with the number of each job that is taken in, and its line.
    """

    def refuse(line: int, code: BadLineCode, why: str) -> None:
        on_bad_line(BadLine(line, code, f"{index.place(line)} is no job: {why}"))

    add, head_of, fingerprint = index.add, jobfile.head, jobfile.fingerprint
    for line, offset, raw in lines:
        if raw is OVERLONG:
            megabytes = jobfile.MAX_LINE_BYTES >> 20
            refuse(line, BadLineCode.LINE_TOO_LONG, f"over {megabytes} MiB; link large content instead of inlining it.")
            continue
        try:
            head = head_of(raw)
        except BadLineError as error:
            refuse(line, error.code, error.message)
            continue
        added = add(head.custom_id, fingerprint(raw), offset, len(raw), line, head.batchrun)
        if type(added) is Duplicate:
            first = index.place(index.lines[added.first])
            refuse(line, BadLineCode.DUPLICATE_CUSTOM_ID, f"custom_id {head.custom_id!r} is that of {first}; rename one.")
        elif on_job is not None:
            on_job(len(index) - 1, raw)
