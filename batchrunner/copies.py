"""Inputs that cannot be read twice as they are, copied into the run directory: `input.jsonl`, `input.2.jsonl` ...

A copy is put into its place at one stroke, so that it is whole or not there. Which one belongs to which input is noted
before it is made; that it is of a gzip file as that stands now only afterwards. So after a crash at any moment

    of a pipe       the copy is there and is used again, or the pipe is read (anew, by whoever runs the same command again)
    of a gzip file  the copy is known to be of this very file, or is made anew
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from batchrunner.disk import Disk
from batchrunner.errors import DiskError
from batchrunner.inputs import Identity, InputFile, Inputs
from batchrunner.sources import Source

_NAME: Final = "input.jsonl"


class Copy(msgspec.Struct, frozen=True):
    """What a file of the run directory is a copy of."""

    #: absolute, or `-` for standard input
    path: str
    #: of the gzip file that it is a whole copy of; null for a pipe, and while that is not known
    original: Identity | None = None


class Copies:
    """The copies in a run directory. `known`: what is noted of them, by file name; `keep` notes it anew, durably."""

    def __init__(self, disk: Disk, known: Mapping[str, Copy], keep: Callable[[dict[str, Copy]], None]) -> None:
        self._disk = disk
        self._known = dict(known)
        self._keep = keep

    def identity(self, sources: Sequence[Source]) -> list[Identity] | None:
        """What tells unchanged inputs without reading them; None where a pipe is yet to be read."""
        found = [self._identity(source) for source in sources]
        whole = [identity for identity in found if identity is not None]
        return whole if len(whole) == len(found) else None

    @contextlib.contextmanager
    def inputs(self, sources: Sequence[Source], *, spare_bytes: int, say: Callable[[str], None]) -> Iterator[Inputs]:
        """The inputs as they can be read again and again: plain files as they are, others by their copies, made where needed.

        At least `spare_bytes` stay free on the disk. `say` gets a line about each input that is copied, or not read again.
        Raises: DiskError, also where that space would not stay; InvalidInput for what cannot be unpacked. Neither leaves a
        part of a copy behind.
        """
        with contextlib.ExitStack() as held:
            yield Inputs([self._input(source, held, spare_bytes, say) for source in sources])

    def _input(self, source: Source, held: contextlib.ExitStack, spare_bytes: int, say: Callable[[str], None]) -> InputFile:
        if (plain := source.as_it_is()) is not None:
            return plain
        name = self._find(source)
        if name is None:
            name = self._make(source, spare_bytes, say)
        elif source.file is None:
            say(f"{source.name} was read by an earlier start: its copy, {name}, is used.")
        identity = self._identity(source)
        assert identity is not None
        file = held.enter_context(contextlib.closing(self._disk.open(name)))
        return InputFile(source.name, file.size, identity, file, name if source.file is None else None)

    def _identity(self, source: Source) -> Identity | None:
        if source.identity is not None:
            return source.identity
        name = self._find(source)
        return None if name is None else [source.path, self._disk.size(name) or 0, self._disk.modified_ns(name) or 0, 0]

    def _find(self, source: Source) -> str | None:
        """The name of the whole copy of a source."""
        for name, copy in self._known.items():
            if copy.path == source.path and copy.original == source.identity and self._disk.size(name) is not None:
                return name
        return None

    def _make(self, source: Source, spare_bytes: int, say: Callable[[str], None]) -> str:
        name = self._name_for(source)
        say(f"{source.name} is copied into the run directory, as {name}.")
        copy = Copy(source.path)
        self._note(name, copy)
        self._disk.replace(name, self._while_space(source, spare_bytes))
        if source.identity is not None:
            self._note(name, msgspec.structs.replace(copy, original=source.identity))
        return name

    def _while_space(self, source: Source, spare_bytes: int) -> Iterable[bytes]:
        for piece in source.content():
            free_bytes = self._disk.free_bytes()
            if free_bytes is not None and free_bytes < spare_bytes + len(piece):
                cause = OSError(errno.ENOSPC, f"only {free_bytes >> 20} MiB are free there")
                raise DiskError(source.name, "copying it into the run directory", cause)
            yield piece

    def _name_for(self, source: Source) -> str:
        """That of an older copy of it, else the first that nothing has."""
        for name, copy in self._known.items():
            if copy.path == source.path:
                return name
        names = itertools.chain([_NAME], (f"input.{number}.jsonl" for number in itertools.count(2)))
        return next(name for name in names if name not in self._known and self._disk.size(name) is None)

    def _note(self, name: str, copy: Copy) -> None:
        known = self._known | {name: copy}
        self._keep(known)
        self._known = known
