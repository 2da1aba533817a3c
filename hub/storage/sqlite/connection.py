"""Connections to the database file: one for writing, one for reading. The only file that imports aiosqlite."""

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite

from hub.errors import StartError

_WAL_BYTES_KEPT = 128 * 1024 * 1024
_BUSY_MILLISECONDS = 5_000

T = TypeVar("T")


class Connection(aiosqlite.Connection):
    """A connection that also runs a function in its thread: one hand-over for many statements."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function of the connection in its thread; returns what it returns."""
        return cast("T", await self._execute(work, self._conn))  # type: ignore[no-untyped-call]  # the library

    async def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        """All rows of one statement."""
        return cast("list[Any]", await self.execute_fetchall(sql, parameters))


async def connect(database: Path) -> Connection:
    """Open a connection whose transactions take the write lock when they begin."""
    connection = Connection(partial(sqlite3.connect, database, isolation_level="IMMEDIATE"), iter_chunk_size=64)
    await connection
    return connection


async def configure_writer(connection: aiosqlite.Connection) -> None:
    """Make COMMIT mean "survives power loss".

    Raises:
        StartError: SQLite does not do so here.
    """
    await _set_pragmas(
        connection,
        f"busy_timeout = {_BUSY_MILLISECONDS}",
        "secure_delete = ON",
        "wal_autocheckpoint = 0",
        f"journal_size_limit = {_WAL_BYTES_KEPT}",
        "cache_size = -8192",
    )
    await _set_and_read_back(connection, "journal_mode", "WAL", "wal")
    await _set_and_read_back(connection, "synchronous", "FULL", 2)


async def configure_reader(connection: aiosqlite.Connection) -> None:
    """Make sure that a connection neither writes nor checkpoints."""
    await _set_pragmas(connection, f"busy_timeout = {_BUSY_MILLISECONDS}", "query_only = ON", "wal_autocheckpoint = 0")
    connection.text_factory = bytes  # damaged text may not be UTF-8


async def _set_pragmas(connection: aiosqlite.Connection, *settings: str) -> None:
    for setting in settings:
        await _pragma(connection, setting)


async def _set_and_read_back(connection: aiosqlite.Connection, name: str, value: str, expected: object) -> None:
    await _pragma(connection, f"{name} = {value}")
    found = await _pragma(connection, name)
    if found != expected:
        raise StartError(
            f"SQLite refuses {name}={value} here (it is {found}): put the data directory on a local file system"
        )


async def _pragma(connection: aiosqlite.Connection, text: str) -> object:
    try:
        rows = list(await connection.execute_fetchall(f"PRAGMA {text}"))
    except sqlite3.Error as error:
        raise StartError(f"the database cannot be opened: {error}") from None
    return rows[0][0] if rows else None
