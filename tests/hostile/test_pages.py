"""What SECURITY.md and the tables of proofs claim rests on tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGES = [TESTS.parent / "SECURITY.md", *(TESTS / name for name in ("README.md", "hostile/README.md", "crash/README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(TESTS.parent).as_posix())
def test_each_proof_that_a_page_names_is_there(page: Path) -> None:
    """Files by their path, beside it or below tests/; tests by their name, or by its beginning."""
    text = page.read_text()
    names = re.findall(r"`(test_\w+)(?:\.{3})?`", text)
    files = re.findall(r"`([\w/]+\.py)`", text)
    assert files
    assert not [file for file in files if not (TESTS / file).exists() and not (page.parent / file).exists()]
    sources = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    assert not [name for name in names if f"def {name}" not in sources]


def test_each_row_of_the_crash_table_names_its_tests() -> None:
    """A row's tests stand in the files that it names and nowhere else, and each row has some."""
    rows = dict(re.findall(r"^\| R-(\d\d) \|(.*)\|$", (TESTS / "crash" / "README.md").read_text(), re.MULTILINE))
    named = {(row, file) for row, text in rows.items() for file in re.findall(r"`(?:\w+/)?(test_\w+\.py)`", text)}
    there = {(row, path.name) for path in TESTS.rglob("test_*.py") for row in re.findall(r"def test_R(\d\d)_", path.read_text())}
    assert there - named == set()
    assert rows.keys() - {row for row, _ in there} == {"11"}, "it is in the weather's name"
