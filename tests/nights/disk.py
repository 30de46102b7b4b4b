"""A disk that loses, reorders or corrupts what was not synced, as machines do that lose their power.

The model is FoundationDB's (AsyncFileNonDurable), in sectors of 512 bytes. What was synced is never touched. A name is safe
once its directory was synced: what was made, or renamed into place, after that may be found undone. The steps of `open` and
`replace` are those of `SystemDisk`, each an operation of its own, so that a crash can come between any two.

Only the journal's lines are sealed. A bit that is flipped in a line of another file, which no record speaks of yet, makes another
line as whole as the first, and nobody could tell: there, corruption is what no JSON holds.

Assumed of file systems: a file that was renamed into place without a sync (`durable=False`) is found old, new or not at all,
never torn.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Iterable

import msgspec

from batchrunner.disk import MemoryAppendFile, MemoryDisk
from batchrunner.journal.files import JOURNAL

SECTOR_BYTES = 512


class Mode(enum.StrEnum):
    """What becomes of what was not synced."""

    DROPPED = "dropped"  # of each file a prefix is left
    REORDERED = "reordered"  # any of its sectors are left: zeros stand where earlier ones are missing
    CORRUPTED = "corrupted"  # as reordered, and of those that are left some are not what was written


class Inode(msgspec.Struct):
    """A file, whatever its name."""

    data: bytearray
    #: bytes that are on disk for sure
    synced: int = 0
    #: data and `synced` before a truncation that no sync has covered yet
    before: tuple[bytes, int] | None = None


class SimulatedDisk(MemoryDisk):
    """A MemoryDisk with names apart from files. `fail` is called before each step; `wrote` after each append."""

    def __init__(self) -> None:
        super().__init__()
        self.inodes: dict[str, Inode] = {}
        #: names as they were when the directory was last synced
        self._directory: dict[str, Inode] = {}

    def wrote(self, name: str, offset: int, data: bytes) -> None:
        """Replaced by whoever wants to know what is appended."""

    def open(self, name: str) -> SimulatedFile:
        if name not in self.inodes:
            self._do("create", name)
            self._link(name, Inode(bytearray()))
            self._sync_directory(name)
        return SimulatedFile(self, name)

    def replace(self, name: str, parts: Iterable[bytes], *, durable: bool = True) -> None:
        aside = f".{name}.new"
        self._do("write", aside)
        inode = Inode(bytearray(b"".join(parts)))
        if durable:
            self._do("sync", aside)
        inode.synced = len(inode.data)
        self._do("rename", name)
        self._link(name, inode)
        if durable:
            self._sync_directory(name)

    def is_synced(self, name: str, end: int) -> bool:
        """Whether a file's first `end` bytes would be found after a power cut, and the file under its name."""
        inode = self.inodes[name]
        return inode is self._directory.get(name) and inode.synced >= end

    def killed(self) -> SimulatedDisk:
        """What the end of a process leaves: all that it wrote, synced or not."""
        left = SimulatedDisk()
        copies = {id(inode): _copy(inode) for inode in (*self.inodes.values(), *self._directory.values())}
        for name, inode in self.inodes.items():
            left._link(name, copies[id(inode)])
        left._directory = {name: copies[id(inode)] for name, inode in self._directory.items()}
        return left

    def power_cut(self, mode: Mode, chance: random.Random, fired: Callable[[str], None] = lambda _: None) -> SimulatedDisk:
        """What the next boot finds. `fired` is told what became of something."""
        left = SimulatedDisk()
        for name in sorted({*self.inodes, *self._directory}):
            inode, safe = self.inodes.get(name), self._directory.get(name)
            if inode is not safe and chance.random() < 0.8:
                fired("power: creation undone" if safe is None else "power: rename undone")
                inode = safe
            if inode is not None:
                data = bytearray(_left_of(inode, _Damage(mode, chance, fired, sealed=name == JOURNAL)))
                left._link(name, Inode(data, len(data)))
        left._directory = dict(left.inodes)
        return left

    def _sync_directory(self, name: str) -> None:
        self._do("sync directory", name)
        self._directory = dict(self.inodes)

    def _link(self, name: str, inode: Inode) -> None:
        self.inodes[name] = inode
        self.files[name] = inode.data


class SimulatedFile(MemoryAppendFile):
    """An append-only file of a SimulatedDisk."""

    _disk: SimulatedDisk

    def __init__(self, disk: SimulatedDisk, name: str) -> None:
        super().__init__(disk, name)
        self._inode = disk.inodes[name]

    def append(self, data: bytes) -> int:
        offset = super().append(data)
        self._disk.wrote(self.name, offset, data)
        return offset

    def sync(self) -> None:
        self._attempt("sync")
        self._inode.before = None
        self._inode.synced = len(self._data)

    def truncate(self, size: int) -> None:
        self._attempt("truncate")
        inode = self._inode
        inode.before = (bytes(inode.data), inode.synced)
        del inode.data[size:]
        inode.synced = min(inode.synced, size)
        self._attempt("sync")
        inode.before = None
        inode.synced = size


class _Damage:
    """What a power cut does to what was not synced of one file. `sealed`: each of its lines has a checksum."""

    def __init__(self, mode: Mode, chance: random.Random, fired: Callable[[str], None], *, sealed: bool) -> None:
        self.mode = mode
        self.chance = chance
        self.fired = fired
        self.sealed = sealed

    def prefix(self, length: int) -> int:
        """How many bytes of so many are left."""
        return self.chance.choice((0, length, *(self.chance.randint(0, length) for _ in range(2))))

    def sectors(self, data: bytes, synced: int) -> bytes:
        """The tail, sector by sector; its end is where the last one that is left ends, or where zeros were already allotted."""
        tail = bytearray()
        length = self.chance.choice((0, len(data) - synced))
        for start in range(synced - synced % SECTOR_BYTES, len(data), SECTOR_BYTES):
            sector = data[max(start, synced) : start + SECTOR_BYTES]
            if self.chance.random() < 0.7:
                if self.mode is Mode.CORRUPTED and self.chance.random() < 0.7:
                    sector = self.corrupted(sector)
                    self.fired(f"power: tail {Mode.CORRUPTED}")
                length = max(length, len(tail) + len(sector))
                tail += sector
            else:
                tail += bytes(len(sector))
                self.fired(f"power: tail {Mode.REORDERED}")
        return bytes(tail[:length])

    def corrupted(self, sector: bytes) -> bytes:
        """Part of it zeroed, or rubbish; of what is sealed, as a rule, a bit flipped, since that is the hardest to notice."""
        place = self.chance.randrange(len(sector))
        match self.chance.randrange(6 if self.sealed else 2):
            case 0:
                return sector[:place] + bytes(len(sector) - place)
            case 1:
                return self.chance.randbytes(len(sector))
            case _:
                return sector[:place] + bytes([sector[place] ^ (1 << self.chance.randrange(8))]) + sector[place + 1 :]


def _left_of(inode: Inode, damage: _Damage) -> bytes:
    data, synced = bytes(inode.data), inode.synced
    if inode.before is not None and damage.chance.random() < 0.8:
        damage.fired("power: truncation undone")
        data, synced = inode.before
    unsynced = len(data) - synced
    if not unsynced:
        return data
    if damage.mode is not Mode.DROPPED:
        return data[:synced] + damage.sectors(data, synced)
    kept = damage.prefix(unsynced)
    if kept < unsynced:
        damage.fired(f"power: tail {Mode.DROPPED}")
    return data[: synced + kept]


def _copy(inode: Inode) -> Inode:
    return Inode(bytearray(inode.data), inode.synced, inode.before)
