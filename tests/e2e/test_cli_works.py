"""Work that is asked for, as real processes: submitted, killed, resumed; paid for once."""

from __future__ import annotations

from pathlib import Path

import msgspec

from tests.e2e import canary
from tests.e2e.cli_support import UNLIMITED, batchrun, started, until
from tests.e2e.harness import read_lines, simulated

IDS = [f"work-{number}" for number in range(6)]


def write_works(path: Path) -> None:
    with path.open("wb") as file:
        for number, custom_id in enumerate(IDS):
            asks = {"prompt": "The moon", "audio_url": "https://example.com/a.mp3"}
            body = {"model": "simulated-per-request", "metadata": {"custom_id": custom_id}, **asks}
            url = ("/v1/videos/generations", "/v1/audio/transcriptions")[number % 2]
            file.write(msgspec.json.encode({"custom_id": custom_id, "url": url, "body": body}) + b"\n")


def told(journal: Path) -> dict[str, int]:
    """How many records of these kinds a journal has."""
    data = journal.read_bytes() if journal.exists() else b""
    return {kind: data.count(f'"t":"{kind}"'.encode()) for kind in ("started", "sent", "submitted")}


def test_work_outlives_the_process_that_submitted_it(tmp_path: Path) -> None:
    """Killed -9 while the server works, again and again: the last process finds every result, and each was paid for once."""
    write_works(tmp_path / "jobs.jsonl")
    journal = tmp_path / "jobs.run" / "journal.jsonl"
    with simulated(tmp_path, "--latency", "0.05", "--work-seconds", "8") as platform:
        submit = ("submit", "jobs.jsonl", "--base-url", platform.url, *UNLIMITED)
        env = {"BATCHRUN_API_KEY": canary.KEY}
        for starts in range(1, 4):
            with started(tmp_path, *submit, env=env) as process:
                until(lambda: told(journal) == {"started": starts, "sent": 6, "submitted": 6}, "all work to be submitted")  # noqa: B023
                process.kill()
        done = batchrun(tmp_path, *submit, "--json", env=env)
        ledger = platform.ledger()
    assert done.code == 0, done.stderr
    assert done.summary["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
    assert float(done.summary["cost"]["maybe_billed"]) == 0
    results = read_lines(tmp_path / "jobs.run" / "results.jsonl")
    assert sorted(line["custom_id"] for line in results) == IDS
    assert all(line["response"]["body"]["status"] == "completed" for line in results)
    assert sorted(str(entry["custom_id"]) for entry in ledger) == IDS
    assert batchrun(tmp_path, "verify", "jobs.run").code == 0
    assert told(journal)["sent"] == len(IDS)
