"""The tables of the database file, its metadata, and the check that a file is a hub's. Everything blocks."""

import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import google_crc32c
import msgspec

from hub.errors import StartError
from hub.storage.levels import CURRENT, FORMAT, Levels, require

APPLICATION_ID = 0x544B4854  # "TKHT"; `file` and others can tell by it whose database it is
BACKUP_ID = 0x544B4842  # "TKHB": a backup, which no hub takes for its store; only a restore makes it one
ADVICE = "nothing is served until it is restored: 'hub doctor --verify' lists the damage and the backups without it"

# entries.id has no index: a unique one on random ids slows every insert once it outgrows the cache. The ids of the
# dedupe window lie in two tables instead, of which the older is emptied when all in it is past the window.
# AUTOINCREMENT is not needed: the writer gives positions, and `last` is stored whenever the newest row may go.
_TABLES = """
CREATE TABLE entries (
    position   INTEGER PRIMARY KEY,
    kind       INTEGER NOT NULL,
    key        TEXT NOT NULL,
    id         TEXT NOT NULL,
    event_type INTEGER NOT NULL,
    guild_id   INTEGER NOT NULL,
    time       INTEGER NOT NULL,
    body       BLOB NOT NULL,
    distance   INTEGER NOT NULL DEFAULT 0,
    checksum   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX state_by_key ON entries (key) WHERE key <> '';
CREATE INDEX state_by_position ON entries (position) WHERE key <> '';
CREATE TABLE seen_0 (
    id TEXT PRIMARY KEY, position INTEGER NOT NULL, time INTEGER NOT NULL, digest BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE seen_1 (
    id TEXT PRIMARY KEY, position INTEGER NOT NULL, time INTEGER NOT NULL, digest BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
"""


class Meta(msgspec.Struct, frozen=True):
    """The metadata of the store, with the position of its newest entry.

    Attributes:
        epoch: which log this is, 63 random bits.
        secret_check: a digest that shows whether a secret is the store's.
        first: the oldest position that was not trimmed away.
        last: the newest position ever assigned.
        last_time: when that entry was accepted.
        trimmed_time: when the newest entry that was trimmed away was accepted; -1: none was.
        seen_current: which of the two tables new ids go to.
        seen_since: when the first id went there.
        event: the newest position at which there ever was an event.
        min_reader, min_writer: see `Levels`.
    """

    epoch: int
    secret_check: bytes
    first: int = 1
    last: int = 0
    last_time: int = 0
    trimmed_time: int = -1
    seen_current: int = 0
    seen_since: int = 0
    event: int = 0
    min_reader: int = 1
    min_writer: int = 1


def make(connection: sqlite3.Connection, check: bytes) -> None:
    """Create an empty store in one transaction: a store that was not finished counts as empty."""
    meta = Meta(secrets.randbits(63), check, min_reader=CURRENT.min_reader, min_writer=CURRENT.min_writer)
    connection.executescript(
        f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
    )
    write_meta(connection, msgspec.structs.asdict(meta))
    connection.execute("COMMIT")


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether a database file is empty."""
    return (
        pragma(connection, "application_id") == 0 and not connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
    )


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Check that a database is a hub's store, of a format that this hub may write.

    Raises:
        StartError: it is not.
    """
    application_id = pragma(connection, "application_id")
    if application_id == BACKUP_ID:
        raise StartError(f"database {path} is a backup: 'hub restore' makes a store of it, in an empty directory")
    if application_id != APPLICATION_ID:
        raise StartError(
            f"database {path} belongs to another program: set HUB_DATA_DIR to a directory of the hub's own"
        )
    require_format(connection, f"database {path}")


def require_format(connection: sqlite3.Connection, what: str, *, to_write: bool = True) -> None:
    """Check that this hub knows the format of a database of ours; `what` names it in the error.

    Raises:
        StartError: it needs a newer hub, or its format is invalid.
    """
    found = format_of(connection)
    if found.format < 1:
        raise StartError(f"{what} is damaged: its format is {found.format}; {ADVICE}")
    require(what, found, to_write=to_write)


def format_of(connection: sqlite3.Connection) -> Levels:
    """The format of a store or a backup."""
    number = pragma(connection, "user_version")
    levels = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('min_reader', 'min_writer')"))
    return msgspec.convert({"format": number, **levels}, Levels)


def read_meta(connection: sqlite3.Connection) -> Meta:
    """The store's metadata, checked; positions are as of the last time they were stored.

    Raises:
        Damaged, msgspec.ValidationError, TypeError: it is damaged.
    """
    rows = dict(connection.execute("SELECT name, value FROM meta"))
    if format_of(connection).format > 1 and rows.pop("checksum", None) != _sum_of(rows):
        raise Damaged("the table meta does not match its checksum")
    return msgspec.convert(rows, Meta)


def write_meta(connection: sqlite3.Connection, marks: Mapping[str, object]) -> None:
    """Store some metadata within the current transaction, and the checksum over all of it."""
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(marks.items()))
    rows = dict(connection.execute("SELECT name, value FROM meta WHERE name <> 'checksum'"))
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('checksum', ?)", (_sum_of(rows),))


def _sum_of(rows: Mapping[str, object]) -> int:
    return int(google_crc32c.value(msgspec.msgpack.encode(sorted(rows.items()))))


class Damaged(Exception):
    """The store is damaged; the text says where."""


@contextmanager
def database_as_start_error(what: str) -> Iterator[None]:
    """Raise errors of a database as a StartError of one line; `what` names it."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        broken = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        raise StartError(f"{what}: {error}" + (f"; {ADVICE}" if broken else "")) from None
    except (Damaged, msgspec.ValidationError, TypeError, UnicodeError) as error:
        raise StartError(f"{what} is damaged: {error}; {ADVICE}") from None


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """The number that a pragma holds."""
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
