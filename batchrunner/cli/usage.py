"""`batchrun usage`: an account's balance, and what it was charged for, to the last event and the last digit."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from batchrunner.cli.control_plane import account_of, account_options, ask
from batchrunner.cli.output import print_json, print_text, say
from batchrunner.cli.usage_text import document, report
from batchrunner.dialect import on_one_line
from batchrunner.errors import AccountError, UsageError
from batchrunner.platform.catalog import CATALOG_PATH
from batchrunner.platform.control import ControlPlane, RefusedError
from batchrunner.platform.usage import Filters, UsagePages
from batchrunner.platform.usage_events import Page, moment_ns
from batchrunner.pricing import PriceTable
from batchrunner.usage_sums import WAYS, By, UsageSums

_FILTERS = ("from_", "to", "before", "model", "status", "source")


class Found(msgspec.Struct):
    """All that was found."""

    pages: UsagePages
    sums: UsageSums
    #: of the tools that were called; no price where the catalog cannot be had
    prices: PriceTable


@click.command(name="usage", short_help="An account's balance, and what it was charged for.")
@click.option("--from", "from_", metavar="TIME", help="Events from this time on: ISO 8601 (UTC without a zone), or Unix seconds.")
@click.option("--to", metavar="TIME", help="Events before this time.")
@click.option("--before", metavar="ID|TIME", help="Events older than the one of this id, or than this time.")
@click.option("--model", metavar="MODEL", help="Events of this model.")
@click.option("--status", metavar="STATUS", help="Events of this status, such as succeeded or failed.")
@click.option("--source", type=click.Choice(["api", "playground"]), help="Events that came this way.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The newest N of them.  [default: all]")
@click.option(
    "--by", type=click.Choice(WAYS), multiple=True, help="Sum up by this; can be given more than once.  [default: model]"
)
@click.option("--events", "as_events", is_flag=True, help="Print the events as JSON Lines, as the server wrote them; no sums.")
@account_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def usage_command(**given: Any) -> None:
    """Show an account's balance and sum up its usage events, all of them, however many pages there are.

    What an event cost is what the platform charged: with the surcharges of the tools that it used, and after the account's
    discount. Events that name no cost are counted apart. All amounts are exact.

    \b
    Exit codes:
      0   shown
      2   an option makes no sense, the server refuses a filter, or there is no key
      69  the server does not answer, lets nobody in, or does not give all events
    """  # noqa: D301 - click reads the backspace: the table stays a table
    if given["as_events"] and given["as_json"]:
        raise UsageError("--events prints a line for each event, and --json one document: leave one of them out.")
    filters = _filters(given)
    account = account_of(given)
    ways: tuple[By, ...] = tuple(dict.fromkeys(given["by"])) or ("model",)
    show = _show_events if given["as_events"] else lambda _: None

    async def question(control: ControlPlane) -> Found:
        pages, sums = UsagePages(control, filters, most=given["limit"]), UsageSums(ways)
        async for page in pages:
            show(page)
            for event in page.events:
                sums.add(event)
        prices = await _tool_prices(control) if sums.tool_calls and not given["as_events"] else PriceTable()
        return Found(pages, sums, prices)

    try:
        found = ask(account, question)
    except RefusedError as refused:
        if refused.status in (400, 422):
            raise UsageError(str(refused)) from None
        raise
    asked = filters.query() | ({} if given["limit"] is None else {"limit": str(given["limit"])})
    if given["as_json"]:
        print_json(document(account.base_url, asked, found.pages, found.sums, found.prices))
    elif not given["as_events"]:
        print_text("\n".join(report(found.pages, found.sums, found.prices)) + "\n")
    if not found.pages.complete:
        raise AccountError("the server has older events, and gives them in no way that is known: these are not all.")


def _filters(given: dict[str, Any]) -> Filters:
    """What was asked for. Raises: UsageError where a time is none."""
    for name in ("from_", "to"):
        if given[name] is not None and moment_ns(given[name]) is None:
            raise UsageError(
                f"--{name.rstrip('_')} {given[name]}: is no time. Say 2026-01-31, 2026-01-31T12:00:00Z, or Unix seconds."
            )
    return Filters(**{name: given[name] for name in _FILTERS})


def _show_events(page: Page) -> None:
    for line in page.lines:
        print_json(on_one_line(line))


async def _tool_prices(control: ControlPlane) -> PriceTable:
    """What tools cost by the catalog, which may have changed since. Nobody goes without the sums where it cannot be had."""
    try:
        return PriceTable.from_catalog(await control.get(CATALOG_PATH, what="the catalog"), fetched_at="")
    except AccountError as error:
        say(f"warning: {error} What the tools' surcharges were is not known.")
        return PriceTable()
