"""`batchrun chats` as a process: rows of the platform's "Saved chats", to the regression batch that is made of them."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli_support import Ended, Platform, batchrun, platform, server
from tests.e2e.harness import read_lines


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Platform]]:
    home = tmp_path_factory.mktemp("saved")
    with platform(home, "--chats", "5", "--seed", "4") as running:
        yield home, running


def chats(saved: tuple[Path, Platform], *arguments: object, **popen: Any) -> Ended:
    home, running = saved
    return batchrun(home, "chats", *arguments, "--base-url", running.url, env=running.env, **popen)


def test_saved_chats_are_listed_with_their_cap(saved: tuple[Path, Platform]) -> None:
    """Row "Saved chats": 50 an account; how many of them there are is said for what it is."""
    ended = chats(saved, "list")
    lines = ended.stdout.splitlines()
    assert (ended.code, len(lines)) == (0, 6)
    assert lines[0].split() == ["id", "model", "updated", "title", "messages"]
    assert ended.stderr == "5 of 50 saved chats.\n"
    document = json.loads(chats(saved, "list", "--json").stdout)
    assert (document["count"], document["cap"], document["complete"]) == (5, 50, True)
    assert [chat["id"] for chat in document["conversations"]] == [line.split()[0] for line in lines[1:]]


def test_an_account_that_is_full_is_told_so(tmp_path: Path) -> None:
    body = json.dumps({"data": [{"id": str(number)} for number in range(50)], "total": 50}).encode()
    with server(200, body) as url:
        ended = batchrun(tmp_path, "chats", "list", "--base-url", url)
    assert ended.stderr == "50 of 50 saved chats. The account can save no more: delete some in the playground.\n"


def test_a_saved_chat_is_shown_with_its_full_history(saved: tuple[Path, Platform]) -> None:
    first = json.loads(chats(saved, "list", "--json").stdout)["conversations"][0]
    ended = chats(saved, "get", first["id"])
    chat = json.loads(chats(saved, "get", first["id"], "--json").stdout)
    assert len(chat["messages"]) == first["message_count"]
    assert ended.stdout.startswith(f"{first['title']}\n{first['id']} · {first['model']}")
    for message in chat["messages"]:
        assert f"\n\n{message['role']}:\n{message['content']}\n" in ended.stdout


def test_a_saved_chat_that_does_not_exist_ends_with_2(saved: tuple[Path, Platform]) -> None:
    ended = chats(saved, "get", "conv_none")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr == "batchrun: conv_none: there is no such saved chat; `batchrun chats list` lists them.\n"


def test_saved_chats_are_exported_whole(saved: tuple[Path, Platform]) -> None:
    """To a file that others cannot read, or to stdout: a line each, as the server has them."""
    home, _ = saved
    ended = chats(saved, "export", "-o", "all.jsonl")
    assert (ended.code, ended.stdout) == (0, "")
    assert ended.stderr == f"5 conversations written to {home / 'all.jsonl'}.\n"
    assert stat.S_IMODE((home / "all.jsonl").stat().st_mode) == 0o600
    lines = read_lines(home / "all.jsonl")
    assert len(lines) == 5
    assert all(line["messages"] for line in lines)
    assert [json.loads(line) for line in chats(saved, "export").stdout.splitlines()] == lines


def test_saved_chats_become_a_regression_batch(saved: tuple[Path, Platform]) -> None:
    """The same jobs each time, which submit takes and runs, by the model that is named."""
    home, running = saved
    ended = chats(saved, "export", "--as-jobs", "--model", "simulated-small", "-o", "batch.jsonl", "--json")
    told = json.loads(ended.stdout)
    first = (home / "batch.jsonl").read_bytes()
    assert chats(saved, "export", "--as-jobs", "--model", "simulated-small").stdout.encode() == first
    jobs = [json.loads(line) for line in first.splitlines()]
    turns = sum(message["role"] == "user" for chat in read_lines(home / "all.jsonl") for message in chat["messages"])
    assert (told["jobs"], told["conversations"], told["complete"]) == (turns, 5, True)
    assert {job["body"]["model"] for job in jobs} == {"simulated-small"}
    done = running.submit(home, "batch.jsonl", "--json")
    assert done.code == 0
    assert done.summary["request_counts"] == {"total": turns, "completed": turns, "failed": 0}
    assert {line["custom_id"] for line in read_lines(home / "batch.run" / "results.jsonl")} == {job["custom_id"] for job in jobs}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "m"), "--model is for jobs"),
        (("--json",), "add --output FILE"),
        (("-o", "nowhere/x.jsonl"), "there is no directory"),
        (("-o", "."), "is no file"),
        (("-o", "/dev/null"), "is no file"),
    ],
)
def test_an_export_that_makes_no_sense_ends_with_2(saved: tuple[Path, Platform], arguments: tuple[str, ...], words: str) -> None:
    """Before the server is asked for anything."""
    ended = chats(saved, "export", *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert words in ended.stderr


def test_an_export_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Whole or not at all: here no conversation names a model."""
    (tmp_path / "kept.jsonl").write_text("before")
    body = json.dumps(
        {"id": "a", "data": [{"id": "a"}], "has_more": False, "messages": [{"role": "user", "content": "q"}]}
    ).encode()
    with server(200, body) as url:
        ended = batchrun(tmp_path, "chats", "export", "--as-jobs", "-o", "kept.jsonl", "--base-url", url)
    assert ended.code == 2
    assert "saved chat a names no model: give one for all with --model MODEL." in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept.jsonl"]
    assert (tmp_path / "kept.jsonl").read_text() == "before"


def test_a_link_stays_a_link(saved: tuple[Path, Platform]) -> None:
    """What it leads to is written."""
    home, _ = saved
    (home / "link.jsonl").symlink_to("real.jsonl")
    assert chats(saved, "export", "-o", "link.jsonl").code == 0
    assert (home / "link.jsonl").is_symlink()
    assert len(read_lines(home / "real.jsonl")) == 5


def test_what_a_model_wrote_has_no_power_over_a_terminal(tmp_path: Path) -> None:
    """In titles, messages and exports alike."""
    evil = "\x1b]0;owned\x07 \x9b31m \u202e"
    chat = {"id": "a", "title": evil, "model": evil, "messages": [{"role": "assistant", "content": f"one{evil}\ntwo"}]}
    with server(200, json.dumps(chat | {"data": [chat], "has_more": False}).encode()) as url:
        shown = [batchrun(tmp_path, "chats", *what, "--base-url", url) for what in (["list"], ["get", "a"], ["export"])]
    for ended in shown:
        assert ended.code == 0
        assert not any(character in ended.stdout for character in "\x1b\x07\x9b\u202e")
    assert "assistant:\none\\x1b]0;owned" in shown[1].stdout
    assert shown[1].stdout.endswith("\ntwo\n")


def test_chats_without_a_key_end_with_69(saved: tuple[Path, Platform]) -> None:
    """The platform's code is told."""
    home, running = saved
    ended = batchrun(home, "chats", "list", "--base-url", running.url)
    assert ended.code == 69
    assert "status 401 (missing_api_key" in ended.stderr


def test_chats_on_a_server_that_has_none(tmp_path: Path) -> None:
    with server(404, b"<html>not here</html>") as url:
        ended = batchrun(tmp_path, "chats", "list", "--base-url", url)
    assert ended.code == 69
    assert ended.stderr.endswith("status 404. Check --base-url: this server may not have it.\n")
