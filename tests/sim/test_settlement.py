"""A run settled by its platform's usage events: what is written, what a resume makes of it, what a kill in the middle leaves."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from trio.testing import MockClock

from batchrunner import status as status_file
from batchrunner.costs import Charge, Source, read_cost_line
from batchrunner.events import Billing
from batchrunner.journal.files import COSTS, JOURNAL
from batchrunner.journal.records import Settled, decode
from batchrunner.platform.usage_events import read_page
from batchrunner.reconciliation import AttemptReason, Settlement, reconcile
from batchrunner.run_attempts import Known, read_attempts
from batchrunner.run_directory import read_manifest
from batchrunner.settlement import Change, changes, write
from batchrunner.simulator.settings import Rule
from batchrunner.story import tell
from batchrunner.story_text import story_text
from batchrunner.usage_event import UsageEvent
from batchrunner.verification import verify
from batchrunner.verification.reader import RunReader
from batchrunner.verification.repair import repair
from tests.sim.nights import PRICES, MakeNight, Night, job
from tests.verified import assert_clean, written

HOUR_NS = 3_600 * 1_000_000_000
#: answered too late to be seen, or not at all; half of these are billed
FAULTS = dict.fromkeys(("error504", "reset_before", "truncated", "error500"), 0.06)


class Books:
    """A night's run directory on disk, and its events."""

    def __init__(self, night: Night, tmp_path: Path) -> None:
        self.night = night
        self.path = written(night.disk, tmp_path / "night.run", run_id="night", prices=PRICES)
        self.clock = night.clock

    def events(self) -> list[UsageEvent]:
        return list(read_page(self.night.platform.account.usage_body({"limit": "1000"}), "events").events)

    def known(self) -> list[Known]:
        with RunReader(self.path) as reader:
            known, damaged = read_attempts(reader, "night", self.clock.wall_ns())
        assert not damaged
        return known

    def found(self) -> tuple[list[Change], Settlement]:
        known, events = self.known(), self.events()
        settlement = reconcile([one.attempt for one in known], events, complete_until_ns=self.clock.wall_ns() + HOUR_NS)
        return changes(known, events, settlement), settlement

    def settle(self) -> list[Change]:
        found, _ = self.found()
        write(self.path, read_manifest(self.path), found, self.clock)
        return found

    def back(self) -> None:
        """What is on disk is what the night goes on from."""
        for file in self.path.iterdir():
            if file.name != "run.json":
                self.night.disk.files[file.name] = bytearray(file.read_bytes())

    def platform_usd(self) -> Decimal:
        return sum((event.cost_usd for event in self.events() if event.cost_usd is not None), Decimal(0))

    def records(self) -> list[Settled]:
        return [record for line in self.lines(JOURNAL)[1:] if isinstance(record := decode(line), Settled)]

    def lines(self, name: str) -> list[bytes]:
        return (self.path / name).read_bytes().splitlines(keepends=True)


async def settled_night(make_night: MakeNight, tmp_path: Path) -> Books:
    """Prompts of many lengths, few at a time: nearly all that was charged can be told apart."""
    night = make_night([job(f"job-{number}", text="word " * (10 + number)) for number in range(200)], faults=FAULTS)
    await night.run(max_in_flight=5)
    return Books(night, tmp_path)


async def test_what_the_books_say_is_what_the_platform_charged(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path
) -> None:
    """What is billed comes to what is ours of theirs, but for what is undecided; and most of what was uncertain is no more."""
    books = await settled_night(make_night, tmp_path)
    uncertain = sum(one.attempt.billing is Billing.MAYBE for one in books.known())
    assert uncertain > 30
    found, settlement = books.found()
    sure = {AttemptReason.MATCHED, AttemptReason.ALIKE, AttemptReason.NO_EVENT, AttemptReason.FAILED_EVENT}
    assert {change.claim.reason for change in found} <= sure
    books.settle()
    report = assert_clean(books.path)
    left = sum(claim.billing is Billing.MAYBE for claim in settlement.attempts)
    assert left < uncertain / 3
    ours, undecided = settlement.ours.amount_usd, settlement.undecided.amount_usd
    assert ours <= report.sums.billed_usd <= ours + undecided
    assert settlement.theirs.amount_usd == books.platform_usd()
    assert settlement.strangers.count == 0
    shown = status_file.decode((books.path / "status.json").read_bytes())
    assert (shown.billed_usd, shown.maybe_billed_usd) == (report.sums.billed_usd, report.sums.maybe_billed_usd)


async def test_a_finished_run_stays_finished_with_the_new_figures(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path
) -> None:
    books = await settled_night(make_night, tmp_path)
    books.settle()
    report = assert_clean(books.path)
    assert report.finished
    assert report.notes == []


async def test_to_settle_again_finds_nothing_to_write(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    books = await settled_night(make_night, tmp_path)
    assert books.settle()
    assert books.found()[0] == []


async def test_a_settled_line_is_the_last_of_its_attempt_and_the_platforms_own(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path
) -> None:
    books = await settled_night(make_night, tmp_path)
    found = books.settle()
    raw = (books.path / COSTS).read_bytes().splitlines()
    lines = {(line.custom_id, line.attempt): line for line in map(read_cost_line, raw) if line is not None}
    for change in found:
        line = lines[change.known.attempt.custom_id, change.known.attempt.number]
        assert line.source is Source.USAGE_EVENT
        assert (line.state, line.cost.amount) == (change.charge.billing, change.charge.amount)
    by_id = {event.id: event for event in books.events()}
    told = [record for record in books.records() if record.event is not None]
    assert told
    assert all(by_id[record.event or ""].cost_usd == (record.charge.amount or 0) for record in told)


async def test_a_resume_keeps_what_was_settled(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """Recovery, the totals of the next start and its summary follow the settlement, and verify is content."""
    books = await settled_night(make_night, tmp_path)
    books.settle()
    before = assert_clean(books.path).sums
    settled = len(books.records())
    books.back()
    status = await books.night.run(retry_failed=True)
    assert status.billed_usd >= before.billed_usd
    after = assert_clean(Books(books.night, tmp_path).path)
    assert (after.sums.billed_usd, after.sums.maybe_billed_usd) == (status.billed_usd, status.maybe_billed_usd)
    assert len(Books(books.night, tmp_path).records()) == settled > 0


@pytest.mark.parametrize(
    ("records", "lines"), [(1.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 1.0), (0.0, 0.5)], ids=lambda share: f"{share:.0%}"
)
async def test_killed_or_cut_off_in_the_middle_it_is_settled_by_the_next(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path, records: float, lines: float
) -> None:
    """However much of its records and of its lines has reached the disk: nothing is wrong, and to settle again completes it."""
    books = await settled_night(make_night, tmp_path)
    costs_bytes = (books.path / COSTS).stat().st_size
    shown = (books.path / "status.json").read_bytes()
    count = len(books.settle())
    wanted = assert_clean(books.path).sums
    journal = (books.path / JOURNAL).read_bytes().splitlines(keepends=True)
    first = next(number for number, line in enumerate(journal) if b'"t":"settled"' in line)
    (books.path / JOURNAL).write_bytes(b"".join(journal[: first + round(records * count)]))
    costs = (books.path / COSTS).read_bytes()
    kept = costs[costs_bytes:].splitlines(keepends=True)[: round(lines * count)]
    (books.path / COSTS).write_bytes(costs[:costs_bytes] + b"".join(kept))
    (books.path / "status.json").write_bytes(shown)
    assert_clean(books.path)
    books.settle()
    assert assert_clean(books.path).sums == wanted


async def test_an_attempt_at_a_line_that_was_changed_since_changes_nothing_of_the_job(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path
) -> None:
    """It is settled as what it was: the job stays the new line's, for whoever reads the journal alone."""
    lines = [job(f"job-{number}", text="word " * (10 + number)) for number in range(30)]
    night = make_night(lines, rules=(Rule(kind="empty", tag="job-3"), Rule(kind="error400", tag="job-3")))
    await night.run(max_in_flight=5)
    lines[3] = job("job-3", text="another")
    night.path.write_bytes(b"".join(lines))
    await night.run(accept_changes=True, max_in_flight=5)
    assert night.failures()["job-3"] == "invalid_request"
    books = Books(night, tmp_path)
    assert [change.known.attempt.number for change in books.settle()] == [1]
    assert_clean(books.path)
    assert [line for line in repair(books.path, books.clock).done if "changed" in line] == []
    books.back()
    await night.run()


async def test_a_jobs_story_tells_of_its_settlement(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    books = await settled_night(make_night, tmp_path)
    change = books.settle()[0]
    story = tell(books.path, change.known.attempt.custom_id)
    assert [step.charge for step in story.steps if step.what == "settled"] == [change.charge]
    assert "settled by the platform's usage events" in story_text(story, None, live=False)


async def test_a_charge_that_was_altered_behind_a_settlement_is_found(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path
) -> None:
    """A settled line is held against its record as any other is."""
    books = await settled_night(make_night, tmp_path)
    assert books.settle()
    lines = books.lines(COSTS)
    place = next(place for place, line in enumerate(lines) if b'"source":"usage_event","state":"billed"' in line)
    lines[place] = lines[place].replace(b'"output":', b'"output":1')
    (books.path / COSTS).write_bytes(b"".join(lines))
    assert {"cost", "costs_altered"} <= {finding.code for finding in verify(books.path).findings}


async def test_a_settlement_from_a_charge_that_was_never_believed_is_found(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path
) -> None:
    """Records that contradict each other are no settlement, whoever wrote them."""
    books = await settled_night(make_night, tmp_path)
    change = books.found()[0][0]
    change.known.charge = Charge("simulated-small", "/v1/chat/completions", Billing.BILLED, amount=Decimal(9))
    write(books.path, read_manifest(books.path), [change], books.clock)
    assert "settled" in {finding.code for finding in verify(books.path).findings}


async def test_what_the_figures_are_shown_from_may_be_missing(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path
) -> None:
    """Without a status.json the books are settled all the same; the next start shows the sums, and calls the run finished."""
    books = await settled_night(make_night, tmp_path)
    (books.path / "status.json").unlink()
    assert books.settle()
    report = assert_clean(books.path)
    assert not report.finished
    assert {note.code for note in report.notes} == {"no_status"}


async def test_what_the_platform_calls_free_of_cost_but_does_not_price_is_left(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path
) -> None:
    """An event without an amount settles nothing."""
    books = await settled_night(make_night, tmp_path)
    known = books.known()
    events = [msgspec.structs.replace(event, cost_usd=None) for event in books.events()]
    settlement = reconcile([one.attempt for one in known], events, complete_until_ns=books.clock.wall_ns() + HOUR_NS)
    assert {change.charge.billing for change in changes(known, events, settlement)} <= {Billing.NOT}
