"""An account's row in its file: made, kept whole, shared, and said to be unusable in whatever way it is."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from pathlib import Path

import msgspec
import pytest

from batchrunner import budget
from batchrunner.account_file import APPLICATION_ID, LENGTHS_MAX_BYTES, VERSION, AccountFile, Row, Unusable, file_name
from batchrunner.budget.holders import Shared


def a_row(number: int = 0) -> Row:
    return Row("boot", Shared(budget.State(budget.Limits(50, 0)), next_slot=number + 1), [], 7)


def write(file: AccountFile, number: int = 0) -> None:
    file.transact(lambda _: (a_row(number), None))


def read(file: AccountFile) -> Row | None:
    return file.transact(lambda row: (None, row))


def count(file: AccountFile, times: int) -> None:
    """Add one to a number in the row, so many times."""

    def one_more(row: Row | None) -> tuple[Row, None]:
        row = row or a_row()
        row.shared.next_slot += 1
        return row, None

    for _ in range(times):
        file.transact(one_more)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "accounts" / "account.sqlite"


def refused(file: AccountFile, saying: str) -> str:
    """What an attempt to use it is told."""
    with pytest.raises(Unusable, match=saying) as error:
        write(file)
    assert str(file.path) in str(error.value)
    return str(error.value)


def test_it_is_made_where_it_is_missing(path: Path) -> None:
    """There is no row at first: nothing was ever sent. What is written is there for others."""
    first, second = AccountFile(path), AccountFile(path)
    assert read(first) is None
    write(first, 3)
    assert read(second) == a_row(3)


def test_of_two_that_make_it_at_the_same_time_one_does(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other uses it as it is; nothing else is left in the directory."""
    flock = fcntl.flock

    def slower(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        write(AccountFile(path), 3)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", slower)
    assert read(AccountFile(path)) == a_row(3)
    assert {file.name.split(".sqlite")[0] for file in path.parent.iterdir()} == {"account"}


def test_each_sees_what_the_others_wrote(path: Path) -> None:
    """Also between its own transactions, for which the row is not decoded again."""
    first, second = AccountFile(path), AccountFile(path)
    for _ in range(3):
        count(first, 2)
        count(second, 1)
    row = read(first)
    assert row is not None
    assert row.shared.next_slot == 1 + 9


def test_a_change_that_fails_changes_nothing(path: Path) -> None:
    """A defect is raised as it is; the row is as it was, and so is what this process remembers of it."""
    file = AccountFile(path)
    write(file, 1)

    def fail(row: Row | None) -> tuple[Row, None]:
        assert row is not None
        row.shared.next_slot = 99
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        file.transact(fail)
    assert read(file) == a_row(1)


def test_a_file_that_is_removed_or_replaced_is_left(path: Path) -> None:
    """Others make a new one, and so it is used from then on."""
    file, other = AccountFile(path), AccountFile(path)
    write(file, 1)
    for leftover in path.parent.iterdir():
        leftover.unlink()
    assert read(file) is None
    write(other, 5)
    assert read(file) == a_row(5)


def test_a_locked_file_is_waited_for_and_then_given_up(path: Path) -> None:
    file = AccountFile(path)
    write(file)
    with sqlite3.connect(path, isolation_level=None) as locking:
        locking.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unusable, match="keeps it locked; end that one"):
            file.transact(lambda row: (row, None), busy_seconds=0.05)
        locking.execute("ROLLBACK")
    locking.close()
    assert read(file) == a_row()


def test_a_file_that_is_no_database(path: Path) -> None:
    """It is left as it is, and people are told when it can be removed."""
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all " * 100)
    assert "Remove the file once no run" in refused(AccountFile(path), "not a database")
    assert path.read_bytes().startswith(b"no database")


def test_a_file_that_was_damaged_is_good_again_once_it_is_removed(path: Path) -> None:
    file = AccountFile(path)
    write(file)
    file.close()
    damaged = bytearray(path.read_bytes())
    damaged[4096 : 4096 + 64] = os.urandom(64)
    path.write_bytes(damaged)
    refused(file, "Remove the file once")
    path.unlink()
    write(file, 2)
    assert read(file) == a_row(2)


def test_a_new_file_has_nothing_of_the_one_that_was_removed(path: Path) -> None:
    """A run that was killed leaves its log beside the file, from which a new one would have the same content, damage and all."""
    file = AccountFile(path)
    write(file, 5)
    log = path.with_name(f"{path.name}-wal")
    left_behind = log.read_bytes()
    file.close()
    path.unlink()
    log.write_bytes(left_behind)
    assert read(file) is None


def test_a_directory_that_cannot_be_locked_has_files_all_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write(AccountFile(path), 5)
    assert read(AccountFile(path)) == a_row(5)


@pytest.mark.parametrize(
    ("column", "content"), [("shared", b"\xc1"), ("shared", msgspec.msgpack.encode({"state": 1})), ("knocks", b"")]
)
def test_a_row_that_cannot_be_read(path: Path, column: str, content: bytes) -> None:
    write(AccountFile(path))
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE account SET {column} = ?", (content,))
    database.close()
    assert "Remove the file once" in refused(AccountFile(path), "content cannot be read")


def test_another_programs_database(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE theirs (id)")
    database.close()
    refused(AccountFile(path), "another program's database. Move it away")


def test_another_versions_row(path: Path) -> None:
    """Neither read nor overwritten, whichever of both is the newer."""
    write(AccountFile(path))
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    refused(AccountFile(path), "another version of batchrun. Use one version")


def test_a_full_disk(path: Path) -> None:
    """What does not fit is not written, and everything is as it was."""
    file = AccountFile(path)
    write(file)
    assert file._database is not None
    file._database.execute("PRAGMA max_page_count = 1")

    def large(row: Row | None) -> tuple[Row, None]:
        assert row is not None
        row.shared.holders = {"x" * 1_000_000: budget.holders.Holder(budget.Limits(0, 0), 0)}
        return row, None

    with pytest.raises(Unusable, match="give it room"):
        file.transact(large)
    assert read(file) == a_row()


def test_another_users_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(AccountFile(path))
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert "--state-dir" in refused(AccountFile(path), "belongs to another user")


def test_a_link_is_not_followed(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to("elsewhere.sqlite")
    refused(AccountFile(path), "no regular file")
    assert not (path.parent / "elsewhere.sqlite").exists()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--state-dir" in refused(AccountFile(tmp_path / "file" / "account.sqlite"), "exists|not a directory")


def test_no_home() -> None:
    refused(AccountFile(Path("~/account.sqlite")), "no home directory")


def test_lengths_are_there_for_others(path: Path) -> None:
    """Nothing at first, then what was written last, by whomever; budgets have nothing to do with it."""
    first, second = AccountFile(path), AccountFile(path)
    assert first.lengths() is None
    write(first, 3)
    first.write_lengths(b"first")
    second.write_lengths(b"second")
    assert first.lengths() == second.lengths() == b"second"
    assert read(first) == a_row(3)


def test_lengths_of_an_unreasonable_size_are_none(path: Path) -> None:
    """They are not even read: whatever wrote them, it was no run."""
    file = AccountFile(path)
    file.write_lengths(b"x" * LENGTHS_MAX_BYTES)
    assert len(file.lengths() or b"") == LENGTHS_MAX_BYTES
    file.write_lengths(b"x" * (LENGTHS_MAX_BYTES + 1))
    assert file.lengths() is None


def test_a_text_in_the_place_of_lengths_is_read_as_its_bytes(path: Path) -> None:
    write(AccountFile(path))
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO lengths VALUES (1, 'words')")
    database.close()
    assert AccountFile(path).lengths() == b"words"


def test_a_file_without_a_table_for_lengths_is_a_damaged_one(path: Path) -> None:
    """Budgets are shared through it all the same."""
    file = AccountFile(path)
    write(file, 2)
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE lengths")
    database.close()
    for use in (file.lengths, lambda: file.write_lengths(b"")):
        with pytest.raises(Unusable, match=r"no such table: lengths\. Remove the file once no run"):
            use()
    assert read(file) == a_row(2)


def test_lengths_wait_for_others_no_longer_than_they_are_told_to(path: Path) -> None:
    """What was there stays."""
    file = AccountFile(path)
    file.write_lengths(b"before")
    with sqlite3.connect(path, isolation_level=None) as locking:
        locking.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unusable, match="keeps it locked; end that one"):
            file.write_lengths(b"now", busy_seconds=0.05)
        locking.execute("ROLLBACK")
    locking.close()
    assert file.lengths() == b"before"


def test_a_name_for_every_identity() -> None:
    """Readable, harmless, and another one for each."""
    names = [
        file_name(identity)
        for identity in ("api.example.com/prod", "api.example.com/pröd", "../../etc", "a" * 500, "\x00\n[::1]")
    ]
    assert len(set(names)) == len(names)
    assert names[0].startswith("api.example.com_prod-")
    assert all(name == Path(name).name and name.isascii() and name.isprintable() and len(name) < 100 for name in names)
    assert not any(name.startswith((".", "-")) for name in names[:4])
