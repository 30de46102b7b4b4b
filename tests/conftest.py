"""What all tests share: a status to start from, and markers for tools that a machine may lack."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import pytest

from batchrunner.status import Status, TokenSums

# Shells start what they put into the background with SIGINT ignored, and so would be every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: marker -> the program without which its tests cannot say anything
TOOLS = {"needs_promtool": "promtool", "needs_prometheus": "prometheus"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a program report themselves as skipped, by its name, where it is not installed."""
    for marker, program in TOOLS.items():
        if shutil.which(program) is None:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=f"{program} is not installed"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how often each fault fired in the nights that were played, in whichever processes that was."""
    fired: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, times in report.user_properties:
                    if name == "fired":
                        fired.update(times)
    if fired:
        terminalreporter.section("faults that fired in simulated nights")
        for fault, times in sorted(fired.items()):
            terminalreporter.write_line(f"{times:8,}  {fault}")


@pytest.fixture
def make_status() -> Callable[..., Status]:
    """A run that has just begun, with whatever fields a test gives."""

    def make(**fields: object) -> Status:
        return Status(**(JUST_BEGUN | fields))  # type: ignore[arg-type]

    return make


JUST_BEGUN: dict[str, object] = {
    "run_dir": "jobs/chat.run",
    "run_id": "r1",
    "state": "running",
    "stopped_by": None,
    "simulated": False,
    "pid": 1,
    "at": "2026-01-01T00:00:00Z",
    "total": 10,
    "completed": 0,
    "failed": 0,
    "in_flight": 0,
    "backing_off": 0,
    "held": 0,
    "attempts": 0,
    "rate_limited": 0,
    "finish_length": 0,
    "finish_refusal": 0,
    "finish_empty": 0,
    "usage": TokenSums(input_tokens=0, output_tokens=0),
    "billed_usd": Decimal(0),
    "maybe_billed_usd": Decimal(0),
    "unpriced_attempts": 0,
    "rpm_limit": 50,
    "tpm_limit": 2_000_000,
    "requests_last_minute": 0,
    "tokens_last_minute": 0,
    "binding": "none",
    "models_offline": (),
    "models_offline_total": 0,
    "keys_suspended": 0,
    "elapsed_seconds": 0.0,
    "requests_per_minute": None,
    "tokens_per_minute": None,
    "eta_seconds": None,
}
