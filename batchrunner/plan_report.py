"""A plan as it is shown: one record, the `--json` document, and the same in words. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Final, Literal

import msgspec

from batchrunner.checks import Code, Level
from batchrunner.duration import Binding, Duration
from batchrunner.forecast import Interval
from batchrunner.plan import AccountTime, Basis, Forecast
from batchrunner.survey import Found, Place
from batchrunner.wording import counted, escape_terminal
from batchrunner.wording import duration as clock

#: lines that are no jobs, of which the document tells one by one; all are counted
MOST_BAD_LINES: Final = 100

Verdict = Literal["enough", "perhaps", "short", "unknown"]


class Range(msgspec.Struct, frozen=True):
    """An interval at 90 %. Null: nothing bounds it, or it is not known."""

    low: float
    expected: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval, places: int) -> Range:
        """Rounded to so many places."""
        expected, high = (None if value is None else round(value, places) for value in (interval.expected, interval.high))
        return cls(round(interval.low, places), expected, high)


class BadLineFound(msgspec.Struct, frozen=True):
    """A line that is no job."""

    code: str
    message: str
    file: str | None
    line: int


class ProblemFound(msgspec.Struct, frozen=True):
    """Something about jobs of one model. `places` are the first few."""

    level: Level
    code: Code
    model: str
    parameter: str | None
    message: str
    jobs: int
    places: list[Place]


class Row(msgspec.Struct, frozen=True):
    """What some of the jobs will take. Tokens, and USD."""

    account: str | None
    #: null for all together
    model: str | None
    jobs: int
    input_tokens: Range
    output_tokens: Range
    cost_usd: Range
    basis: Basis
    #: how long they would take if there were no others, and what would bind them
    seconds: float
    binding: Binding

    @classmethod
    def of(cls, found: Forecast, time: Duration, model: str | None = None, account: str | None = None) -> Row:
        ranges = (Range.of(found.input_tokens, 0), Range.of(found.output_tokens, 0), Range.of(found.cost_usd, 9))
        return cls(account, model, found.jobs, *ranges, found.basis, round(time.seconds, 1), time.binding)


class AccountRow(msgspec.Struct, frozen=True):
    """How long one account is at work."""

    account: str | None
    rpm: int
    tpm: int
    #: that no other account may send; all, where there is but one
    jobs_bound: int
    seconds: float
    binding: Binding


class Balance(msgspec.Struct, frozen=True):
    """What the account has, against what is forecast. `amount` is null where the server does not say."""

    amount: float | None
    verdict: Verdict

    @classmethod
    def against(cls, amount: Decimal | None, cost: Interval) -> Balance:
        """Enough: for the highest cost; short: not even for the lowest."""
        if amount is None:
            return cls(None, "unknown")
        has = float(amount)
        if has < cost.low or has <= 0:
            return cls(has, "short")
        return cls(has, "enough" if cost.high is not None and has >= cost.high else "perhaps")


class SampleRow(msgspec.Struct, frozen=True):
    """The jobs that were run to measure them. Their results are kept in the run directory."""

    run_dir: str
    jobs: int
    #: whose cost is known
    measured: int
    spent_usd: float


class PlanReport(msgspec.Struct, frozen=True):
    """The `--json` document."""

    files: tuple[str, ...]
    jobs: int
    #: lines that are no jobs; they are not in `jobs`
    invalid: int
    invalid_lines: list[BadLineFound]
    #: jobs that are certain to fail; they are not in the figures below
    failing: int
    problems: list[ProblemFound]
    #: when the catalog was fetched, or the price file last changed; null where there are no prices
    prices_of: str | None
    total: Row
    models: list[Row]
    accounts: list[AccountRow]
    seconds: float
    binding: Binding
    #: of an answer, in the mean; null where none is known, and `seconds` leaves it out
    latency_seconds: float | None
    balance: Balance | None
    sample: SampleRow | None

    @property
    def exit_code(self) -> int:
        """65 where lines are no jobs, 1 where jobs are certain to fail, else 0."""
        return 65 if self.invalid else 1 if self.failing else 0


def found_problems(found: Iterable[Found]) -> list[ProblemFound]:
    """Errors first, and the most frequent first."""
    shown = []
    for one in found:
        what = one.problem
        shown.append(ProblemFound(what.level, what.code, what.model, what.parameter, what.message, one.count, one.places))
    return sorted(shown, key=lambda one: (one.level != "error", -one.jobs, one.code, one.model))


def account_rows(found: Sequence[AccountTime]) -> list[AccountRow]:
    return [
        AccountRow(one.account, one.rpm, one.tpm, one.jobs_bound, round(one.time.seconds, 1), one.time.binding) for one in found
    ]


# Words -------------------------------------------------------------------------------------------------------------

_BASES: Final[dict[Basis, str]] = {
    "sample": "measured",
    "price": "by price",
    "profile": "by earlier jobs",
    "guess": "from nothing to the cap",
    "unknown": "unknown",
}
_BINDINGS: Final[dict[Binding, str]] = {
    "requests": "limited by requests (--rpm)",
    "tokens": "limited by tokens (--tpm)",
    "in_flight": "limited by --max-in-flight",
    "latency": "limited by nothing but the time of an answer",
}
_VERDICTS: Final[dict[Verdict, str]] = {
    "enough": "enough",
    "perhaps": "perhaps not enough",
    "short": "NOT ENOUGH",
    "unknown": "unknown",
}


def plan_text(plan: PlanReport) -> str:
    """The plan for people. Ends with a line end."""
    return "\n".join(_lines(plan)) + "\n"


def _lines(plan: PlanReport) -> Iterator[str]:
    invalid = f"; {counted(plan.invalid, 'line')} that are none" if plan.invalid else ""
    yield f"{escape_terminal(', '.join(plan.files))}: {counted(plan.jobs, 'job')}{invalid}."
    if plan.invalid_lines or plan.problems:
        yield ""
        yield from (f"  error    {escape_terminal(line.message)}" for line in plan.invalid_lines)
        if plan.invalid > len(plan.invalid_lines):
            yield f"  error    and {plan.invalid - len(plan.invalid_lines):,} more lines that are no jobs"
        yield from map(_problem, plan.problems)
    yield ""
    yield from _table([*plan.models, plan.total])
    yield ""
    for name, text in _facts(plan):
        yield f"  {name:<9} {text}"


def _problem(found: ProblemFound) -> str:
    places = ", ".join(f"{place.file or 'line'} {place.line:,}" for place in found.places[:3])
    more = " ..." if found.jobs > 3 else ""
    model = f"{found.model}: " if found.model else ""
    return escape_terminal(f"  {found.level:<8} {model}{found.message} {counted(found.jobs, 'job')}, at {places}{more}")


def _table(rows: Sequence[Row]) -> Iterator[str]:
    cells = [("model", "jobs", "input tokens", "output tokens", "cost", "time", "")]
    for row in rows:
        name = "in all" if row.model is None else f"{row.model or '(none)'}{f' ({row.account})' if row.account else ''}"
        tokens = (_range(row.input_tokens, "{:,.0f}".format), _range(row.output_tokens, "{:,.0f}".format))
        cells.append(
            (escape_terminal(name), f"{row.jobs:,}", *tokens, _range(row.cost_usd, money), clock(row.seconds), _BASES[row.basis])
        )
    widths = [max(len(row[column]) for row in cells) for column in range(7)]
    for cell in cells:
        yield ("  " + "  ".join(f"{text:<{width}}" for text, width in zip(cell, widths, strict=True))).rstrip()


def _range(of: Range, text: Callable[[float], str]) -> str:
    """`1,234 (1,000 to 1,500)`."""
    if of.expected is None:
        return "unknown"
    low, middle = text(of.low), text(of.expected)
    high = "no bound" if of.high is None else text(of.high)
    return middle if low == high == middle else f"{middle} ({low} to {high})"


def money(usd: float) -> str:
    """An amount as a forecast has it: cents, or three digits of what is less than a dollar."""
    if usd >= 1 or not usd:
        return f"${usd:,.2f}"
    return "$" + f"{usd:.{2 - math.floor(math.log10(usd))}f}"


def _facts(plan: PlanReport) -> Iterator[tuple[str, str]]:
    latency = "" if plan.latency_seconds is not None else ", the answers' own time not counted"
    yield "time", f"about {clock(plan.seconds)}, {_BINDINGS[plan.binding]}{latency}"
    if len(plan.accounts) > 1:
        for row in plan.accounts:
            yield "", f"{escape_terminal(row.account or '')}: {clock(row.seconds)}, {_BINDINGS[row.binding]}"
    if plan.balance is not None:
        amount = "unknown" if plan.balance.amount is None else f"${plan.balance.amount:,.2f}: {_VERDICTS[plan.balance.verdict]}"
        yield "balance", amount
    if plan.sample is not None:
        sample = plan.sample
        run_dir = escape_terminal(sample.run_dir)
        yield (
            "sample",
            f"{sample.measured:,} of {counted(sample.jobs, 'job')} measured for ${sample.spent_usd:,.4f}, kept in {run_dir}",
        )
    if plan.failing:
        yield "failing", f"{counted(plan.failing, 'job')} certain to fail, in none of these figures"
    yield "prices", "none known" if plan.prices_of is None else f"of {plan.prices_of}"
