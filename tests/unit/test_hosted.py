"""Media that answers name: which addresses, under which names they are kept, and where they may be fetched."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner import hosted
from batchrunner.errors import UsageError

A, B = "https://example.com/a.png", "https://example.com/b.png"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ({"data": [{"url": A}, {"url": B}, {"b64_json": "aGk="}]}, [A, B]),
        ({"url": A}, [A]),
        ({"data": [{"image_url": {"url": A}}, {"video_url": B}]}, [A, B]),
        ({"status": "completed", "result": {"data": [{"url": A}]}}, [A]),
        ({"status": "completed", "output": A}, [A]),
        ({"status": "completed", "output": [A, B, A, "text"]}, [A, B]),
        ({"data": {"url": A}}, [A]),
        ({"polling_url": A, "text": B, "url": 7}, []),
        ({"url": "x" * 10_000}, []),
        ([], []),
        (None, []),
    ],
)
def test_addresses_are_found_where_media_stand(reply: Any, expected: list[str]) -> None:
    """In the answer or its result: each once, in order; what is no address of a file is none."""
    assert hosted.addresses(json.dumps(reply).encode()) == expected


def test_no_answer_names_more_than_a_hundred_files() -> None:
    """Somebody else chooses what stands in it."""
    reply = {"data": [{"url": f"https://example.com/{number}"} for number in range(5000)]}
    assert len(hosted.addresses(json.dumps(reply).encode())) == hosted.MOST_FILES


@given(st.text(), st.text(), st.integers(0, 99))
def test_names_are_safe_and_differ(one: str, other: str, number: int) -> None:
    """Of letters, digits and a few marks, never a way out of the directory nor hidden; alike only for the same job and number."""
    name = hosted.stem("r", one, number)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,110}", name)
    assert "/" not in name
    assert (name == hosted.stem("r", other, number)) == (one == other)
    assert name != hosted.stem("r", one, number + 1)


def test_jobs_whose_names_look_alike_have_files_of_their_own() -> None:
    """However many, in whatever script: a name that is taken would pass for a file that is there."""
    ids = [chr(0x4E00 + number % 20_000) + chr(0x4E00 + number // 20_000) for number in range(200_000)]
    assert len({hosted.stem("r", custom_id, 0) for custom_id in ids}) == len(ids)


def test_names_are_readable() -> None:
    """What can be kept of the custom_id is."""
    assert hosted.stem("r", "report-7 (final)", 0).startswith("report-7_final-")
    assert hosted.stem("r", "../../etc/passwd", 1).startswith("etc_passwd-")


@pytest.mark.parametrize(
    ("content_type", "address", "expected"),
    [
        ("image/png", "https://e.com/a.jpeg", ".png"),
        ("Image/JPEG; q=1", A, ".jpg"),
        ("application/octet-stream", "https://e.com/a.MP4?x=.exe", ".mp4"),
        (None, "https://e.com/a.tar.gz", ".gz"),
        (None, "https://e.com/a", ".bin"),
        (None, "https://e.com/.png", ".bin"),
        (None, "https://e.com/a.p%2Fg", ".bin"),
        (None, "https://e.com/a.toolong", ".bin"),
        ("", "https://[", ".bin"),
    ],
)
def test_an_extension_is_one(content_type: str | None, address: str, expected: str) -> None:
    """By the type, else as the address ends; never anything else."""
    assert hosted.extension(content_type, address) == expected


def test_an_address_leads_to_a_server_and_a_path() -> None:
    """Percent-encoded where it must be; the fragment stays here."""
    place = hosted.place_of("https://example.com:8443/a b/é.png?x=1&y=%20#top", loopback=False)
    assert (str(place.origin), place.target) == ("https://example.com:8443", "/a%20b/%C3%A9.png?x=1&y=%20")
    assert hosted.place_of("https://example.com", loopback=False).target == "/"
    assert hosted.place_of("http://127.0.0.1:9/a", loopback=True).origin.port == 9


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/a.png",
        "ftp://example.com/a.png",
        "file:///etc/passwd",
        "https://user:pass@example.com/a.png",
        "http://127.0.0.1/a.png",
        "https://localhost/a.png",
        "https://[::1]/a.png",
        "https://[/a.png",
        "https://e.com:99999/",
        "https://e.com/half-\ud800.png",
        "https://e.com/a.png?half=\ud800",
        "https://half-\ud800.com/",
        "https://",
        "/a.png",
        "",
    ],
)
def test_no_address_leads_where_it_should_not(address: str) -> None:
    """In clear to another machine, to this one (unless its own server said so), with a user's name, or nowhere."""
    with pytest.raises(UsageError):
        hosted.place_of(address, loopback=False)


def test_a_redirect_is_taken_from_where_it_stands() -> None:
    """Relative to the address that answered it."""
    assert hosted.redirected(A, "/c.png") == "https://example.com/c.png"
    assert hosted.redirected(A, "http://evil/c.png") == "http://evil/c.png"
    assert hosted.redirected(A, None) is None
    assert hosted.redirected(A, "https://[") is None
