"""Attempts as a run's journal tells of them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from batchrunner.costs import Charge
from batchrunner.disk import SystemDisk
from batchrunner.events import Billing
from batchrunner.job import Usage
from batchrunner.journal.files import RunFiles
from batchrunner.journal.records import Ended, Line, Record, Reopened, Sent, Settled, Started, What
from batchrunner.run_attempts import IN_FLIGHT, Known, by_account, read_attempts
from batchrunner.verification.reader import RunReader

FP = "00000000000000ab"
SECOND = 1_000_000_000
STARTED = Started("boot", 5 * SECOND, 1_000 * SECOND, 1, "test")
MAYBE = Charge.maybe("m", "/e", 9, 50, Decimal("0.5"))
BILLED = Charge.billed("m", "/e", Usage(10, 6, 4), Decimal("0.1"))
LINE = Line("results.jsonl", 0, 1, 0)


def sent(attempt: int = 1, at: int = 7, job: str = "job-1", account: str | None = None) -> Sent:
    return Sent(job, FP, attempt, "boot", at * SECOND, 20, 9, 50, "m", "/e", account=account)


def ended(what: What, attempt: int = 1, at: int = 1_003, charge: Charge | None = None, **more: object) -> Ended:
    given: dict[str, object] = {"spent": what is not What.LOST, "charge": charge, **more}
    return Ended("job-1", FP, attempt, what, at * SECOND, **given)  # type: ignore[arg-type]


def told(tmp_path: Path, *records: Record, now: int = 2_000) -> list[Known]:
    files = RunFiles(SystemDisk(tmp_path), "run")
    for record in records:
        files.record(record)
    files.close()
    with RunReader(tmp_path) as reader:
        known, damaged = read_attempts(reader, "run", now * SECOND)
    assert not damaged
    return known


def test_an_answer_with_its_times_by_the_wall_and_its_tokens(tmp_path: Path) -> None:
    """Monotonic times are brought to the wall by the process that sent."""
    (one,) = told(tmp_path, STARTED, sent(account="prod"), ended(What.DONE, charge=BILLED, line=LINE))
    attempt = one.attempt
    assert (attempt.sent_ns, attempt.ended_ns) == (1_002 * SECOND, 1_003 * SECOND)
    assert (attempt.billing, attempt.usage, attempt.amount_usd) == (Billing.BILLED, Usage(10, 6, 4), Decimal("0.1"))
    assert (attempt.custom_id, attempt.number, attempt.request, attempt.model, attempt.endpoint) == ("job-1", 1, FP, "m", "/e")
    assert (attempt.guessed_input_tokens, attempt.cap_tokens) == (9, 50)
    assert (one.account, one.charge, one.settled, attempt.left) == ("prod", BILLED, False, False)


def test_what_was_left_may_go_on_and_what_was_answered_may_not(tmp_path: Path) -> None:
    records = [STARTED]
    for attempt, why in enumerate(("attempt_timeout", "read", "gateway_timeout", "unreadable_reply"), 1):
        records += [sent(attempt), ended(What.AGAIN, attempt, charge=MAYBE, why=why)]  # type: ignore[list-item]
    assert [one.attempt.left for one in told(tmp_path, *records)] == [True, True, False, False]


def test_an_error_was_not_billed(tmp_path: Path) -> None:
    (one,) = told(tmp_path, STARTED, sent(), ended(What.AGAIN, why="upstream_error"))
    assert (one.attempt.billing, one.charge) == (Billing.NOT, None)


def test_what_is_in_flight_may_have_been_billed(tmp_path: Path) -> None:
    (one,) = told(tmp_path, STARTED, sent())
    assert (one.in_flight, one.attempt.why, one.attempt.billing, one.attempt.left) == (True, IN_FLIGHT, Billing.MAYBE, True)
    assert one.attempt.ended_ns == 2_000 * SECOND


def test_a_reply_that_turns_up_takes_the_place_of_a_loss_and_keeps_its_sending(tmp_path: Path) -> None:
    lost = ended(What.LOST, charge=MAYBE, why="the process ended")
    (one,) = told(tmp_path, STARTED, sent(), lost, STARTED, ended(What.DONE, at=1_500, charge=BILLED, line=LINE, why="adopted"))
    assert (one.attempt.sent_ns, one.attempt.billing, one.charge) == (1_002 * SECOND, Billing.BILLED, BILLED)


def test_a_job_that_failed_unsent_adds_no_attempt(tmp_path: Path) -> None:
    records = (STARTED, sent(), ended(What.AGAIN, why="upstream_error"), ended(What.FAILED, spent=False, line=LINE))
    assert len(told(tmp_path, *records)) == 1


def test_an_adopted_answer_without_a_sending_may_have_been_sent_since_its_process_began(tmp_path: Path) -> None:
    (one,) = told(tmp_path, STARTED, ended(What.DONE, charge=BILLED, line=LINE, why="adopted"))
    assert (one.attempt.sent_ns, one.attempt.model, one.attempt.guessed_input_tokens) == (1_000 * SECOND, "m", None)


def test_what_was_settled_changes_what_is_believed_and_not_what_happened(tmp_path: Path) -> None:
    settled = Settled("job-1", FP, 1, 1_600 * SECOND, BILLED, was=MAYBE, event="ue_1")
    (one,) = told(tmp_path, STARTED, sent(), ended(What.AGAIN, charge=MAYBE, why="read"), settled)
    assert (one.charge, one.settled, one.attempt.billing) == (BILLED, True, Billing.MAYBE)


def test_another_boot_begins_the_window_at_the_newest_time_that_is_known(tmp_path: Path) -> None:
    other = Sent("job-1", FP, 1, "another", 1, 20, 9, 50, "m", "/e")
    (one,) = told(tmp_path, STARTED, other, ended(What.DONE, charge=BILLED, line=LINE))
    assert one.attempt.sent_ns == 1_000 * SECOND


def test_what_runs_again_is_told_with_all_its_attempts(tmp_path: Path) -> None:
    first = (sent(), ended(What.FAILED, charge=MAYBE, line=LINE, why="unreadable_reply"), Reopened("job-1", FP, 1))
    known = told(tmp_path, STARTED, *first, sent(2, at=9), ended(What.DONE, 2, charge=BILLED, line=LINE))
    assert [(one.attempt.number, one.attempt.billing) for one in known] == [(1, Billing.MAYBE), (2, Billing.BILLED)]


def shared(tmp_path: Path, accounts: list[str | None], names: list[str | None]) -> tuple[list[list[str]], list[str]]:
    """Which of jobs that went under these accounts are whose, by the names that are asked."""
    records = [sent(job=f"job-{number}", account=account) for number, account in enumerate(accounts)]
    parts, others = by_account(told(tmp_path, STARTED, *records), names)
    return [[one.attempt.custom_id for one in part] for part in parts], [one.attempt.custom_id for one in others]


def test_attempts_are_asked_of_their_own_accounts(tmp_path: Path) -> None:
    assert shared(tmp_path, ["a", "b", "c", None], ["b", "a"]) == ([["job-1"], ["job-0"]], ["job-2", "job-3"])


def test_one_account_answers_for_no_other(tmp_path: Path) -> None:
    assert shared(tmp_path, ["a", "b"], ["a"]) == ([["job-0"]], ["job-1"])


def test_a_run_under_one_account_is_that_accounts_whatever_it_is_called(tmp_path: Path) -> None:
    cases: list[tuple[list[str | None], str | None]] = [([None], "a"), (["a", None], "a"), (["a"], None)]
    for number, (used, asked) in enumerate(cases):
        (home := tmp_path / str(number)).mkdir()
        assert shared(home, used, [asked])[1] == []
