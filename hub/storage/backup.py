"""Backup and restore of the embedded store: one file with all that a restore needs, made while the hub runs.

Lives here: that file, from its first byte to its name, and what becomes of it in an empty data directory. Must not know
what the entries mean. Everything blocks: these are commands of their own, never the hub's process.

A backup is a database with an application id of its own, which is set last: one that was cut off is no backup, and a
backup that was merely copied into a data directory is no store. A restore gives the log a new epoch, for from here on
its positions are given anew: what an old cursor stood for is known no more. All else is carried as it was: times go on
after the newest, ids of events stay known for the rest of their window.
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj

import msgspec

from hub.clock import Clock
from hub.config import Settings
from hub.errors import StartError
from hub.storage._carried import (
    fitting_secret,
    give_name,
    given_secret_fits,
    refuse_existing,
    refuse_used,
    require_store,
)
from hub.storage._files import DATABASE, SECRET, DataDirectory, complaints, sync_directory
from hub.storage._schema import (
    APPLICATION_ID,
    BACKUP_ID,
    Meta,
    pragma,
    read_meta,
    refuse_foreign,
    refuse_version,
    secret_check,
)

_DIGESTED = ("entries", "seen_0", "seen_1", "meta")
"""The tables whose content is digested: SQLite itself notices a broken structure, but not another byte in a value."""


class Backup(msgspec.Struct, frozen=True):
    """What a backup file says about itself.

    Attributes:
        time: when it was begun.
        entries: how many entries it holds.
        last_time: when the newest of them was accepted.
        digest: of what is in the tables.
        secret: the hub's own secret; empty where the settings give it (HUB_SECRET).
    """

    time: int
    entries: int
    last_time: int
    digest: bytes
    secret: bytes = b""


def back_up(settings: Settings, file: Path) -> Backup:
    """Write the store as it is now into a new file, 0600, that gets its name when it is whole and on disk.

    Raises:
        StartError: there is no store, no secret that fits it, no room, or the file exists; nothing is left behind.
    """
    _refuse_other_stores(settings, "nats stream backup")
    database, file = require_store(settings), file.absolute()
    refuse_existing(file, "a backup")
    part = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")
    with _complaints(f"backup {file}"):
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            begun = Clock().now()
            _copy(database, part)
            made = _complete(part, database, settings, begun)
            give_name(part, file, "a backup")
        finally:
            part.unlink(missing_ok=True)
            part.with_name(f"{part.name}-journal").unlink(missing_ok=True)
    return made


def restore(settings: Settings, file: Path) -> Backup:
    """Make a store of a backup, in an empty or missing data directory, under a new epoch.

    Raises:
        StartError: the file is no backup, damaged, of another version or secret; or the directory is in use or holds
            anything. What was there before is as it was.
    """
    _refuse_other_stores(settings, "nats stream restore")
    file, path = file.absolute(), settings.data_dir.absolute()
    with _complaints(f"backup {file}"), _opened(file) as source:
        carried, check = _what_it_says(source, file).secret, read_meta(source).secret_check
        secret = fitting_secret(settings, carried, check, "backup")
    refuse_used(path, "restore")
    directory = DataDirectory.open(path)
    try:
        refuse_used(path, "restore")  # now that nobody else can begin one
        with _complaints(f"restoring {file}"):
            return _bring_back(file, directory, secret)
    finally:
        directory.close()


def _refuse_other_stores(settings: Settings, instead: str) -> None:
    if settings.storage != "sqlite":
        raise StartError(f"this is for the embedded SQLite store alone: for NATS JetStream there is '{instead}'")


# Backup.


def _copy(database: Path, part: Path) -> None:
    """One statement, one read transaction: the hub goes on writing, what it commits meanwhile is left out.

    The connection can neither write nor checkpoint, not even when it is the last to close.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)) as source:
        refuse_foreign(source, database)
        source.execute("VACUUM INTO ?", (str(part),))


def _complete(part: Path, database: Path, settings: Settings, begun: int) -> Backup:
    """Check the copy, add what it says about itself, and only when all that is on disk make it a backup."""
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        _check_structure(connection, database)
        meta = read_meta(connection)
        (entries,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        secret = _secret_beside(database, meta, settings)
        made = Backup(begun, entries, meta.last_time, _digest(connection), secret)
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE backup (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")
        connection.executemany("INSERT INTO backup VALUES (?, ?)", msgspec.structs.asdict(made).items())
        connection.execute("COMMIT")
        connection.execute(f"PRAGMA application_id = {BACKUP_ID}")
    return made


def _secret_beside(database: Path, meta: Meta, settings: Settings) -> bytes:
    """The secret that lies beside the store; empty where the settings give it.

    A backup whose secret nobody has opens with no key: better to hear of that now.
    """
    if given_secret_fits(settings, meta.secret_check):
        return b""
    file = database.with_name(SECRET)
    try:
        secret = bytes.fromhex(file.read_text("ascii"))
    except (FileNotFoundError, ValueError):
        secret = b""
    if secret_check(secret) != meta.secret_check:
        raise StartError(f"{file} does not hold the secret of this store: set HUB_SECRET as the hub has it")
    return secret


# Restore.


def _bring_back(file: Path, directory: DataDirectory, secret: bytes) -> Backup:
    """Until the last transaction what lies there is a backup still, which no hub starts on."""
    database = directory.database
    try:
        _copy_file(file, database)
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            restored = _what_it_says(connection, file)
            _check_structure(connection, file)
            _check_content(connection, file, restored)
            if secret:
                directory.keep_secret(secret)
            _begin_anew(connection)
    except BaseException:
        for name in (DATABASE, f"{DATABASE}-journal", SECRET, f"{SECRET}.new"):
            database.with_name(name).unlink(missing_ok=True)
        raise
    sync_directory(directory.path)
    return restored


def _copy_file(source: Path, target: Path) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with source.open("rb") as old, os.fdopen(descriptor, "wb") as new:
        copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())


def _begin_anew(connection: sqlite3.Connection) -> None:
    """Make a store of it, in one durable transaction; the secret is overwritten, it lies in its file now."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DROP TABLE backup")
    connection.execute("UPDATE meta SET value = ? WHERE name = 'epoch'", (secrets.randbits(63),))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("COMMIT")


# Both.


@contextmanager
def _complaints(what: str) -> Iterator[None]:
    """Say an error of SQLite or of the file system in one line."""
    try:
        with complaints(what):
            yield
    except sqlite3.Error as error:
        raise StartError(f"{what}: {error}") from None
    except (msgspec.ValidationError, TypeError) as error:
        raise StartError(f"{what} is damaged: {error}") from None


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """A backup, to look at: nothing is made beside it."""
    if not file.is_file():
        raise StartError(f"there is no file {file}")
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)) as connection:
        yield connection


def _what_it_says(connection: sqlite3.Connection, file: Path) -> Backup:
    if pragma(connection, "application_id") != BACKUP_ID:
        raise StartError(f"{file} is no backup, or one that was cut off: 'hub backup' makes one")
    refuse_version(connection, str(file))
    if pragma(connection, "page_count") * pragma(connection, "page_size") != file.stat().st_size:
        raise StartError(f"{file} is damaged: it is longer or shorter than what was written")
    return msgspec.convert(dict(connection.execute("SELECT name, value FROM backup")), Backup)


def _check_structure(connection: sqlite3.Connection, file: Path) -> None:
    """Have SQLite look through the whole file."""
    ((found,), *_) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise StartError(f"{file} is damaged: {found}")


def _check_content(connection: sqlite3.Connection, file: Path, backup: Backup) -> None:
    if _digest(connection) != backup.digest:
        raise StartError(f"{file} is damaged: what it holds is not what was written")


def _digest(connection: sqlite3.Connection) -> bytes:
    """What tells this content from any other."""
    digest = sha256()
    for table in _DIGESTED:
        for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1"):  # noqa: S608  our own names
            digest.update(msgspec.msgpack.encode(row))
    return digest.digest()
