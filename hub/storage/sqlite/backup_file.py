"""The format of a backup: a copy of the database with its own application id and a table that describes it."""

import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import msgspec

from hub.clock import Clock
from hub.errors import StartError
from hub.storage.sqlite.check import require_sound
from hub.storage.sqlite.schema import ADVICE, BACKUP_ID, Meta, read_meta, refuse_foreign

_DIGESTED = ("entries", "seen_0", "seen_1", "meta")
"""The tables whose content is digested: SQLite itself notices a broken structure, but not another byte in a value."""


class Backup(msgspec.Struct, frozen=True):
    """The description in a backup file.

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


def copy_store(database: Path, part: Path) -> Meta:
    """Copy the current store into an empty file, without later commits; returns the copy's metadata.

    One statement, one read transaction. The connection can neither write nor checkpoint, not even when it is the last
    to close.

    Raises:
        StartError: it is no store, or damaged.
        Damaged, msgspec.ValidationError, sqlite3.Error: the same, or it cannot be read.
    """
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)) as source:
        refuse_foreign(source, database)
        source.execute("VACUUM INTO ?", (str(part),))
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        check_structure(connection, database)
        meta = read_meta(connection)
        require_sound(connection, database)
    return meta


def complete(part: Path, secret: bytes, begun: int | None = None) -> Backup:
    """Add the description to a copy, sync it, and only then mark the file as a backup; `secret`: the one to include."""
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        (entries,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        made = Backup(
            Clock().now() if begun is None else begun, entries, last_time(connection), digest(connection), secret
        )
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE backup (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")
        connection.executemany("INSERT INTO backup VALUES (?, ?)", msgspec.structs.asdict(made).items())
        connection.execute("COMMIT")
        connection.execute(f"PRAGMA application_id = {BACKUP_ID}")
    return made


def last_time(connection: sqlite3.Connection) -> int:
    """When the newest entry was accepted, or the newest that was ever there."""
    newest = connection.execute("SELECT time FROM entries ORDER BY position DESC LIMIT 1").fetchone()
    return max(read_meta(connection).last_time, newest[0] if newest else 0)


def check_structure(connection: sqlite3.Connection, file: Path) -> None:
    """Let SQLite check the whole file.

    Raises:
        StartError: it is damaged.
    """
    ((found,), *_) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if found != "ok":
        raise StartError(f"{file} is damaged: {found}; {ADVICE}")


def digest(connection: sqlite3.Connection) -> bytes:
    """A digest over all rows of the tables that a backup copies."""
    found = sha256()
    for table in _DIGESTED:
        for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1"):  # noqa: S608  our own names
            found.update(msgspec.msgpack.encode(row))
    return found.digest()
