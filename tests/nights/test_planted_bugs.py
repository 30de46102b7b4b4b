"""Bugs that are planted on purpose, each caught within a bounded number of nights: the harness is tested too.

Each is what somebody could write by mistake, and breaks one promise. A night that catches it is played again without it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batchrunner import budget, polling
from batchrunner.attempts import Attempts
from batchrunner.budget import Decision, Event, Limits, Reserve, Slot, State, Take, Taken
from batchrunner.cli.start import _tariff
from batchrunner.dispatcher import Dispatcher
from batchrunner.errors import DiskError
from batchrunner.index import Duplicate, Index
from batchrunner.journal import Journal, Recovered, reading, recover, recovery
from batchrunner.journal.files import RunFiles
from batchrunner.journal.records import Sent, Submitted, Synced, declared_crc
from batchrunner.journal.replay import Replay
from batchrunner.results import FinalLine
from batchrunner.streaming import Stream
from tests.nights.play import BrokenPromise, play
from tests.sim import nights

Plant = Callable[[pytest.MonkeyPatch], None]
#: nights within which each must be caught
MOST_NIGHTS = 10


def skipped_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit leaves results.jsonl out."""
    sync = RunFiles.sync

    def skip(files: RunFiles, marks: Synced) -> None:
        sync(files, msgspec.structs.replace(marks, results=-2))

    monkeypatch.setattr(RunFiles, "sync", skip)


def swapped_commit_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are handed out first, and synced then."""
    commit = Journal._commit

    async def swapped(journal: Journal) -> None:
        for event in journal._events:
            journal._sink(event)
        journal._events.clear()
        await commit(journal)

    monkeypatch.setattr(Journal, "_commit", swapped)


def sync_noted_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal says that the files are on disk before they are."""
    sync = RunFiles.sync

    def note_first(files: RunFiles, marks: Synced) -> None:
        files.record(marks)
        sync(files, marks)

    monkeypatch.setattr(RunFiles, "sync", note_first)


def ignored_sync_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that fails is taken for one that did not."""
    sync = RunFiles.sync

    def ignore(files: RunFiles, marks: Synced) -> None:
        with contextlib.suppress(DiskError):
            sync(files, marks)

    monkeypatch.setattr(RunFiles, "sync", ignore)


def lost_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request goes out without a record."""

    def record(journal: Journal, record: object, event: object = None) -> None:
        if not isinstance(record, Sent):
            write(journal, record, event)  # type: ignore[arg-type]

    write = Journal.record
    monkeypatch.setattr(Journal, "record", record)


def slot_granted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each send time is given to two requests, which count as one."""
    step = budget.step
    taken: dict[int, Taken] = {}

    def twice(state: State, now_ns: int, event: Event) -> Decision:
        if isinstance(event, Reserve) and id(state) in taken:
            return Slot(-1, now_ns)
        if isinstance(event, Take) and event.slot == -1:
            return msgspec.structs.replace(taken.pop(id(state)), offer=0)
        decision = step(state, now_ns, event)
        if isinstance(decision, Taken):
            taken[id(state)] = decision
        return decision

    monkeypatch.setattr(budget, "step", twice)


def last_minute_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start takes the account for one that nobody has used."""
    monkeypatch.setattr(nights, "_last_minute", lambda *_: ())


def result_written_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume writes the line again that it adopts."""
    adopt = recovery._Recovery._adopt

    def again(self: recovery._Recovery, name: str, offset: int, raw: bytes, line: FinalLine) -> None:
        adopt(self, name, offset, raw, line)
        self.files.final_line(name, raw)

    monkeypatch.setattr(recovery._Recovery, "_adopt", again)


def costs_line_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What may have been billed is not listed."""
    write = RunFiles.cost_line
    monkeypatch.setattr(RunFiles, "cost_line", lambda files, line: None if b"maybe_billed" in line else write(files, line))


def torn_record_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is taken for whole if it names a checksum, be it true or not."""
    monkeypatch.setattr(reading, "check", lambda line, _: declared_crc(line))


def torn_tail_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a power cut tore stays where it is, and the next record is written behind it."""
    monkeypatch.setattr(RunFiles, "truncate", lambda *_: None)


def duplicate_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that repeats an id is a job of its own."""
    add = Index.add

    def take_in(index: Index, custom_id: str, *columns: Any) -> int | Duplicate:
        added = add(index, custom_id, *columns)
        return add(index, f"{custom_id} again", *columns) if isinstance(added, Duplicate) else added

    monkeypatch.setattr(Index, "add", take_in)


def attempts_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart a job has not been sent yet."""

    def forget(*args: object, **kwargs: object) -> Recovered:
        return msgspec.structs.replace(recover(*args, **kwargs), histories={})  # type: ignore[arg-type]

    monkeypatch.setattr(nights, "recover", forget)


def in_flight_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was in flight when the process ended is sent again, and nothing says that it may have been billed."""
    monkeypatch.setattr(recovery._Recovery, "_lose", lambda *_: None)


def adopted_at_another_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole answer whose process was killed before it wrote the bill is billed at the most that it can have cost."""

    def ceiling(*args: object) -> object:
        real = _tariff(*args)  # type: ignore[arg-type]
        return msgspec.structs.replace(real, price=lambda model, _facts: real.ceiling(model, 1_000, 1_000, {}))

    monkeypatch.setattr(nights, "_tariff", ceiling)


def work_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server has taken a job on, and the journal does not say under which name."""
    record = Journal.record
    monkeypatch.setattr(
        Journal, "record", lambda journal, what, event=None: None if isinstance(what, Submitted) else record(journal, what, event)
    )


def work_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start takes for lost what the server works on."""
    monkeypatch.setattr(Replay, "_submitted", lambda *_: None)


def missing_work_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One moment in which the server does not know the work is enough."""
    monkeypatch.setattr(polling, "MISSING_NS", 0)


def stream_cut_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that ends is taken for an answer that does."""
    monkeypatch.setattr(Stream, "end", lambda _: True)


def limit_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    """People give a run another limit, and it goes on by the old one."""

    async def adopt(dispatcher: Dispatcher, limits: Limits) -> None:
        dispatcher.limits = limits

    monkeypatch.setattr(Dispatcher, "adopt", adopt)


def pause_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused run sends on."""
    monkeypatch.setattr(Attempts, "due", lambda attempts, now_ns: attempts._resilience.due(now_ns))


#: which of its nights is the first to be played, and what the one says that catches it
PLANTED: dict[Plant, tuple[int, str]] = {
    skipped_sync: (0, "before results.jsonl is on disk"),
    swapped_commit_order: (0, "is shown before .* is on disk"),
    sync_noted_first: (5, "safely on disk once|JournalDamaged|cut_short"),
    ignored_sync_error: (45, "is on disk"),
    lost_sent: (0, "nothing says so on disk"),
    slot_granted_twice: (0, "sends within a minute"),
    last_minute_forgotten: (10, "sends within a minute"),
    result_written_twice: (0, "two final lines"),
    costs_line_dropped: (0, "was billed and is not listed|costs.jsonl"),
    torn_record_taken: (20, "InvalidInput: journal.jsonl"),
    torn_tail_left: (5, "DecodeError|JournalDamaged|journal_damaged"),
    duplicate_taken_in: (0, "in flight twice|is over|twice"),
    attempts_counted_anew: (0, "goes out a second time"),
    in_flight_forgotten: (0, "still in flight"),
    adopted_at_another_price: (0, "was charged|cost .* and is listed"),
    work_not_named: (0, "the run and its journal disagree|nothing on disk names it"),
    work_left_behind: (0, "the run and its journal disagree|the server works on it"),
    missing_work_given_up: (0, "has expired, and the server has it"),
    stream_cut_taken: (5, "another answer|other tokens"),
    limit_not_adopted: (0, "sends within a minute"),
    pause_ignored: (15, "and the run is paused"),
}


#: each third one in every test run, all of them in the campaign
SHARES = [pytest.param(plant, marks=() if place % 3 == 0 else pytest.mark.campaign) for place, plant in enumerate(PLANTED)]


@pytest.mark.parametrize("plant", SHARES, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, says = PLANTED[plant]
    with monkeypatch.context() as planted:
        plant(planted)
        seed, caught = _first_night_that_breaks(range(first, first + MOST_NIGHTS), tmp_path)
    print(f"caught by night {seed}: {caught}")
    assert re.search(says, caught), caught
    play(seed, tmp_path)


def _first_night_that_breaks(seeds: Iterable[int], directory: Path) -> tuple[int, str]:
    """Its seed, and which promise it found broken."""
    for seed in seeds:
        try:
            play(seed, directory)
        except BrokenPromise as broken:
            return seed, broken.promise
    raise AssertionError(f"not caught in {MOST_NIGHTS} nights")
