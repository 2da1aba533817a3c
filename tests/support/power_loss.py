"""What a disk may hold after a power loss: everything that was synced, and any part of the rest.

Made of the record that recorder.c keeps. Not synced means: any of these writes may be there or not, each sector for
itself; names made, removed or changed since the directory was synced may be so or not, in their order.
"""

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

HEAD = struct.Struct("<cIQQ")
SECTOR = 512


class Op(NamedTuple):
    """One record; kind A is the program's own word to the test."""

    kind: str
    path: str
    offset: int
    data: bytes


def read_record(file: Path) -> list[Op]:
    """All records, in order; one that was cut off by a kill at the end is left out."""
    return list(_ops(file.read_bytes()))


def _ops(raw: bytes) -> Iterator[Op]:
    at = 0
    while at + HEAD.size <= len(raw):
        kind, length, offset, size = HEAD.unpack_from(raw, at)
        start = at + HEAD.size
        at = start + length + size
        if at <= len(raw):
            yield Op(kind.decode(), raw[start : start + length].decode(), offset, raw[start + length : at])


def note(text: str) -> bytes:
    """The program's own word, as a record."""
    data = text.encode()
    return HEAD.pack(b"A", 0, 0, len(data)) + data


@dataclass(eq=False)
class _File:
    """A file: what is synced of it, and what was done to it since."""

    synced: bytearray = field(default_factory=bytearray)
    since: list[Op] = field(default_factory=list)


class Disk:
    """A directory, as the program sees it and as the disk has it."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._names: dict[str, _File] = {}
        self._synced_names: dict[str, _File] = {}
        self._since: list[dict[str, _File]] = []

    def do(self, op: Op) -> None:
        """Take one record in."""
        if op.kind == "S" and op.path == self._root:
            self._synced_names, self._since = dict(self._names), []
        elif op.kind in "CUR":
            self._rename(op)
            self._since.append(dict(self._names))
        elif op.path in self._names:
            file = self._names[op.path]
            if op.kind == "S":
                for earlier in file.since:
                    _apply(file.synced, earlier)
                file.since.clear()
            elif op.kind in "WT":
                file.since.append(op)

    def _rename(self, op: Op) -> None:
        if op.kind == "C":
            self._names[op.path] = _File()
        elif op.kind == "U":
            self._names.pop(op.path, None)
        else:
            self._names[op.data.decode()] = self._names.pop(op.path)

    def leave(self, directory: Path, rng: random.Random) -> None:
        """Cut the power: write what is left into a directory."""
        names = rng.choice([self._synced_names, *self._since])
        keep = rng.choice([0.0, 0.5, 0.9, 1.0])
        directory.mkdir()
        for name, file in names.items():
            content = bytearray(file.synced)
            for op in file.since:
                if rng.random() < keep:
                    _apply(content, op, rng if keep < 1 else None)
            written = directory.joinpath(Path(name).name)
            written.write_bytes(content)
            written.chmod(0o600)  # as the hub makes its files


def _apply(content: bytearray, op: Op, rng: random.Random | None = None) -> None:
    """Do a write or a truncation; with `rng`, each sector of it may fail to arrive."""
    if op.kind == "T":
        if op.offset < len(content):
            del content[op.offset :]
        else:
            content.extend(bytes(op.offset - len(content)))
        return
    torn = rng is not None and rng.random() < 0.3
    for start, end in _sectors(op.offset, op.offset + len(op.data)):
        if torn and rng is not None and rng.random() < 0.5:
            continue
        if end > len(content):
            content.extend(bytes(end - len(content)))
        content[start:end] = op.data[start - op.offset : end - op.offset]


def _sectors(start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        yield start, stop
        start = stop
