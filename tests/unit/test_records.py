from __future__ import annotations

import zlib
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.costs import Charge
from batchrunner.events import Billing
from batchrunner.journal.records import (
    Ended,
    Finished,
    Line,
    Record,
    Reopened,
    Sent,
    Started,
    Synced,
    What,
    check,
    declared_crc,
    decode,
    encode,
    fingerprint_text,
    header,
    is_numbered,
    read_header,
)

CHARGE = Charge("m", "/v1/messages", Billing.BILLED, 5, 1, 6, Decimal("0.000000123"))
FILM = {"video-second": Decimal("7.50")}
RECORDS: list[Record] = [
    Started("boot-1", 1, 2, 3, "0.1.0"),
    Sent("job-1", "00000000000000ff", 2, "boot", 10, 20, 5, None, "m", "/v1/messages"),
    Ended("job-1", "00000000000000ff", 2, What.DONE, 7, True, CHARGE, Line("results.jsonl", 0, 9, 4_000_000_000), None, "stop"),
    Ended("job-2", "00000000000000ff", 0, What.FAILED, 7, why="no price"),
    Reopened("job-1", "00000000000000ff", 2, "failed before"),
    Synced(1, 2, 3, 4, 5),
    Sent("job-1", "00000000000000ff", 2, "boot", 10, 20, 5, None, "m", "/v1/e", units=FILM),
    Ended("job-1", "00000000000000ff", 2, What.LOST, 7, charge=Charge.maybe("m", "/v1/e", 5, None, Decimal(1), FILM)),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_reads_back_as_it_was_written(record: Record) -> None:
    """Every kind of record survives its line, with its number."""
    line, crc = encode(record, 41, 0x1234)
    assert check(line, 0x1234) == crc == declared_crc(line)
    assert is_numbered(line, 41)
    assert not is_numbered(line, 4)
    assert decode(line) == record


def test_a_finished_record_keeps_its_summary_byte_for_byte() -> None:
    """The summary of a finished run is given again exactly."""
    line, _ = encode(Finished(Synced(1, 2, 3, 4, 5), [["a.jsonl", 5]], msgspec.Raw(b'{"cost": 0.10}')), 1, 0)
    record = decode(line)
    assert isinstance(record, Finished)
    assert bytes(record.summary) == b'{"cost": 0.10}'
    assert record.identity == [["a.jsonl", 5]]


@pytest.mark.parametrize("number", [1, 2])
def test_what_asks_for_nothing_beside_tokens_says_no_word_of_it(number: int) -> None:
    """Such records are what they were before there was the field, byte for byte."""
    line, _ = encode(RECORDS[number], 1, 0)
    assert b"units" not in line


def test_a_line_is_one_line_of_json_that_ends_in_its_checksum() -> None:
    """The crc is the last field, over every byte before it."""
    line, crc = encode(RECORDS[1], 7, 99)
    assert line.count(b"\n") == 1
    document = msgspec.json.decode(line)
    assert next(iter(document)) == "n"
    assert next(reversed(document)) == "crc"
    assert document["crc"] == f"{crc:08x}"
    assert zlib.crc32(line[: line.rindex(b',"crc"')], 99) == crc


def test_a_line_stands_only_behind_the_line_it_was_written_behind() -> None:
    """Another line before it, or another run's, breaks the chain."""
    line, _ = encode(RECORDS[0], 1, header("run-a")[1])
    assert check(line, header("run-a")[1]) is not None
    assert check(line, header("run-b")[1]) is None


def test_any_single_flipped_bit_is_found() -> None:
    """No bit of a record can change unseen."""
    line, _ = encode(RECORDS[2], 12, 5)
    for place in range(8 * len(line)):
        altered = bytearray(line)
        altered[place // 8] ^= 1 << place % 8
        assert check(bytes(altered), 5) is None, place


@given(st.binary(max_size=60))
def test_bytes_that_are_no_line_are_refused_without_an_error(data: bytes) -> None:
    """Whatever stands in a damaged journal, reading it says no and nothing else."""
    assert check(data, 0) is None
    assert not is_numbered(data, 1)
    assert read_header(data) is None


def test_the_header_names_version_and_run() -> None:
    """The first line says whose journal this is."""
    line, crc = header("run-1")
    named = read_header(line)
    assert named is not None
    assert (named.batchrun_journal, named.run) == (1, "run-1")
    assert check(line, zlib.crc32(b"run-1")) == crc


def test_a_record_of_an_unknown_kind_is_not_guessed_at() -> None:
    """What a later version wrote is an error of its own, not damage."""
    start = b'{"n":1,"t":"teleported"'
    line = b'%b,"crc":"%08x"}\n' % (start, zlib.crc32(start, 0))
    assert check(line, 0) is not None
    with pytest.raises(msgspec.DecodeError):
        decode(line)


def test_fingerprints_are_sixteen_digits() -> None:
    """A fingerprint has one spelling, whatever its size."""
    assert fingerprint_text(255) == "00000000000000ff"
