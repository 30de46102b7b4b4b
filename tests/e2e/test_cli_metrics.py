"""`--metrics` from outside: the port, what is left where it is taken, and how a run ends that is being scraped."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import threading
import urllib.request
from pathlib import Path

from tests.e2e.cli_support import count_once, ending, finals, job, line_with, platform, started, until, write_jobs

IDS = [f"job-{number}" for number in range(40)]
PATIENCE_SECONDS = 60


def scrape(url: str) -> str:
    """One whole scrape."""
    with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as reply:
        return str(reply.read().decode())


def url_in(message: str) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+/metrics", message)
    assert found is not None
    return found[0]


def test_a_taken_port_leaves_a_run_that_resumes_as_it_was(tmp_path: Path) -> None:
    """2 before anything is sent or written: neither a run that had begun nor one that had not is touched."""
    with platform(tmp_path) as running, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        jobs = write_jobs(tmp_path, IDS[:3])
        assert running.submit(tmp_path, jobs, "--metrics", port).code == 2
        assert {path.name for path in (tmp_path / "jobs.run").iterdir()} == {"lock"}
        assert running.statistics()["requests"] == 0
        assert running.submit(tmp_path, jobs).code == 0
        with open(jobs, "ab") as file:
            file.write(job("appended"))
        before = {path.name: path.read_bytes() for path in (tmp_path / "jobs.run").iterdir() if path.name != "lock"}
        ended = running.submit(tmp_path, jobs, "--metrics", port)
        assert (ended.code, running.statistics()["requests"]) == (2, 3)
        assert f"127.0.0.1:{port}" in ended.stderr
        assert before == {path.name: path.read_bytes() for path in (tmp_path / "jobs.run").iterdir() if path.name != "lock"}
        assert running.submit(tmp_path, jobs, "--metrics", "0").code == 0
    assert finals(tmp_path / "jobs.run") == count_once([*IDS[:3], "appended"])


def test_a_finished_run_answers_without_a_port(tmp_path: Path) -> None:
    """There is nothing to watch: that the port is taken changes no answer."""
    with platform(tmp_path) as running, socket.create_server(("127.0.0.1", 0)) as taken:
        jobs = write_jobs(tmp_path, IDS[:3])
        assert running.submit(tmp_path, jobs).code == 0
        assert running.submit(tmp_path, jobs, "--metrics", taken.getsockname()[1]).code == 0


def test_a_run_that_is_scraped_without_a_pause_ends_well_and_shows_its_end(tmp_path: Path) -> None:
    """Two scrapers at once, to the end: every answer is whole, and the last ones show every job."""
    seen: list[str] = []
    torn: list[Exception] = []

    def scrape_on(url: str) -> None:
        while True:
            try:
                seen.append(scrape(url))
            except OSError:  # nobody listens there any more
                return
            except http.client.HTTPException as error:
                torn.append(error)
                return

    with platform(tmp_path, "--latency", "0.05") as running:
        arguments = ("submit", write_jobs(tmp_path, IDS), *running.options, "--metrics", "0", "--max-in-flight", "4")
        with started(tmp_path, *arguments, env=running.env) as process:
            url = url_in(line_with(process, "metrics on "))
            scrapers = [threading.Thread(target=scrape_on, args=(url,)) for _ in range(2)]
            for scraper in scrapers:
                scraper.start()
            ended = ending(process)
            for scraper in scrapers:
                scraper.join(PATIENCE_SECONDS)
    assert ended.code == 0
    assert torn == []
    assert f'batchrun_jobs_total{{outcome="succeeded"}} {len(IDS)}.0' in seen[-1]
    assert finals(tmp_path / "jobs.run") == count_once(IDS)


def test_ctrl_c_ends_the_wait_for_the_last_scrape_and_changes_no_exit_code(tmp_path: Path) -> None:
    """Every job has ended by then: the run is complete, and 0."""
    with platform(tmp_path, "--latency", "2", "--latency-sigma", "0") as running:
        options = ("--metrics", "0", "--max-in-flight", "1", "--json")
        arguments = ("submit", write_jobs(tmp_path, IDS[:2]), *running.options, *options)
        with started(tmp_path, *arguments, env=running.env) as process:
            url = url_in(line_with(process, "metrics on "))
            scrape(url)
            # The second job is sent two seconds and more later: a scraper that comes as often as this is worth waiting for.
            until(lambda: running.statistics()["requests"] == 2, "the second request")
            scrape(url)
            line_with(process, "wait for one more scrape")
            process.send_signal(signal.SIGINT)
            ended = ending(process)
    assert ended.code == 0
    assert ended.summary["status"] == "completed"
