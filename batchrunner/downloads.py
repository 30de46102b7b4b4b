"""Saves the media that successful answers name: fetched without any key, whole or not at all, each once.

`results.jsonl` is read from its beginning, as it grows: a start after a kill finds what an earlier one did not get to, and what
stands in the directory is not fetched again. What cannot be fetched is told and counted; no job fails by it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from batchrunner import hosted
from batchrunner.disk import Disk
from batchrunner.errors import DiskError, UsageError
from batchrunner.events import Event
from batchrunner.exchange import FailureKind, Reply
from batchrunner.hosted import Place
from batchrunner.journal.files import RESULTS, whole_lines
from batchrunner.journal.writer import SyncIn, in_thread
from batchrunner.results import read_line
from batchrunner.transport import Driver, Origin, Pool, ReplyBudget, Timeouts, TransportError, request_head

MAX_FILE_BYTES: Final = 2 << 30
MAX_TOTAL_BYTES: Final = 200 << 30
#: of an answer that is no file: a redirect's words, or an error's
MAX_WORDS_BYTES: Final = 1 << 20
#: with less free than this no file grows: the run itself stops at less still, and answers that are paid for come first
SPARE_BYTES: Final = 256 << 20
#: so much is written between two looks at what is free
LOOK_BYTES: Final = 16 << 20
AT_ONCE: Final = 4
ATTEMPTS: Final = 3
REDIRECTS: Final = 3
TOLD: Final = 10
_TIMEOUTS: Final = Timeouts(first_byte_seconds=60.0, between_bytes_seconds=60.0, attempt_seconds=3600.0)
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PART: Final = ".part"


class Statistics(msgspec.Struct, frozen=True):
    """What was saved in this process."""

    files: int
    bytes: int
    failed: int


class _Unfetched(Exception):
    """A file could not be fetched; `again`: another try may get it."""

    def __init__(self, why: str, *, again: bool) -> None:
        self.again = again
        super().__init__(why)


class Folder:
    """A directory that files are saved in, whole or not at all; none is ever replaced. Raises: OSError."""

    def __init__(self, path: str) -> None:
        os.makedirs(path, mode=0o700, exist_ok=True)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stems = {name.rpartition(".")[0] for name in os.listdir(self._fd) if not name.endswith(_PART)}

    def holds(self, stem: str) -> bool:
        return stem in self._stems

    def begin(self, stem: str) -> _Part:
        """A file that is not there yet. What a kill has left of it goes, and may be another's by now: it is not written to."""
        self.drop(stem)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return _Part(os.open(f".{stem}{_PART}", flags, 0o600, dir_fd=self._fd))

    def keep(self, stem: str, extension: str) -> None:
        """The file is whole: give it its name, unless something else has it."""
        part, name = f".{stem}{_PART}", f"{stem}{extension}"
        os.link(part, name, src_dir_fd=self._fd, dst_dir_fd=self._fd, follow_symlinks=False)
        os.unlink(part, dir_fd=self._fd)
        self._stems.add(stem)

    def drop(self, stem: str) -> None:
        """The file is of no use."""
        with contextlib.suppress(OSError):
            os.unlink(f".{stem}{_PART}", dir_fd=self._fd)

    def close(self) -> None:
        os.close(self._fd)


class _Part:
    """Takes a body into a file. An error of the disk's is kept: it must not come out of the parser."""

    began = True
    complete = False

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.bytes = 0
        self.error: OSError | None = None
        self._looked_at = -LOOK_BYTES

    @property
    def held_bytes(self) -> int:
        return 0 if self.error is None else MAX_WORDS_BYTES + 1

    def feed(self, piece: bytes) -> None:
        try:
            self._look()
            written = 0
            while self.error is None and written < len(piece):
                written += os.write(self.fd, piece[written:])
            self.bytes += written
        except OSError as error:
            self.error = error

    def _look(self) -> None:
        """Raises: OSError where too little is free."""
        if self.bytes - self._looked_at < LOOK_BYTES:
            return
        self._looked_at = self.bytes
        info = os.fstatvfs(self.fd)
        free_bytes = info.f_bavail * info.f_frsize
        if free_bytes < SPARE_BYTES:
            raise OSError(errno.ENOSPC, f"only {free_bytes >> 20} MiB are free there")


class Downloads:
    """Fetches what the results of a run name. `endpoint_of` tells a job's url by its custom_id, None where it is not known."""

    def __init__(
        self,
        folder: Folder,
        run_id: str,
        disk: Disk,
        endpoint_of: Callable[[str], str | None],
        say: Callable[[str], None],
        *,
        loopback: bool,
        driver: Callable[[Origin], Driver | None] = lambda _origin: None,
        sync_in: SyncIn = in_thread,
    ) -> None:
        self._folder = folder
        self._run_id = run_id
        self._disk = disk
        self._endpoint_of = endpoint_of
        self._say = say
        self._loopback = loopback
        self._driver = driver
        self._sync_in = sync_in
        self._budget = ReplyBudget()
        self._offset = 0
        self._news = trio.Event()
        self._over = False
        self._finished = trio.Event()
        self._files = self._bytes = self._failed = 0

    def statistics(self) -> Statistics:
        return Statistics(self._files, self._bytes, self._failed)

    def on_event(self, event: Event) -> None:
        """A job has ended, perhaps with media, and its line is on disk."""
        if event.succeeded and event.endpoint in hosted.MEDIA_URLS:
            self._news.set()

    async def finish(self) -> None:
        """No more results will come: return once what is left was fetched."""
        self._over = True
        self._news.set()
        await self._finished.wait()

    async def run(self) -> None:
        """Fetch, as results come, until `finish`."""
        self._news.set()
        try:
            while not self._over or self._news.is_set():
                await self._news.wait()
                self._news = trio.Event()
                await self._fetch_new()
        except Exception as error:  # a defect here must not cost a paid run
            self._say(f"a defect of batchrun: {type(error).__name__} while files were saved: no more are. The run goes on.")
        finally:
            self._finished.set()

    async def _fetch_new(self) -> None:
        limiter = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            try:
                for offset, raw in whole_lines(self._disk, RESULTS, self._offset):
                    if not raw.endswith(b"\n"):
                        return
                    self._offset = offset + len(raw)
                    for stem, address in self._wanted(raw):
                        await limiter.acquire_on_behalf_of(stem)
                        nursery.start_soon(self._fetch, stem, address, limiter)
                    await trio.lowlevel.checkpoint()
            except DiskError:
                return  # nothing has succeeded yet; or the run itself ends by it

    def _wanted(self, raw: bytes) -> list[tuple[str, str]]:
        """The names and addresses of a line's files that are not there yet."""
        line = read_line(raw)
        answer = None if line is None else line.answer()
        if line is None or line.custom_id is None or answer is None:
            return []
        if self._endpoint_of(line.custom_id) not in hosted.MEDIA_URLS:
            return []
        named = (
            (hosted.stem(self._run_id, line.custom_id, number), address)
            for number, address in enumerate(hosted.addresses(answer))
        )
        return [(stem, address) for stem, address in named if not self._folder.holds(stem)]

    async def _fetch(self, stem: str, address: str, limiter: trio.CapacityLimiter) -> None:
        try:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    await self._fetch_once(stem, address)
                except _Unfetched as failure:
                    if failure.again and attempt < ATTEMPTS:
                        await trio.sleep(4.0**attempt / 4)
                        continue
                    self._tell(stem, str(failure))
                return
        finally:
            self._folder.drop(stem)
            limiter.release_on_behalf_of(stem)

    async def _fetch_once(self, stem: str, address: str) -> None:
        """Raises: _Unfetched."""
        if self._bytes >= MAX_TOTAL_BYTES:
            raise _Unfetched(f"{MAX_TOTAL_BYTES >> 30} GiB were saved by this process, and that is enough", again=False)
        for _ in range(REDIRECTS + 1):
            try:
                place = hosted.place_of(address, loopback=self._loopback)
                part = self._folder.begin(stem)
            except (UsageError, OSError) as error:
                raise _Unfetched(str(error), again=False) from error
            try:
                reply = await self._exchange(place, part)
                following = hosted.redirected(address, reply.header("location")) if reply.status in _REDIRECTS else None
                if following is None:
                    await self._keep(stem, hosted.extension(reply.header("content-type"), address), part, reply)
                    return
                address = following
            finally:
                os.close(part.fd)
        raise _Unfetched("the server sends it from place to place", again=False)

    async def _exchange(self, place: Place, part: _Part) -> Reply:
        """Ask for a file, with no key."""
        origin = place.origin
        pool = Pool(origin, self._driver(origin), reply_budget=self._budget)
        try:
            head = request_head("GET", place.target, origin.authority, [("accept", "*/*")], None)
            connection = await pool.connect(_TIMEOUTS)
            return await connection.exchange(
                head,
                b"",
                _TIMEOUTS,
                max_body_bytes=MAX_WORDS_BYTES,
                max_stream_bytes=MAX_FILE_BYTES,
                stream=lambda: part,
                of_any_type=True,
            )
        except TransportError as error:
            passing = part.error is None and error.failure.kind is not FailureKind.TOO_LARGE
            raise _Unfetched(str(part.error or error), again=passing) from error
        except UsageError as error:
            raise _Unfetched(str(error), again=False) from error
        finally:
            await pool.aclose()

    async def _keep(self, stem: str, extension: str, part: _Part, reply: Reply) -> None:
        if reply.status != 200:
            raise _Unfetched(f"the server answered with status {reply.status}", again=reply.status >= 500 or reply.status == 429)
        if not part.bytes:
            raise _Unfetched("the server sent nothing", again=True)
        try:
            await self._sync_in(lambda: os.fsync(part.fd))
            self._folder.keep(stem, extension)
        except OSError as error:
            raise _Unfetched(str(error), again=False) from error
        self._files += 1
        self._bytes += part.bytes

    def _tell(self, stem: str, why: str) -> None:
        self._failed += 1
        if self._failed <= TOLD:
            self._say(f"warning: {stem} was not saved: {why}. The same command tries again; addresses hold for seven days.")
        if self._failed == TOLD:
            self._say("warning: more files could not be saved; at the end it is said how many.")
