"""The file beside the store that lists all erasures: a store that is restored from an older backup learns of them.

A line is an erasure as it was requested, as JSON. It names its subject by the keyed digest alone.
"""

import asyncio
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Self

import msgspec
from msgspec.structs import replace

from hub.errors import StartError, StorageFull, StorageUnavailable
from hub.privacy_model import ErasureRecord, ErasureState
from hub.storage.sqlite.data_directory import as_start_error, sync_directory

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(ErasureRecord)


class ErasureFile:
    """The erasures in the file, by id."""

    def __init__(self, path: Path | None, records: dict[str, ErasureRecord]) -> None:
        """Use `open`."""
        self.records = records
        self._path = path
        self._writing = Lock()

    @classmethod
    def open(cls, path: Path | None) -> Self:
        """Read the file; one that is missing is created with the first erasure. Blocks.

        Args:
            path: None: nothing is read, and nothing is ever written.

        Raises:
            StartError: it cannot be read, or holds something else.
        """
        if path is None:
            return cls(None, {})
        with as_start_error(f"erasures file {path}"):
            content = path.read_bytes() if path.exists() else b""
            records = records_of(content, path)
            if not content.endswith(b"\n") and content:
                os.truncate(path, content.rfind(b"\n") + 1)
        return cls(path, records)

    async def keep(self, records: Iterable[ErasureRecord]) -> None:
        """Add the erasures that are not in the file; when it returns they survive power loss.

        Raises:
            StorageFull, StorageUnavailable: they are not in it.
        """
        missing = [_as_requested(record) for record in records if record.erasure_id not in self.records]
        if missing and self._path is not None:
            await asyncio.to_thread(self._append, self._path, b"".join(_encoder.encode(one) + b"\n" for one in missing))
        self.records.update((record.erasure_id, record) for record in missing)

    def _append(self, path: Path, lines: bytes) -> None:
        with self._writing:
            try:
                is_new = not path.exists()
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    _write_whole(descriptor, lines)
                finally:
                    os.close(descriptor)
                if is_new:
                    sync_directory(path.parent)
            except OSError as error:
                if error.errno in _FULL:
                    raise StorageFull from None
                raise StorageUnavailable from None


def records_of(content: bytes, path: Path) -> dict[str, ErasureRecord]:
    """The erasures in the content of such a file; a last line that was cut off was never acknowledged.

    Raises:
        StartError: it holds something else.
    """
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    try:
        records = [_decoder.decode(line) for line in lines]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartError(
            f"erasures file {path} is damaged: {error}: restore a copy of it, or move it away to start without it"
        ) from None
    return {record.erasure_id: record for record in records}


def _write_whole(descriptor: int, lines: bytes) -> None:
    """Append lines, all of them or none."""
    end = os.fstat(descriptor).st_size
    try:
        while lines:
            lines = lines[os.write(descriptor, lines) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def _as_requested(record: ErasureRecord) -> ErasureRecord:
    """An erasure without its progress."""
    return replace(record, state=ErasureState.HIDDEN, position=0, events=0, complete_time=0)
