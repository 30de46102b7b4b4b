"""results.jsonl and errors.jsonl held against the journal, line by line.

A line proves itself: its `id` names run, job line and attempt, and the journal holds the checksum of the whole. Lines are
never looked for by offset, since a file that was replaced has moved them.
"""

from __future__ import annotations

import enum
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from batchrunner.dialect import is_json
from batchrunner.disk import Disk
from batchrunner.job import BadLine
from batchrunner.journal.files import ERRORS, whole_lines
from batchrunner.journal.replay import Key, Replay
from batchrunner.lifecycle import FINAL, State
from batchrunner.results import FinalLine, LineId, bad_line, bad_line_id, parse_id, read_line

# Marks of jobs whose line was found, see `Survey`.
_BEFORE: Final = 1
_BEHIND: Final = 2


class Verdict(enum.Enum):
    """What a line is to this run."""

    CONFIRMED = enum.auto()  # the journal knows it, by its checksum
    ADOPTABLE = enum.auto()  # whole and of this run, for a job that the journal does not know to have ended
    REMOVED = enum.auto()  # of this run, for a job that the input does not hold any more
    BAD_LINE = enum.auto()  # of a line of the input that is no job
    STALE = enum.auto()  # of a job that was reopened after it
    FOREIGN = enum.auto()  # matches nothing


class Survey:
    """One of the two files, read once from end to end; nothing is written.

    `odd_at` is the offset of the first line that asks for something to be done, `torn_at` that of a last line without its
    end. What stands before `odd_at` need not be read again.
    """

    def __init__(self, disk: Disk, name: str, run_id: str, replay: Replay) -> None:
        self.name = name
        self.odd_at: int | None = None
        self.torn_at: int | None = None
        self.confirmed = 0
        self.bad_lines = Digest()
        #: jobs that the journal does not know to have ended and that have a line here: number -> (custom_id, line's id)
        self.adoptable: dict[int, tuple[str, LineId]] = {}
        self._disk = disk
        self._run_id = run_id
        self._replay = replay
        self._final = State.FAILED if name == ERRORS else State.SUCCEEDED
        self._marks = bytearray(len(replay.index))
        self._read()

    def missing(self) -> list[int]:
        """Jobs that the journal says ended with a line here, and that have none."""
        state = self._replay.index.state
        if self.confirmed == state.count(self._final):
            return []
        return [number for number, mark in enumerate(self._marks) if not mark and state[number] == self._final]

    def odd_lines(self) -> Iterator[tuple[Verdict, int, bytes, FinalLine | None]]:
        """The lines that ask for something, each with its offset: ADOPTABLE, STALE and FOREIGN.

        The state of an adopted job must have been changed before the next one is asked for.
        """
        if self.odd_at is None:
            return
        for offset, raw in whole_lines(self._disk, self.name, self.odd_at):
            if not raw.endswith(b"\n"):
                return
            line, identity, key = self._parse(raw)
            verdict = self._judge(raw, line, identity, key)
            if verdict is Verdict.CONFIRMED:
                assert isinstance(key, int)
                if self._marks[key] == _BEFORE:
                    verdict = Verdict.FOREIGN
                self._marks[key] = _BEFORE
            if verdict in (Verdict.ADOPTABLE, Verdict.STALE, Verdict.FOREIGN):
                yield verdict, offset, raw, line
                if verdict is Verdict.ADOPTABLE:
                    assert isinstance(key, int)
                    self._marks[key] = _BEFORE

    def kept_lines(self) -> Iterator[tuple[bytes, FinalLine, Key, LineId]]:
        """The lines that stay, as things stand now: one for each job that ended with one, and those of removed jobs."""
        kept = bytearray(len(self._marks))
        for _, raw in whole_lines(self._disk, self.name):
            line, identity, key = self._parse(raw)
            verdict = self._judge(raw, line, identity, key)
            if line is None or identity is None or key is None:
                continue
            if verdict is Verdict.CONFIRMED:
                assert isinstance(key, int)
                if kept[key]:
                    continue
                kept[key] = 1
            elif verdict is not Verdict.REMOVED:
                continue
            yield raw, line, key, identity

    def _read(self) -> None:
        for offset, raw in whole_lines(self._disk, self.name):
            if not raw.endswith(b"\n"):
                self.torn_at = offset
                return
            line, identity, key = self._parse(raw)
            verdict = self._judge(raw, line, identity, key)
            if verdict is Verdict.BAD_LINE:
                self.bad_lines.add(raw)
                continue
            if verdict is Verdict.REMOVED:
                continue
            if verdict is Verdict.CONFIRMED:
                assert isinstance(key, int)
                if not self._marks[key]:
                    self._marks[key] = _BEFORE if self.odd_at is None else _BEHIND
                    self.confirmed += 1
                    continue
                verdict = Verdict.FOREIGN  # the same line a second time
            if self.odd_at is None:
                self.odd_at = offset
            if verdict is Verdict.ADOPTABLE:
                assert isinstance(key, int)
                assert identity is not None
                assert line is not None
                self.adoptable.setdefault(key, (str(line.custom_id), identity))

    def _parse(self, raw: bytes) -> tuple[FinalLine | None, LineId | None, Key | None]:
        line = read_line(raw)
        if line is None or line.custom_id is None:
            return line, None, None
        identity = parse_id(line.id)
        if identity is None or identity.run_id != self._run_id:
            return line, None, None
        return line, identity, self._replay.key(line.custom_id, identity.fingerprint)

    def _judge(self, raw: bytes, line: FinalLine | None, identity: LineId | None, key: Key | None) -> Verdict:
        if line is None:
            return Verdict.FOREIGN
        if line.custom_id is None:
            ours = self.name == ERRORS and line.id.startswith(bad_line_id(self._run_id, 0)[:-1])
            return Verdict.BAD_LINE if ours else Verdict.FOREIGN
        if identity is None or key is None:
            return Verdict.FOREIGN
        if isinstance(key, str):
            return Verdict.REMOVED if is_json(raw) else Verdict.FOREIGN
        state = self._replay.index.state[key]
        if state == self._final:
            return Verdict.CONFIRMED if zlib.crc32(raw) == self._replay.line_crcs[key] else Verdict.FOREIGN
        if state in FINAL:
            return Verdict.FOREIGN
        history = self._replay.histories.get(key)
        if history is not None and identity.attempt <= history.reopened:
            return Verdict.STALE
        # A success is one in the very form in which successes are written: what only begins so was altered.
        whole = is_json(raw) and (self.name == ERRORS or line.answer() is not None)
        return Verdict.ADOPTABLE if whole else Verdict.FOREIGN


class Digest:
    """Tells whether two sequences of lines are the same, without holding either."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.blake2b(digest_size=16)

    @classmethod
    def of(cls, run_id: str, bad_lines: Iterable[BadLine]) -> Digest:
        """That of the lines which errors.jsonl should begin with."""
        digest = cls()
        for bad in bad_lines:
            digest.add(bad_line(run_id, bad))
        return digest

    def add(self, line: bytes) -> None:
        self.count += 1
        self._hash.update(line)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and self._hash.digest() == other._hash.digest()

    __hash__ = None  # type: ignore[assignment]
