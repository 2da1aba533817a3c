"""An export: a log in one file, from which `hub import` makes a store of any backend.

It is text, a JSON object a line: a header, the entries in order, and a trailer with their number and a digest of every
byte before it, which reveals a truncated or altered file. A file is read line by line.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import msgspec

from hub.archive.files import publish_atomically, refuse_existing
from hub.errors import StartError
from hub.model import Entry
from hub.storage.sqlite.data_directory import as_start_error

FORMAT = "tickets-hub-export"
VERSION = 1
MAX_LINE = 64 * 1024 * 1024
"""The most bytes of a line: many times the largest event."""


class Header(msgspec.Struct, frozen=True):
    """The first line: which log the export is of.

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
    """The last line: the number of entries, the time of the newest one, the SHA-256 of all earlier lines."""

    entries: int
    last_time: int
    digest: str


class _Line(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line: exactly one of these is set."""

    header: Header | None = None
    entry: Entry | None = None
    trailer: Trailer | None = None


class _Version(msgspec.Struct, frozen=True):
    """The part of the header that all versions share."""

    format: str
    version: int


class _FirstLine(msgspec.Struct, frozen=True):
    header: _Version


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)


class ExportWriter:
    """An export that is being written."""

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
        """The trailer that fits what was written so far."""
        return Trailer(self._entries, self._last_time, self._digest.hexdigest())

    def end(self) -> None:
        """Write the trailer, without which the file is not an export."""
        self._write(_Line(trailer=self.trailer))

    def _write(self, line: _Line) -> None:
        data = _encoder.encode(line) + b"\n"
        self._out.write(data)
        if line.trailer is None:
            self._digest.update(data)


@contextmanager
def new_export(file: Path, header: Header) -> Iterator[ExportWriter]:
    """A new file (0600), which gets its name if the context ends without an exception; else nothing is left behind.

    Raises:
        StartError: it exists, or cannot be written.
    """
    file = file.absolute()
    refuse_existing(file, "an export")
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    with as_start_error(f"export {file}"):
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                writer = ExportWriter(out, header)
                yield writer
                writer.end()
            publish_atomically(part, file, "an export")
        finally:
            part.unlink(missing_ok=True)


class Export:
    """An export file that was checked from beginning to end."""

    def __init__(self, file: Path, header: Header, trailer: Trailer) -> None:
        """Use `open`."""
        self.header = header
        self.trailer = trailer
        self._file = file

    @classmethod
    def open(cls, file: Path) -> "Export":
        """Open a file and check all of it.

        Raises:
            StartError: it is not an export, is of another version, was cut off or altered.
        """
        lines = _lines(file)
        header = next(lines).header
        trailer = None
        for line in lines:
            trailer = line.trailer
        if header is None or trailer is None:
            raise _damaged(file, "its lines are out of order")
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
                raise _damaged(self._file, "it was changed during the import")


def _lines(file: Path) -> Iterator[_Line]:
    """Every line; the trailer, which is the last one, only if everything before it matches its digest."""
    with as_start_error(f"export {file}"), file.open("rb") as source:
        digest, entries, last_time = sha256(), 0, 0
        raw = source.readline(MAX_LINE)
        _refuse_other_versions(file, raw)
        while raw.endswith(b"\n"):
            line = _decoded(file, raw)
            if line.trailer is not None:
                if line.trailer != Trailer(entries, last_time, digest.hexdigest()) or source.read(1):
                    raise _damaged(file, "its content does not match its digest")
                yield line
                return
            digest.update(raw)
            if line.entry is not None:
                entries, last_time = entries + 1, line.entry.time
            yield line
            raw = source.readline(MAX_LINE)
    raise _damaged(file, "it is truncated")


def _refuse_other_versions(file: Path, raw: bytes) -> None:
    try:
        version = msgspec.json.decode(raw, type=_FirstLine).header
    except (msgspec.DecodeError, UnicodeDecodeError):
        version = _Version("", 0)
    if version.format != FORMAT:
        raise StartError(f"{file} is not an export: 'hub export' makes one")
    if version.version != VERSION:
        raise StartError(
            f"{file} has version {version.version}, this hub reads {VERSION}: import it with the hub that wrote it"
        )


def _decoded(file: Path, raw: bytes) -> _Line:
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(file, str(error)) from None


def _damaged(file: Path, how: str) -> StartError:
    return StartError(f"{file} is damaged: {how}")
