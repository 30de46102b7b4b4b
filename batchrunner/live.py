"""What people may change of a run while it is at work, and what it answers them. Pure: no socket, no run.

A command is one JSON line, `{"do":"set","rpm":100}`, and so is its answer. `parse` reads the words of a command line, `decode`
the JSON of whoever has found the socket: both are held to the same bounds. `apply` says what is to hold afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from batchrunner.config import MOST_A_MINUTE
from batchrunner.status import Status

#: No sum of money is greater or finer: what would be is a slip, or meant to do harm.
MOST_USD: Final = 10**12
FINEST_DECIMALS: Final = 12


class AccountLimits(msgspec.Struct, frozen=True):
    """Requests and tokens a minute of one of the run's accounts; 0: no limit."""

    name: str | None
    rpm: int
    tpm: int


class Live(msgspec.Struct, frozen=True):
    """All that can be changed of a run, as it stands."""

    accounts: tuple[AccountLimits, ...]
    max_cost_usd: Decimal | None
    paused: bool = False


# -------------------------------------------------------------------------------------------------------------- commands


class Set(msgspec.Struct, frozen=True, tag_field="do", tag="set", forbid_unknown_fields=True, omit_defaults=True):
    """Other limits, or another spend cap, which null takes away. What is not named stays as it is."""

    account: str | None = None
    rpm: int | None = None
    tpm: int | None = None
    max_cost_usd: Decimal | UnsetType | None = UNSET


class Pause(msgspec.Struct, frozen=True, tag_field="do", tag="pause", forbid_unknown_fields=True):
    """Send nothing more for now; what is in flight goes on to its end."""


class Resume(msgspec.Struct, frozen=True, tag_field="do", tag="resume", forbid_unknown_fields=True):
    """Go on after a pause."""


class Drain(msgspec.Struct, frozen=True, tag_field="do", tag="drain", forbid_unknown_fields=True):
    """End the run once what is in flight has ended, as SIGINT does."""


class Show(msgspec.Struct, frozen=True, tag_field="do", tag="show", forbid_unknown_fields=True):
    """Change nothing, and say how things stand."""


Command = Set | Pause | Resume | Drain | Show

_PLAIN: Final[dict[str, Command]] = {"pause": Pause(), "resume": Resume(), "drain": Drain(), "show": Show()}
ACTIONS: Final = ("set", *_PLAIN)


class Refused(ValueError):
    """A command that makes no sense, or not in this run. The message says which, and what would."""


def parse(action: str, words: Sequence[str]) -> Command:
    """The command in words: one of ACTIONS, and for `set` what is to hold, `rpm=100`. Raises: Refused."""
    if action != "set":
        if words:
            raise Refused(f"{action} takes nothing more, and {words[0]!r} was given.")
        return _PLAIN[action]
    fields: dict[str, object] = {}
    for word in words:
        name, equals, value = word.partition("=")
        field = _FIELDS.get(name.replace("-", "_"))
        if field is None or not equals:
            raise Refused(f"{word!r} is nothing that can be set; give rpm=N, tpm=N, max-cost=USD or account=NAME.")
        if field[0] in fields:
            raise Refused(f"{name} is given twice.")
        fields[field[0]] = field[1](value)
    return _checked(msgspec.convert(fields, Set))


def decode(line: bytes) -> Command:
    """The command in a line of JSON. Raises: Refused."""
    try:
        return _checked(msgspec.json.decode(line, type=Command))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidOperation) as cause:
        raise Refused("that is no command that this run knows; use the same version of batchrun for both.") from cause


def encode(command: Command) -> bytes:
    """One line, as `decode` reads it."""
    return msgspec.json.encode(command) + b"\n"


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MOST_A_MINUTE))):
        raise Refused(f"{text!r} is no number a minute, such as 50; 0 means no limit.")
    return int(text)


def _usd(text: str) -> Decimal | None:
    if text == "none":
        return None
    try:
        return Decimal(text)
    except InvalidOperation:
        raise Refused(f"{text!r} is no amount in USD, such as 2.50; none takes the cap away.") from None


#: what can be set -> its field, and how it is read
_FIELDS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "rpm": ("rpm", _count),
    "tpm": ("tpm", _count),
    "max_cost": ("max_cost_usd", _usd),
    "account": ("account", str),
}


def _checked(command: Command) -> Command:
    if not isinstance(command, Set):
        return command
    if command.rpm is command.tpm is None and command.max_cost_usd is UNSET:
        raise Refused("nothing is to be set; give rpm=N, tpm=N or max-cost=USD.")
    if any(limit is not None and not 0 <= limit <= MOST_A_MINUTE for limit in (command.rpm, command.tpm)):
        raise Refused(f"a limit is between 0, which means none, and {MOST_A_MINUTE:,} a minute.")
    if isinstance(command.max_cost_usd, Decimal) and not _is_money(command.max_cost_usd):
        raise Refused(f"a spend cap is between 0 and {MOST_USD:,} USD, with {FINEST_DECIMALS} decimals at the most.")
    if command.account is not None and command.rpm is command.tpm is None:
        raise Refused("max-cost is of the whole run, and account=NAME of a limit: leave the account out.")
    return command


def _is_money(amount: Decimal) -> bool:
    exponent = amount.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -FINEST_DECIMALS and 0 <= amount <= MOST_USD


# ----------------------------------------------------------------------------------------------------- what is to become


def apply(live: Live, command: Command, *, why_no_cap: str | None, stopping: bool) -> Live:
    """What is to hold after a command. `why_no_cap`: what prices lack for a spend cap; `stopping`: the run sends nothing more.

    Raises: Refused where this run can do nothing of the kind.
    """
    if stopping and not isinstance(command, Drain | Show):
        raise Refused("the run is stopping, and sends nothing more; start it again with what it is to go by.")
    match command:
        case Set():
            return _set(live, command, why_no_cap)
        case Pause() | Resume():
            return msgspec.structs.replace(live, paused=isinstance(command, Pause))
        case _:
            return live


def _set(live: Live, command: Set, why_no_cap: str | None) -> Live:
    if isinstance(command.max_cost_usd, Decimal) and why_no_cap is not None:
        raise Refused(f"a spend cap needs prices, and {why_no_cap}; start it again with --prices FILE and --max-cost.")
    cap = live.max_cost_usd if command.max_cost_usd is UNSET else command.max_cost_usd
    if command.rpm is command.tpm is None:
        return msgspec.structs.replace(live, max_cost_usd=cap)
    names = " or ".join(f"account={account.name}" for account in live.accounts if account.name is not None)
    if command.account is None and len(live.accounts) > 1:
        raise Refused(f"this run has several accounts, each with limits of its own; say which: {names}.")
    if command.account is not None and all(account.name != command.account for account in live.accounts):
        raise Refused(f"this run has no account of that name; {f'there is {names}' if names else 'its only one has none'}.")
    accounts = tuple(
        AccountLimits(
            account.name,
            account.rpm if command.rpm is None else command.rpm,
            account.tpm if command.tpm is None else command.tpm,
        )
        if command.account in (None, account.name)
        else account
        for account in live.accounts
    )
    return msgspec.structs.replace(live, accounts=accounts, max_cost_usd=cap)


def changes(before: Live, after: Live) -> tuple[str, ...]:
    """What has become different, in words; nothing where all is as it was."""
    found = []
    for was, now in zip(before.accounts, after.accounts, strict=True):
        whose = f" of account {now.name}" if len(after.accounts) > 1 else ""
        for what, old, new in (("requests", was.rpm, now.rpm), ("tokens", was.tpm, now.tpm)):
            if old != new:
                found.append(f"the limit of {what}{whose} is {_a_minute(new)} now; it was {_a_minute(old)}")
    if before.max_cost_usd != after.max_cost_usd:
        found.append(f"the spend cap is {_cap(after.max_cost_usd)} now; it was {_cap(before.max_cost_usd)}")
    if before.paused != after.paused:
        found.append("paused: nothing more is sent, what is in flight ends" if after.paused else "resumed: jobs are sent again")
    return tuple(found)


def _a_minute(limit: int) -> str:
    return f"{limit:,} a minute" if limit else "none"


def _cap(amount: Decimal | None) -> str:
    return "none" if amount is None else f"${amount:f}"


# --------------------------------------------------------------------------------------------------------------- answers


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a run says to a command. With an `error` nothing was changed, and nothing else is said."""

    error: str | None = None
    #: what has become different, in words
    changed: tuple[str, ...] = ()
    accounts: tuple[AccountLimits, ...] = ()
    max_cost_usd: Decimal | None = None
    paused: bool = False
    #: of this moment, not of the last five seconds
    status: Status | None = None


def encode_answer(answer: Answer) -> bytes:
    """One line, as `decode_answer` reads it."""
    return msgspec.json.encode(answer) + b"\n"


def decode_answer(line: bytes) -> Answer:
    """What a run has answered. Raises: msgspec.DecodeError, UnicodeDecodeError."""
    return msgspec.json.decode(line, type=Answer)
