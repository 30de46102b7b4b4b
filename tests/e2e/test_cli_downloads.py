"""--download, as a real process beside the embedded platform, which serves its files."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import msgspec
import pytest

from tests.e2e import canary
from tests.e2e.cli_support import UNLIMITED, batchrun, ending, server, started, until
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_file_that_does_not_come_is_not_waited_for_past_an_interrupt(tmp_path: Path, number: signal.Signals) -> None:
    """The jobs have all ended, and so does the command, at once; the file is left to the next start."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/moon.png"
        with server(200, msgspec.json.encode({"data": [{"url": address}]})) as url:
            line = {"custom_id": "poster", "url": "/v1/images/generations", "body": {"model": "m", "prompt": "The moon"}}
            (tmp_path / "jobs.jsonl").write_bytes(msgspec.json.encode(line))
            submit = ("submit", "jobs.jsonl", "--base-url", url, *UNLIMITED, "--download", "media")
            with started(tmp_path, *submit, env={"BATCHRUN_API_KEY": canary.KEY}) as process:
                silent.accept()[0].detach()  # it stays open, and nothing is said
                status = tmp_path / "jobs.run" / "status.json"
                until(lambda: status.exists() and b'"completed",' in status.read_bytes(), "the end of the run")
                process.send_signal(number)
                ended = ending(process)
    assert ended.code == 0, ended.stderr
    assert "left to the same command" in ended.stderr
    assert "0 files saved" in ended.stderr
    assert list((tmp_path / "media").iterdir()) == []
