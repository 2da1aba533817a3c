"""Backup and restore of the embedded store: one file with all that a restore needs, made while the hub runs.

All functions block: they run in commands, never in the hub's process.

A backup is a database with its own application id, which is set last: a truncated file is not a backup, and a backup
that was merely copied into a data directory is not a store. A restore gives the log a new epoch, because its positions
are assigned again from here on, so an old cursor could mean another event. Everything else stays: accept times continue
after the newest, and the ids of events stay known for the rest of their window.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import copyfileobj

import msgspec

from hub.archive.files import (
    copy_erasures,
    fitting_secret,
    given_secret_fits,
    publish_atomically,
    refuse_existing,
    refuse_used,
    require_store,
)
from hub.clock import Clock
from hub.config import Settings
from hub.crypto import secret_check
from hub.errors import StartError
from hub.storage.sqlite.backup_file import Backup, check_structure, complete, copy_store, digest
from hub.storage.sqlite.check import require_sound
from hub.storage.sqlite.data_directory import (
    DATABASE,
    SECRET,
    DataDirectory,
    as_start_error,
    kept_secrets,
    make_private,
    sync_directory,
)
from hub.storage.sqlite.schema import (
    APPLICATION_ID,
    BACKUP_ID,
    Damaged,
    Meta,
    pragma,
    read_meta,
    require_format,
    write_meta,
)


def back_up(settings: Settings, file: Path) -> Backup:
    """Write the current store into a new file (0600), which gets its name once it is complete and synced.

    Raises:
        StartError: there is no store, no matching secret or no room, or the file exists; nothing is left behind.
    """
    _refuse_other_stores(settings, "nats stream backup")
    database, file = require_store(settings), file.absolute()
    refuse_existing(file, "a backup")
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    with _as_start_error(f"backup {file}"):
        make_private(part)
        try:
            begun = Clock().now()
            meta = copy_store(database, part)
            made = complete(part, _secret_beside(database, meta, settings), begun)
            publish_atomically(part, file, "a backup")
        finally:
            part.unlink(missing_ok=True)
            part.with_name(f"{part.name}-journal").unlink(missing_ok=True)
    return made


def restore(settings: Settings, file: Path, erasures: Path | None = None) -> Backup:
    """Create a store from a backup, in an empty or missing data directory, under a new epoch.

    Args:
        settings: they name the directory.
        file: the backup.
        erasures: the newest list of erasures, which the hub applies at its start; None: the file is in place
            already, or there is none.

    Raises:
        StartError: the file is not a backup, is damaged, or of another version or secret; or the directory is in use
            or holds anything. What was there before is as it was.
    """
    _refuse_other_stores(settings, "nats stream restore")
    file, path = file.absolute(), settings.data_dir.absolute()
    with _as_start_error(f"backup {file}"), _opened(file) as source:
        carried, check = _what_it_says(source, file).secret, read_meta(source).secret_check
        secret = fitting_secret(settings, carried, check, "backup")
    refuse_used(path, "restore")
    directory = DataDirectory.open(path)
    try:
        refuse_used(path, "restore")  # under the lock, so that nobody else can begin one
        with _as_start_error(f"restoring {file}"):
            return _bring_back(file, directory, secret, settings, erasures)
    finally:
        directory.close()


def _refuse_other_stores(settings: Settings, instead: str) -> None:
    if settings.storage != "sqlite":
        raise StartError(f"this works on the embedded SQLite store only: for NATS JetStream use '{instead}'")


# Backup.


def _secret_beside(database: Path, meta: Meta, settings: Settings) -> bytes:
    """The secret file of the store; empty if the settings give the secret.

    A backup without its secret is useless, so a missing secret fails now.
    """
    if given_secret_fits(settings, meta.secret_check):
        return b""
    file = database.with_name(SECRET)
    try:
        kept = kept_secrets(file)
    except StartError:
        kept = []
    fitting = [one for one in kept if secret_check(one) == meta.secret_check]
    if not fitting:
        raise StartError(f"{file} does not contain the secret of this store: set HUB_SECRET to the hub's secret")
    return fitting[0]


# Restore.


def _bring_back(
    file: Path, directory: DataDirectory, secret: bytes, settings: Settings, erasures: Path | None
) -> Backup:
    """Copy a backup and turn the copy into a store; no hub starts on it before the last transaction is committed."""
    database = directory.database
    listed: Path | None = None
    try:
        _copy_file(file, database)
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            restored = _what_it_says(connection, file)
            check_structure(connection, file)
            _check_content(connection, file, restored)
            require_sound(connection, file)
            if secret:
                directory.keep_secrets([secret])
            listed = copy_erasures(settings, erasures)
            _begin_epoch(connection)
    except BaseException:
        for name in (DATABASE, f"{DATABASE}-journal", SECRET, f"{SECRET}.new"):
            database.with_name(name).unlink(missing_ok=True)
        if listed is not None:
            listed.unlink()
        raise
    sync_directory(directory.path)
    return restored


def _copy_file(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as old, os.fdopen(descriptor, "wb") as new:
        copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())


def _begin_epoch(connection: sqlite3.Connection) -> None:
    """Mark the copy as a store, in one durable transaction that overwrites the secret: it has its own file."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DROP TABLE backup")
    write_meta(connection, {"epoch": secrets.randbits(63)})
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("COMMIT")


# Both.


@contextmanager
def _as_start_error(what: str) -> Iterator[None]:
    """Raise errors of SQLite and of the file system as a StartError of one line."""
    try:
        with as_start_error(what):
            yield
    except sqlite3.Error as error:
        raise StartError(f"{what}: {error}") from None
    except (Damaged, msgspec.ValidationError, TypeError, UnicodeError) as error:
        raise StartError(f"{what} is damaged: {error}") from None


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a backup for reading; creates no files beside it."""
    if not file.is_file():
        raise StartError(f"there is no file {file}")
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)) as connection:
        yield connection


def _what_it_says(connection: sqlite3.Connection, file: Path) -> Backup:
    if pragma(connection, "application_id") != BACKUP_ID:
        raise StartError(f"{file} is not a backup, or is truncated: 'hub backup' makes one")
    require_format(connection, str(file))
    if pragma(connection, "page_count") * pragma(connection, "page_size") != file.stat().st_size:
        raise StartError(f"{file} is damaged: its length is not that of the backup")
    return msgspec.convert(dict(connection.execute("SELECT name, value FROM backup")), Backup)


def _check_content(connection: sqlite3.Connection, file: Path, backup: Backup) -> None:
    if digest(connection) != backup.digest:
        raise StartError(f"{file} is damaged: its content does not match its digest")
