"""`explain` where the run directory holds less than it might."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrunner.cli.explain import explain
from tests.crash.byhand import finished
from tests.crash.scripted import RUN, ids_of
from tests.verified import written


@pytest.mark.parametrize("text", [None, "no status"])
async def test_a_story_needs_no_status(tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """What the run waited for is then not said; the rest is."""
    directory = written(await finished(ids_of(4)), tmp_path / "a.run", run_id=RUN)
    if text is not None:
        (directory / "status.json").write_text(text)
    assert explain.callback is not None
    explain.callback(directory, "job-2", as_json=False)
    assert capsys.readouterr().out.startswith("Job job-2: failed.\n")
