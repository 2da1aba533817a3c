"""What the database file of the embedded store holds: its tables, and how a file is told to be ours.

Lives here: SQL that defines, and the check at start. Must not know how entries are written or read. Everything blocks.
"""

import hmac
import secrets
import sqlite3
from pathlib import Path

import msgspec

from hub.errors import StartError

APPLICATION_ID = 0x544B4854  # "TKHT"; `file` and others can tell by it whose database it is
BACKUP_ID = 0x544B4842  # "TKHB": a backup, which no hub takes for its store; only a restore makes it one
SCHEMA_VERSION = 1

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
    body       BLOB NOT NULL
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
    """What the store keeps about itself, and where its newest entry stands.

    Attributes:
        epoch: which log this is, 63 random bits.
        secret_check: a digest by which a secret that does not fit is told.
        first: the oldest position that was not trimmed away.
        last: the newest position that was ever given.
        last_time: when that entry was accepted.
        trimmed_time: when the newest entry that was trimmed away was accepted; -1: none was.
        seen_current: which of the two tables new ids go to.
        seen_since: when the first id went there.
    """

    epoch: int
    secret_check: bytes
    first: int = 1
    last: int = 0
    last_time: int = 0
    trimmed_time: int = -1
    seen_current: int = 0
    seen_since: int = 0


def secret_check(secret: bytes) -> bytes:
    """What the store keeps to tell a secret that does not fit; it tells nothing of the secret."""
    return hmac.digest(secret, b"tickets hub: the secret of this store", "sha256")


def prepare(path: Path, secret_check: bytes) -> Meta:
    """Make the tables where the file is empty, else see that it is ours and whole enough to be opened.

    Raises:
        StartError: it is no database, another program's, of another version, of another secret, or cannot be written.
    """
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    try:
        if _is_empty(connection):
            _make(connection, Meta(epoch=secrets.randbits(63), secret_check=secret_check))
        refuse_foreign(connection, path)
        meta = read_meta(connection)
    except sqlite3.Error as error:
        raise StartError(f"database {path}: {error}") from None
    except (msgspec.ValidationError, TypeError) as error:
        raise StartError(f"database {path} is damaged: {error}") from None
    finally:
        connection.close()
    if meta.secret_check != secret_check:
        raise StartError(
            f"the secret does not fit the store {path}: set HUB_SECRET as it was, or bring back its secret file"
        )
    return meta


def _is_empty(connection: sqlite3.Connection) -> bool:
    return (
        pragma(connection, "application_id") == 0 and not connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
    )


def _make(connection: sqlite3.Connection, meta: Meta) -> None:
    """All in one transaction: what was begun and not finished counts as empty."""
    connection.executescript(
        f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
    )
    connection.executemany("INSERT INTO meta VALUES (?, ?)", msgspec.structs.asdict(meta).items())
    connection.execute("COMMIT")


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Check that a database is a hub's store, of this version.

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
    refuse_version(connection, f"database {path}")


def refuse_version(connection: sqlite3.Connection, what: str) -> None:
    """Check the version of a database of ours.

    Raises:
        StartError: it is not of this version of the hub.
    """
    version = pragma(connection, "user_version")
    if version != SCHEMA_VERSION:
        raise StartError(f"{what} has schema version {version}, this hub knows {SCHEMA_VERSION}: run the hub it is of")


def read_meta(connection: sqlite3.Connection) -> Meta:
    """What the store keeps about itself.

    Raises:
        msgspec.ValidationError, TypeError: it is damaged.
    """
    meta = msgspec.convert(dict(connection.execute("SELECT name, value FROM meta")), Meta)
    newest = connection.execute("SELECT position, time FROM entries ORDER BY position DESC LIMIT 1").fetchone()
    if newest is not None and newest[0] > meta.last:
        meta = msgspec.structs.replace(meta, last=newest[0], last_time=newest[1])
    return meta


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """The number that a pragma holds."""
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)
