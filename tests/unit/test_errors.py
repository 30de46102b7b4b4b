from __future__ import annotations

import errno

import pytest

from batchrunner import errors
from batchrunner.errors import BatchrunError, ChangedLines, DiskError, JournalDamaged

#: the contract's table; 0, 1, 3, 130 and 143 are outcomes of a run, not errors
EXIT_CODES = {
    "BatchrunError": 2,
    "UsageError": 2,
    "InvalidInput": 65,
    "ChangedLines": 65,
    "JournalDamaged": 65,
    "AccountError": 69,
    "UnreachableError": 69,
    "NotRunning": 69,
    "DiskError": 74,
    "RunDirectoryInUse": 75,
}


def test_every_error_has_the_contracts_exit_code() -> None:
    """Scripts depend on these numbers: no error is without one, and none has another."""
    found = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BatchrunError)
    }
    assert found == EXIT_CODES


def test_changed_lines_are_named_with_the_remedy() -> None:
    """The first lines by file, number and custom_id, the count of all, and what to do."""
    message = str(ChangedLines([("a.jsonl line 3", "a"), ("b.jsonl line 9", "b\x1b[2J")], 12))
    assert message.startswith("12 line(s)")
    assert "a.jsonl line 3 ('a'), b.jsonl line 9 ('b\\x1b[2J') and 10 more" in message
    assert "--run-dir" in message


def test_all_changed_lines_named_leaves_no_rest() -> None:
    """Where each changed line is named nothing is said of more."""
    assert "more" not in str(ChangedLines([("a.jsonl line 3", "a")], 1))


def test_damage_is_named_by_file_and_byte() -> None:
    """People with a copy of the directory need the place."""
    error = JournalDamaged("x.run/journal.jsonl", 4096, "checksum differs")
    assert "x.run/journal.jsonl: damaged at byte 4096: checksum differs" in str(error)
    assert error.offset == 4096


@pytest.mark.parametrize(
    ("cause", "why"), [(OSError(errno.ENOSPC, "No space left on device"), "No space left on device"), (OSError("odd"), "odd")]
)
def test_a_disk_error_says_what_failed_where_and_why(cause: OSError, why: str) -> None:
    """File, operation and the system's words, also for an OSError that has no number."""
    error = DiskError("x.run/results.jsonl", "writing", cause)
    assert str(error).startswith(f"x.run/results.jsonl: writing failed: {why}.")
    assert error.cause is cause
