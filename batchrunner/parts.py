"""What a run is made of: one record, put together by whoever starts it."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from batchrunner.account_store import AccountStore
from batchrunner.balances import Ask
from batchrunner.budget import Limits
from batchrunner.clock import Clock
from batchrunner.config import Options
from batchrunner.disk import Disk
from batchrunner.estimate import Estimator
from batchrunner.heads import Heads
from batchrunner.index import Index
from batchrunner.inputs import Inputs
from batchrunner.journal import History, Journal
from batchrunner.spending import Spending
from batchrunner.tally import Tally
from batchrunner.transport import Pool


class AccountParts(msgspec.Struct, frozen=True, kw_only=True):
    """What one of a run's accounts is made of."""

    #: None: the only one may have no name
    name: str | None
    #: its base URL: accounts of one server see the same models come and go
    server: str
    limits: Limits
    store: AccountStore
    pool: Pool
    heads: Heads
    #: asks what is left to pay with; None: nobody can be asked
    balance: Ask | None = None
    #: the server has not been reached since then; None where it was, or nobody has tried
    unreached_since_ns: int | None = None


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is made of. Every seam is here, so that a test can put its double in."""

    options: Options
    run_id: str
    clock: Clock
    disk: Disk
    rng: random.Random
    inputs: Inputs
    index: Index
    #: lines of the input that are no job; they count as failed
    bad_lines: int
    #: jobs that were sent before and have not ended
    histories: dict[int, History]
    #: sums over what is on disk, earlier processes included; fed by the journal's sink
    tally: Tally
    journal: Journal
    #: at least one
    accounts: tuple[AccountParts, ...]
    spending: Spending
    estimator: Estimator
    #: a line for people
    say: Callable[[str], None]

    @property
    def total(self) -> int:
        """All jobs of the run, lines that are none included."""
        return len(self.index) + self.bad_lines
