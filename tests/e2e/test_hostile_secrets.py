"""A key is out of reach of other programs, of crashes, and of servers that send it back."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from batchrunner.cli.core_dumps import forbid_core_dumps
from batchrunner.cli.simulate import needed
from tests.e2e import canary
from tests.e2e.cli_support import ROOT, UNLIMITED, batchrun, ending, platform, started, until, write_jobs
from tests.e2e.harness import read_lines

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
IDS = ["job-1", "job-2"]
SPELT_OUT = "".join(f"\\u{ord(character):04x}" for character in canary.KEY)


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """A server that gives each connection this answer, byte for byte, once a request has come; its base URL."""

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(30)
            connection.recv(1 << 16)
            connection.sendall(answer)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def response(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


ECHOES = {
    "request id": response(200, b'{"choices":[]}', f"x-request-id: req-{canary.KEY}"),
    "request id of an error": response(400, b'{"error":{"code":"bad"}}', f"request-id: {canary.KEY}"),
    "error code": response(400, msgspec.json.encode({"error": {"code": canary.KEY, "message": "no"}})),
    "spelt out": response(400, f'{{"error":{{"message":"bad key {SPELT_OUT}"}}}}'.encode()),
    "spelt out in a success": response(200, f'{{"choices":[{{"message":{{"content":"{SPELT_OUT}"}}}}]}}'.encode()),
    "encoding": response(200, b"{}", f"content-encoding: {canary.KEY}"),
    "framing": response(200, b"{}", f"transfer-encoding: {canary.KEY}"),
    "catalog": response(200, msgspec.json.encode({"data": [{"id": canary.KEY, "pricing": {"prompt": "1", "completion": "1"}}]})),
    "html": response(502, f"<p>Bearer {canary.KEY}</p>".encode()),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_S01_a_key_that_a_server_sends_back_is_written_nowhere(tmp_path: Path, echo: str) -> None:
    """In a header, a code, a catalog, in JSON's escapes: the run ends as it would without, and the search finds no key."""
    with raw_server(ECHOES[echo]) as url:
        prices = (
            () if echo == "catalog" else ("--prices", ROOT / "jobs" / "prices.json")
        )  # a catalog is asked for again and again
        arguments = ("submit", write_jobs(tmp_path, IDS), "--base-url", url, *UNLIMITED, "--max-attempts", "1", *prices)
        ended = batchrun(tmp_path, *arguments, env={"BATCHRUN_API_KEY": canary.KEY})
    assert ended.code in (0, 1), ended.stderr
    lines = read_lines(tmp_path / "jobs.run" / "results.jsonl") + read_lines(tmp_path / "jobs.run" / "errors.jsonl")
    assert lines
    assert not any(canary.KEY in str(line) for line in lines), "spelt out"


@LINUX
def test_S01_the_embedded_platform_gets_no_key(tmp_path: Path) -> None:
    """Neither in its environment, whatever a variable is called, nor in its arguments: it needs none of the user's."""
    (tmp_path / "batchrun.toml").write_text('[accounts.mine]\nkeys = ["env:MY_SECRET"]\n')
    env = {"MY_SECRET": canary.KEY, "BATCHRUN_API_KEY": canary.KEY, "AWS_SESSION_TOKEN": canary.KEY}
    arguments = ("submit", write_jobs(tmp_path, ["job-1"]), "--simulate", "--simulate-options", "--fault-on job-1=silent*0")
    with started(tmp_path, *arguments, *UNLIMITED, env=env) as process:
        until(lambda: bool(children(process.pid)), "the platform's process")
        (child,) = children(process.pid)
        until(lambda: b"simulator" in Path(f"/proc/{child}/cmdline").read_bytes(), "its program")
        for name in ("cmdline", "environ"):
            assert not list(canary.forms_in(Path(f"/proc/{child}/{name}").read_bytes(), canary.KEY)), name
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        ending(process)


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def test_S01_only_what_is_needed_is_handed_on() -> None:
    """A list of what may go, since none of what may not could be whole."""
    environment = {
        "PATH": "/bin",
        "PYTHONPATH": "x",
        "LC_ALL": "C",
        "MY_SECRET": "s",
        "BATCHRUN_API_KEY": "k",
        "SSH_AUTH_SOCK": "y",
    }
    assert needed(environment) == {"PATH": "/bin", "PYTHONPATH": "x", "LC_ALL": "C"}


@LINUX
def test_S04_submit_leaves_no_core(tmp_path: Path) -> None:
    """A run that crashes for good writes none: its limit is 0, and to a handler it cannot be dumped."""
    with platform(tmp_path, "--fault-on", "job-1=silent*0") as running:
        arguments = ("submit", write_jobs(tmp_path, ["job-1"]), *running.options)
        with started(tmp_path, *arguments, env=running.env) as process:
            running.until_silent(1)
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
            assert os.stat(f"/proc/{process.pid}/environ").st_uid == 0, "what cannot be dumped belongs to root"
            process.send_signal(signal.SIGSEGV)
            ended = ending(process)
    assert ended.code == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in ended.stderr
    assert not [path for path in canary.files_in(tmp_path) if "core" in path.name]


@LINUX
def test_S04_a_process_says_that_it_cannot_be_dumped() -> None:
    """Asked of the kernel itself, in a child: this process keeps what it has."""
    pid = os.fork()
    if pid == 0:
        import ctypes  # noqa: PLC0415 - of no use elsewhere

        forbid_core_dumps()
        os._exit(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("option", ["--api-key", "--key", "--token", "--api_key"])
def test_S03_no_option_takes_a_key(tmp_path: Path, option: str) -> None:
    """Everybody on the machine can read arguments; what was tried is not repeated."""
    ended = batchrun(tmp_path, "submit", "jobs.jsonl", option, canary.KEY)
    assert ended.code == 2
    assert canary.KEY not in ended.stderr


def test_S05_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """An answer like any other that is no success: the request, and the key in it, go to nobody else."""
    with platform(tmp_path) as elsewhere:
        moved = response(307, b"{}", f"location: {elsewhere.url}/v1/chat/completions")
        with raw_server(moved) as url:
            arguments = ("submit", write_jobs(tmp_path, IDS), "--base-url", url, *UNLIMITED)
            assert batchrun(tmp_path, *arguments, env={"BATCHRUN_API_KEY": canary.KEY}).code == 1
        assert elsewhere.statistics()["requests"] == 0
    assert [line["response"]["status_code"] for line in read_lines(tmp_path / "jobs.run" / "errors.jsonl")] == [307, 307]


def test_S05_a_proxy_of_the_environment_is_not_asked(tmp_path: Path) -> None:
    """The server that is named is the one that gets the key; a variable that some script set is no server."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:1")
    with platform(tmp_path) as running:
        assert running.submit(tmp_path, write_jobs(tmp_path, IDS), env=proxies).code == 0


def test_S06_a_run_directory_of_somebody_else_has_no_power_over_a_terminal(tmp_path: Path) -> None:
    """`status` shows texts of a file; none of them is an escape, on the screen or in JSON."""
    hostile = "\x1b]0;pwned\x07\x9b31m\u202e"
    with platform(tmp_path) as running:
        assert running.submit(tmp_path, write_jobs(tmp_path, IDS)).code == 0
    file = tmp_path / "jobs.run" / "status.json"
    found = msgspec.json.decode(file.read_bytes())
    file.write_bytes(msgspec.json.encode(found | {"at": hostile, "run_id": hostile, "state": "running"}))
    for arguments in (("status", "jobs.run"), ("status", "jobs.run", "--json")):
        ended = batchrun(tmp_path, *arguments)
        assert ended.code == 0
        assert not [character for character in ended.stdout if character != "\n" and not character.isprintable()]
    assert ended.summary["at"] == hostile, "JSON says the same in its own escapes"


def test_S06_the_configuration_of_a_checkout_has_no_power_over_a_terminal(tmp_path: Path) -> None:
    """`config show` and messages about a file quote it escaped."""
    hostile = "\\u001b]0;pwned\\u0007\\u009b31m\\u202e"
    (tmp_path / "batchrun.toml").write_text(f'run_dir = "{hostile}"\n[accounts.a]\nheaders = {{ "x-a" = "b" }}\n')
    shown = batchrun(tmp_path, "config", "show", "--origin")
    (tmp_path / "batchrun.toml").write_text(f'"{hostile}" = 1\n')
    refused = batchrun(tmp_path, "config", "show")
    assert refused.code == 2
    for text in (shown.stdout, shown.stderr, refused.stderr):
        assert not [character for character in text if character != "\n" and not character.isprintable()]
    assert r"\x1b]0;pwned" in shown.stdout
