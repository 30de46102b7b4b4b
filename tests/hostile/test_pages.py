"""What SECURITY.md and this directory's README.md claim rests on tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGES = [TESTS.parent / "SECURITY.md", TESTS / "hostile" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_proof_that_a_page_names_is_there(page: Path) -> None:
    """Files by their path, here or below tests/; tests by their name, or by its beginning."""
    text = page.read_text()
    names = re.findall(r"`(test_\w+)(?:\.{3})?`", text)
    files = re.findall(r"`([\w/]+\.py)`", text)
    assert len(files) > 10
    assert not [file for file in files if not (TESTS / file).exists() and not (TESTS / "hostile" / file).exists()]
    sources = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
    assert not [name for name in names if f"def {name}" not in sources]
