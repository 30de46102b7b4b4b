"""What can be said on the command line of the simulated platform, and the settings that it makes."""

from __future__ import annotations

import argparse
import enum
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import TypeVar

from batchrunner.simulator.account_options import account_settings, add_account_options
from batchrunner.simulator.accounts import accounts_of, check
from batchrunner.simulator.catalog import MODELS
from batchrunner.simulator.chats import CAP
from batchrunner.simulator.faults import KINDS, check_rates, kind_named
from batchrunner.simulator.settings import TEST_KEY, Charging, LogAt, RateHeaders, RetryAfter, Rule, Settings, WindowShape

Word = TypeVar("Word", bound=enum.StrEnum)
_DEFAULTS = Settings()


def parser() -> argparse.ArgumentParser:
    """The options. Each has the default of the setting that it stands for."""
    of = argparse.ArgumentParser(
        prog="batchrun simulate",
        description="A simulated EmpirioLabs on loopback, to rehearse against. Prints one JSON line with its url and pid when it "
        f"is ready, and serves until Ctrl-C. Models: {', '.join(model.id for model in MODELS)}.",
        epilog="Example: batchrun simulate --rpm 50 --window two-bucket --change 600=rpm:25 --foreign 10@900-1500",
    )
    of.add_argument("--port", type=_port, default=0, help="0 takes any that is free (default)")
    of.add_argument("--key", action="append", dest="keys", metavar="KEY", help=f"an accepted test key (default {TEST_KEY})")
    of.add_argument("--seed", type=int, default=_DEFAULTS.seed, metavar="N", help="the same seed, the same answers and faults")
    of.add_argument("--balance", type=_amount, default=_DEFAULTS.balance_usd, metavar="USD", help="credits (default %(default)s)")
    of.add_argument(
        "--discount", type=_exact_share, default=_DEFAULTS.discount, metavar="SHARE", help="off all list prices (default none)"
    )
    of.add_argument(
        "--chats",
        type=_count,
        default=_DEFAULTS.chats,
        metavar="N",
        help=f"saved conversations (default %(default)s, at most {CAP})",
    )
    of.add_argument("--ledger", metavar="FILE", help="append a JSON line for each request that was billed")
    of.add_argument("--exit-with-stdin", action="store_true", help="end when stdin does; then SIGINT is ignored")

    _add_limit_options(of)
    add_account_options(of)
    of.add_argument(
        "--strangers",
        type=_positive,
        default=_DEFAULTS.strangers,
        metavar="RATE",
        help="requests of others on the same account, drawn from its own, for each of these; in the ledger their "
        "lines have an owner (default none)",
    )
    of.add_argument(
        "--playground-share",
        type=_share,
        default=_DEFAULTS.playground_share,
        metavar="SHARE",
        help="of these, those that come from the playground (default none)",
    )

    times = of.add_argument_group("answers (lognormal: a median, and how far it scatters)")
    times.add_argument(
        "--latency",
        type=_positive,
        default=_DEFAULTS.latency_median_seconds,
        metavar="SECONDS",
        help="how long one takes, the median (default %(default)s)",
    )
    times.add_argument(
        "--latency-sigma", type=_positive, default=_DEFAULTS.latency_sigma, metavar="SIGMA", help="0: always the median"
    )
    times.add_argument(
        "--latency-per-token",
        type=_positive,
        default=_DEFAULTS.latency_per_token_seconds,
        metavar="SECONDS",
        help="on top of it, for each token of output (default %(default)s)",
    )
    times.add_argument(
        "--work-seconds",
        type=_positive,
        default=_DEFAULTS.work_seconds,
        metavar="SECONDS",
        help="how long work takes that is asked for (films, transcripts), the median (default %(default)s)",
    )
    times.add_argument(
        "--output-tokens",
        type=_positive_count,
        default=_DEFAULTS.output_median_tokens,
        metavar="N",
        help="how long one is without a cap, the median (default %(default)s)",
    )
    times.add_argument(
        "--output-sigma", type=_positive, default=_DEFAULTS.output_sigma, metavar="SIGMA", help="0: always the median"
    )
    times.add_argument(
        "--cached-share",
        type=_share,
        default=_DEFAULTS.cached_share,
        metavar="SHARE",
        help="of requests with part of the prompt cached (default %(default)s)",
    )

    faults = of.add_argument_group("faults", f"What can go wrong: {', '.join(KINDS)}.")
    faults.add_argument(
        "--faults", type=_rates, default={}, metavar="KIND=SHARE,...", help="at random, such as error500=0.05,silent=0.01"
    )
    faults.add_argument("--script", type=_script, default=(), metavar="KIND,...", help="by order of arrival; ok: none")
    faults.add_argument(
        "--fault-on",
        type=_rule,
        action="append",
        default=[],
        metavar="TAG=KIND[*N]",
        help="for the first N requests (1; 0: all) whose metadata.tag, metadata.custom_id or user is TAG",
    )
    return of


def _add_limit_options(of: argparse.ArgumentParser) -> None:
    limits = of.add_argument_group("limits (0: none)")
    limits.add_argument("--rpm", type=_count, default=_DEFAULTS.rpm, metavar="N", help="requests a minute (default none)")
    limits.add_argument("--tpm", type=_count, default=_DEFAULTS.tpm, metavar="N", help="tokens a minute (default none)")
    limits.add_argument(
        "--window",
        type=_one_of(WindowShape),
        default=_DEFAULTS.window,
        metavar="KIND",
        help=f"what a minute is: {', '.join(WindowShape)} (default %(default)s)",
    )
    limits.add_argument("--burst", type=_count, default=_DEFAULTS.burst, metavar="N", help="a bucket's size in requests")
    limits.add_argument(
        "--burst-tokens", type=_count, default=_DEFAULTS.burst_tokens, metavar="N", help="a bucket's size in tokens"
    )
    limits.add_argument(
        "--charge",
        type=_one_of(Charging),
        metavar="WHAT",
        default=_DEFAULTS.charging,
        help="tokens count as estimated when a request comes, as used when it has ended (actual), or as the one corrected to "
        f"the other: {', '.join(Charging)} (default %(default)s)",
    )
    limits.add_argument("--count-rejected", action="store_true", help="requests that were turned away count toward the RPM too")
    limits.add_argument(
        "--log-at",
        type=_one_of(LogAt),
        metavar="WHEN",
        default=_DEFAULTS.log_at,
        help="requests count from their start, or from their completion if they succeed: "
        f"{', '.join(LogAt)} (default %(default)s)",
    )
    limits.add_argument(
        "--rate-headers",
        type=_one_of(RateHeaders),
        default=_DEFAULTS.rate_headers,
        metavar="PROVIDER",
        help=f"say what is left as it does: {', '.join(RateHeaders)} (default %(default)s)",
    )
    limits.add_argument(
        "--retry-after",
        type=_one_of(RetryAfter),
        nargs="?",
        const=RetryAfter.SECONDS,
        default=_DEFAULTS.retry_after,
        metavar="FORM",
        help=f"with a 429: {', '.join(RetryAfter)} (default %(default)s: that of --rate-headers; without a form: seconds)",
    )
    limits.add_argument(
        "--jitter",
        type=_jitter,
        default=_DEFAULTS.jitter_seconds,
        metavar="LOW-HIGH",
        help="so many seconds from the server's door to its limits, drawn anew for each request (default none)",
    )
    limits.add_argument(
        "--idempotency", action="store_true", help="tell an answer again, for free, to whoever repeats its Idempotency-Key"
    )


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the options make. Raises: ValueError where they make no sense together."""
    settings = Settings(
        seed=options.seed,
        keys=tuple(options.keys or _DEFAULTS.keys),
        balance_usd=options.balance,
        discount=options.discount,
        chats=options.chats,
        strangers=options.strangers,
        playground_share=options.playground_share,
        rpm=options.rpm,
        tpm=options.tpm,
        window=options.window,
        burst=options.burst,
        burst_tokens=options.burst_tokens,
        charging=options.charge,
        count_rejected=options.count_rejected,
        log_at=options.log_at,
        rate_headers=options.rate_headers,
        retry_after=options.retry_after,
        jitter_seconds=options.jitter,
        idempotency=options.idempotency,
        latency_median_seconds=options.latency,
        latency_sigma=options.latency_sigma,
        latency_per_token_seconds=options.latency_per_token,
        work_seconds=options.work_seconds,
        output_median_tokens=options.output_tokens,
        output_sigma=options.output_sigma,
        cached_share=options.cached_share,
        faults=options.faults,
        script=options.script,
        rules=tuple(options.fault_on),
        **account_settings(options),
    )
    check(accounts_of(settings))
    return settings


def _one_of(kind: type[Word]) -> Callable[[str], Word]:
    """Reads one of a closed set of words, and says which there are where it is none."""

    def read(text: str) -> Word:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: say one of {', '.join(kind)}") from error

    return read


def _rates(text: str) -> dict[str, float]:
    rates: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        kind, _, rate = part.partition("=")
        rates[kind.strip()] = _share(rate)
    try:
        check_rates(rates)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return rates


def _script(text: str) -> tuple[str, ...]:
    return tuple(_kind(part.strip()) for part in text.split(",") if part.strip())


def _rule(text: str) -> Rule:
    tag, _, rest = text.rpartition("=")
    kind, _, times = rest.partition("*")
    if not tag:
        raise argparse.ArgumentTypeError(f"{text!r}: say TAG=KIND, or TAG=KIND*N")
    return Rule(kind=_kind(kind), tag=tag, times=_count(times) if times else 1)


def _kind(text: str) -> str:
    try:
        return kind_named(text).kind
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount") from error
    if not amount.is_finite():
        raise argparse.ArgumentTypeError(f"{text!r} is no amount")
    return amount


def _exact_share(text: str) -> Decimal:
    amount = _amount(text)
    if not 0 <= amount <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must lie between 0 and 1")
    return amount


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)


def _port(text: str) -> int:
    if _count(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _positive_count(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} must be 0 or more")
    return number


def _jitter(text: str) -> tuple[float, float]:
    low, _, high = text.rpartition("-")
    pair = (_positive(low or "0"), _positive(high))
    if pair[0] > pair[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: say LOW-HIGH in seconds, or HIGH alone")
    return pair


def _share(text: str) -> float:
    number = _positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text!r} must lie between 0 and 1")
    return number
