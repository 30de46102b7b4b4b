"""One process's part in a shared account: restarts, reboots, files that fail and come back, limits that differ."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from batchrunner import budget
from batchrunner.account_file import AccountFile
from batchrunner.budget.pacer import interval_ns
from batchrunner.clock import VirtualClock
from batchrunner.shared_account import RETRY_NS, SharedAccount
from tests.unit.crowds import NS, Crowd, MemoryFile, Process

MINUTE = 60 * NS


def broken(crowd: Crowd) -> MemoryFile:
    assert isinstance(crowd.file, MemoryFile)
    return crowd.file


def gaps(crowd: Crowd) -> list[int]:
    times = [at_ns for at_ns, _, _ in crowd.sends]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_a_restart_knows_the_last_minute() -> None:
    """A small file starts fast, a second one behind it keeps to what is left of the minute, killed or not."""
    for ends_in_order in (True, False):
        crowd = Crowd()
        first = crowd.process("a", 50, jobs=[10] * 30, file_size=30)
        crowd.run(10 * NS)
        assert len(crowd.sends) == 30
        first.end() if ends_in_order else first.kill()
        crowd.process("b", 50, jobs=[10] * 40, file_size=40)
        crowd.run(3 * MINUTE)
        assert len(crowd.sends) == 70
        assert crowd.most_sends() <= 50
        assert min(gaps(crowd)[30:]) >= interval_ns(50) - NS // 20


def test_a_minute_later_a_small_file_starts_fast_again() -> None:
    crowd = Crowd()
    crowd.process("a", 50, jobs=[10] * 30, file_size=30)
    crowd.run(2 * MINUTE)
    crowd.process("b", 50, jobs=[10] * 40, file_size=40)
    crowd.run(2 * MINUTE + 6 * NS)
    assert len(crowd.sends) == 70


def test_the_row_knows_more_of_the_last_minute_than_the_run() -> None:
    """Sends that the run's own journal names are in the row already, and not counted twice."""
    crowd = Crowd()
    crowd.process("a", 50, jobs=[10] * 30, file_size=30)
    crowd.run(10 * NS)
    account = SharedAccount(crowd.file, budget.Limits(50, 0), crowd.clock, name="b", say=crowd.said.append)
    past = tuple(budget.PastSend(at_ns, 10) for at_ns, _, _ in crowd.sends)
    account.apply([budget.Open(past, 40)])
    assert account.seen.window.requests == 30


def test_without_a_row_the_runs_own_knowledge_counts() -> None:
    crowd = Crowd(start_ns=10 * NS)
    account = SharedAccount(crowd.file, budget.Limits(50, 0), crowd.clock, name="b", say=crowd.said.append)
    account.apply([budget.Open((budget.PastSend(5 * NS, 10),), 40)])
    assert account.seen.window.requests == 1


def test_every_run_says_what_the_wall_clock_shows() -> None:
    """The first one, those that find a row, those that find another boot's, and those that find no file: a server's minutes are
    the wall clock's.
    """
    crowd = Crowd(start_ns=10 * NS)
    for number, boot_id in enumerate(("boot", "boot", "another")):
        clock = VirtualClock(lambda: 0, start_ns=10 * NS, boot_id=boot_id)
        account = SharedAccount(crowd.file, budget.Limits(50, 0), clock, name=str(number), say=crowd.said.append)
        account.apply([budget.Open((), 40, wall_offset_ns=number + 1)])
        assert account.seen.tokens.buckets.wall_offset_ns == number + 1
    broken(crowd).broken = True
    account = SharedAccount(crowd.file, budget.Limits(50, 0), crowd.clock, name="apart", say=crowd.said.append)
    account.apply([budget.Open((), 40, wall_offset_ns=7)])
    assert account.seen.tokens.buckets.wall_offset_ns == 7


@pytest.mark.parametrize(("boot_id", "start_ns"), [("another", NS), ("another", 10**15), ("boot", NS)])
def test_times_of_another_boot_mean_nothing(boot_id: str, start_ns: int) -> None:
    """After a reboot, or on a clock that shows less than the row has seen, a run begins at its pace and is stopped by nothing."""
    before = Crowd(start_ns=10**14)
    before.process("a", 50, jobs=[10] * 50, file_size=50)
    before.run(10**14 + 10 * NS)
    after = Crowd(before.file, start_ns=start_ns, boot_id=boot_id)
    after.process("b", 50, jobs=[10] * 40, file_size=40)
    after.run(start_ns + 2 * MINUTE)
    assert len(after.sends) == 40
    assert min(gaps(after)) >= interval_ns(50) - NS // 20


@pytest.mark.parametrize("clock_ahead_ns", [0, 10**12])
def test_two_machines_with_one_file_do_not_make_each_other_forget(clock_ahead_ns: int) -> None:
    """Neither can read the other's times. Who was there first notices, says so, and keeps to its limits by itself."""
    first = Crowd(start_ns=10**14)
    second = Crowd(first.file, start_ns=10**14 + clock_ahead_ns, boot_id="boot" if clock_ahead_ns else "another")
    first.process("a", 50)
    first.run(10**14 + MINUTE)
    second.process("b", 50)
    for _ in range(3 * MINUTE // (NS // 10)):
        first.run(first.now_ns + NS // 10)
        second.run(second.now_ns + NS // 10)
    assert first.most_sends() <= 50
    assert second.most_sends() <= 50
    assert len(first.sends) >= 0.98 * 200
    assert len(first.said) == 1
    assert "another machine" in first.said[0]
    assert "--state-dir" in first.said[0]
    assert not second.said


def test_a_reboot_keeps_the_limits_and_no_time() -> None:
    state = budget.State(budget.Limits(50, 7))
    state.pacer.due_ns = state.gate.until_ns = 10**18
    after = budget.after_reboot(state, 0)
    assert msgspec.structs.replace(after, tokens=budget.State(after.limits).tokens) == budget.State(budget.Limits(50, 7))


def test_different_limits_are_told_once_each_way() -> None:
    """The smaller holds, with a warning to the one that has the larger; which is told when it is alone again."""
    crowd = Crowd()
    crowd.process("large", 100)
    crowd.run(MINUTE)
    small = crowd.process("small", 50)
    crowd.run(3 * MINUTE)
    assert [line.split(":")[0] for line in crowd.said] == ["warning"]
    assert "50 requests a minute and no limit of tokens, not 100 requests" in crowd.said[0]
    assert len([1 for at_ns, _, _ in crowd.sends if at_ns >= 2 * MINUTE]) <= 50
    small.end()
    crowd.run(5 * MINUTE)
    assert "those of this run (100 requests a minute" in crowd.said[1]
    assert len(crowd.said) == 2
    assert crowd.counts(4 * MINUTE)["large"] >= 98


def test_who_never_saw_the_account_keeps_its_limits_without_a_fast_start() -> None:
    """From the first moment on it is paced, said once, and looked at again every few seconds."""
    crowd = Crowd()
    broken(crowd).broken = True
    crowd.process("a", 50, file_size=10)
    crowd.run(MINUTE)
    assert len(crowd.sends) >= 49
    assert min(gaps(crowd)) >= interval_ns(50) - NS // 20
    assert len(crowd.said) == 1
    assert crowd.said[0].startswith("warning: memory: cannot be used. Mend it. Until then this run keeps to its limits, without")


def test_who_loses_the_file_keeps_to_its_share() -> None:
    """Four that cannot see each other any more stay within the limit together, at a quarter of the pace each; once the file is
    whole again they share as before. No minute of all of it is above the limit by more than those four's first sends.
    """
    crowd = Crowd()
    four = [crowd.process(name, 60) for name in "abcd"]
    file = broken(crowd)
    crowd.run(5 * MINUTE)
    file.broken = True
    crowd.run(10 * MINUTE)
    apart = crowd.counts(5 * MINUTE, 10 * MINUTE)
    assert all(60 <= count <= 75 for count in apart.values())
    file.broken = False
    crowd.run(15 * MINUTE)
    assert crowd.most_sends() <= 60 + len(four)
    assert len([1 for at_ns, _, _ in crowd.sends if at_ns >= 11 * MINUTE]) >= 0.99 * 4 * 60
    assert sum("its share of the limits, 15 requests a minute" in line for line in crowd.said) == 4
    assert sum("can be used again" in line for line in crowd.said) == 4
    assert len(crowd.said) == 8


def test_a_burst_before_the_file_is_lost_counts() -> None:
    """Two that have used up the minute in four seconds send nothing more in it apart."""
    crowd = Crowd()
    for name in "ab":
        crowd.process(name, 50, file_size=100)
    crowd.run(6 * NS)
    assert len(crowd.sends) == 50
    broken(crowd).broken = True
    crowd.run(4 * MINUTE)
    assert crowd.most_sends() <= 52


def test_a_long_time_apart_is_not_kept_in_memory() -> None:
    """Of what was sent apart only the last minute is of use to the others."""
    crowd = Crowd()
    broken(crowd).broken = True
    process = crowd.process("a", 600)
    crowd.run(5 * MINUTE)
    assert process.account.seen.window.requests >= 590
    broken(crowd).broken = False
    crowd.run(6 * MINUTE)
    assert crowd.most_sends() <= 600
    row = broken(crowd).read()
    assert row is not None
    assert row.shared.state.window.requests <= 600


def test_what_was_sent_apart_is_in_the_minute_that_is_shared_again() -> None:
    crowd = Crowd()
    crowd.process("a", 50, 100_000)
    crowd.run(MINUTE)
    broken(crowd).broken = True
    crowd.run(3 * MINUTE)
    broken(crowd).broken = False
    crowd.run(3 * MINUTE + RETRY_NS)
    row = broken(crowd).read()
    assert row is not None
    assert row.shared.state.window.requests >= 49
    crowd.run(6 * MINUTE)
    assert crowd.most_sends() <= 50
    assert len(crowd.sends) >= 0.98 * 300


def test_a_file_that_is_removed_under_a_run_is_made_anew_with_what_it_knows(tmp_path: Path) -> None:
    """The last minute included: a run that begins then is no stranger to it."""
    crowd = Crowd(AccountFile(tmp_path / "account.sqlite"))
    crowd.process("a", 50, file_size=30)
    crowd.run(3 * NS)
    for file in tmp_path.iterdir():
        file.unlink()
    crowd.run(6 * NS)
    crowd.process("b", 50, file_size=30, file=AccountFile(tmp_path / "account.sqlite"))
    crowd.run(MINUTE)
    assert crowd.most_sends() <= 50


@pytest.mark.parametrize("how", ["corrupt", "removed", "directory removed"])
def test_a_real_file_may_be_ruined_at_any_time(tmp_path: Path, how: str) -> None:
    """The run goes on at its pace, and at the whole limit once the file is mended."""
    directory = tmp_path / "accounts"
    path = directory / "account.sqlite"
    crowd = Crowd(AccountFile(path))
    crowd.process("a", 50)
    crowd.run(MINUTE)
    if how == "corrupt":
        for file in directory.iterdir():
            file.write_bytes(b"x" * 5_000)
    else:
        for file in directory.iterdir():
            file.unlink()
        if how == "directory removed":
            directory.rmdir()
    crowd.run(3 * MINUTE)
    if how == "corrupt":
        for file in directory.iterdir():
            file.unlink()
    crowd.run(6 * MINUTE)
    assert len(crowd.sends) >= 0.98 * 300
    assert crowd.most_sends() <= 51
    assert [line.startswith("warning") for line in crowd.said] == ([True, False] if how == "corrupt" else [])


def test_leaving_an_account_that_cannot_be_reached_or_was_never_used_is_no_error() -> None:
    crowd = Crowd()
    never = SharedAccount(crowd.file, budget.Limits(50, 0), crowd.clock, name="a", say=crowd.said.append)
    never.leave()
    assert broken(crowd).row is None
    for broken_when in ("before", "after"):
        process = crowd.process(broken_when, 50)
        broken(crowd).broken = True
        if broken_when == "before":
            process.ask(budget.Lost(0))
        process.end()
        broken(crowd).broken = False


def test_statistics_before_the_first_transaction_show_the_limits() -> None:
    crowd = Crowd()
    account = SharedAccount(crowd.file, budget.Limits(50, 7), crowd.clock, name="a", say=crowd.said.append)
    assert account.seen == budget.State(budget.Limits(50, 7))


def test_a_defect_is_not_taken_for_a_bad_file() -> None:
    """What is wrong with the core is raised."""
    crowd = Crowd()
    process: Process = crowd.process("a", 50)
    with pytest.raises(AttributeError):
        process.account.apply([object()])  # type: ignore[list-item]
