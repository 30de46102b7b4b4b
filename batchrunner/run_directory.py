"""A run's directory and its manifest: whose it is, what it was asked to do, whether it is finished."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from batchrunner import __version__, status
from batchrunner.clock import Clock
from batchrunner.config import Options
from batchrunner.copies import Copies, Copy
from batchrunner.costs import timestamp
from batchrunner.disk import Disk, SystemDisk
from batchrunner.errors import DiskError, InvalidInput
from batchrunner.inputs import Identity
from batchrunner.journal import RunLock, read_finished
from batchrunner.pricing import PriceTable

MANIFEST = "run.json"
VERSION = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`: what a run is. Holds no secret."""

    version: int
    run_id: str
    created_at: str
    #: of the program that last started the run
    batchrun: str
    options: Options
    #: the accounts that the run went under, as `Account.identity` tells them, the newest last; one that came back is there again
    identities: tuple[str, ...] = ()
    #: the price table in force, with its date; null where none was ever known
    prices: PriceTable | None = None
    #: of what the files `input.jsonl`, `input.2.jsonl` ... are copies
    copies: dict[str, Copy] = {}


class _Version(msgspec.Struct):
    version: int


class RunDirectory:
    """A run directory, held by this process from the making of this object to `close()`.

    Raises: RunDirectoryInUse; InvalidInput where it belongs to something else; DiskError.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        _refuse_strangers(path)
        self.disk: Disk = SystemDisk(path)
        self._clock = clock
        self._lock = RunLock(path, wall_ns=clock.wall_ns())
        try:
            self.manifest = self._read()
        except BaseException:
            self.close()
            raise
        known = self.manifest.copies if self.manifest else {}
        #: of inputs that can be read only once; made after `begin`
        self.copies = Copies(self.disk, known, self._keep_copies)

    def close(self) -> None:
        self._lock.release()

    def begin(self, options: Options, identity: str | None = None) -> Manifest:
        """Take this start's options and its account into the manifest, durably; made where there is none.

        Raises: InvalidInput where a simulated run would be mixed with a real one.
        """
        known = self.manifest
        if known is not None and known.options.simulate != options.simulate:
            was, now = ("simulated", "real") if known.options.simulate else ("real", "simulated")
            raise InvalidInput(
                f"{self.path}: holds a {was} run, and is not mixed with a {now} one. Use another --run-dir"
                f"{', or leave --simulate out' if options.simulate else ', or add --simulate'}."
            )
        identities = known.identities if known else ()
        if identity is not None and identities[-1:] != (identity,):
            identities = (*identities, identity)
        self._write(
            Manifest(
                version=VERSION,
                run_id=known.run_id if known else secrets.token_hex(6),
                created_at=known.created_at if known else timestamp(self._clock.wall_ns()),
                batchrun=__version__,
                options=options,
                identities=identities,
                prices=known.prices if known else None,
                copies=known.copies if known else {},
            )
        )
        assert self.manifest is not None
        return self.manifest

    def keep_prices(self, prices: PriceTable) -> None:
        """Note the price table in force, durably, before anything is priced by it."""
        assert self.manifest is not None
        self._write(msgspec.structs.replace(self.manifest, prices=prices))

    def _keep_copies(self, copies: dict[str, Copy]) -> None:
        assert self.manifest is not None
        self._write(msgspec.structs.replace(self.manifest, copies=copies))

    def finished(self, identity: list[Identity] | None, options: Options) -> status.Status | None:
        """The last status of a run that has ended, where neither its input nor its options ask for more.

        A crash may have come between the note that the run has ended and the file that shows it: it is written now.
        """
        known = self.manifest
        if known is None or known.options.simulate != options.simulate:
            return None
        record = read_finished(self.disk, known.run_id)
        if record is None or record.identity != identity:
            return None
        try:
            last = status.decode(bytes(record.summary))
        except msgspec.DecodeError:
            return None
        shown = status.encode(last)
        if b"".join(self.disk.chunks("status.json")) != shown:
            self.disk.replace("status.json", [shown])
        return msgspec.structs.replace(last, run_dir=options.run_dir)

    def _read(self) -> Manifest | None:
        data = b"".join(self.disk.chunks(MANIFEST))
        if not data:
            if self.disk.size("journal.jsonl"):
                raise InvalidInput(f"{self.path}: has a journal but no {MANIFEST}. Restore it, or use another --run-dir.")
            return None
        return _decode_manifest(data, self.path)

    def _write(self, manifest: Manifest) -> None:
        self.disk.replace(MANIFEST, [msgspec.json.format(msgspec.json.encode(manifest), indent=2), b"\n"])
        self.manifest = manifest


def read_manifest(path: Path) -> Manifest:
    """What a run is, without its lock. Raises: InvalidInput."""
    file = path / MANIFEST
    try:
        return _decode_manifest(file.read_bytes(), path)
    except FileNotFoundError:
        raise InvalidInput(f"{file}: no such file; {path} is no run directory.") from None
    except OSError as cause:
        raise InvalidInput(f"{file}: cannot be read: {cause.strerror or cause}.") from None


def read_status(path: Path) -> status.Status:
    """The figures that a run last left in its directory, without its lock. Raises: InvalidInput."""
    file = path / "status.json"
    try:
        return msgspec.structs.replace(status.decode(file.read_bytes()), run_dir=str(path))
    except FileNotFoundError:
        raise InvalidInput(f"{file}: no such file; {path} is no run directory, or its run has not begun.") from None
    except NotADirectoryError:
        raise InvalidInput(f"{path}: is a file. Name the run directory: that of jobs.jsonl is jobs.run.") from None
    except OSError as cause:
        raise InvalidInput(f"{file}: cannot be read: {cause.strerror or cause}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise InvalidInput(f"{file}: cannot be read; the next start of the run writes it anew.") from cause


def _decode_manifest(data: bytes, path: Path) -> Manifest:
    try:
        # By itself first: what else a manifest of another version holds is not ours to know.
        version = msgspec.json.decode(data, type=_Version).version
        if version == VERSION:
            return msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise InvalidInput(f"{path / MANIFEST}: cannot be read. Restore it from a copy, or use another --run-dir.") from cause
    raise InvalidInput(
        f"{path / MANIFEST}: is of version {version}, and this program reads version {VERSION}. "
        "Use the batchrun that began the run, or another --run-dir."
    )


def _refuse_strangers(path: Path) -> None:
    """A directory with files that are no run's is somebody's home, not a place for a run."""
    try:
        names = {entry.name for entry in path.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise InvalidInput(f"{path}: cannot be used as a run directory: it is a file. Use another --run-dir.") from None
    except OSError as cause:
        raise DiskError(str(path), "reading the directory", cause) from cause
    if names and not names & {MANIFEST, "lock", "journal.jsonl"}:
        raise InvalidInput(f"{path}: is no run directory and not empty. Use another --run-dir.")
