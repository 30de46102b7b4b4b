from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback

import msgspec
import pytest

from batchrunner.secret import Secret, looks_like_a_key, without_keys

KEY = "sk-empiriolabs-test-0123456789"


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        "{}".format,
        "{:>40}".format,
        lambda s: f"{s} {s!r}",
        lambda s: "%s %r" % (s, s),  # noqa: UP031 - the old way must be safe too
        lambda s: str([s]),
    ],
)
def test_no_way_of_printing_shows_the_key(show: object) -> None:
    """Whatever puts a secret into text gets three stars."""
    text = show(Secret(KEY))  # type: ignore[operator]
    assert KEY not in text
    assert "***" in text


@pytest.mark.parametrize("write", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, msgspec.json.encode, msgspec.to_builtins])
def test_no_way_of_writing_takes_the_key(write: object) -> None:
    """Pickling, copying and encoding are refused: none may put a key into a file unseen."""
    with pytest.raises(TypeError) as refusal:
        write(Secret(KEY))  # type: ignore[operator]
    assert KEY not in str(refusal.value)


def test_a_log_line_shows_no_key(caplog: pytest.LogCaptureFixture) -> None:
    """A secret among a log call's arguments is masked."""
    logging.getLogger("test").warning("key %s of %r", Secret(KEY), {"key": Secret(KEY)})
    assert KEY not in caplog.text
    assert "***" in caplog.text


def test_a_traceback_with_locals_shows_no_key() -> None:
    """Even a traceback that prints every local variable masks what is kept in a secret."""
    secret = Secret(KEY)
    try:
        raise ValueError(secret)
    except ValueError as error:
        text = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "Secret('***')" in text
    assert KEY not in text


def test_reveal_is_the_way_to_the_text() -> None:
    """The header's writer gets what was put in."""
    assert Secret(KEY).reveal() == KEY


def test_equal_keys_are_equal_and_hash_alike() -> None:
    """The same key named twice counts as one; a plain string is never equal to it."""
    assert len({Secret(KEY), Secret(KEY), Secret("sk-empiriolabs-test-other")}) == 2
    assert Secret(KEY) != KEY


def test_a_secret_has_no_attributes_to_look_into() -> None:
    """`vars()`, which debuggers and loggers print, finds nothing."""
    with pytest.raises(TypeError):
        vars(Secret(KEY))


def test_a_fingerprint_tells_keys_apart_and_no_more() -> None:
    """The same for the same key and context, 32 bits whatever the key, and nothing of its text."""
    prints = [Secret(key).fingerprint(context) for key, context in ((KEY, "a"), (KEY, "a"), (KEY, "b"), (KEY + "0", "a"))]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert all(len(text) == 8 and int(text, 16) >= 0 and text not in KEY for text in prints)


@pytest.mark.parametrize("text", [KEY, f"/run/{KEY}", "Authorization: Bearer x", "pk_live_0123456789abcdef0"])
def test_what_looks_like_a_key(text: str) -> None:
    assert looks_like_a_key(text)


@pytest.mark.parametrize(
    "text", ["", "prod", "sk-prod", "task-0123456789abcdef", "the bearer", "/run/secrets/empiriolabs", "https://api.x.ai"]
)
def test_what_does_not_look_like_a_key(text: str) -> None:
    assert not looks_like_a_key(text)


def test_a_key_in_a_message_is_blotted_out() -> None:
    """All of it, and nothing else."""
    assert without_keys(f"--rpm: '{KEY}/+=%&?~7Qz' is no number, nor is {KEY}") == "--rpm: '***' is no number, nor is ***"
