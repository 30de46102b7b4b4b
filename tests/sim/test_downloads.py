"""Media that answers name, saved over an in-memory network in virtual time: whole or not at all, each once, none with a key."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from batchrunner import hosted
from batchrunner.cli.start import _saved
from batchrunner.disk import MemoryDisk
from batchrunner.downloads import LOOK_BYTES, Downloads, Folder
from batchrunner.events import AttemptResult, Event
from batchrunner.exchange import Reply
from batchrunner.journal.files import RESULTS
from batchrunner.journal.writer import inline
from batchrunner.results import success_line
from batchrunner.status import Status
from batchrunner.transport import Origin, StreamDriver
from tests.sim.network import Network, read_request

IMAGES = "/v1/images/generations"
PNG = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 4\r\n\r\n\x89PNG"
A, B = "https://one.example.com/a", "https://two.example.com/b.jpg?sig=1"


def status(code: int, headers: str = "") -> bytes:
    return f"HTTP/1.1 {code} X\r\n{headers}Content-Length: 0\r\n\r\n".encode()


class Saving:
    """A run directory with results, a folder, and servers by host: each answers in turn, the last answer for ever."""

    def __init__(self, nursery: trio.Nursery, path: Path) -> None:
        self.path = path
        self.run_id = "r"
        self.disk = MemoryDisk()
        self.results = self.disk.open(RESULTS)
        self.asked: list[str] = []
        self.answers: dict[str, list[bytes]] = {}
        self.endpoints: dict[str, str] = {}
        self.said: list[str] = []
        self._nursery = nursery

    def add(self, custom_id: str, *addresses: str, endpoint: str = IMAGES) -> None:
        body = msgspec.json.encode({"data": [{"url": address} for address in addresses]})
        self.endpoints[custom_id] = endpoint
        self.results.append(success_line("r", custom_id, 7, 1, Reply(200, (), body)))

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Downloads]:
        folder = Folder(str(self.path))
        downloads = Downloads(
            folder,
            self.run_id,
            self.disk,
            self.endpoints.get,
            self.said.append,
            loopback=False,
            driver=self._driver,
            sync_in=inline,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(downloads.run)
            yield downloads
            with trio.fail_after(10_000):
                await downloads.finish()
        folder.close()

    async def save(self) -> Downloads:
        async with self.at_work() as downloads:
            pass
        return downloads

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.path.iterdir()}

    def _driver(self, origin: Origin) -> StreamDriver:
        async def script(server: trio.abc.Stream) -> None:
            request = await read_request(server)
            self.asked.append(f"{origin}{request.split()[1].decode()}")
            assert b"authorization" not in request.lower()
            assert b"api-key" not in request.lower()
            answers = self.answers.get(origin.host, [PNG])
            await server.send_all(answers.pop(0) if len(answers) > 1 else answers[0])

        return Network(self._nursery, script).driver()


@pytest.fixture
def saving(nursery: trio.Nursery, tmp_path: Path) -> Saving:
    return Saving(nursery, tmp_path / "media")


async def test_what_answers_name_is_saved(autojump_clock: MockClock, saving: Saving) -> None:
    """Under names made of job and number, for the owner alone; text answers name nothing that is fetched."""
    saving.add("one", A, B)
    saving.add("pages", A, endpoint="/v1/search")
    saving.add("stranger", A, endpoint="")
    downloads = await saving.save()
    names = {f"{hosted.stem('r', 'one', 0)}.png", f"{hosted.stem('r', 'one', 1)}.png"}
    assert saving.files() == dict.fromkeys(names, b"\x89PNG")
    assert stat.S_IMODE(saving.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in saving.path.iterdir()} == {0o600}
    assert sorted(saving.asked) == [A, B]
    assert (downloads.statistics().files, downloads.statistics().bytes, downloads.statistics().failed) == (2, 8, 0)


async def test_what_is_there_is_not_fetched_again(autojump_clock: MockClock, saving: Saving) -> None:
    """Whatever its extension; and a part that a kill has left is begun anew."""
    saving.add("one", A, B)
    saving.path.mkdir()
    (saving.path / f"{hosted.stem('r', 'one', 0)}.webp").write_bytes(b"mine")
    (saving.path / f".{hosted.stem('r', 'one', 1)}.part").write_bytes(b"half of it, and more")
    await saving.save()
    assert saving.asked == [B]
    assert saving.files() == {f"{hosted.stem('r', 'one', 0)}.webp": b"mine", f"{hosted.stem('r', 'one', 1)}.png": b"\x89PNG"}
    await saving.save()
    assert saving.asked == [B]


async def test_the_same_job_of_another_run_has_files_of_its_own(autojump_clock: MockClock, saving: Saving) -> None:
    """Two runs may share a folder: what one of them was paid for is not taken for the other's."""
    saving.add("one", A)
    await saving.save()
    saving.run_id = "another"
    await saving.save()
    assert saving.asked == [A, A]
    assert len(saving.files()) == 2


async def test_results_are_followed_as_they_come(autojump_clock: MockClock, saving: Saving) -> None:
    """Each new line is looked at once its event has come; a line that is not whole waits for its end."""
    async with saving.at_work() as downloads:
        await trio.sleep(10)
        saving.add("one", A)
        saving.results.append(b'{"id":"torn')
        await trio.sleep(10)
        assert saving.asked == []
        downloads.on_event(Event("one", 1, 1, "m", IMAGES, AttemptResult.OK, final=True, succeeded=True))
        await trio.sleep(10)
        assert saving.asked == [A]
    assert saving.asked == [A]


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([status(404)], 1),
        ([status(401)], 1),
        ([status(206)], 1),
        ([status(500)], 3),
        ([status(429)], 3),
        ([status(200)], 3),
        ([b"nonsense\r\n\r\n"], 3),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], 3),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"], 1),
        ([b"HTTP/1.1 404 X\r\nContent-Length: 2000000000\r\n\r\n" + b" " * 2_000_000], 1),
        ([b"HTTP/1.1 302 X\r\nLocation: /again\r\nContent-Length: 2000000000\r\n\r\n" + b" " * 2_000_000], 1),
        ([status(302)], 1),
        ([status(302, "Location: http://one.example.com/a\r\n")], 1),
        ([status(302, "Location: https://127.0.0.1/a\r\n")], 1),
        ([status(302, "Location: ftp://one.example.com/a\r\n")], 1),
        ([status(302, "Location: /again\r\n")], 4),
    ],
)
async def test_what_cannot_be_fetched_is_told(
    autojump_clock: MockClock, saving: Saving, answers: list[bytes], asked: int
) -> None:
    """And counted; nothing is left of it, and the files of others are saved."""
    saving.add("one", A)
    saving.add("two", B)
    saving.answers["one.example.com"] = answers
    downloads = await saving.save()
    assert list(saving.files()) == [f"{hosted.stem('r', 'two', 0)}.png"]
    assert len([address for address in saving.asked if "one." in address]) == asked
    assert downloads.statistics().failed == 1
    (said,) = saving.said
    assert said.startswith(f"warning: {hosted.stem('r', 'one', 0)} was not saved: ")


async def test_a_redirect_is_followed_without_a_key(autojump_clock: MockClock, saving: Saving) -> None:
    """To https, a few times; the file is named by what was found there."""
    saving.add("one", A)
    saving.answers["one.example.com"] = [status(302, "Location: https://two.example.com/c.gif\r\n")]
    saving.answers["two.example.com"] = [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nGIF"]
    await saving.save()
    assert saving.asked == [A, "https://two.example.com/c.gif"]
    assert saving.files() == {f"{hosted.stem('r', 'one', 0)}.gif": b"GIF"}


async def test_a_fault_that_passes_is_waited_out(autojump_clock: MockClock, saving: Saving) -> None:
    """A few tries, with a pause between them."""
    saving.add("one", A)
    saving.answers["one.example.com"] = [status(503), status(500), PNG]
    downloads = await saving.save()
    assert (downloads.statistics().files, downloads.statistics().failed, trio.current_time()) == (1, 0, 5)


async def test_no_link_leads_out_of_the_folder(autojump_clock: MockClock, saving: Saving, tmp_path: Path) -> None:
    """Somebody else has put one where the part is written, or a kill has left one: it is not written through."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    saving.path.mkdir()
    (saving.path / f".{hosted.stem('r', 'one', 0)}.part").symlink_to(precious)
    (saving.path / f".{hosted.stem('r', 'one', 1)}.part").hardlink_to(precious)
    saving.add("one", A, B)
    downloads = await saving.save()
    assert precious.read_bytes() == b"precious"
    assert (downloads.statistics().files, precious.stat().st_nlink) == (2, 1)


async def test_a_defect_of_ours_ends_no_run(autojump_clock: MockClock, saving: Saving) -> None:
    """It is told, and nothing waits for files that will not come."""

    class Broken(dict[str, str]):
        def get(self, *_: object) -> str:
            raise RuntimeError("a defect")

    saving.add("one", A)
    saving.endpoints = Broken()
    downloads = await saving.save()
    assert (downloads.statistics().files, saving.asked) == (0, [])
    assert "a defect of batchrun" in saving.said[0]


async def test_a_disk_that_fails_is_told(autojump_clock: MockClock, saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is written, or at its end: nothing is left of the file, and nothing is tried again in vain."""
    saving.add("one", A)
    for name in ("write", "fsync", "link"):

        def fails(*_: object, **__: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patched:
            patched.setattr(f"batchrunner.downloads.os.{name}", fails)
            downloads = await saving.save()
        assert (downloads.statistics().failed, saving.files()) == (1, {})
        assert "No space left on device" in saving.said[-1]
    assert len(saving.asked) == 3
    assert (await saving.save()).statistics().files == 1


async def test_a_disk_is_not_filled(autojump_clock: MockClock, saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left belongs to the run: answers that are paid for must still fit when what is in flight ends."""
    saving.add("one", A)
    with monkeypatch.context() as patched:
        patched.setattr("batchrunner.downloads.SPARE_BYTES", 1 << 62)
        downloads = await saving.save()
    assert (downloads.statistics().failed, saving.files(), len(saving.asked)) == (1, {}, 1)
    assert "MiB are free there" in saving.said[-1]
    assert (await saving.save()).statistics().files == 1


def test_what_is_free_is_looked_at_while_a_file_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file may be larger than all that is free; what has been written of it is no file."""
    folder = Folder(str(tmp_path / "media"))
    part = folder.begin("one-0")
    part.feed(b"a" * LOOK_BYTES)
    monkeypatch.setattr("batchrunner.downloads.SPARE_BYTES", 1 << 62)
    assert (part.bytes, part.held_bytes) == (LOOK_BYTES, 0)
    part.feed(b"a")
    assert part.error is not None
    assert (part.bytes, part.error.errno) == (LOOK_BYTES, errno.ENOSPC)
    os.close(part.fd)
    folder.drop("one-0")
    folder.close()


@pytest.mark.parametrize("url", ["https://one.example.com/\ud800", "https://one.example.com/?\ud800"])
async def test_an_address_that_is_none_costs_no_other_file(autojump_clock: MockClock, saving: Saving, url: str) -> None:
    """Somebody else has written it: it is told, and the files of all others are saved."""
    body = b'{"data":[{"url":"%b"}]}' % url.encode("ascii", "backslashreplace")
    saving.endpoints["odd"] = IMAGES
    saving.results.append(success_line("r", "odd", 7, 1, Reply(200, (), body)))
    saving.add("two", B)
    downloads = await saving.save()
    assert (downloads.statistics().files, downloads.statistics().failed) == (1, 1)
    assert "was not saved: it is no address" in saving.said[0]


@pytest.mark.parametrize("early", [False, True])
async def test_somebody_in_a_hurry_is_not_kept_by_files(
    autojump_clock: MockClock, saving: Saving, early: bool, make_status: Callable[..., Status]
) -> None:
    """A signal, before the end of the run or behind it, ends the wait for a server that sends a byte now and then."""
    saving.add("one", A)
    saving.answers["one.example.com"] = [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]
    hurried = trio.Event()
    folder = Folder(str(saving.path))
    downloads = Downloads(
        folder,
        saving.run_id,
        saving.disk,
        saving.endpoints.get,
        saving.said.append,
        loopback=False,
        driver=saving._driver,
        sync_in=inline,
    )
    if early:
        hurried.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(downloads.run)
        nursery.start_soon(_set_later, hurried)
        await _saved(downloads, make_status(), saving.said.append, hurried)
        nursery.cancel_scope.cancel()
    folder.close()
    assert trio.current_time() == (0 if early else 5)
    assert saving.said == ["0 files saved, 0 bytes; the rest is left to the same command."]


async def _set_later(event: trio.Event) -> None:
    await trio.sleep(5)
    event.set()


async def test_so_much_in_all_is_enough(autojump_clock: MockClock, saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server must not fill a disk."""
    monkeypatch.setattr("batchrunner.downloads.MAX_TOTAL_BYTES", 8)
    monkeypatch.setattr("batchrunner.downloads.AT_ONCE", 1)
    for number in range(5):
        saving.add(f"job-{number}", A)
    downloads = await saving.save()
    assert (downloads.statistics().files, downloads.statistics().failed) == (2, 3)


async def test_many_failures_are_told_in_few_words(autojump_clock: MockClock, saving: Saving) -> None:
    """The count says the rest."""
    saving.answers["one.example.com"] = [status(404)]
    for number in range(30):
        saving.add(f"job-{number}", A)
    downloads = await saving.save()
    assert (downloads.statistics().failed, len(saving.said)) == (30, 11)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """Before anything is sent."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        Folder(str(tmp_path / "file"))
