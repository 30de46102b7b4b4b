"""The search for keys finds them: a canary that never sings would prove nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e import canary

FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda key: key,
    "base64": lambda key: base64.b64encode(b"Bearer " + key),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(b"a:" + key),
    "percent-encoded": lambda key: quote(key, safe="").encode(),
    "hex": lambda key: key.hex().encode(),
    "capital hex": lambda key: key.hex().upper().encode(),
    "reversed": lambda key: key[::-1],
    "JSON": lambda key: b"".join(rb"\u%04x" % byte for byte in key),
    "PHP's JSON": lambda key: key.replace(b"/", rb"\/"),
}


@pytest.fixture(autouse=True)
def _forget() -> None:
    canary.begin()


@pytest.mark.parametrize("form", FORMS)
def test_S01_a_key_in_a_file_is_found(tmp_path: Path, form: str) -> None:
    """In any form, anywhere below the directory, in the middle of a line or of a core."""
    left = tmp_path / "a.run" / "results.jsonl"
    left.parent.mkdir()
    left.write_bytes(b"\0\xff before" + FORMS[form](canary.KEY.encode()) + b"after\n")
    assert canary.search(tmp_path)


def test_S01_a_key_in_what_was_printed_is_found(tmp_path: Path) -> None:
    """Streams are searched like files."""
    canary.heard("stderr", f"no such key: {canary.KEY}")
    assert canary.search(tmp_path) == ["stderr holds the key in plain"]


def test_S01_a_key_of_the_environment_is_looked_for(tmp_path: Path) -> None:
    """Whatever key a process was given is a canary; the embedded platform's own is no secret."""
    canary.watch(tmp_path, {"OTHER_KEY": "sk-empiriolabs-test-other-1, sk-empiriolabs-test-other-2"})
    (tmp_path / "core.1").write_bytes(b"...sk-empiriolabs-test-other-2...")
    assert canary.search(tmp_path) == ["core.1 holds the key in plain"]


def test_S01_a_persons_own_file_of_keys_is_none_of_ours(tmp_path: Path) -> None:
    """What was there before anything was started is not searched, unless it is a run's."""
    for name in ("keys", "a.run/results.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(canary.KEY)
    canary.watch(tmp_path, {})
    assert canary.search(tmp_path) == ["a.run/results.jsonl holds the key in plain"]
