"""Where prices come from when the catalog cannot be had: the run's own, those last kept, or none; and what a cap rests on."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from batchrunner.account import Account
from batchrunner.cli import catalog, run_prices
from batchrunner.clock import NS_PER_SECOND, VirtualClock
from batchrunner.config import Options
from batchrunner.costs import Totals
from batchrunner.errors import AccountError, BatchrunError, UnreachableError, UsageError
from batchrunner.platform.catalog_cache import CatalogCache, Kept
from batchrunner.pricing import PriceTable
from batchrunner.run_directory import RunDirectory
from batchrunner.spending import Spending
from batchrunner.transport import Origin

ACCOUNT = Account(base_url="https://api.example.com")
BODY = b'{"data":[{"id":"m","pricing":{"prompt":"0.1","completion":"0.2"}}]}'
CAP = Decimal(5)
DAY_NS = 86_400 * NS_PER_SECOND


class Start(NamedTuple):
    directory: RunDirectory
    cache: CatalogCache
    said: list[str]

    def prices(self, error: BatchrunError | None = None, *, cap: Decimal | None = None, wall_ns: int = DAY_NS) -> PriceTable:
        """What a start at this time goes by; `error`: why the server gives no catalog, None where it does."""

        def fetch(_account: Account, _clock: object, *, keep: bool = True) -> Kept:
            assert keep
            if error is not None:
                raise error
            return Kept(BODY, "1970-01-01T00:00:00Z")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(catalog, "fetch", fetch)
            patch.setattr(catalog, "cache", lambda: self.cache)
            patch.setattr(run_prices, "say", self.said.append)
            options = Options(inputs=("jobs.jsonl",), run_dir="jobs.run", max_cost_usd=cap)
            self.directory.begin(options)
            clock = VirtualClock(lambda: 0.0, start_ns=wall_ns)
            return run_prices.prices_of(options, [ACCOUNT], None, self.directory, clock).table

    def keep(self) -> None:
        """The catalog was fetched as the epoch began."""
        self.cache.keep(Origin.parse(ACCOUNT.base_url), Kept(BODY, "1970-01-01T00:00:00Z"))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Start]:
    said: list[str] = []
    directory = RunDirectory(tmp_path / "jobs.run", VirtualClock(lambda: 0.0))
    yield Start(directory, CatalogCache(tmp_path / "cache", said.append), said)
    directory.close()


AWAY = (AccountError("no catalog."), UnreachableError("no connection."))


@pytest.mark.parametrize("error", AWAY)
@pytest.mark.parametrize("cap", [None, CAP])
def test_those_of_the_kept_catalog_serve_for_a_day(started: Start, error: AccountError, cap: Decimal | None) -> None:
    """With a warning that names their date; a cap may rest on them, and run.json keeps them as it does any."""
    started.keep()
    assert "m" in started.prices(error, cap=cap).prices
    (warning,) = started.said
    assert "the catalog of 1970-01-01T00:00:00Z" in warning
    assert started.directory.manifest is not None
    assert started.directory.manifest.prices is not None


def test_older_ones_serve_where_no_cap_rests_on_them(started: Start) -> None:
    """What was spent is then as good as the date that is told."""
    started.keep()
    assert "m" in started.prices(AWAY[0], wall_ns=DAY_NS + NS_PER_SECOND).prices


@pytest.mark.parametrize(("error", "raised"), [(AWAY[0], UsageError), (AWAY[1], UnreachableError)])
def test_a_cap_rests_on_none_that_are_older(started: Start, error: AccountError, raised: type[BatchrunError]) -> None:
    """A promise by stale prices is none: the date is named, and what to do."""
    started.keep()
    with pytest.raises(raised) as refused:
        started.prices(error, cap=CAP, wall_ns=DAY_NS + NS_PER_SECOND)
    if raised is UsageError:
        assert "1970-01-01T00:00:00Z are more than a day old" in str(refused.value)


def test_old_ones_that_a_run_began_with_carry_no_cap_later(started: Start) -> None:
    """Neither one that a live run is given, nor that of a later start; those of a fetched catalog do again."""
    started.keep()
    old = started.prices(AWAY[0], wall_ns=DAY_NS + NS_PER_SECOND)
    assert "1970-01-01T00:00:00Z, were more than a day old" in (Spending(old, Totals(), None).why_no_cap or "")
    assert "m" in started.prices(AWAY[0], wall_ns=DAY_NS + NS_PER_SECOND).prices
    with pytest.raises(UsageError, match="more than a day old"):
        started.prices(AWAY[0], cap=CAP, wall_ns=DAY_NS + NS_PER_SECOND)
    assert Spending(started.prices(cap=CAP, wall_ns=9 * DAY_NS), Totals(), CAP).why_no_cap is None


def test_without_any_costs_are_unknown(started: Start) -> None:
    """And a cap is refused."""
    assert not started.prices(AWAY[0]).prices
    assert "Costs are unknown" in started.said[0]
    with pytest.raises(UsageError, match="there are none"):
        started.prices(AWAY[0], cap=CAP)


def test_a_resume_goes_by_its_own(started: Start) -> None:
    """Those that its first start kept, however old, before any that the machine has."""
    started.prices()
    started.keep()
    assert "m" in started.prices(AWAY[0], cap=CAP, wall_ns=9 * DAY_NS).prices
    assert "Prices are those of 1970-01-01T00:00:00Z." in started.said[0]
