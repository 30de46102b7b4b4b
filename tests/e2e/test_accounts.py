"""Accounts of batchrun.toml in real runs: what goes out, what run.json keeps, and that no key is seen."""

from __future__ import annotations

import http.server
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.e2e.canary import KEY as CANARY
from tests.e2e.cli_support import Ended, batchrun, finals, job, platform, write_jobs
from tests.e2e.test_cli_secrets import assert_clean

IDS = ["job-0", "job-1"]
REPLY = b'{"id":"r","usage":{"prompt_tokens":3,"completion_tokens":2,"input_tokens":3,"output_tokens":2}}'


class Seen(msgspec.Struct, frozen=True):
    """A request as a server got it; header names in small letters."""

    path: str
    headers: dict[str, str]


@contextmanager
def listening() -> Iterator[tuple[str, list[Seen]]]:
    """A server that takes every key and path; its URL, and what it is asked."""
    seen: list[Seen] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", "0")))
            seen.append(Seen(self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(200)
            self.send_header("content-length", str(len(REPLY)))
            self.end_headers()
            self.wfile.write(REPLY)

        do_GET = do_POST = answer  # noqa: N815 - the base class's names

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_key_file(path: Path, *keys: str, mode: int = 0o600) -> None:
    path.write_text("".join(f"{key}\n" for key in keys))
    path.chmod(mode)


def manifest(run_dir: Path) -> dict[str, Any]:
    return msgspec.json.decode((run_dir / "run.json").read_bytes(), type=dict[str, Any])


def assert_no_key_anywhere(home: Path, *runs: Ended) -> None:
    for ended in runs:
        assert_clean((ended.stdout + ended.stderr).encode(), "what was printed")
    for path in home.glob("*.run/*"):
        assert_clean(path.read_bytes(), path.name)


def test_a_table_in_a_real_run(tmp_path: Path) -> None:
    """Path, key, headers and limits are the table's; run.json keeps name and identity; nobody sees the key."""
    write_key_file(tmp_path / "prod.key", CANARY)
    messages = {"custom_id": "a", "params": {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}}
    (tmp_path / "jobs.jsonl").write_bytes(job("b") + msgspec.json.encode(messages) + b"\n")
    with listening() as (url, seen):
        (tmp_path / "batchrun.toml").write_text(
            f"rpm = 1\n[accounts.prod]\nbase_url = '{url}/api/v3/'\nkeys = ['file:~/prod.key']\nauth = 'x-api-key'\n"
            "headers = { Anthropic-Version = '2024-01-01', x-title = 'night' }\nrpm = 0\ntpm = 0\n"
        )
        ended = batchrun(tmp_path, "submit", "jobs.jsonl")
        shown = batchrun(tmp_path, "config", "show", "--origin")
    assert ended.code == 0, ended.stderr
    assert shown.code == 0, shown.stderr
    paths = Counter(request.path for request in seen)
    paths.pop("/api/v3/account/usage?limit=1", None)  # asked beside the run, which may be over before
    assert sorted(paths.elements()) == ["/api/v3/chat/completions", "/api/v3/messages", "/api/v3/models"]
    for request in seen:
        assert request.headers["x-api-key"] == CANARY
        assert "authorization" not in request.headers
        assert (request.headers["anthropic-version"], request.headers["x-title"]) == ("2024-01-01", "night")
    kept = manifest(tmp_path / "jobs.run")
    assert (kept["options"]["account"], kept["options"]["rpm"], kept["options"]["base_url"]) == ("prod", 0, f"{url}/api/v3/")
    assert kept["identities"] == [f"{url.removeprefix('http://')}/prod"]
    assert "file:~/prod.key, 1 key" in shown.stdout
    assert_no_key_anywhere(tmp_path, ended, shown)


def test_a_variable_goes_before_the_table_and_an_option_before_both(tmp_path: Path) -> None:
    """Seen in what run.json keeps."""
    (tmp_path / "batchrun.toml").write_text("[accounts.a]\nrpm = 7\ntpm = 7\n[accounts.b]\nrpm = 8\ntpm = 8\n")
    with platform(tmp_path) as running:
        arguments = ("submit", write_jobs(tmp_path, IDS), "--base-url", running.url, "--account", "b", "--tpm", "0")
        ended = batchrun(tmp_path, *arguments, env=running.env | {"BATCHRUN_RPM": "6000", "BATCHRUN_TPM": "1"})
    assert ended.code == 0, ended.stderr
    options = manifest(tmp_path / "jobs.run")["options"]
    assert (options["account"], options["rpm"], options["tpm"]) == ("b", 6000, 0)


def test_lines_may_ask_for_the_only_account(tmp_path: Path) -> None:
    """Its name is the run's, though nobody gave it; another name fails that line alone."""
    lines = [msgspec.json.decode(job(name)) | {"batchrun": {"account": name}} for name in ("prod", "dev")]
    (tmp_path / "jobs.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    with platform(tmp_path) as running:
        (tmp_path / "batchrun.toml").write_text(f"[accounts.prod]\nbase_url = '{running.url}'\nrpm = 0")
        ended = batchrun(tmp_path, "submit", "jobs.jsonl", env=running.env)
    assert ended.code == 1
    assert finals(tmp_path / "jobs.run") == {"prod": 1, "dev": 1}
    assert "line 2) failed: it asks for account 'dev', and this run's is 'prod'" in ended.stderr


def test_going_on_as_another_account_is_said(tmp_path: Path) -> None:
    """It is allowed, with a warning that names both; going on as the same one is not worth a word. run.json keeps both."""
    (tmp_path / "batchrun.toml").write_text("[accounts.a]\nrpm = 0\n[accounts.b]\nrpm = 0")
    jobs = write_jobs(tmp_path, IDS[:1])
    with platform(tmp_path, key=CANARY) as running:
        ended = {}
        for number, account in enumerate("aab"):
            arguments = ("submit", jobs, "--base-url", running.url, "--account", account)
            ended[number] = batchrun(tmp_path, *arguments, env=running.env)
            with open(jobs, "ab") as file:
                file.write(job(f"more-{number}"))
        host = running.url.removeprefix("http://")
    assert [run.code for run in ended.values()] == [0, 0, 0]
    assert "warning" not in ended[0].stderr + ended[1].stderr
    assert f"this run went under {host}/a until now, and goes on under {host}/b" in ended[2].stderr
    assert manifest(tmp_path / "jobs.run")["identities"] == [f"{host}/a", f"{host}/b"]
    assert_no_key_anywhere(tmp_path, *ended.values())


def test_going_on_with_another_key_is_said(tmp_path: Path) -> None:
    """Without a name the key stands for the account; neither is shown."""
    jobs = write_jobs(tmp_path, IDS[:1])
    with platform(tmp_path, "--key", f"{CANARY}2", key=CANARY) as running:
        first = running.submit(tmp_path, jobs)
        with open(jobs, "ab") as file:
            file.write(job("more"))
        second = running.submit(tmp_path, jobs, env={"BATCHRUN_API_KEY": f"{CANARY}2"})
    assert (first.code, second.code) == (0, 0)
    assert "warning" not in first.stderr
    assert "from two accounts, unless only the key is another one" in second.stderr
    assert len(manifest(tmp_path / "jobs.run")["identities"]) == 2
    assert_no_key_anywhere(tmp_path, first, second)


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("[accounts.prod]\nkeys = ['file:open.key']", "[accounts.prod]: keys: open.key: others than its owner may read"),
        ("[accounts.prod]\nkeys = ['file:empty.key']", "[accounts.prod]: keys: file:empty.key: the file has no key"),
        ("[accounts.prod]\nkeys = ['file:none.key']", "[accounts.prod]: keys: none.key: no such file"),
        ("[accounts.prod]\nkeys = ['file:directory']", "[accounts.prod]: keys: directory: cannot be read: Is a dir"),
        ("[accounts.prod]\nkeys = ['file:fifo']", "[accounts.prod]: keys: fifo: is no file"),
        ("[accounts.prod]\nkeys = ['file:long.key']", "[accounts.prod]: keys: long.key: is too long"),
        ("[accounts.prod]\nkeys = ['file:odd.key']", "[accounts.prod]: keys: file:odd.key holds what no key holds"),
        (
            "[accounts.prod]\nkeys = ['env:PROD_KEY', 'env:NOT_SET']",
            "[accounts.prod]: keys: env:NOT_SET: the variable is not set",
        ),
        (f"[accounts.prod]\nkeys = ['{CANARY}']", "[accounts.prod]: keys: entry 1 is neither env:NAME"),
        (f"[accounts.prod]\nheaders = {{ x-api-key = '{CANARY}' }}", "[accounts.prod]: headers: header 'x-api-key' could hold"),
        (f"[accounts.prod]\nbase_url = 'https://{CANARY}@x.example'", "[accounts.prod]: base_url: the "),
        (f"rpm = '{CANARY}'", "rpm: "),
        ("[accounts.a]\n[accounts.b]", "several accounts are configured: a (batchrun.toml), b (batchrun.toml)"),
        ("account = 'c'\n[accounts.a]", "--account c: there is no such account. Configured are a (batchrun.toml)"),
    ],
)
def test_an_account_that_cannot_work_ends_with_2(tmp_path: Path, toml: str, named: str) -> None:
    """File, account and key are named, the key itself never; nothing is run."""
    write_key_file(tmp_path / "open.key", CANARY, mode=0o640)
    write_key_file(tmp_path / "empty.key")
    write_key_file(tmp_path / "odd.key", f"{CANARY}\x01")
    write_key_file(tmp_path / "long.key", *[CANARY] * 2000)
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "batchrun.toml").write_text(toml)
    ended = batchrun(tmp_path, "submit", write_jobs(tmp_path, IDS), env={"PROD_KEY": CANARY})
    assert ended.code == 2
    assert named in ended.stderr
    assert "batchrun.toml" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("*.run"))
    assert_clean((ended.stdout + ended.stderr).encode(), "what was printed")


def test_a_rehearsal_looks_at_no_account(tmp_path: Path) -> None:
    """--simulate goes on with a table that could not work and keys that are not there, under the embedded platform's account."""
    (tmp_path / "batchrun.toml").write_text("[accounts.prod]\nkeys = ['file:none.key']\nrpm = 1\n[accounts.dev]\nnonsense = 1")
    arguments = ("submit", write_jobs(tmp_path, IDS), "--simulate", "--simulate-options", "--latency 0", "--rpm", "0")
    first = batchrun(tmp_path, *arguments)
    with open(tmp_path / "jobs.jsonl", "ab") as file:
        file.write(job("more"))
    second = batchrun(tmp_path, *arguments)
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    assert "warning" not in first.stderr + second.stderr
    kept = manifest(tmp_path / "jobs.simulated.run")
    assert (kept["options"]["account"], kept["identities"]) == (None, ["simulated"])


def test_one_file_can_be_named(tmp_path: Path) -> None:
    """BATCHRUN_CONFIG is read alone; one that is not there is refused."""
    (tmp_path / "batchrun.toml").write_text("this is no TOML")
    (tmp_path / "ci.toml").write_text("max_attempts = 3")
    with platform(tmp_path) as running:
        ended = running.submit(tmp_path, write_jobs(tmp_path, IDS), env={"BATCHRUN_CONFIG": "ci.toml"})
        missing = running.submit(tmp_path, "jobs.jsonl", "--config", "none.toml", env={"BATCHRUN_CONFIG": "ci.toml"})
    assert ended.code == 0, ended.stderr
    assert manifest(tmp_path / "jobs.run")["options"]["max_attempts"] == 3
    assert missing.code == 2
    assert "none.toml: no such file; it is named by --config or BATCHRUN_CONFIG" in missing.stderr
