"""The data directory of the embedded store: made, held by one process alone, and the secret that lies in it.

Lives here: files, permissions, the lock. Must not know what the database holds. Everything blocks: it runs at start.
"""

import fcntl
import hashlib
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from hub.errors import StartError

DATABASE, LOCK, SECRET = "hub.db", "hub.lock", "secret"
_SECRET_TEXT = re.compile(r"[0-9a-f]{64}\n?")


class DataDirectory:
    """A data directory that this process holds until `close`; another process is refused meanwhile."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Make the directory (0700) where it is missing, and lock it.

        Raises:
            StartError: it cannot be made or written to, or another hub holds it; the text names the holder.
        """
        path = path.absolute()
        with complaints(f"data directory {path}"):
            if not path.is_dir():
                path.mkdir(mode=0o700, parents=True)
                sync_directory(path.parent)
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _hold(lock, path)
        except BaseException:
            os.close(lock)
            raise
        return cls(path, lock)

    @property
    def database(self) -> Path:
        """Where the database file lies."""
        return self.path / DATABASE

    def has_store(self) -> bool:
        """Whether a store was begun here; the file is made (0600) where it is missing.

        Raises:
            StartError: the file cannot be opened for writing.
        """
        with complaints(f"database {self.database}"):
            file = os.open(self.database, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                return os.fstat(file).st_size > 0
            finally:
                os.close(file)
                sync_directory(self.path)

    def secret(self, text: str | None, *, may_make: bool) -> bytes:
        """The hub's secret, 32 bytes: derived from `text` where there is one, else kept in a file, made once.

        Args:
            text: what the settings say.
            may_make: whether a missing file may be made; never so beside a store, whose keys the new one would not fit.

        Raises:
            StartError: the file is missing, cannot be read, or holds no secret.
        """
        if text is not None:
            return derived_secret(text)
        file = self.path / SECRET
        with complaints(f"secret file {file}"):
            if not file.exists():
                if not may_make:
                    raise StartError(
                        f"secret file {file} is missing, the store was made with one: bring it back or set HUB_SECRET"
                    )
                self.keep_secret(os.urandom(32))
            content = file.read_bytes().decode("ascii", "replace")
        if not _SECRET_TEXT.fullmatch(content):
            raise StartError(
                f"secret file {file} does not hold 64 hexadecimal digits: bring back the one of this store"
            )
        return bytes.fromhex(content)

    def keep_secret(self, secret: bytes) -> None:
        """Write it whole or not at all, and durable before anything is made with it."""
        file = self.path / SECRET
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secret.hex().encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(file)
        sync_directory(self.path)

    def close(self) -> None:
        """Let go of the directory. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def derived_secret(text: str) -> bytes:
    """The secret that the settings give: whatever the text is, these are 32 bytes of it."""
    return hashlib.sha256(text.encode()).digest()


def _hold(lock: int, path: Path) -> None:
    """Take the lock and leave our name in it; the kernel takes it back however this process ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 200, 0).decode("utf-8", "replace").strip() or "a process that is just starting"
        raise StartError(
            f"data directory {path} is held by another hub ({holder}): stop it, or set HUB_DATA_DIR"
        ) from None
    except OSError as error:
        raise StartError(f"data directory {path} cannot be locked: {error.strerror}") from None
    with complaints(f"data directory {path}"):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


@contextmanager
def complaints(what: str) -> Iterator[None]:
    """Say an error of the file system in one line."""
    try:
        yield
    except FileExistsError:
        raise StartError(f"{what} is not a directory") from None
    except OSError as error:
        raise StartError(f"{what}: {error.strerror}") from None


def sync_directory(directory: Path) -> None:
    """Make new names in a directory survive power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
