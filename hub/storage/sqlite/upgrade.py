"""Upgrading a store of an older format: a backup first, then one transaction."""

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from hub.model import Kind
from hub.storage.checksum import checksum_of
from hub.storage.levels import CURRENT, FORMAT
from hub.storage.sqlite.backup_file import complete, copy_store
from hub.storage.sqlite.data_directory import make_private, sync_directory
from hub.storage.sqlite.rows import rows_of
from hub.storage.sqlite.schema import format_of, write_meta

_AT_ONCE = 1_000

log = structlog.get_logger(__name__)


def upgrade(connection: sqlite3.Connection, database: Path, secret: bytes) -> None:
    """Upgrade a store to this hub's format; one of this format, or of a newer one that it may write, stays unchanged.

    Args:
        connection: to the store, in no transaction.
        database: the store's file.
        secret: for the backup; b"" where the settings give it.

    Raises:
        StartError, sqlite3.Error, OSError: the upgrade failed. The store is unchanged.
    """
    found = format_of(connection).format
    if found >= FORMAT:
        return
    backup = database.with_name(f"hub-format-{found}.backup")
    log.info("upgrading the store", format=found, to=FORMAT, backup=str(backup))
    _back_up(database, backup, secret)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(found, FORMAT):
            _STEPS[number](connection)
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    log.info("the store is upgraded", format=FORMAT)


def _back_up(database: Path, file: Path, secret: bytes) -> None:
    """Write the backup; it replaces that of an interrupted upgrade."""
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    make_private(part)
    try:
        copy_store(database, part)
        complete(part, secret)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    sync_directory(file.parent)


def _add_checksums(connection: sqlite3.Connection) -> None:
    """1 -> 2: every entry gets its distance to the event before it, and its checksum."""
    for column in ("distance", "checksum"):
        connection.execute(f"ALTER TABLE entries ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
    event = after = 0
    while rows := list(rows_of(connection, "WHERE position > ? ORDER BY position LIMIT ?", (after, _AT_ONCE))):
        sums = []
        for row in rows:
            kind, position = row[0], row[7]
            distance = position - event
            sums.append((distance, checksum_of(*row[:8], distance), position))
            if kind != Kind.STATE:
                event = position
        connection.executemany("UPDATE entries SET distance = ?, checksum = ? WHERE position = ?", sums)
        after = rows[-1][7]
    write_meta(connection, {"event": event, "min_reader": CURRENT.min_reader, "min_writer": CURRENT.min_writer})


def _raise_levels(connection: sqlite3.Connection) -> None:
    """2 -> 3: an older hub would keep every place of an endpoint, and fail at them in the audit trail."""
    write_meta(connection, {"min_reader": CURRENT.min_reader, "min_writer": CURRENT.min_writer})


_STEPS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _add_checksums, 2: _raise_levels}
"""By the format that a step begins with."""
