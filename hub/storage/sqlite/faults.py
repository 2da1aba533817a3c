"""The meaning of a disk error: the store is full, memory is short for a moment, or the store has failed.

SQLite reports ENOSPC as SQLITE_FULL, and every other failed write as SQLITE_IOERR_WRITE, whatever its errno, which
Python does not pass on. So after such an error a file beside the store is written to: its errno is that of the disk.
"""

import errno
import os
import sqlite3
from enum import Enum
from pathlib import Path

PROBE = "hub.probe"
_BLOCK = bytes(64 * 1024)


class Meaning(Enum):
    """The consequence of an error."""

    FULL = "full"
    """Nothing of the request is stored; the store recovers once there is room."""
    BUSY = "busy"
    """Nothing of the request is stored; the next request may succeed."""
    FAILED = "failed"
    """The store has failed: nothing is written until a restart."""


MEANINGS = {
    errno.ENOSPC: Meaning.FULL,  # the disk
    errno.EDQUOT: Meaning.FULL,  # the quota of the hub's user
    errno.EFBIG: Meaning.FULL,  # the largest file that `ulimit -f` or the file system allows
    errno.ENOMEM: Meaning.BUSY,
    errno.EIO: Meaning.FAILED,
    errno.EROFS: Meaning.FAILED,  # what a kernel makes of a file system after an error
    errno.EACCES: Meaning.FAILED,
}
"""By errno; any other is FAILED."""

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM)
_ASK_THE_DISK = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_TRUNCATE, sqlite3.SQLITE_IOERR_SHMSIZE)


def meaning_of(error: sqlite3.Error, database: Path) -> tuple[Meaning, str]:
    """The meaning of an error of SQLite for the store, and the disk's own errno. Blocks.

    A failed sync is FAILED whatever the errno: only a restart shows what it left behind.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    name = str(getattr(error, "sqlite_errorname", error))
    if code & 0xFF == sqlite3.SQLITE_FULL:
        return Meaning.FULL, name
    if code & 0xFF in _BUSY or code == sqlite3.SQLITE_IOERR_NOMEM:
        return Meaning.BUSY, name
    if code in _ASK_THE_DISK and (number := probe(database)):
        return MEANINGS.get(number, Meaning.FAILED), f"{name}: {os.strerror(number)}"
    return Meaning.FAILED, name


def probe(database: Path) -> int:
    """The errno of writing beside a database, at the offset that its own files have reached; 0: it can be written."""
    file = database.with_name(PROBE)
    sizes = [path.stat().st_size for path in (database, Path(f"{database}-wal")) if path.exists()]
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(descriptor, _BLOCK, max(sizes, default=0))
        finally:
            os.close(descriptor)
            file.unlink(missing_ok=True)
    except OSError as error:
        return error.errno or errno.EIO
    return 0
