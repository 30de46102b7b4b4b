from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.status import Binding, Status
from batchrunner.wording import (
    BINDING_TEXT,
    STOPPED,
    duration,
    escape_terminal,
    money_text,
    next_step,
    offline_text,
    summary_text,
    usd,
)

MakeStatus = Callable[..., Status]


class TestSummary:
    def test_a_run_without_a_flaw_needs_no_next_step(self, make_status: MakeStatus) -> None:
        """The last line of a clean run is its directory."""
        text = summary_text(make_status(state="completed", completed=10, billed_usd=Decimal("0.5")))
        assert text.startswith("Completed: 10 jobs, all succeeded.\n")
        assert text.endswith("jobs/chat.run\n")

    def test_failures_name_file_and_option(self, make_status: MakeStatus) -> None:
        """Whoever has failed jobs learns where they stand and how to run them again."""
        text = summary_text(make_status(state="completed", completed=8, failed=2))
        assert text.startswith("Completed: 10 jobs, 2 failed.\n")
        assert "jobs/chat.run/errors.jsonl" in text
        assert "--retry-failed" in text

    @pytest.mark.parametrize("what", [{"maybe_billed_usd": Decimal("0.01")}, {"unpriced_attempts": 1}])
    def test_a_bill_that_is_not_certain_names_its_file(self, make_status: MakeStatus, what: dict[str, object]) -> None:
        """Whoever may have paid for what did not come learns where each such attempt stands, and who knows better."""
        text = summary_text(make_status(state="completed", completed=10, **what))
        assert text.splitlines()[-1].startswith("See jobs/chat.run/costs.jsonl for each attempt whose cost is not certain")
        assert "reconcile" in next_step(make_status(state="completed", unpriced_attempts=1))
        assert "reconcile" not in next_step(make_status(state="completed", unpriced_attempts=1, simulated=True))

    @pytest.mark.parametrize("why", sorted(STOPPED))
    def test_each_stop_says_why_and_how_to_go_on(self, make_status: MakeStatus, why: str) -> None:
        """Every stopped run names its cause, what is left open, and that the same command resumes it."""
        text = summary_text(make_status(state="stopped", stopped_by=why, completed=4, in_flight=0))
        assert text.startswith(f"Stopped: {STOPPED[why][0]}. 4 of 10 jobs done.")  # type: ignore[index]
        assert "6 open" in text
        assert "un the same command again to resume" in text.splitlines()[-1]

    def test_the_tables_are_total(self) -> None:
        """Each reason to stop and each binding limit has its words."""
        words = get_args(get_args(get_type_hints(Status)["stopped_by"])[0])
        assert set(STOPPED) == set(words)
        assert set(BINDING_TEXT) == set(get_args(Binding))

    def test_a_running_run_is_not_called_complete(self, make_status: MakeStatus) -> None:
        """`status` shows the same text for a live run."""
        assert summary_text(make_status(completed=3)).startswith("Running: 3 of 10 jobs done.")

    def test_a_simulated_run_says_so(self, make_status: MakeStatus) -> None:
        """Nobody takes a rehearsal for the real thing."""
        assert summary_text(make_status(state="completed", simulated=True)).startswith("Completed (simulated): ")

    def test_the_rate_stands_beside_its_limit(self, make_status: MakeStatus) -> None:
        """The mean in the limit's own unit."""
        text = summary_text(make_status(requests_per_minute=50.0, tokens_per_minute=1234.5))
        assert "50.0 requests/min of 50, 1,234 tokens/min of 2,000,000" in text

    def test_what_is_in_effect_of_a_limit_stands_beside_it(self, make_status: MakeStatus) -> None:
        """Where it is less; a limit that is let through whole has nothing beside it."""
        rate = {"requests_per_minute": 42.5, "tokens_per_minute": 1234.5}
        text = summary_text(make_status(rpm_effective=43, **rate))
        assert "42.5 requests/min of 50 (43 in effect), 1,234 tokens/min of 2,000,000\n" in text
        text = summary_text(make_status(tpm_effective=1_940_000, **rate))
        assert "of 50, 1,234 tokens/min of 2,000,000 (1,940,000 in effect)" in text

    def test_a_run_of_seconds_has_no_rate(self, make_status: MakeStatus) -> None:
        """What was sent in less than a minute is not blown up to a figure that seems to break the limit."""
        assert "requests/min" not in summary_text(make_status(attempts=100, elapsed_seconds=1.0, requests_per_minute=None))

    def test_replies_that_deserve_a_look_are_named(self, make_status: MakeStatus) -> None:
        """A success that was cut, refused or empty is not hidden among the others."""
        text = summary_text(make_status(finish_length=1200, finish_refusal=2, finish_empty=0))
        assert "1,200 cut at the output cap, 2 refused by the model\n" in text

    def test_how_far_predictions_were_off(self, make_status: MakeStatus) -> None:
        """Of each kind of tokens of which there were any; nothing before the first answers, nor in a run's first minute."""
        long = make_status(input_prediction_error=0.031, output_prediction_error=7.5, tokens_per_minute=1.0)
        assert "  predicted input tokens off by 3%, output tokens off by 750%, in the mean\n" in summary_text(long)
        one = make_status(input_prediction_error=0.0, tokens_per_minute=1.0)
        assert "  predicted input tokens off by 0%, in the mean\n" in summary_text(one)
        assert "predicted" not in summary_text(make_status(tokens_per_minute=1.0))
        assert "predicted" not in summary_text(make_status(input_prediction_error=0.5, tokens_per_minute=None))

    def test_what_is_away_is_named(self, make_status: MakeStatus) -> None:
        """Offline models by name, those without a place for theirs by number; suspended keys; and what waits for them."""
        status = make_status(completed=3, held=4, models_offline=("a", "b c"), models_offline_total=1002, keys_suspended=1)
        status = msgspec.structs.replace(status, keys_retired=("0a1b2c3d",))
        text = summary_text(status)
        assert "7 open (4 held back)\n" in text
        assert "  offline   'a', 'b c' and 1,000 more\n" in text
        assert "  keys      1 suspended, 0a1b2c3d retired\n" in text

    def test_what_the_server_works_on_is_named(self, make_status: MakeStatus) -> None:
        """A run that was stopped leaves paid work there, and its results are not kept for ever."""
        status = make_status(completed=3, held=1, submitted=2, state="stopped", stopped_by="signal")
        assert "7 open (1 held back, 2 with the server)\n" in summary_text(status)
        assert next_step(status).endswith("its results are kept for an hour.")
        assert "hour" not in next_step(msgspec.structs.replace(status, submitted=0))

    def test_where_nothing_is_away_nothing_is_said(self, make_status: MakeStatus) -> None:
        """A healthy run's summary has no rows about outages."""
        text = summary_text(make_status(completed=3))
        assert not any(word in text for word in ("held", "offline", "suspended"))

    def test_hostile_model_names_are_escaped(self, make_status: MakeStatus) -> None:
        """A model's name comes from the job file: it neither moves the cursor nor adds a line."""
        text = offline_text(make_status(models_offline=("x\x1b[2J\r\ny", "\u202ez"), models_offline_total=2))
        assert text == r"'x\x1b[2J\r\ny', '\u202ez'"

    def test_a_hostile_path_is_escaped(self, make_status: MakeStatus) -> None:
        """The summary has no power over the terminal."""
        text = summary_text(make_status(state="completed", failed=1, run_dir="a\x1b[2Jb"))
        assert "\x1b" not in text


class TestMoney:
    def test_billed_and_maybe_billed_are_never_added_up(self, make_status: MakeStatus) -> None:
        """Two amounts, each with its own word."""
        status = make_status(billed_usd=Decimal("1.10"), maybe_billed_usd=Decimal("0.0000001"))
        assert money_text(status) == "$1.1 billed + up to $0.0000001 maybe billed"

    def test_an_unknown_price_is_never_zero(self, make_status: MakeStatus) -> None:
        """Where nothing is known but that something was billed, no dollar figure is shown."""
        assert money_text(make_status(unpriced_attempts=2)) == "unknown for 2 attempts without a price"

    def test_nothing_billed_is_zero(self, make_status: MakeStatus) -> None:
        """Zero is said only where it is known."""
        assert money_text(make_status()) == "$0 billed"

    @given(st.decimals(min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False))
    def test_amounts_are_exact(self, amount: Decimal) -> None:
        """No digit is lost and none invented, at any size."""
        text = usd(amount)
        assert "E" not in text
        assert Decimal(text.removeprefix("$")) == amount


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    """Minutes and seconds, with hours from the first one on."""
    assert duration(seconds) == text


class TestEscape:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain 'text' \\ 1", "plain 'text' \\ 1"),
            ("żółć 漢字\u3000🎉", "żółć 漢字\u3000🎉"),
            ("\x1b[31mred", r"\x1b[31mred"),
            ("a\r\nb\tc", r"a\r\nb\tc"),
            ("\x9b2J\x7f\x00", r"\x9b2J\x7f\x00"),
            ("\u202egpj.exe", r"\u202egpj.exe"),
            ("\ud800\u2028", r"\ud800\u2028"),
        ],
    )
    def test_only_what_is_printable_stays(self, text: str, shown: str) -> None:
        """Controls, overrides, separators and surrogates become visible escapes; people's scripts stay as they are."""
        assert escape_terminal(text) == shown

    @given(st.text(alphabet=st.characters()))
    def test_no_text_keeps_power_over_a_terminal(self, text: str) -> None:
        """Whatever comes in, what goes out is one encodable line without a control character."""
        shown = escape_terminal(text)
        assert len(shown.splitlines()) <= 1
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
        shown.encode()
