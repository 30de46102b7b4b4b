"""`batchrun reconcile`: a run's attempts held against the account's usage events, and settled by them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from batchrunner import __version__
from batchrunner.account import Account
from batchrunner.answer_ids import attempts_by_event
from batchrunner.cli.control_plane import account_of, account_options, ask
from batchrunner.cli.output import print_json, print_text, say
from batchrunner.clock import NS_PER_SECOND, Clock, SystemClock
from batchrunner.costs import timestamp
from batchrunner.disk import SystemDisk
from batchrunner.errors import AccountError, InvalidInput, UsageError
from batchrunner.journal import RunLock, is_locked
from batchrunner.platform.control import ControlPlane
from batchrunner.platform.usage import Filters, UsagePages
from batchrunner.reconciliation import HORIZON_NS, reconcile
from batchrunner.run_attempts import Known, by_account, read_attempts
from batchrunner.run_directory import Manifest, read_manifest
from batchrunner.settlement import changes, write
from batchrunner.settlement_text import Reconciled, document, event_lines, report, watched
from batchrunner.usage_event import UsageEvent
from batchrunner.verification.reader import RunReader
from batchrunner.verification.repair import recover_by_journal
from batchrunner.wording import counted

#: events are looked for so far around a run: clocks may be as far apart
_AROUND_NS: Final = 60 * NS_PER_SECOND
#: an event that is younger may not be listed yet
_LAG_NS: Final = 2 * NS_PER_SECOND
#: Looked at so often whether a run's lock is gone, of which nobody tells: to wait for the lock itself would be to hold it for a
#: moment, against a submit that comes just then. No loop runs beside that could be kept waiting.
_POLL_SECONDS: Final = 1.0


@click.command(name="reconcile", short_help="Settle a run by the account's usage events.")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--settle-after",
    type=click.FloatRange(min=0, max=1e9),
    default=HORIZON_NS / NS_PER_SECOND,
    show_default=True,
    metavar="SECONDS",
    help="For so long the platform may go on with a request that we left: what has no event by then was not charged.",
)
@click.option("--watch", is_flag=True, help="While the run is at work, say how it stands, and settle it when it has ended.")
@click.option(
    "--every",
    type=click.FloatRange(min=1, max=86_400),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch: how often.",
)
@click.option("--dry-run", is_flag=True, help="Write nothing.")
@click.option("--events", "as_events", is_flag=True, help="Print a JSON line for each event: whose it is, and why; no sums.")
@account_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def reconcile_command(run_dir: Path, **given: Any) -> None:
    """Fetch the usage events of the time of the run in RUN_DIR, find out which of its attempts each is of, and settle the
    attempts whose bill was uncertain or otherwise than was computed.

    What is settled is appended to costs.jsonl, with source usage_event; `status` and the same `submit` again show the sums that
    follow. What cannot be told stays as it is, and is said to be so. To reconcile again changes nothing, unless the
    platform tells more. A run that is at work is not written to: --watch waits for its end.

    The account is the one that the run went under, with the keys that `submit` would use.

    \b
    Exit codes:
      0   reconciled, whatever was found
      2   an option or a key is missing or makes no sense, or the run was a simulated one
      65  it is no run directory, or cannot be trusted
      69  the server does not answer, lets nobody in, or does not give all of its events
      74  a file cannot be read or written
      75  another process is at work on the run
    """  # noqa: D301 - click reads the backspace: the table stays a table
    if given["as_events"] and given["as_json"]:
        raise UsageError("--events prints a line for each event, and --json one document: leave one of them out.")
    manifest = read_manifest(run_dir)
    if manifest.options.simulate:
        raise UsageError(f"{run_dir}: was simulated, and its platform is gone with it: there is nobody to ask.")
    accounts = _accounts(given, manifest)
    look = _Look(run_dir, manifest, accounts, SystemClock(), round(given["settle_after"] * NS_PER_SECOND))
    if given["watch"]:
        _watch(look, given["every"])
    parts, written = look.at_it() if given["dry_run"] else look.settle()
    if given["as_events"]:
        for part in parts:
            for line in event_lines(part):
                print_json(line)
    elif given["as_json"]:
        print_json(document(str(run_dir), parts, written=written))
    else:
        print_text("\n".join(report(parts, written=written)) + "\n")


def _accounts(given: Mapping[str, Any], manifest: Manifest) -> list[Account]:
    """Those that the run went under, with their keys. Raises: UsageError."""
    names = [None] if manifest.options.account is None else [name.strip() for name in manifest.options.account.split(",")]
    if given["account"] is not None:
        names = [given["account"]]
    # The run's own server, unless there are several; a name alone then finds it in its table.
    base_url = given["base_url"] or (manifest.options.base_url if len(names) == 1 else None)
    accounts = [account_of({"base_url": base_url, "account": name, "config": given["config"]}) for name in names]
    identity = " and ".join(account.identity for account in accounts)
    if manifest.identities and identity not in manifest.identities and given["account"] is None:
        say(f"warning: the run went under {manifest.identities[-1]}, and this asks {identity}.")
    return accounts


def _watch(look: _Look, every_seconds: float) -> None:
    """Say how a run stands until nobody is at work on it."""
    while is_locked(look.path):
        try:
            parts, _ = look.at_it()
            say(watched(parts))
        except AccountError as error:  # a server that is away comes back: it is only asked in earnest at the end
            say(f"warning: {error}")
        until = time.monotonic() + every_seconds
        while is_locked(look.path) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)


class _Look:
    """Reads a run, asks its accounts, and brings both together."""

    def __init__(self, path: Path, manifest: Manifest, accounts: Sequence[Account], clock: Clock, horizon_ns: int) -> None:
        self.path = path
        self._manifest = manifest
        self._accounts = accounts
        self._clock = clock
        self._horizon_ns = horizon_ns

    def at_it(self) -> tuple[list[Reconciled], bool]:
        """As things stand, without a lock; nothing is written."""
        with RunReader(self.path) as reader:
            return self._reconciled(reader, self._read(reader)), False

    def settle(self) -> tuple[list[Reconciled], bool]:
        """And write down what is settled; whether there was anything to write. What a crash left open is settled first, as a
        start would.
        """
        with RunLock(self.path, wall_ns=self._clock.wall_ns()):
            with RunReader(self.path) as reader:
                known = self._read(reader)
                if any(one.in_flight for one in known):
                    disk, clock = SystemDisk(self.path), self._clock
                    recovered = recover_by_journal(reader, disk, self._manifest, clock, pid=os.getpid(), version=__version__)
                    recovered.files.close()
                    _tell(recovered.warnings)
                    known = self._read(reader)
                parts = self._reconciled(reader, known)
            found = [change for part in parts for change in part.changes]
            if found:
                _tell(write(self.path, self._manifest, found, self._clock))
            return parts, bool(found)

    def _read(self, reader: RunReader) -> list[Known]:
        known, damaged = read_attempts(reader, self._manifest.run_id, self._clock.wall_ns())
        if damaged:
            raise InvalidInput(
                f"{self.path}: a part of the journal is damaged, and may tell of more. batchrun verify says where."
            )
        return known

    def _reconciled(self, reader: RunReader, known: Sequence[Known]) -> list[Reconciled]:
        if not known:
            return []
        shares, others = by_account(known, [account.name for account in self._accounts])
        if others:
            self._leave(others)
        several = len(self._accounts) > 1
        return [
            self._part(reader, account, account.name if several else None, own)
            for account, own in zip(self._accounts, shares, strict=True)
        ]

    def _leave(self, others: Sequence[Known]) -> None:
        names = sorted({repr(one.account) if one.account else "an account that the run has no name for" for one in others})
        say(f"warning: {counted(len(others), 'attempt')} went under {' and '.join(names)}, and stay as they are.")

    def _is_unsure(self, known: Sequence[Known]) -> bool:
        """Whether another account may have the events of some attempts: they went under nobody knows which of several keys."""
        unsure = len(set(self._manifest.identities)) > 1 and any(one.account is None for one in known)
        if unsure:
            say("warning: the run went under several keys, which may be several accounts': what has no event stays open.")
        return unsure

    def _part(self, reader: RunReader, account: Account, name: str | None, known: Sequence[Known]) -> Reconciled:
        attempts = [one.attempt for one in known]
        now_ns = self._clock.wall_ns()
        from_ns = min((attempt.sent_ns for attempt in attempts), default=now_ns) - _AROUND_NS
        over = (attempt.sent_ns + self._horizon_ns if attempt.left else attempt.ended_ns for attempt in attempts)
        to_ns = max(over, default=now_ns) + _AROUND_NS
        events = ask(account, _events(from_ns, to_ns))
        of_event = attempts_by_event(reader, {event.id for event in events if event.id})
        places = {(attempt.custom_id, attempt.number): place for place, attempt in enumerate(attempts)} if of_event else {}
        by_id = {
            place: places[own]
            for place, event in enumerate(events)
            if (own := of_event.get(event.id)) is not None and own in places
        }
        complete_until_ns = 0 if self._is_unsure(known) else now_ns - _LAG_NS
        settlement = reconcile(attempts, events, complete_until_ns=complete_until_ns, by_id=by_id, horizon_ns=self._horizon_ns)
        return Reconciled(name, from_ns, to_ns, known, events, settlement, changes(known, events, settlement))


def _events(from_ns: int, to_ns: int) -> Callable[[ControlPlane], Any]:
    """A question for all events of a time. Raises: AccountError where the server does not give all of them."""

    async def question(control: ControlPlane) -> list[UsageEvent]:
        pages = UsagePages(control, Filters(from_=timestamp(from_ns), to=timestamp(to_ns)))
        # A server that does not know these filters tells of other times too.
        events = [event async for page in pages for event in page.events if event.at_ns is None or from_ns <= event.at_ns < to_ns]
        if not pages.complete:
            raise AccountError(
                "the server has older events, and gives them in no way that is known: nothing can be settled by these."
            )
        return events

    return question


def _tell(warnings: Sequence[str]) -> None:
    for warning in warnings:
        say(f"warning: {warning}")
