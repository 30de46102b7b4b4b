"""A key that must be seen nowhere: after every end-to-end test all bytes that its processes left are searched for it.

Whoever starts a process tells of its environment (`watch`), and whoever reads what it printed passes that on (`heard`). The
fixture in conftest.py calls `begin` and `search`. Searched are all files below the test's directory, streams among them, but
for those that the test itself had put there before it started anything, or owns to (`own`): people's own files of keys.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

from batchrunner.simulator.settings import TEST_KEY

#: with characters that look different in a URL and in JSON
KEY = "sk-empiriolabs-test-canary/+=%&?~7Qz"
#: shown by `simulate --help`, and no secret
PUBLIC = frozenset({TEST_KEY})

_keys: set[str] = {KEY}
_said: list[tuple[str, bytes]] = []
_own_files: set[Path] = set()
_watching = False


def begin() -> None:
    """A new test begins. Keys that were seen before stay: a server may outlive the test that started it."""
    global _watching  # noqa: PLW0603 - there is one test at a time
    _watching = False
    _said.clear()
    _own_files.clear()


def watch(directory: Path, environment: Mapping[str, str]) -> None:
    """A process is about to be started with these variables, and with the files that are in the directory."""
    global _watching  # noqa: PLW0603 - there is one test at a time
    if not _watching:
        _own_files.update(path for path in files_in(directory) if not _of_a_run(path))
        _watching = True
    for name, value in environment.items():
        if "KEY" in name:
            _keys.update(key for part in value.split(",") if (key := part.strip()).startswith("sk-"))
    _keys.difference_update(PUBLIC)


def own(*paths: Path) -> None:
    """These hold keys because the test has put them there: a server's own files."""
    _own_files.update(paths)


def heard(what: str, text: str | bytes | None) -> None:
    """This was printed, or served."""
    if text:
        _said.append((what, text.encode(errors="surrogateescape") if isinstance(text, str) else text))


def search(directory: Path) -> list[str]:
    """Where a key is to be seen, in whatever form."""
    left = [(str(path.relative_to(directory)), path.read_bytes()) for path in files_in(directory) if path not in _own_files]
    return [f"{where} holds {form}" for where, data in (*_said, *left) for key in sorted(_keys) for form in forms_in(data, key)]


def forms_in(data: bytes, key: str) -> Iterator[str]:
    """The names of the forms in which the key stands in the data."""
    lower = data.lower()
    for name, forms in disguises(key).items():
        if any(form in (lower if name == "hex" else data) for form in forms):
            yield f"the key in {name}"


@functools.cache
def disguises(key: str) -> dict[str, frozenset[bytes]]:
    """The key as it is, and as what somebody may have made of it."""
    raw = key.encode()
    url = {quote(key, safe=""), quote_plus(key), quote(key), quote(key, safe="").lower()} - {key}
    base64s = set()
    for shift in range(3):  # where it stands in what was encoded decides on the letters
        middle = base64.b64encode(b"\0" * shift + raw)[4:-4]
        base64s |= {middle, middle.replace(b"+", b"-").replace(b"/", b"_")}
    spelt = b"".join(rb"\u%04x" % byte for byte in raw)
    return {
        "plain": frozenset({raw}),
        "JSON's escapes": frozenset({raw.replace(b"/", rb"\/"), rb"\u0073" + raw[1:], spelt} - {raw}),
        "base64": frozenset(base64s),
        "URL form": frozenset(form.encode() for form in url),
        "hex": frozenset({raw.hex().encode()}),
        "reverse": frozenset({raw[::-1]}),
    }


def files_in(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def _of_a_run(path: Path) -> bool:
    return any(parent.suffix == ".run" for parent in path.parents)
