"""R-13: job files edited between two starts. What a line says now is run, kept or refused by name; none is passed over."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from trio.testing import MockClock

from batchrunner.errors import ChangedLines
from batchrunner.simulator.settings import Rule
from tests.sim.nights import PRICES, MakeNight, Night, after, assert_bill, job
from tests.verified import assert_clean, written

Lines = list[bytes]
JOBS = 10
#: how job-0 to job-9 stand when the file is edited
DONE, FAILED, LOST, WAITING = range(3), 3, (4, 5), range(6, JOBS)
RULES = (
    Rule(kind="error400", tag=f"job-{FAILED}", times=1),
    *(Rule(kind="silent", tag=f"job-{number}", times=1) for number in LOST),
)


class Edit(NamedTuple):
    """What was done to the file, and what the next start does: which changed lines it refuses, what it then asks for."""

    edit: Callable[[Lines], Lines]
    refuses: AbstractSet[int] = frozenset()
    #: beside what had not ended
    asks_for: AbstractSet[str] = frozenset()
    leaves_out: AbstractSet[str] = frozenset()
    warns: str | None = None


def changed(*numbers: int) -> Callable[[Lines], Lines]:
    """Another prompt in these lines."""
    return lambda lines: [line.replace(b"moon", b"Moon") if number in numbers else line for number, line in enumerate(lines)]


def swapped(one: int, other: int) -> Callable[[Lines], Lines]:
    """Each has the other's custom_id."""

    def edit(lines: Lines) -> Lines:
        lines = list(lines)
        mine, theirs = (f'"job-{number}"'.encode() for number in (one, other))
        lines[one], lines[other] = lines[one].replace(mine, theirs), lines[other].replace(theirs, mine)
        return lines

    return edit


EDITS = {
    "nothing": Edit(lambda lines: lines),
    "reordered": Edit(lambda lines: lines[::-1]),
    "appended": Edit(lambda lines: [*lines, job("new")], asks_for={"new"}),
    "inserted at the front": Edit(lambda lines: [job("new"), *lines], asks_for={"new"}),
    "removed": Edit(
        lambda lines: [line for number, line in enumerate(lines) if number not in (0, 4, 9)],
        leaves_out={"job-4", "job-9"},
        warns="2 job(s) of this run are not in the input",
    ),
    "one that failed was removed": Edit(lambda lines: [line for number, line in enumerate(lines) if number not in (1, 3)]),
    "one that waits was changed": Edit(changed(7)),
    "one that was in flight was changed": Edit(changed(4), refuses={4}),
    "one that failed was changed": Edit(changed(3), refuses={3}, asks_for={"job-3"}),
    "one that succeeded was changed": Edit(changed(1), warns="1 changed line(s)"),
    "a space more": Edit(
        lambda lines: [line.replace(b'{"custom_id"', b'{ "custom_id"') for line in lines],
        refuses={3, 4, 5},
        asks_for={"job-3"},
        warns="3 changed line(s)",
    ),
    "two ids swapped": Edit(swapped(2, 5), refuses={5}, warns="1 changed line(s)"),
    "all at once": Edit(lambda lines: [job("new"), *changed(1, 3, 4, 7)(lines)[::-1]], refuses={3, 4}, asks_for={"new", "job-3"}),
}


async def stopped_half_way(night: Night) -> None:
    """Three jobs have succeeded, one has failed, two were in flight; four were never sent."""
    await night.run(after(60, lambda run: run.cancel()), max_in_flight=2)
    assert sorted(night.succeeded()) == [f"job-{number}" for number in DONE]
    assert list(night.failures()) == [f"job-{FAILED}"]
    assert night.maybe_billed() == {f"job-{number}" for number in LOST}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
async def test_R13_a_job_file_that_was_edited(
    autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path, edit: Edit
) -> None:
    """Refused by its name, with nothing touched, wherever it was sent and has not succeeded; then, accepted, run as it stands."""
    lines = [job(f"job-{number}", text=f"How high is the moon, {number}?") for number in range(JOBS)]
    night = make_night(lines, rules=RULES)
    await stopped_half_way(night)
    kept = night.lines("results.jsonl")
    asked = len(night.platform.asked)
    edited = edit.edit(lines)
    assert_clean(written(night.disk, tmp_path / "before.run", run_id="night", prices=PRICES))
    night.path.write_bytes(b"".join(edited))
    before = {name: bytes(data) for name, data in night.disk.files.items()}
    if edit.refuses:
        with pytest.raises(ChangedLines) as caught:
            await night.run()
        assert {custom_id for _, custom_id in caught.value.lines} == {f"job-{number}" for number in edit.refuses}
        assert {name: bytes(data) for name, data in night.disk.files.items()} == before
        assert len(night.platform.asked) == asked
    status = await night.run(accept_changes=bool(edit.refuses))
    unfinished = {f"job-{number}" for number in (*LOST, *WAITING)}
    assert {each.custom_id for each in night.platform.asked[asked:]} == (unfinished | edit.asks_for) - edit.leaves_out
    assert night.lines("results.jsonl")[: len(kept)] == kept, "what was paid for is kept"
    ended = {*night.succeeded(), *night.failures()}
    assert len(night.succeeded()) + len(night.failures()) == len(ended)
    assert ended >= {msgspec.json.decode(line)["custom_id"] for line in edited}
    assert (status.state, status.total) == ("completed", len(edited))
    assert_bill(night, status)
    assert edit.warns is None or any(edit.warns in line for line in night.said), night.said
    assert status.removed == len(ended) - len(edited)
    assert_clean(written(night.disk, tmp_path / "after.run", run_id="night", prices=PRICES))
