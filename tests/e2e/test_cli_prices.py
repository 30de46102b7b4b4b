"""`--prices`: a list of one's own stands for the server's catalog, and the spend cap is kept by it."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path

from tests.e2e.cli_support import batchrun, job, platform, write_jobs
from tests.e2e.harness import read_lines


def test_costs_are_those_of_the_file(tmp_path: Path) -> None:
    """Every amount is by its prices; what stands in the catalog alone is unknown, and under a cap not sent; the date is kept."""
    (tmp_path / "jobs.jsonl").write_bytes(job("listed") + job("other", model="simulated-large"))
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({"simulated-small": {"prompt": "0.001", "completion": "0.01"}}))
    os.utime(prices, ns=(0, 1_700_000_000_000_000_000))
    with platform(tmp_path) as running:
        ended = running.submit(tmp_path, "jobs.jsonl", "--prices", "prices.json", "--max-cost", "5", "--json")
        assert ended.code == 1
        assert running.statistics()["requests"] == 1
        cut = running.submit(
            tmp_path, "jobs.jsonl", "-o", "cut.run", "--max-cost", "0.001", env={"BATCHRUN_PRICES": "prices.json"}
        )
    (line,) = read_lines(tmp_path / "jobs.run" / "costs.jsonl")
    tokens = line["tokens"]
    amount = Decimal("0.001") * tokens["input"] + Decimal("0.01") * tokens["output"]
    assert (line["cost"]["amount"], line["state"]) == (amount, "billed")
    (error,) = read_lines(tmp_path / "jobs.run" / "errors.jsonl")
    assert (error["custom_id"], error["error"]["code"]) == ("other", "price_unknown")
    kept = json.loads((tmp_path / "jobs.run" / "run.json").read_text())["prices"]
    assert (list(kept["prices"]), kept["fetched_at"]) == (["simulated-small"], "2023-11-14T22:13:20.000Z")
    assert cut.code == 3


def test_a_file_without_prices_ends_with_2(tmp_path: Path) -> None:
    """Named, with what to write, and before a run directory is made."""
    (tmp_path / "prices.json").write_text("{}")
    ended = batchrun(tmp_path, "submit", write_jobs(tmp_path, ["job"]), "--simulate", "--prices", "prices.json")
    assert ended.code == 2
    assert ended.stderr.startswith("batchrun: --prices prices.json: names no price that can be understood. Write {")
    assert not list(tmp_path.glob("*.run"))
