"""What may be asked of a live run: in words, in JSON, and what comes of it."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.config import MOST_A_MINUTE
from batchrunner.live import (
    AccountLimits,
    Command,
    Drain,
    Live,
    Pause,
    Refused,
    Resume,
    Set,
    Show,
    apply,
    changes,
    decode,
    encode,
    parse,
)

ONE = Live((AccountLimits(None, 50, 2_000_000),), None)
TWO = Live((AccountLimits("prod", 50, 0), AccountLimits("dev", 10, 0)), Decimal(5))


def carried_out(live: Live, action: str, *words: str, why_no_cap: str | None = None, stopping: bool = False) -> Live:
    return apply(live, parse(action, words), why_no_cap=why_no_cap, stopping=stopping)


def refusal(live: Live, action: str, *words: str, why_no_cap: str | None = None, stopping: bool = False) -> str:
    with pytest.raises(Refused) as caught:
        carried_out(live, action, *words, why_no_cap=why_no_cap, stopping=stopping)
    return str(caught.value)


# --- words


def test_what_is_set_is_taken_together() -> None:
    assert parse("set", ["rpm=100", "tpm=0", "max-cost=2.50", "account=prod"]) == Set("prod", 100, 0, Decimal("2.50"))
    assert parse("set", ["max-cost=none"]) == Set(max_cost_usd=None)
    assert parse("set", ["max_cost=3"]) == Set(max_cost_usd=Decimal(3))


def test_the_plain_commands() -> None:
    assert [parse(action, []) for action in ("pause", "resume", "drain", "show")] == [Pause(), Resume(), Drain(), Show()]


@pytest.mark.parametrize(
    ("action", "words", "said"),
    [
        ("pause", ["now"], "'now'"),
        ("set", [], "nothing is to be set"),
        ("set", ["account=prod"], "nothing is to be set"),
        ("set", ["speed=9"], "'speed=9'"),
        ("set", ["rpm"], "'rpm'"),
        ("set", ["rpm="], "no number"),
        ("set", ["rpm=-1"], "no number"),
        ("set", ["rpm=1e3"], "no number"),
        ("set", ["rpm=\u0663"], "no number"),
        ("set", ["rpm=" + "9" * 5000], "no number"),
        ("set", [f"tpm={MOST_A_MINUTE + 1}"], "between 0"),
        ("set", ["rpm=1", "rpm=2"], "twice"),
        ("set", ["max-cost=1", "max_cost=2"], "twice"),
        ("set", ["max-cost=much"], "no amount"),
        ("set", ["max-cost=-1"], "a spend cap is between"),
        ("set", ["max-cost=NaN"], "a spend cap is between"),
        ("set", ["max-cost=Infinity"], "a spend cap is between"),
        ("set", ["max-cost=1E-1000000"], "a spend cap is between"),
        ("set", ["max-cost=1E+1000000"], "a spend cap is between"),
        ("set", ["max-cost=1", "account=prod"], "leave the account out"),
    ],
)
def test_words_that_make_no_sense_are_refused_with_what_would(action: str, words: list[str], said: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(action, words)
    assert said in str(caught.value)


# --- JSON


@pytest.mark.parametrize(
    "command", [Set("a", 1, 2, Decimal("0.10")), Set(max_cost_usd=None), Set(rpm=0), Pause(), Resume(), Drain(), Show()]
)
def test_a_command_comes_as_it_was_sent(command: Command) -> None:
    line = encode(command)
    assert line.endswith(b"}\n")
    assert decode(line) == command


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"rubbish",
        b"null",
        b"[]",
        b"{}",
        b'{"do":"kill"}',
        b'{"do":"pause","now":1}',
        b'{"do":"set"}',
        b'{"do":"set","rpm":-1}',
        b'{"do":"set","rpm":1.5}',
        b'{"do":"set","rpm":' + b"9" * 4000 + b"}",
        b'{"do":"set","tpm":1000000000001}',
        b'{"do":"set","max_cost_usd":"NaN"}',
        b'{"do":"set","max_cost_usd":"sNaN"}',
        b'{"do":"set","max_cost_usd":"1E+999999"}',
        b'{"do":"set","max_cost_usd":"x"}',
        b'{"do":"set","account":"a","max_cost_usd":"1"}',
        b'{"do":"set","account":"\xff","rpm":1}',
        b"[" * 4000,
    ],
)
def test_a_line_that_is_no_command_is_refused(line: bytes) -> None:
    with pytest.raises(Refused):
        decode(line)


@given(st.binary(max_size=200))
def test_no_line_does_anything_else(line: bytes) -> None:
    with contextlib.suppress(Refused):
        decode(line)


# --- what is to become


def test_what_is_not_named_stays() -> None:
    assert carried_out(ONE, "set", "rpm=100") == Live((AccountLimits(None, 100, 2_000_000),), None)
    assert carried_out(ONE, "set", "tpm=0", "max-cost=1") == Live((AccountLimits(None, 50, 0),), Decimal(1))
    assert carried_out(TWO, "set", "max-cost=none") == Live(TWO.accounts, None)


def test_of_several_accounts_the_named_one_is_meant() -> None:
    after = carried_out(TWO, "set", "rpm=20", "account=dev", "max-cost=9")
    assert after == Live((AccountLimits("prod", 50, 0), AccountLimits("dev", 20, 0)), Decimal(9))
    assert "account=prod or account=dev" in refusal(TWO, "set", "rpm=20")
    assert "account=prod or account=dev" in refusal(TWO, "set", "rpm=20", "account=x")
    assert "its only one has none" in refusal(ONE, "set", "rpm=20", "account=x")
    assert "there is account=only" in refusal(Live((AccountLimits("only", 1, 1),), None), "set", "rpm=20", "account=x")


def test_a_cap_needs_prices() -> None:
    """Where nothing has a price a cap would let nothing through; to take one away needs none."""
    assert "--prices" in refusal(ONE, "set", "max-cost=5", why_no_cap="there are none")
    assert carried_out(TWO, "set", "max-cost=none", why_no_cap="there are none").max_cost_usd is None


def test_pause_and_resume() -> None:
    paused = carried_out(TWO, "pause")
    assert paused == msgspec.structs.replace(TWO, paused=True)
    assert carried_out(paused, "pause") == paused
    assert carried_out(paused, "resume") == TWO


@pytest.mark.parametrize(("action", "words"), [("set", ("rpm=1",)), ("pause", ()), ("resume", ())])
def test_a_run_that_is_stopping_takes_nothing_more(action: str, words: tuple[str, ...]) -> None:
    assert "is stopping" in refusal(ONE, action, *words, stopping=True)


@pytest.mark.parametrize("action", ["drain", "show"])
def test_a_run_that_is_stopping_still_answers(action: str) -> None:
    assert carried_out(ONE, action, stopping=True) == ONE


def test_what_has_changed_is_told_with_what_it_was() -> None:
    after = carried_out(ONE, "set", "rpm=1000", "tpm=0", "max-cost=2.5")
    assert changes(ONE, after) == (
        "the limit of requests is 1,000 a minute now; it was 50 a minute",
        "the limit of tokens is none now; it was 2,000,000 a minute",
        "the spend cap is $2.5 now; it was none",
    )
    assert changes(TWO, carried_out(TWO, "set", "rpm=7", "account=dev")) == (
        "the limit of requests of account dev is 7 a minute now; it was 10 a minute",
    )
    assert changes(ONE, carried_out(ONE, "pause"))[0].startswith("paused")
    assert changes(carried_out(ONE, "pause"), ONE)[0].startswith("resumed")
    assert changes(ONE, carried_out(ONE, "set", "rpm=50")) == ()
