"""The prices that a run goes by: of its own file, of the catalog as it is, as it was, or as the run had it before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from batchrunner.account import Account
from batchrunner.cli import catalog
from batchrunner.cli.output import say
from batchrunner.clock import Clock
from batchrunner.config import Options
from batchrunner.errors import AccountError, UnreachableError, UsageError
from batchrunner.pricing import PriceTable
from batchrunner.run_directory import RunDirectory
from batchrunner.transport import Origin


class RunPrices(NamedTuple):
    """What a run's prices are."""

    table: PriceTable
    #: monotonic time since which the server was asked for them and not reached; None where it was
    unreached_since_ns: int | None = None


def prices_of(
    options: Options,
    accounts: Sequence[Account],
    local: PriceTable | None,
    directory: RunDirectory,
    clock: Clock,
) -> RunPrices:
    """Local prices, else the catalog's, kept in the manifest with their date; those kept before where there is no catalog now.

    Accounts of several servers have no catalog in common: a model of the same name may have another price.
    Raises: where there are none at all and a spend cap rests on them, UsageError, or UnreachableError.
    """
    assert directory.manifest is not None
    if local is not None:
        directory.keep_prices(local)
        return RunPrices(local)
    if len({account.base_url for account in accounts}) > 1:
        if options.max_cost_usd is not None:
            raise UsageError("--max-cost needs prices, and accounts of several servers have none in common: give --prices FILE.")
        say("warning: accounts of several servers have no prices in common: costs are unknown. Give your own with --prices FILE.")
        return RunPrices(PriceTable())
    kept = directory.manifest.prices
    began_ns = clock.monotonic_ns()
    try:
        found = catalog.fetch(accounts[0], clock, keep=not options.simulate)
    except AccountError as error:
        since_ns = began_ns if isinstance(error, UnreachableError) else None
        if kept is not None and not (kept.stale and options.max_cost_usd is not None):
            say(f"warning: {error} Prices are those of {kept.fetched_at}.")
            return RunPrices(kept, since_ns)
        return RunPrices(_without_catalog(options, accounts[0], directory, clock, error), since_ns)
    prices = PriceTable.from_catalog(found.body, fetched_at=found.fetched_at)
    directory.keep_prices(prices)
    return RunPrices(prices)


def _without_catalog(
    options: Options, account: Account, directory: RunDirectory, clock: Clock, error: AccountError
) -> PriceTable:
    """The prices of the catalog that was last fetched from this server, else none. A spend cap rests on none of more than a day.

    Raises: where a cap has nothing to rest on, UsageError, or UnreachableError.
    """
    found = None if options.simulate else catalog.cache().find(Origin.parse(account.base_url))
    age_seconds = None if found is None else found.age_seconds(clock.wall_ns())
    stale = age_seconds is None or age_seconds > catalog.TRUSTED_SECONDS
    if options.max_cost_usd is None or not stale:
        if found is None:
            say(f"warning: {error} Costs are unknown; tokens are counted all the same.")
            return PriceTable()
        say(f"warning: {error} Prices are those of the catalog of {found.fetched_at}, and may have changed since.")
        prices = PriceTable.from_catalog(found.body, fetched_at=found.fetched_at, stale=stale)
        directory.keep_prices(prices)
        return prices
    if isinstance(error, UnreachableError):
        raise error
    known = "there are none" if found is None else f"those of {found.fetched_at} are more than a day old"
    raise UsageError(
        f"--max-cost needs prices, and {known}: {error} Check --base-url, give prices of your own "
        "(--prices FILE), or leave --max-cost out."
    ) from error
