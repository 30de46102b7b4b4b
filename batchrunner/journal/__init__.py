"""What happened to each attempt: appended, group-committed, recovered; and the run's lock."""

from __future__ import annotations

from batchrunner.journal.lock import RunLock, is_locked
from batchrunner.journal.reading import read_finished
from batchrunner.journal.records import Submitted
from batchrunner.journal.recovery import Recovered, recover
from batchrunner.journal.replay import History
from batchrunner.journal.tariff import Facts, Tariff
from batchrunner.journal.writer import Journal, JournalStatistics, in_thread, inline

__all__ = [
    "Facts",
    "History",
    "Journal",
    "JournalStatistics",
    "Recovered",
    "RunLock",
    "Submitted",
    "Tariff",
    "in_thread",
    "inline",
    "is_locked",
    "read_finished",
    "recover",
]
