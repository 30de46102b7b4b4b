"""What can go wrong outside of a job, and whose fault it is.

A job's own failure is never an exception: it is a line in `errors.jsonl`. These are for the run as a whole.

    BatchrunError
    ├── UsageError             2   an option, a key or a price is missing or makes no sense
    ├── InvalidInput          65   the job file, the run directory or the journal cannot be trusted
    │   ├── ChangedLines           lines of the job file differ from what an earlier start ran
    │   └── JournalDamaged         bytes that were once synced are gone or altered
    ├── AccountError          69   the account or its server lets nothing through
    │   └── UnreachableError       no connection to the server can be opened
    ├── NotRunning            69   no process is at work on the run that was to be spoken to
    ├── DiskError             74   a write or a sync failed; the first one is final
    └── RunDirectoryInUse     75   another process holds the lock

Each message says what happened, to which file, line or job, and what to do about it. None holds a key or a body.
"""

from __future__ import annotations

from typing import ClassVar


class BatchrunError(Exception):
    """Base of all errors that end a command. `exit_code` is what the process then exits with."""

    exit_code: ClassVar[int] = 2


class UsageError(BatchrunError):
    """The caller's options, environment or configuration cannot work as given."""


class InvalidInput(BatchrunError):
    """A file that the run depends on cannot be trusted as it is."""

    exit_code = 65


class ChangedLines(InvalidInput):
    """Lines of the job file are not what an earlier start of this run sent or would have sent.

    `lines`: the first few, as (file and line, custom_id); `count`: how many in all.
    """

    def __init__(self, lines: list[tuple[str, str]], count: int) -> None:
        self.lines = lines
        self.count = count
        named = ", ".join(f"{place} ({custom_id!r})" for place, custom_id in lines)
        more = "" if count <= len(lines) else f" and {count - len(lines)} more"
        super().__init__(
            f"{count} line(s) of the input changed since this run began: {named}{more}. "
            "Restore them, run them as they are now with --accept-changes, or use another --run-dir."
        )


class JournalDamaged(InvalidInput):
    """A file of the run directory is damaged at `offset`, below what was once synced: nothing is guessed, nothing cut."""

    def __init__(self, path: str, offset: int, what: str) -> None:
        self.path = path
        self.offset = offset
        super().__init__(
            f"{path}: damaged at byte {offset}: {what}. This part was safely on disk once, so the file was altered or the "
            "disk is failing. Restore the run directory from a copy, or start over with another --run-dir."
        )


class AccountError(BatchrunError):
    """The account or its server refuses everything: no credits, no valid key, unreachable."""

    exit_code = 69


class UnreachableError(AccountError):
    """No connection to the server can be opened."""


class NotRunning(BatchrunError):
    """No process is at work on the run that was to be spoken to, or it does not answer."""

    exit_code = 69


class DiskError(BatchrunError):
    """A file operation of ours failed. The run stops at the first one; what was shown as done is safe."""

    exit_code = 74

    def __init__(self, path: str, operation: str, cause: OSError) -> None:
        self.path = path
        self.operation = operation
        self.cause = cause
        why = cause.strerror or str(cause)
        super().__init__(f"{path}: {operation} failed: {why}. Remove the cause, then run the same command again.")


class RunDirectoryInUse(BatchrunError):
    """Another process is at work on this run directory."""

    exit_code = 75
