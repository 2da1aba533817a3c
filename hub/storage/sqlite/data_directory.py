"""The data directory of the embedded store: its permissions, its lock, and the secret file. Everything blocks."""

import fcntl
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from hub.config import Settings
from hub.crypto import derived_secrets
from hub.errors import StartError
from hub.secret_files import refuse_exposed
from hub.text_files import read_text

DATABASE, LOCK, SECRET, ERASURES = "hub.db", "hub.lock", "secret", "erasures"
_SECRET_TEXT = re.compile(r"[0-9a-f]{64}(\n[0-9a-f]{64})?\n?")


class DataDirectory:
    """A data directory that this process locks until `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Create the directory (0700) if it is missing, and lock it.

        Raises:
            StartError: it cannot be made or written to, or another hub holds it; the text names the holder.
        """
        path = path.absolute()
        with as_start_error(f"data directory {path}"):
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
        """The path of the database file."""
        return self.path / DATABASE

    def has_store(self) -> bool:
        """Whether there is a store; creates an empty file (0600) if there is none.

        Raises:
            StartError: the file cannot be opened for writing.
        """
        with as_start_error(f"database {self.database}"):
            file = os.open(self.database, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                return os.fstat(file).st_size > 0
            finally:
                os.close(file)
                sync_directory(self.path)

    def secrets(self, text: str | None, *, may_make: bool) -> list[bytes]:
        """Candidates for the hub's secret: derived from `text` if that is given, else from a file that is created once.

        Args:
            text: what the settings say.
            may_make: whether a missing file may be made; never so beside a store, whose keys the new one would not fit.

        Raises:
            StartError: the file is missing, cannot be read, or holds no secret.
        """
        if text is not None:
            return derived_secrets(text)
        file = self.path / SECRET
        with as_start_error(f"secret file {file}"):
            if not file.exists():
                if not may_make:
                    raise StartError(f"secret file {file} is missing: restore it, or set HUB_SECRET")
                self.keep_secrets([os.urandom(32)])
            refuse_exposed(file, "secret file")
        return kept_secrets(file)

    def forget_secret(self) -> None:
        """Remove the file: from now on the settings give the secret."""
        (self.path / SECRET).unlink(missing_ok=True)
        sync_directory(self.path)

    def keep_secrets(self, secrets: Sequence[bytes]) -> None:
        """Write the secrets atomically and durably, before anything is derived from one."""
        file = self.path / SECRET
        new = file.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, "".join(f"{secret.hex()}\n" for secret in secrets).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(file)
        sync_directory(self.path)

    def close(self) -> None:
        """Release the lock. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def erasures_path(settings: Settings) -> Path | None:
    """The file that lists all erasures; None: there is none."""
    if settings.erasures_file is not None or settings.storage != "sqlite":
        return settings.erasures_file
    return settings.data_dir.absolute() / ERASURES


def _text_of(file: Path) -> str:
    """The text of a file; empty where it holds none."""
    try:
        return read_text(file)
    except UnicodeError:
        return ""


def kept_secrets(file: Path) -> list[bytes]:
    """The secrets in a secret file: one, or two while a rotation is under way.

    Raises:
        StartError: it cannot be read, or holds something else.
    """
    with as_start_error(f"secret file {file}"):
        content = _text_of(file).strip()
    if not _SECRET_TEXT.fullmatch(content):
        raise StartError(f"secret file {file} does not contain 64 hexadecimal digits: restore the file of this store")
    return [bytes.fromhex(line) for line in content.split()]


def _hold(lock: int, path: Path) -> None:
    """Lock the directory and write this process's name into the lock; the kernel releases it when the process ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 200, 0).decode("utf-8", "replace").strip() or "a process that is just starting"
        raise StartError(
            f"data directory {path} is in use by another hub ({holder}): stop it, or set HUB_DATA_DIR"
        ) from None
    except OSError as error:
        raise StartError(f"data directory {path} cannot be locked: {error.strerror}") from None
    with as_start_error(f"data directory {path}"):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


@contextmanager
def as_start_error(what: str) -> Iterator[None]:
    """Raise errors of the file system as a StartError of one line; `what` names the file."""
    try:
        yield
    except FileExistsError:
        raise StartError(f"{what} is not a directory") from None
    except OSError as error:
        raise StartError(f"{what}: {error.strerror}") from None


def make_private(file: Path) -> None:
    """Create a file that only its owner can read."""
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def sync_directory(directory: Path) -> None:
    """Sync a directory, so that new names in it survive power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
