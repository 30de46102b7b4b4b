"""A real Prometheus on loopback that scrapes one address, and what it knows through its HTTP API."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tests.e2e.cli_support import until

PATIENCE_SECONDS = 60
INTERVAL_SECONDS = 1.0
JOB = "batchrun"


class Series(NamedTuple):
    """One series of an answer: its labels, and (time, value) from the oldest on."""

    labels: dict[str, str]
    values: list[tuple[float, float]]


class Prometheus:
    """A running server, by its address."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ready(self) -> bool:
        """Whether it answers questions."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=PATIENCE_SECONDS) as reply:
                return bool(reply.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def query(self, expression: str) -> list[Series]:
        """A selector with a range, such as `up[5m]`: the samples that were stored, series by series."""
        found = self._get("query", query=expression)["result"]
        return [_series(one, one["values"] if "values" in one else [one["value"]]) for one in found]

    def graph(self, expression: str, start: float, end: float) -> list[Series]:
        """What a panel shows of this expression, between two times."""
        found = self._get("query_range", query=expression, start=start, end=end, step=INTERVAL_SECONDS)["result"]
        return [_series(one, one["values"]) for one in found]

    def last(self, metric: str) -> dict[tuple[str, ...], float]:
        """The last sample that was stored of each series, by its label values in order of label name."""
        return {
            tuple(value for _, value in sorted(series.labels.items())): series.values[-1][1]
            for series in self.query(f'{metric}{{job="{JOB}"}}[1h]')
        }

    def last_error(self) -> str:
        """What was wrong with the newest scrape."""
        (target,) = self._get("targets", state="active")["activeTargets"]
        return str(target["lastError"])

    def own(self, metric: str) -> float:
        """A counter of its own, summed over its labels."""
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=PATIENCE_SECONDS) as reply:
            text = reply.read().decode()
        return sum(float(value) for value in re.findall(rf"^{metric}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def _get(self, what: str, **asked: object) -> dict[str, Any]:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as reply:
            answer: dict[str, Any] = json.load(reply)
        assert answer["status"] == "success", answer
        return dict(answer["data"])


def _series(found: dict[str, Any], values: list[list[Any]]) -> Series:
    labels = {name: value for name, value in found["metric"].items() if name not in {"__name__", "job", "instance"}}
    return Series(labels, [(float(at), float(value)) for at, value in values])


@contextlib.contextmanager
def prometheus(home: Path, target: str) -> Iterator[Prometheus]:
    """A server that scrapes `target` each second and keeps what it learns in `home`; it ends with the block."""
    scraped = {"job_name": JOB, "static_configs": [{"targets": [target]}]}
    times = {name: f"{round(INTERVAL_SECONDS * 1000)}ms" for name in ("scrape_interval", "scrape_timeout")}
    config = home / "prometheus.json"  # JSON is YAML too
    config.write_bytes(msgspec.json.encode({"global": times, "scrape_configs": [scraped]}))
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={home / 'prometheus.data'}"]
    log = home / "prometheus.log"
    with open(log, "wb") as said:
        process = subprocess.Popen(
            [*command, "--web.listen-address=127.0.0.1:0"],
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stderr=said,
        )
    with process:
        try:
            until(lambda: process.poll() is not None or _address(log) is not None, "that Prometheus listens")
            address = _address(log)
            assert address is not None, log.read_text()
            server = Prometheus(f"http://{address}")
            until(server.ready, "that Prometheus is ready")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(log: Path) -> str | None:
    """Where it listens, by its own log."""
    found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:[1-9]\d*)', log.read_text())
    return None if found is None else found[1]
