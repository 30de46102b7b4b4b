"""--download, as a real process beside the embedded platform, which serves its files."""

from __future__ import annotations

import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from tests.e2e import canary
from tests.e2e.cli_support import UNLIMITED, batchrun, ending, started, until
from tests.e2e.harness import simulated

ASKED: dict[str, tuple[str, dict[str, object]]] = {
    "../poster": ("/v1/images/generations", {"prompt": "The moon", "n": 2}),
    "speech": ("/v1/audio/speech", {"input": "Hello."}),
    "film": ("/v1/videos/generations", {"prompt": "The moon"}),
    "pages": ("/v1/search", {"query": "moon"}),
}


def test_media_are_saved_and_kept(tmp_path: Path) -> None:
    """Pictures, sounds and films, under safe names; the same command again fetches what is missing, and sends no job."""
    lines = [
        msgspec.json.encode({"custom_id": custom_id, "url": url, "body": {**body, "model": "simulated-per-request"}})
        for custom_id, (url, body) in ASKED.items()
    ]
    (tmp_path / "jobs.jsonl").write_bytes(b"\n".join(lines))
    env = {"BATCHRUN_API_KEY": canary.KEY}
    with simulated(tmp_path, "--latency", "0", "--work-seconds", "0.5") as platform:
        submit = ("submit", "jobs.jsonl", "--base-url", platform.url, *UNLIMITED, "--download", "media", "--json")
        done = batchrun(tmp_path, *submit, env=env)
        assert done.code == 0, done.stderr
        names = sorted(path.name for path in (tmp_path / "media").iterdir())
        assert [name.partition("-")[0] for name in names] == ["film", "poster", "poster", "speech"]
        assert [name.rpartition(".")[2] for name in names] == ["mp4", "png", "png", "mp3"]
        picture = tmp_path / "media" / names[1]
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert "4 files saved" in done.stderr
        picture.unlink()
        again = batchrun(tmp_path, *submit, env=env)
        assert (again.code, picture.exists()) == (0, True)
        assert "1 file saved" in again.stderr
        assert len(platform.ledger()) == len(ASKED)


def test_a_folder_that_cannot_be_is_told_at_once(tmp_path: Path) -> None:
    """2, before anything is sent."""
    (tmp_path / "jobs.jsonl").write_bytes(b"")
    (tmp_path / "media").write_bytes(b"")
    done = batchrun(tmp_path, "submit", "jobs.jsonl", "--simulate", "--download", "media")
    assert done.code == 2
    assert "--download media" in done.stderr


class _Slow(BaseHTTPRequestHandler):
    """Names a picture of its own, and sends no more of it than a byte."""

    protocol_version = "HTTP/1.1"
    asked: threading.Event
    over: threading.Event

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(msgspec.json.encode({"data": [{"url": f"http://{self.headers['host']}/slow"}]}))

    def do_GET(self) -> None:
        if self.path != "/slow":
            self._answer(b'{"data":[]}')
            return
        self._answer(b"a", length=9)
        self.asked.set()
        self.over.wait()

    def _answer(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("content-length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_files(tmp_path: Path, number: signal.Signals) -> None:
    """The run itself has ended, and a server sends its files a byte an hour: 0, and the rest is left to the same command."""
    body = {"model": "m", "prompt": "The moon"}
    line = {"custom_id": "poster", "url": "/v1/images/generations", "body": body}
    (tmp_path / "jobs.jsonl").write_bytes(msgspec.json.encode(line))
    _Slow.asked, _Slow.over = threading.Event(), threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        arguments = ("submit", "jobs.jsonl", "--base-url", url, *UNLIMITED, "--download", "media", "--json")
        with started(tmp_path, *arguments, env={"BATCHRUN_API_KEY": canary.KEY}) as process:
            assert _Slow.asked.wait(30)
            until(lambda: b'"completed":1' in status_of(tmp_path), "the end of the run")
            process.send_signal(number)
            ended = ending(process)
        _Slow.over.set()
        server.shutdown()
    assert (ended.code, ended.summary["status"]) == (0, "completed")
    assert "it was not waited for the rest" in ended.stderr
    assert list((tmp_path / "media").iterdir()) == []


def status_of(home: Path) -> bytes:
    """What a run has left behind of its figures, without blanks."""
    path = home / "jobs.run" / "status.json"
    return path.read_bytes().replace(b" ", b"").replace(b"\n", b"") if path.exists() else b""
