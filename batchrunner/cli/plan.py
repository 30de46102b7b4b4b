"""`batchrun plan`: what a run of these files would take, and what speaks against its jobs. Spends nothing but for `--sample`."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from typing import NamedTuple

import click
import msgspec

from batchrunner import estimate, jobfile
from batchrunner.account import Account, names_to_bind_to
from batchrunner.account_file import AccountFile, Unusable, file_name
from batchrunner.catalog import Model, models
from batchrunner.cli import catalog
from batchrunner.cli.accounts import accounts_of, settled, simulated_account
from batchrunner.cli.control_plane import ask
from batchrunner.cli.output import exit_code, print_json, print_text, say
from batchrunner.cli.price_file import read_prices
from batchrunner.cli.sample import Paid, measured_of, pay_for
from batchrunner.cli.sharing import accounts_directory
from batchrunner.cli.simulate import SimulatedPlatform
from batchrunner.cli.submit import options_of, submit
from batchrunner.clock import Clock, SystemClock
from batchrunner.config import Options
from batchrunner.duration import Duration, Limits
from batchrunner.errors import AccountError, DiskError, UsageError
from batchrunner.estimate import Estimator
from batchrunner.index import Index
from batchrunner.inputs import BadLines, InputFile, Inputs, PlainFile, index_inputs
from batchrunner.job import BadLine
from batchrunner.plan import Stratum, forecast, latency, measured_forecast, strata, times
from batchrunner.plan_report import (
    MOST_BAD_LINES,
    BadLineFound,
    Balance,
    PlanReport,
    Row,
    SampleRow,
    account_rows,
    found_problems,
    plan_text,
)
from batchrunner.platform.catalog_cache import Kept
from batchrunner.platform.control import ControlPlane
from batchrunner.platform.usage import USAGE_PATH, WHAT
from batchrunner.platform.usage_events import read_page
from batchrunner.pricing import PriceTable
from batchrunner.sources import Source, opened
from batchrunner.survey import Kind, Place, Survey
from batchrunner.transport import Origin
from batchrunner.wording import next_step

_encoder = msgspec.json.Encoder()
#: The same sample again is the same jobs: those that were paid for are not paid for twice.
SEED = "batchrun plan"


@click.command(
    name="plan",
    short_help="What a run would take: every line checked, then tokens, cost, time.",
    context_settings={"ignore_unknown_options": True},
)
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Run N of the jobs first, and go by what they took.")
@click.option("--offline", is_flag=True, help="Ask nobody: go by the catalog as it was last fetched, and by no balance.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def plan(
    context: click.Context,
    sample: int | None,
    offline: bool,  # noqa: FBT001 - click's calling convention
    as_json: bool,  # noqa: FBT001 - click's calling convention
    arguments: tuple[str, ...],
) -> None:
    """Say what `batchrun submit` with these ARGUMENTS (options and job files) would meet with and take. Nothing is spent.

    Each line is checked in one pass: whether it is a job, whether its id is its own, whether the catalog has its model and
    the model its parameters, whether it fits context window and limits. Then tokens, cost and time, as intervals that hold
    nine times of ten: by what earlier runs of this account have learned of such jobs, else from nothing to the cap.

    With --sample N, N of the jobs, of each kind as many as is its share, are run as `submit` would run them, into its run
    directory, where they stay: the submit that follows does not send them again. The forecast then goes by what they took.

    \b
    Exit codes:
      0   nothing speaks against it, or warnings alone
      1   some jobs are certain to fail: the catalog does not have their model, or they ask for another account
      2   an option makes no sense, or a job file is missing
      65  some lines are no jobs
      69, 74, 75, 130 ...  as with submit, where a sample was stopped
    """  # noqa: D301 - click reads the backspace: the table stays a table
    clock = SystemClock()
    as_submit = submit.make_context("batchrun submit", list(arguments), auto_envvar_prefix="BATCHRUN")
    planned = _Planned(as_submit, clock, offline=offline, sample=sample or 0)
    report, paid = planned.report()
    if as_json or as_submit.params["json"]:
        print_json(_encoder.encode(report))
    else:
        print_text(plan_text(report))
    if paid is not None and paid.status.stopped_by is not None:
        say(f"batchrun: the sample was stopped. {next_step(paid.status)}")
        context.exit(exit_code(paid.status, terminated=paid.terminated))
    context.exit(report.exit_code)


class _Catalog(NamedTuple):
    #: None where it cannot be had
    models: dict[str, Model] | None
    prices: PriceTable


class _Planned:
    """What one command does, in its order."""

    def __init__(self, as_submit: click.Context, clock: Clock, *, offline: bool, sample: int) -> None:
        self._context = as_submit
        self._clock = clock
        self._offline = offline
        self._sample = sample
        given = as_submit.params
        self._accounts = _accounts(as_submit, needs_keys=sample > 0)
        self._options = options_of(given, self._accounts)
        self._local_prices = None if given["prices"] is None else read_prices(given["prices"])

    def report(self) -> tuple[PlanReport, Paid | None]:
        """Look through the files, pay for the sample, and put together what was found."""
        given = self._context.params
        with contextlib.ExitStack() as held:
            sources = held.enter_context(opened(self._options.inputs))
            if self._sample:
                _refuse_pipes(sources)
            inputs = Inputs([_readable(source, held) for source in sources])
            if self._options.simulate:
                platform = SimulatedPlatform(rpm=self._options.rpm, tpm=self._options.tpm, options=given["simulate_options"])
                url = held.enter_context(platform).url
                self._accounts = tuple(msgspec.structs.replace(account, base_url=url) for account in self._accounts)
            found = self._catalog()
            lengths = self._lengths()
            survey, index, bad_lines = self._survey(inputs, found, lengths)
            balance = self._balance()
        drawn = strata(survey.kinds.values(), self._sample, random.Random(SEED)) if self._sample else []
        paid = pay_for(self._context, self._clock, self._options.run_dir, drawn) if drawn else None
        if paid is not None and paid.lengths is not None:
            survey.learn(paid.lengths)
        return self._put_together(survey, index, bad_lines, found, drawn, paid, balance), paid

    def _put_together(
        self,
        survey: Survey,
        index: Index,
        bad_lines: BadLines,
        found: _Catalog,
        drawn: Sequence[Stratum],
        paid: Paid | None,
        balance: Decimal | None,
    ) -> PlanReport:
        kinds = list(survey.kinds.values())
        total = measured_forecast(measured_of(drawn, paid.measured)) if paid is not None else None
        measured = total is not None
        total = total or forecast(kinds, found.prices)
        tokens = (total.input_tokens.expected or 0) + (total.output_tokens.expected or 0) if measured else None
        limits = {account.name: Limits(account.rpm, account.tpm, self._in_flight()) for account in self._accounts}
        by_account = account_rows(times(kinds, limits, tokens=tokens))
        longest = max(by_account, key=lambda row: row.seconds)
        known = latency(kinds)
        bad = [_bad_line(line, index) for line, _ in zip(bad_lines, range(MOST_BAD_LINES), strict=False)]
        report = PlanReport(
            files=self._options.inputs,
            jobs=survey.jobs,
            invalid=len(bad_lines),
            invalid_lines=bad,
            failing=survey.jobs - sum(kind.jobs for kind in kinds),
            problems=found_problems(survey.found.values()),
            prices_of=found.prices.fetched_at,
            total=Row.of(total, Duration(longest.seconds, longest.binding)),
            models=_rows(kinds, found.prices, limits),
            accounts=by_account,
            seconds=longest.seconds,
            binding=longest.binding,
            latency_seconds=None if known is None else round(known.mean, 3),
            balance=None if balance is None else Balance.against(balance, total.cost_usd),
            sample=None if paid is None else _sample_row(self._options, drawn, paid),
        )
        bad_lines.close()
        return report

    def _in_flight(self) -> int:
        return max(1, self._options.max_in_flight // len(self._accounts))

    def _survey(self, inputs: Inputs, found: _Catalog, lengths: Estimator) -> tuple[Survey, Index, BadLines]:
        """One pass over all lines."""
        bad_lines = BadLines()
        survey = Survey(
            found.models,
            found.prices,
            lengths,
            rpm=self._options.rpm,
            tpm=max(account.tpm for account in self._accounts) if self._options.tpm else 0,
            accounts=frozenset(account.name for account in self._accounts if account.name is not None),
            sample=self._sample,
            rng=random.Random(SEED),
        )

        def look(index: Index, number: int, raw: bytes) -> None:
            parsed = jobfile.parse(raw)
            survey.add(number, parsed, Place(*index.where(index.lines[number]), parsed.custom_id))

        index = index_inputs(
            inputs, bad_lines.append, priority=self._options.priority, accounts=names_to_bind_to(self._accounts), on_job=look
        )
        return survey, index, bad_lines

    def _catalog(self) -> _Catalog:
        """The models on offer, and prices: one's own where there are such."""
        account = self._accounts[0]
        local = self._local_prices
        if len({one.base_url for one in self._accounts}) > 1:
            say("warning: accounts of several servers have no catalog in common: models are not checked.")
            return _Catalog(None, local or PriceTable())
        found = self._kept_or_fetched(account)
        if found is None:
            return _Catalog(None, local or PriceTable())
        offered = {model.id: model for model in models(found.body)}
        return _Catalog(offered, local or PriceTable.from_catalog(found.body, fetched_at=found.fetched_at))

    def _kept_or_fetched(self, account: Account) -> Kept | None:
        if not self._offline:
            try:
                return catalog.fetch(account, self._clock, keep=not self._options.simulate)
            except AccountError as error:
                say(f"warning: {error}")
        found = catalog.cache().find(Origin.parse(account.base_url))
        if found is None:
            say("warning: no catalog is known: models, parameters and context windows are not checked, costs are unknown.")
        else:
            say(f"The catalog is that of {found.fetched_at}.")
        return found

    def _lengths(self) -> Estimator:
        """What earlier runs of these accounts have learned; nothing of the embedded platform's, which has no memory."""
        if self._options.simulate:
            return Estimator()
        for account in self._accounts:
            path = accounts_directory(self._context.params["state_dir"]) / file_name(account.identity)
            if not path.exists():
                continue
            try:
                learned = AccountFile(path).lengths()
            except Unusable as unusable:
                say(f"warning: {unusable}")
                continue
            lengths = None if learned is None else estimate.decode(learned)
            if lengths is not None:
                return lengths
        return Estimator()

    def _balance(self) -> Decimal | None:
        """What the first account has; None where it cannot be asked, or does not say."""
        account = self._accounts[0]
        if self._offline or not account.keys or len(self._accounts) > 1:
            return None
        try:
            return ask(account, _left)
        except AccountError as error:
            say(f"warning: the balance is not known: {error}")
            return None


def _accounts(context: click.Context, *, needs_keys: bool) -> tuple[Account, ...]:
    """The accounts of a command; without keys, where there are none and nothing is to be sent."""
    if context.params["simulate"]:
        return (simulated_account(context),)
    try:
        return accounts_of(context, os.environ)
    except UsageError:
        if needs_keys:
            raise
    name: str | None = context.params["account"]
    names = [None] if name is None else [one.strip() for one in name.split(",")]
    return tuple(settled(context, one)[0] for one in names)


def _refuse_pipes(sources: Sequence[Source]) -> None:
    """Raise UsageError where an input would be gone when its sample is run, and the run after it."""
    for source in sources:
        if source.file is None:
            raise UsageError(f"--sample: {source.name} cannot be read again by the submit that follows; name a file.")


def _readable(source: Source, held: contextlib.ExitStack) -> InputFile:
    """An input that can be read at any place: itself, or what it unpacks to, in a file without a name."""
    plain = source.as_it_is()
    if plain is not None:
        return plain
    spool = held.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed with all that is held
    try:
        size = sum(spool.write(piece) for piece in source.content())
        spool.flush()
    except OSError as cause:
        raise DiskError(source.name, "unpacking it aside", cause) from cause
    return InputFile(source.name, size, [source.path, size, 0, 0], PlainFile(source.name, spool.fileno()))


async def _left(control: ControlPlane) -> Decimal | None:
    return read_page(await control.get(USAGE_PATH, {"limit": "1"}, what=WHAT), WHAT).balance_usd


def _rows(kinds: Sequence[Kind], prices: PriceTable, limits: Mapping[str | None, Limits]) -> list[Row]:
    """A row for each model of each account: what its jobs will take, and how long if there were no others."""

    def whose(kind: Kind) -> tuple[str, str]:
        return kind.key.account, kind.size.model

    grouped: Iterator[tuple[tuple[str, str], Iterator[Kind]]] = groupby(sorted(kinds, key=whose), key=whose)
    rows = []
    for (account, model), its in grouped:
        jobs = list(its)
        its_limits: Mapping[str | None, Limits] = {account: limits[account]} if account else limits
        longest = max(times(jobs, its_limits, tokens=None), key=lambda one: one.time.seconds)
        rows.append(Row.of(forecast(jobs, prices), longest.time, model, account or None))
    return rows


def _bad_line(bad: BadLine, index: Index) -> BadLineFound:
    file, line = index.where(bad.line)
    return BadLineFound(bad.code, bad.message, file, line)


def _sample_row(options: Options, drawn: Sequence[Stratum], paid: Paid) -> SampleRow:
    jobs = sum(len(stratum.drawn) for stratum in drawn)
    spent = sum(one.usd for one in paid.measured.values())
    return SampleRow(options.run_dir, jobs, len(paid.measured), round(spent, 9))
