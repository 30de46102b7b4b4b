"""A good run directory, damaged in every way there is: each damage is found, and its place is named."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from trio.testing import MockClock

from batchrunner.errors import InvalidInput
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from batchrunner.journal.records import declared_crc, header
from batchrunner.simulator.settings import Rule
from batchrunner.verification import verify
from tests.sim.nights import PRICES, MakeNight, jobs
from tests.verified import assert_clean, written

Lines = list[bytes]
Damage = Callable[[Path], object]

#: job-1 fails with a 400, job-2 gets one answer that is cut short and then a whole one, job-3 is answered with rubbish
RULES = (
    Rule(kind="error400", tag="job-1", times=0),
    Rule(kind="truncated", tag="job-2", times=1),
    Rule(kind="html200", tag="job-3", times=0),
)


async def good_run(make_night: MakeNight, tmp_path: Path) -> Path:
    """A finished run with successes, failures, a repeat that may have been billed twice, and a bad line."""
    night = make_night([*jobs(8), b"nonsense\n"], rules=RULES)
    await night.run(max_in_flight=2)
    directory = written(night.disk, tmp_path / "night.run", run_id="night", prices=PRICES)
    assert assert_clean(directory).notes == []
    return directory


def edit(name: str, change: Callable[[Lines], object]) -> Damage:
    """Change the lines of a file."""

    def damage(directory: Path) -> None:
        lines = (directory / name).read_bytes().splitlines(keepends=True)
        before = list(lines)
        change(lines)
        assert lines != before, "no damage was done"
        (directory / name).write_bytes(b"".join(lines))

    return damage


def where(lines: Lines, *texts: bytes) -> int:
    """The first line that holds all of these."""
    return next(number for number, line in enumerate(lines) if all(text in line for text in texts))


def replace(name: str, old: bytes, new: bytes, *holding: bytes) -> Damage:
    """Put other bytes into the first line that holds these."""

    def change(lines: Lines) -> None:
        number = where(lines, old, *holding)
        lines[number] = lines[number].replace(old, new, 1)

    return edit(name, change)


def drop(name: str, *holding: bytes) -> Damage:
    return edit(name, lambda lines: lines.pop(where(lines, *holding)))


def double(name: str, *holding: bytes) -> Damage:
    return edit(name, lambda lines: lines.append(lines[where(lines, *holding)]))


def insert(name: str, line: bytes) -> Damage:
    return edit(name, lambda lines: lines.insert(0, line))


def swap_ids(lines: Lines) -> None:
    first, second = where(lines, b'"job-4"'), where(lines, b'"job-5"')
    lines[first] = lines[first].replace(b'"job-4"', b'"job-5"', 1)
    lines[second] = lines[second].replace(b'"job-5"', b'"job-4"', 1)


def flip_digit(lines: Lines) -> None:
    """The last digit of a billed amount."""
    number = where(lines, b'"state":"billed"')
    at = lines[number].index(b',"currency"') - 1
    lines[number] = lines[number][:at] + b"%d" % ((lines[number][at] - 48 + 1) % 10) + lines[number][at + 1 :]


def move(source: str, target: str, *holding: bytes) -> Damage:
    def damage(directory: Path) -> None:
        lines = (directory / source).read_bytes().splitlines(keepends=True)
        line = lines.pop(where(lines, *holding))
        (directory / source).write_bytes(b"".join(lines))
        (directory / target).write_bytes((directory / target).read_bytes() + line)

    return damage


def status(**wrong: Any) -> Damage:
    def damage(directory: Path) -> None:
        file = directory / "status.json"
        file.write_bytes(json.dumps(json.loads(file.read_bytes()) | wrong).encode())

    return damage


def resealed(name: str, change: Callable[[dict[str, Any]], object], *holding: bytes) -> Damage:
    """Change a record of the journal and seal the chain anew: what only a defect of the program could write.

    Marks of other files are left as they are.
    """

    def edit_record(lines: Lines) -> None:
        number = where(lines, *holding)
        record = json.loads(lines[number])
        del record["crc"]
        change(record)
        lines[number] = msgspec.json.encode(record)[:-1] + b',"crc":"00000000"}\n'
        reseal(lines)

    return edit(name, edit_record)


def reseal(lines: Lines) -> None:
    crc = header("night")[1]
    for number, line in enumerate(lines[1:], 1):
        text = line[: line.rindex(b',"crc":"')]
        crc = zlib.crc32(text, crc)
        lines[number] = b'%b,"crc":"%08x"}\n' % (text, crc)
        assert declared_crc(lines[number]) == crc


def without_records(*holding: bytes) -> Damage:
    """Take a record out as if it never had been written, numbers and chain included."""

    def change(lines: Lines) -> None:
        del lines[where(lines, *holding)]
        for number, line in enumerate(lines[1:], 1):
            lines[number] = b'{"n":%d%b' % (number, line[line.index(b",") :])
        reseal(lines)

    return edit(JOURNAL, change)


def rewritten(old: bytes, new: bytes, *holding: bytes) -> Damage:
    """Change a result and seal it, with its place, in the journal anew: what only a defect of the program could write."""
    assert len(old) == len(new)

    def damage(directory: Path) -> None:
        replace(RESULTS, old, new, *holding)(directory)
        lines = (directory / RESULTS).read_bytes().splitlines(keepends=True)
        crc = zlib.crc32(lines[where(lines, new, *holding)])
        resealed(JOURNAL, lambda record: record["line"].update(crc=crc), b'"ended"', *holding)(directory)

    return damage


def charge(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda record: record["charge"].update(fields)


def with_attempt_3(record: dict[str, Any]) -> None:
    record["attempt"] = 3


BILLED = b'"state":"billed"'
DONE_4 = (b'"ended"', b'"job-4"')

DAMAGES: list[tuple[str, Damage, str, str, str | None]] = [
    # what is done; what is found; in which file; of which job
    ("a digit of a cost", edit(COSTS, flip_digit), "cost", COSTS, None),
    ("a digit of a cost below what was synced", edit(COSTS, flip_digit), "costs_altered", COSTS, None),
    ("tokens of a cost", replace(COSTS, b'"cached":0', b'"cached":1', BILLED), "cost", COSTS, None),
    ("a bill made certain", replace(COSTS, b"maybe_billed", b"billed"), "cost", COSTS, "job-2"),
    ("a bill taken off", replace(COSTS, b'"billed"', b'"not_billed"', b"job-4"), "cost", COSTS, "job-4"),
    ("another model on a bill", replace(COSTS, b"simulated-small", b"simulated-large", b"job-4"), "cost", COSTS, "job-4"),
    ("a bill dropped", drop(COSTS, b"job-4"), "missing_bill", JOURNAL, "job-4"),
    ("a perhaps dropped", drop(COSTS, b"maybe_billed", b"job-2"), "missing_bill", JOURNAL, "job-2"),
    ("a bill for an attempt that cost nothing", replace(COSTS, b'"job-4"', b'"job-1"'), "stray_bill", COSTS, "job-1"),
    ("a bill for an unknown job", replace(COSTS, b'"job-4"', b'"job-9"'), "stray_bill", COSTS, "job-9"),
    ("a bill for an unknown attempt", replace(COSTS, b'"attempt":1', b'"attempt":7', b"job-4"), "stray_bill", COSTS, "job-4"),
    ("a line of costs that is none", replace(COSTS, b'"endpoint"', b'"endpaint"'), "no_cost_line", COSTS, None),
    ("costs cut short", edit(COSTS, lambda lines: lines.pop()), "cut_short", COSTS, None),
    ("costs emptied", edit(COSTS, lambda lines: lines.clear()), "missing_bill", JOURNAL, "job-4"),
    ("a result dropped", drop(RESULTS, b"job-4"), "missing_line", JOURNAL, "job-4"),
    ("results cut short", edit(RESULTS, lambda lines: lines.pop()), "cut_short", RESULTS, None),
    ("a result torn", edit(RESULTS, lambda lines: lines.append(lines.pop()[:-9])), "torn", RESULTS, None),
    ("a result twice", double(RESULTS, b"job-4"), "twice", RESULTS, "job-4"),
    ("two results with each other's ids", edit(RESULTS, swap_ids), "wrong_attempt", RESULTS, "job-5"),
    ("a word of an answer", replace(RESULTS, b'"content"', b'"contend"', b"job-4"), "altered", RESULTS, "job-4"),
    (
        "a result of another attempt",
        replace(RESULTS, b'-1","custom', b'-2","custom', b"job-4"),
        "wrong_attempt",
        RESULTS,
        "job-4",
    ),
    ("a result of another run", replace(RESULTS, b'"night-', b'"other-', b"job-4"), "foreign", RESULTS, "job-4"),
    ("a result of an unknown job", replace(RESULTS, b'"job-4"', b'"job-9"'), "unknown_job", RESULTS, "job-9"),
    ("nonsense among the results", insert(RESULTS, b"nonsense\n"), "foreign", RESULTS, None),
    ("a success among the errors", move(RESULTS, ERRORS, b"job-4"), "wrong_file", ERRORS, "job-4"),
    ("a failure among the results", move(ERRORS, RESULTS, b"job-1"), "wrong_file", RESULTS, "job-1"),
    ("an error dropped", drop(ERRORS, b"job-1"), "missing_line", JOURNAL, "job-1"),
    ("an error's code", replace(ERRORS, b'"code":"', b'"code":"x', b"job-1"), "altered", ERRORS, "job-1"),
    ("a bad line twice", double(ERRORS, b'"custom_id":null'), "bad_line_order", ERRORS, None),
    ("a bad line of another number", replace(ERRORS, b'"line":9', b'"line":8'), "foreign", ERRORS, None),
    ("a bad line that is no JSON", replace(ERRORS, b'"response":null', b'"response":nul'), "not_json", ERRORS, None),
    ("a bad line dropped", drop(ERRORS, b'"custom_id":null'), "sum", "status.json", None),
    ("a letter of a record", replace(JOURNAL, b'"job-4"', b'"job-X"'), "journal_damaged", JOURNAL, None),
    ("a record dropped", drop(JOURNAL, b'"sent"', b"job-4"), "journal_damaged", JOURNAL, None),
    ("a record twice", edit(JOURNAL, lambda lines: lines.insert(5, lines[5])), "journal_damaged", JOURNAL, None),
    ("two records swapped", edit(JOURNAL, lambda lines: lines.insert(4, lines.pop(5))), "journal_damaged", JOURNAL, None),
    ("another run's header", replace(JOURNAL, b'"night"', b'"other"'), "journal_header", JOURNAL, None),
    ("a header of nonsense", edit(JOURNAL, lambda lines: lines.__setitem__(0, b"{}\n")), "journal_header", JOURNAL, None),
    ("the journal's end cut off", edit(JOURNAL, lambda lines: lines.__delitem__(slice(9, None))), "sum", "status.json", None),
    ("fewer successes shown", status(completed=5), "sum", "status.json", None),
    ("more money shown", status(billed_usd="99.5"), "sum", "status.json", None),
    ("fewer attempts shown", status(attempts=1), "sum", "status.json", None),
    ("other tokens shown", status(usage={"input_tokens": 1, "output_tokens": 1}), "sum", "status.json", None),
    ("another run's status", status(run_id="other"), "status_foreign", "status.json", None),
    (
        "no status that can be read",
        lambda at: (at / "status.json").write_bytes(b"{") and None,
        "status_unreadable",
        "status.json",
        None,
    ),
    ("an amount that prices do not explain", resealed(JOURNAL, charge(amount="0.5"), *DONE_4), "amount", RESULTS, "job-4"),
    (
        "a worst case out of nowhere",
        resealed(JOURNAL, charge(amount="9"), b'"ended"', b"job-3"),
        "amount",
        JOURNAL,
        "job-3",
    ),
    ("tokens that the reply does not name", resealed(JOURNAL, charge(input=1), *DONE_4), "usage", RESULTS, "job-4"),
    ("a success that is not billed", resealed(JOURNAL, charge(billing="maybe_billed"), *DONE_4), "billing", JOURNAL, "job-4"),
    (
        "an unreadable answer that is not billed",
        resealed(JOURNAL, lambda record: record.pop("charge") and None, b'"ended"', b"job-3"),
        "billing",
        ERRORS,
        "job-3",
    ),
    ("a result that is no JSON", rewritten(b'"content":"', b'"content":\xff', b'"job-4"'), "not_json", RESULTS, "job-4"),
    ("a result without an end", rewritten(b'"error":null', b'"error":nill', b'"job-4"'), "no_success", RESULTS, "job-4"),
    ("an attempt that was never sent", without_records(b'"sent"', b"job-1"), "impossible", JOURNAL, None),
    (
        "a wrong ordinal",
        resealed(JOURNAL, with_attempt_3, b'"sent"', b"job-5"),
        "impossible",
        JOURNAL,
        "job-5",
    ),
    ("an end that cannot be", without_records(b'"sent"', b'"attempt":1', b"job-2"), "impossible", JOURNAL, "job-2"),
    (
        "a summary that was never true",
        resealed(JOURNAL, lambda record: record["summary"].update(completed=99), b'"finished"'),
        "sum",
        JOURNAL,
        None,
    ),
    (
        "a mark beyond the file",
        resealed(JOURNAL, lambda record: record.update(journal=10**9), b'"synced"'),
        "impossible",
        JOURNAL,
        None,
    ),
]


@pytest.mark.parametrize(("damage", "code", "file", "custom_id"), [pytest.param(*row[1:], id=row[0]) for row in DAMAGES])
async def test_damage_is_found(
    autojump_clock: MockClock,
    make_night: MakeNight,
    tmp_path: Path,
    damage: Damage,
    code: str,
    file: str,
    custom_id: str | None,
) -> None:
    """The finding names the kind of damage, the file, and the job; and a byte that is in the file."""
    good = await good_run(make_night, tmp_path)
    damage(good)
    report = verify(good)
    found = [finding for finding in report.findings if (finding.code, finding.place.file) == (code, file)]
    assert found, report.findings
    assert custom_id is None or custom_id in {finding.custom_id for finding in found}
    for finding in found:
        assert finding.remedy
        if file.endswith(".jsonl"):
            offset = finding.place.offset
            assert offset is not None
            assert_begins_a_line(good / file, offset, finding.place.line)


def assert_begins_a_line(path: Path, offset: int, line: int | None) -> None:
    data = path.read_bytes()
    assert offset == 0 or data[offset - 1 : offset] == b"\n"
    assert line is None or data[:offset].count(b"\n") == line - 1


async def test_any_byte_of_any_file(autojump_clock: MockClock, make_night: MakeNight, tmp_path: Path) -> None:
    """Whichever byte is changed, taken out or put in, it is found, or was never said to be synced; and nothing is raised.

    But for the words of a line about the input that is no job's: only the input holds them too.
    """
    good = await good_run(make_night, tmp_path)
    files = {name: (good / name).read_bytes() for name in (RESULTS, ERRORS, COSTS, JOURNAL)}
    chance = random.Random(3)
    torn = 0
    for _ in range(400):
        name = chance.choice(list(files))
        data = bytearray(files[name])
        at = chance.randrange(files[ERRORS].index(b"\n") if name == ERRORS else 0, len(data))
        match chance.randrange(3):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at]
            case _:
                data.insert(at, chance.choice(b"\n\x00{}\"'9a\xff"))
        (good / name).write_bytes(data)
        found, notes = outcome(good)
        if not found:
            assert "torn_journal" in notes, (name, at)
            torn += 1
        (good / name).write_bytes(files[name])
    assert torn < 40


def outcome(directory: Path) -> tuple[bool, set[str]]:
    """Whether something is wrong, and what is noted."""
    try:
        report = verify(directory)
    except InvalidInput:
        return True, set()
    return not report.clean, {note.code for note in report.notes}
