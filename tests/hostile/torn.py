"""A run directory that was damaged in places: recovery refuses it untouched, or brings it to where it stays."""

from __future__ import annotations

import functools
from typing import Any

import trio

from batchrunner import dialect
from batchrunner.disk import MemoryDisk
from batchrunner.errors import BatchrunError
from batchrunner.index import Index
from batchrunner.journal import Recovered
from batchrunner.journal.files import COSTS, ERRORS, JOURNAL, RESULTS
from tests.crash.byhand import Run
from tests.crash.scripted import BAD_LINES, World, check_money, ids_of, run_script, start

JOBS = 12
FILES = (JOURNAL, RESULTS, ERRORS, COSTS)
WORDS = (b"\n", b'"t":"synced"', b'"t":"done"', b'"crc"', b'"custom_id":"job-1"', b'"run-0-test-', b"}\n{", bytes(16))

#: an act of damage is: which run and file, where, how (4 bytes), and how many bytes to put there, and the bytes
SCRIPTS = [
    b"\x00\x10\x00\x20\x01x",
    b"\x01\x80\x40\x01\x00",
    b"\x02\x00\x00\x40\x02{}",
    b"\x03\xff\xff\x00\x05abcde",
    b"\x04\x30\x00\x03\x04\x00\x00\x00\x00\x05\x30\x00\x03\x01}",
    b"\x08\xff\xf0\xff\x00\x09\xff\xf0\x20\x00",
]


@functools.cache
def _directories() -> tuple[dict[str, bytes], ...]:
    """What three runs left: one that came to its end, one killed in the middle, one with nothing synced."""
    whole = MemoryDisk()
    trio.run(run_script, whole, ids_of(JOBS), World())
    torn = MemoryDisk()
    trio.run(_begin, torn, 7)
    fresh = MemoryDisk()
    trio.run(_begin, fresh, 0)
    return tuple({name: bytes(data) for name, data in disk.files.items()} for disk in (whole, torn, fresh))


async def _begin(disk: MemoryDisk, committed: int) -> None:
    """Eight jobs sent, some of them ended; what the first did is on disk."""
    run = Run(disk, ids_of(JOBS))
    for number in range(8):
        run.send(number)
        if number % 3 == 2:
            run.fail(number)
        elif number % 3 == 1 or number < committed:
            run.done(number)
        if number == committed - 1:
            await run.journal.commit()
    await trio.lowlevel.checkpoint()


def _undamaged(script: bytes) -> dict[str, bytes]:
    return _directories()[(script[0] >> 2) % 3 if script else 0]


def damaged(script: bytes) -> MemoryDisk:
    """A run directory after these acts of damage."""
    files = {name: bytearray(data) for name, data in _undamaged(script).items()}
    while len(script) >= 5:
        name = FILES[script[0] % 4]
        place, much, length = int.from_bytes(script[1:3], "big"), script[3], script[4]
        put, script = script[5 : 5 + length % 32], script[5 + length % 32 :]
        data = files.setdefault(name, bytearray())
        at = len(data) * place // 0xFFFF
        data[at : at + (much * much if much > 200 else much)] = put
    disk = MemoryDisk()
    disk.files = files
    disk.synced = {name: len(data) for name, data in files.items()}
    return disk


def _assert_nothing_altered(script: bytes, before: dict[str, bytes], disk: MemoryDisk) -> None:
    """Where the journal is whole and knows how every job ended, no answer is taken but the very one that was written."""
    whole = _undamaged(script)
    if whole is _directories()[0] and before[JOURNAL] == whole[JOURNAL]:
        for name in (RESULTS, ERRORS):
            assert set(bytes(disk.files[name]).splitlines()) <= set(whole[name].splitlines()), name


def _start(disk: MemoryDisk) -> tuple[Recovered, Index]:
    """Recover with the program's own reading of replies: the scripted one expects what it wrote."""

    def facts(endpoint: str, body: bytes) -> Any:
        return dialect.for_url(endpoint).read(body)

    return start(disk, ids_of(JOBS), bad_lines=BAD_LINES, tariff_facts=facts)


def recover_damaged(script: bytes) -> None:
    """Only our own errors come out; what is refused is untouched; what is taken is settled, and its sums are its lines'."""
    disk = damaged(script)
    before = {name: bytes(data) for name, data in disk.files.items()}
    try:
        recovered, index = _start(disk)
    except BatchrunError as refused:
        assert str(refused)  # noqa: PT017 - any directory is taken or refused
        assert {name: bytes(data) for name, data in disk.files.items()} == before
        return
    check_money(disk, recovered)
    _assert_nothing_altered(script, before, disk)
    states = bytes(index.state)
    recovered.files.close()
    again, index = _start(disk)
    assert bytes(index.state) == states
    assert (again.completed, again.failed, again.lost) == (recovered.completed, recovered.failed, 0)
    assert again.warnings == []
    check_money(disk, again)
