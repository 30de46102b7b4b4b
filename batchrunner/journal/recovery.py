"""Brings a run directory back to where a run can go on, whatever ended the last one.

First everything is read and judged: the journal, costs.jsonl, results.jsonl and errors.jsonl line by line. What
cannot be trusted is refused with nothing touched. Then what was left open is closed, in records and lines of the usual
kind, so that a crash in the middle of it is one more crash of the usual kind:

- torn tails are cut; lines that match nothing, and torn ones of the two files of answers, are put by in results.cut
- whole lines of this run that no record speaks of are adopted, their cost computed again
- what was in flight is lost: it may have been billed
- cost lines that may not have reached the disk are written again (of a (custom_id, attempt) the last one is valid)
- jobs whose line went with the power run again
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import msgspec

from batchrunner.clock import Clock
from batchrunner.costs import Charge, CostLine, Source, Totals, cost_line
from batchrunner.disk import AppendFile, Disk
from batchrunner.errors import ChangedLines, JournalDamaged
from batchrunner.events import Billing
from batchrunner.index import Index
from batchrunner.job import BadLine
from batchrunner.journal.cost_tail import read_cost_tail
from batchrunner.journal.files import COSTS, CUT, ERRORS, JOURNAL, RESULTS, Ends, RunFiles
from batchrunner.journal.finals import Digest, Survey, Verdict
from batchrunner.journal.reading import JournalReader
from batchrunner.journal.records import Ended, Line, Reopened, Sent, Settled, Started, What, fingerprint_text
from batchrunner.journal.replay import RECENT_NS, History, Replay
from batchrunner.journal.tariff import Tariff
from batchrunner.lifecycle import FINAL, State
from batchrunner.results import FinalLine, bad_line, parse_id


class Recovered(msgspec.Struct, frozen=True):
    """Where the run stands. `index.state` holds each job's state: pending, succeeded or failed."""

    #: open, at their ends
    files: RunFiles
    totals: Totals
    #: what jobs that have not ended went through, by number; those never sent are left out
    histories: dict[int, History]
    completed: int
    #: failed jobs, without the bad lines
    failed: int
    bad_lines: int
    #: jobs that have ended and are not in the input any more; in none of these counts
    removed: int
    #: (monotonic ns, tokens) of each send of the last two minutes, oldest first; nothing where the machine was started since
    recent_sends: list[tuple[int, int, str | None]]
    #: whether `recent_sends` can be relied on: the newest process before ran under the same boot
    same_boot: bool
    #: whether there was no run here before
    fresh: bool
    #: attempts that were in flight when a process ended and were counted lost now
    lost: int
    #: for people, each a sentence or two
    warnings: list[str]


def recover(
    disk: Disk,
    *,
    run_id: str,
    index: Index,
    clock: Clock,
    tariff: Tariff,
    pid: int,
    version: str,
    bad_lines: Iterable[BadLine] = (),
    accept_changes: bool = False,
    retry_failed: bool = False,
) -> Recovered:
    """Bring the run in this directory to where it can go on; an empty directory begins a run.

    `bad_lines`: the lines of the input that are no job, in their order; they are gone through more than once.
    `accept_changes`: changed lines that have not succeeded run anew. `retry_failed`: failed jobs run anew, with all their
    attempts.

    Raises: ChangedLines, JournalDamaged or InvalidInput with nothing touched; DiskError.
    """
    recovery = _Recovery(disk, run_id, index, clock, tariff)
    recovery.judge(accept_changes=accept_changes)
    files = recovery.begin(pid, version)
    try:
        recovery.settle()
        recovery.reopen(retry_failed=retry_failed)
        recovery.rewrite(bad_lines)
    except BaseException:
        files.close()
        raise
    return recovery.result()


class _Recovery:
    """The steps of `recover`, in the order in which they stand here."""

    def __init__(self, disk: Disk, run_id: str, index: Index, clock: Clock, tariff: Tariff) -> None:
        self.disk = disk
        self.run_id = run_id
        self.index = index
        self.clock = clock
        self.tariff = tariff
        self.warnings: list[str] = []
        self.replay = Replay(index)
        self.journal = JournalReader(disk, run_id)
        self.fresh = True
        self.lost = 0
        self.reopened = 0
        self.bad_lines = 0
        #: names of files with lines that must go
        self.unwanted: set[str] = set()
        self.cut: AppendFile | None = None
        self.put_by = 0

    # Reading ------------------------------------------------------------------------------------------------------

    def judge(self, *, accept_changes: bool) -> None:
        """Read everything and refuse what cannot be gone on with. Writes nothing."""
        for offset, record in self.journal:
            self.replay.apply(offset, record)
        self.boot = self.replay.boot
        self.fresh = self.boot is None
        ended = {(record.id, record.attempt) for _, record in self.replay.unsynced}
        self.costs_end, self.costs_crc, self.cost_tail = read_cost_tail(
            self.disk, self.run_id, self.journal, lambda line: (line.custom_id, line.attempt) in ended or self._is_open(line)
        )
        self.results = Survey(self.disk, RESULTS, self.run_id, self.replay)
        self.errors = Survey(self.disk, ERRORS, self.run_id, self.replay)
        self.vanished = self._refuse_missing([*self.results.missing(), *self.errors.missing()])
        self._refuse_changes(accept_changes=accept_changes)

    def _is_open(self, line: CostLine) -> bool:
        """Whether a cost line is of an attempt whose end the journal does not know."""
        if self.replay.open_attempt(line.custom_id, line.attempt) is not None:
            return True
        key = self.replay.key(line.custom_id)
        return isinstance(key, int) and self._is_unheard_of(key, line.attempt)

    def _is_unheard_of(self, number: int, attempt: int) -> bool:
        return self.index.state[number] not in FINAL and attempt > self.replay.sends(number)

    def _refuse_missing(self, missing: list[int]) -> list[Ended]:
        """Of jobs whose final line is gone: those whose line had not been synced. Damage, where one had been."""
        if not missing:
            return []
        wanted = set(missing)
        newest: dict[int, tuple[int, Ended, Line]] = {}
        for offset, record in JournalReader(self.disk, self.run_id):
            if isinstance(record, Ended) and record.line is not None:
                number = self.replay.key(record.id)
                if isinstance(number, int) and number in wanted:
                    newest[number] = (offset, record, record.line)
        for offset, record, line in newest.values():
            if offset < self.journal.synced.journal:
                raise JournalDamaged(line.file, line.offset, f"the line of job {record.id!r} is missing or altered")
        return [record for _, record, _ in newest.values()]

    def _refuse_changes(self, *, accept_changes: bool) -> None:
        """Stop at lines that differ from what ran, unless they succeeded or the change is wanted."""
        changed = self.replay.changed
        for number, (custom_id, identity) in self.errors.adoptable.items():
            if identity.fingerprint != self.index.fingerprints[number]:
                changed.setdefault(number, custom_id)
        kept = {number for number in changed if self.index.state[number] == State.SUCCEEDED}
        for number, (_, identity) in self.results.adoptable.items():
            if number in changed or identity.fingerprint != self.index.fingerprints[number]:
                kept.add(number)
        if kept:
            place = self.index.place(self.index.lines[min(kept)])
            self._warn(
                f"{len(kept)} changed line(s) of the input keep the result of what they were: they had succeeded. "
                f"The first is {place}."
            )
        unfinished = sorted(changed.keys() - kept)
        if unfinished and not accept_changes:
            first = [(self.index.place(self.index.lines[number]), changed[number]) for number in unfinished[:5]]
            raise ChangedLines(first, len(unfinished))
        self.accepted = {number: changed[number] for number in unfinished}

    # Writing ------------------------------------------------------------------------------------------------------

    def begin(self, pid: int, version: str) -> RunFiles:
        """Open the files, cut the journal's and the costs' torn ends, note that this process began."""
        journal = self.journal
        torn = (self.disk.size(COSTS) or 0) - self.costs_end
        ends = Ends(journal.end, journal.number, journal.crc, self.costs_end, self.costs_crc)
        self.files = RunFiles(self.disk, self.run_id, ends)
        if journal.torn_bytes:
            self._warn(f"{JOURNAL}: a torn end of {journal.torn_bytes} bytes was cut.")
        if torn:
            self._warn(f"{COSTS}: a torn end of {torn} bytes was cut; its lines are written again.")
        self._record(Started(self.clock.boot_id, self.clock.monotonic_ns(), self.clock.wall_ns(), pid, version))
        return self.files

    def settle(self) -> None:
        """Close whatever the last process left open, and put all of it on disk."""
        unsynced = [record for _, record in self.replay.unsynced]
        for line in self.cost_tail.values():  # before lines are adopted: it is of earlier attempts of jobs that then end
            self._adopt_cost(line)
        for survey in (self.results, self.errors):
            self._settle_lines(survey)
        if self.cut is not None:
            self.cut.sync()
            self._warn(f"{CUT}: {self.put_by} line(s) of {RESULTS} or {ERRORS} that match nothing were put there.")
        for survey in (self.results, self.errors):
            if survey.torn_at is not None:
                self.files.truncate(survey.name, survey.torn_at)
        for sent in self.replay.abandoned(self.accepted):
            self._lose(sent)
        for record in unsynced:
            self._write_cost_again(record)
        for ended in self.vanished:
            self._record(Reopened(ended.id, ended.fp, ended.attempt, "its line had not reached the disk"))
        if self.vanished:
            self._warn(f"{len(self.vanished)} finished job(s) run again: their lines had not reached the disk.")
        if self.lost:
            self._warn(f"{self.lost} attempt(s) were in flight when the last process ended; each may have been billed.")
        self.files.commit()

    def reopen(self, *, retry_failed: bool) -> None:
        """Make durable which jobs run anew, before their lines go."""
        accepted = dict(self.accepted)
        if retry_failed or accepted:
            for _, line, key, identity in self.errors.kept_lines():
                if isinstance(key, int) and (retry_failed or key in accepted):
                    self._reopen(str(line.custom_id), key, identity.attempt, "failed before")
                    accepted.pop(key, None)
        for number, custom_id in sorted(accepted.items()):
            self._reopen(custom_id, number, self.replay.sends(number), "its line was changed")
        if self.reopened:
            self.files.sync_journal()

    def rewrite(self, bad_lines: Iterable[BadLine]) -> None:
        """Replace results.jsonl or errors.jsonl where lines must go, or other bad lines must stand in errors.jsonl."""
        if RESULTS in self.unwanted:
            self.files.replace(RESULTS, (raw for raw, *_ in self.results.kept_lines()))
        wanted = Digest.of(self.run_id, bad_lines)
        self.bad_lines = wanted.count
        if ERRORS in self.unwanted or self.reopened or wanted != self.errors.bad_lines:
            self.files.replace(ERRORS, self._errors(bad_lines))

    def result(self) -> Recovered:
        """What the run goes on from."""
        replay = self.replay
        removed = replay.removed + sum(isinstance(key, str) for key in replay.histories)
        if removed:
            self._warn(f"{removed} job(s) of this run are not in the input any more; their lines stay.")
        if left := len(replay.submitted):
            self._warn(f"{left} job(s) were left with the server, which is asked for their results.")
        oldest_ns = self.clock.monotonic_ns() - RECENT_NS
        return Recovered(
            files=self.files,
            totals=replay.totals,
            histories={key: history for key, history in replay.histories.items() if isinstance(key, int)},
            completed=self.index.state.count(State.SUCCEEDED),
            failed=self.index.state.count(State.FAILED),
            bad_lines=self.bad_lines,
            removed=replay.removed,
            recent_sends=[send for send in replay.recent if send[0] >= oldest_ns],
            same_boot=self.boot == self.clock.boot_id,
            fresh=self.fresh,
            lost=self.lost,
            warnings=self.warnings,
        )

    def _write_cost_again(self, record: Ended | Settled) -> None:
        """The line of a charge that is known from the journal alone, behind those that it takes the place of."""
        found = self.cost_tail.get((record.id, record.attempt))
        if isinstance(record, Settled):
            if found is None or found.source is not Source.USAGE_EVENT:
                line = cost_line(record.id, record.attempt, record.charge, record.wall_ns, Source.USAGE_EVENT)
                self.files.cost_line(line)
        elif record.charge is not None and found is None:
            self.files.cost_line(cost_line(record.id, record.attempt, record.charge, record.wall_ns))

    def _settle_lines(self, survey: Survey) -> None:
        """Adopt, put by, or let go each line of a file that is not where it should be."""
        for verdict, offset, raw, line in survey.odd_lines():
            if verdict is Verdict.ADOPTABLE and line is not None:
                self._adopt(survey.name, offset, raw, line)
                continue
            self.unwanted.add(survey.name)
            if verdict is Verdict.FOREIGN:
                self._put_by(raw)
        if survey.torn_at is not None:
            torn = b"".join(self.disk.chunks(survey.name, survey.torn_at))
            self._put_by(torn + b"\n")
            self._warn(f"{survey.name}: a torn last line of {len(torn)} bytes was cut.")

    def _put_by(self, raw: bytes) -> None:
        if self.cut is None:
            self.cut = self.disk.open(CUT)
        self.cut.append(raw)
        self.put_by += 1

    def _adopt(self, name: str, offset: int, raw: bytes, line: FinalLine) -> None:
        """Take a whole final line for what it is: the proof that its attempt ended so."""
        identity = parse_id(line.id)
        assert identity is not None
        assert line.custom_id is not None
        number = self.replay.key(line.custom_id)
        assert isinstance(number, int)
        flight = self.replay.open_attempt(line.custom_id, identity.attempt)
        sent = None if flight is None else flight.sent
        charge: Charge | None = None
        finish: str | None = None
        # An error line may name an attempt that has ended otherwise, with its own bill: the job then failed without another.
        spent = name == RESULTS or sent is not None or identity.attempt > self.replay.sends(number)
        known = self.cost_tail.get((line.custom_id, identity.attempt))
        if name == RESULTS:
            charge, finish = self.tariff.success(number, sent, line)
        elif flight is not None and flight is self.replay.submitted.get(line.custom_id):
            charge = self.tariff.worst(flight.sent)  # taken on: what a question met says nothing of what that cost
        elif spent:
            charge = self.tariff.failure(number, sent, line)
        if spent and known is not None:
            charge = known.charge
        self._end(
            Ended(
                id=line.custom_id,
                fp=fingerprint_text(identity.fingerprint),
                attempt=identity.attempt,
                what=What.DONE if name == RESULTS else What.FAILED,
                wall_ns=self.clock.wall_ns(),
                spent=spent,
                charge=charge,
                line=Line(name, offset, len(raw), zlib.crc32(raw)),
                why="adopted" if name == RESULTS else line.error_code(),
                finish=finish,
            )
        )

    def _lose(self, sent: Sent) -> None:
        known = self.cost_tail.get((sent.id, sent.attempt))
        charge = self.tariff.worst(sent) if known is None else known.charge
        self._end(self._lost(sent.id, sent.fp, sent.attempt, charge))
        self.lost += 1

    def _adopt_cost(self, line: CostLine) -> None:
        """A bill for an attempt that the journal never heard of: its records went with the power, its money did not."""
        number = self.replay.key(line.custom_id)
        if not isinstance(number, int) or not self._is_unheard_of(number, line.attempt):
            return
        adoptable = self.results.adoptable.get(number) or self.errors.adoptable.get(number)
        if adoptable is None or adoptable[1].attempt != line.attempt:
            fingerprint = fingerprint_text(self.index.fingerprints[number])
            self._end(self._lost(line.custom_id, fingerprint, line.attempt, line.charge))

    def _lost(self, custom_id: str, fp: str, attempt: int, charge: Charge) -> Ended:
        return Ended(custom_id, fp, attempt, What.LOST, self.clock.wall_ns(), charge=charge, why="the process ended")

    def _end(self, ended: Ended) -> None:
        """Cost line, where there is none yet, then record: the order of the run's own writer."""
        charge = ended.charge
        if charge is not None and charge.billing is not Billing.NOT and (ended.id, ended.attempt) not in self.cost_tail:
            self.files.cost_line(cost_line(ended.id, ended.attempt, charge, ended.wall_ns))
        self._record(ended)

    def _reopen(self, custom_id: str, number: int, attempt: int, why: str) -> None:
        self._record(Reopened(custom_id, fingerprint_text(self.index.fingerprints[number]), attempt, why))
        self.reopened += 1

    def _errors(self, bad_lines: Iterable[BadLine]) -> Iterator[bytes]:
        for bad in bad_lines:
            yield bad_line(self.run_id, bad)
        for raw, *_ in self.errors.kept_lines():
            yield raw

    def _record(self, record: Started | Ended | Reopened) -> None:
        """Write a record, and take it in as the next start will."""
        offset = self.files.marks().journal
        self.files.record(record)
        self.replay.apply(offset, record)

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
