"""An export: a log in one file, from which `hub import` makes a store of any backend.

Lives here: the file. It is text, a JSON object a line: first a header, then the entries in order, last a trailer with
their number and a digest of every byte before it, by which a file is told that was cut off or altered. A file is read a
line at a time, however long it is. Must not know what the entries mean.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import msgspec

from hub.errors import StartError
from hub.model import Entry
from hub.storage._carried import give_name, refuse_existing
from hub.storage._files import complaints

FORMAT = "tickets-hub-export"
VERSION = 1
MAX_LINE = 64 * 1024 * 1024
"""Bytes of a line at most: many times what the largest event takes."""


class Header(msgspec.Struct, frozen=True):
    """What an export says of the log that it is of.

    Attributes:
        format, version: `FORMAT` and `VERSION`.
        time: when it was begun.
        epoch: which log it is of.
        dedupe_window: how long the hub remembered ids, in microseconds.
        secret_check: tells the hub's secret from others.
        secret: that secret; empty where the settings give it (HUB_SECRET).
    """

    format: str
    version: int
    time: int
    epoch: int
    dedupe_window: int
    secret_check: bytes
    secret: bytes = b""


class Trailer(msgspec.Struct, frozen=True):
    """How an export ends: how many entries there are, when the newest was accepted, the SHA-256 of all lines before."""

    entries: int
    last_time: int
    digest: str


class _Line(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line: it has one of these."""

    header: Header | None = None
    entry: Entry | None = None
    trailer: Trailer | None = None


class _Version(msgspec.Struct, frozen=True):
    """What the header of every version has."""

    format: str
    version: int


class _FirstLine(msgspec.Struct, frozen=True):
    header: _Version


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)


class Writer:
    """An export that is being written. `trailer`: what was written so far amounts to."""

    def __init__(self, out: BinaryIO, header: Header) -> None:
        """Use `new_export`."""
        self._out = out
        self._digest = sha256()
        self._entries = self._last_time = 0
        self._write(_Line(header=header))

    def add(self, entry: Entry) -> None:
        """Write one entry."""
        self._write(_Line(entry=entry))
        self._entries += 1
        self._last_time = entry.time

    @property
    def trailer(self) -> Trailer:
        """How the file would end if it ended here."""
        return Trailer(self._entries, self._last_time, self._digest.hexdigest())

    def end(self) -> None:
        """Write the trailer: without it a file is none."""
        self._write(_Line(trailer=self.trailer))

    def _write(self, line: _Line) -> None:
        data = _encoder.encode(line) + b"\n"
        self._out.write(data)
        if line.trailer is None:
            self._digest.update(data)


@contextmanager
def new_export(file: Path, header: Header) -> Iterator[Writer]:
    """A new file, 0600, that gets its name when the context is left in peace, whole and on disk; else nothing is left.

    Raises:
        StartError: it exists, or cannot be written.
    """
    file = file.absolute()
    refuse_existing(file, "an export")
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    with complaints(f"export {file}"):
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                writer = Writer(out, header)
                yield writer
                writer.end()
            give_name(part, file, "an export")
        finally:
            part.unlink(missing_ok=True)


class Export:
    """A file that was found whole."""

    def __init__(self, file: Path, header: Header, trailer: Trailer) -> None:
        """Use `open`."""
        self.header = header
        self.trailer = trailer
        self._file = file

    @classmethod
    def open(cls, file: Path) -> "Export":
        """Look through a whole file.

        Raises:
            StartError: it is no export, of another version, was cut off, or altered.
        """
        lines = _lines(file)
        header = next(lines).header
        trailer = None
        for line in lines:
            trailer = line.trailer
        if header is None or trailer is None:
            raise _damaged(file, "its lines are not in order")
        return cls(file, header, trailer)

    def entries(self) -> Iterator[Entry]:
        """All entries, in order.

        Raises:
            StartError: the file was altered since it was opened.
        """
        for line in _lines(self._file):
            if line.entry is not None:
                yield line.entry
            elif line.trailer not in (None, self.trailer):
                raise _damaged(self._file, "it was altered meanwhile")


def _lines(file: Path) -> Iterator[_Line]:
    """Every line; the trailer, which is the last, only where all before it is as it was written."""
    with complaints(f"export {file}"), file.open("rb") as source:
        digest, entries, last_time = sha256(), 0, 0
        raw = source.readline(MAX_LINE)
        _refuse_other_versions(file, raw)
        while raw.endswith(b"\n"):
            line = _decoded(file, raw)
            if line.trailer is not None:
                if line.trailer != Trailer(entries, last_time, digest.hexdigest()) or source.read(1):
                    raise _damaged(file, "what it holds is not what was written")
                yield line
                return
            digest.update(raw)
            if line.entry is not None:
                entries, last_time = entries + 1, line.entry.time
            yield line
            raw = source.readline(MAX_LINE)
    raise _damaged(file, "it was cut off")


def _refuse_other_versions(file: Path, raw: bytes) -> None:
    try:
        version = msgspec.json.decode(raw, type=_FirstLine).header
    except (msgspec.DecodeError, UnicodeDecodeError):
        version = _Version("", 0)
    if version.format != FORMAT:
        raise StartError(f"{file} is no export: 'hub export' makes one")
    if version.version != VERSION:
        raise StartError(f"{file} has version {version.version}, this hub knows {VERSION}: import it with its own hub")


def _decoded(file: Path, raw: bytes) -> _Line:
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(file, str(error)) from None


def _damaged(file: Path, how: str) -> StartError:
    return StartError(f"{file} is damaged: {how}")
