"""The checks of `hub doctor` on a store: its owner, format, secret and structure. They change nothing."""

import asyncio
import os
import socket
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal, NamedTuple

from hub.clock import Clock
from hub.config import Settings
from hub.crypto import derived_secrets, secret_check
from hub.errors import StartError
from hub.storage.levels import FORMAT
from hub.storage.sqlite.backup_file import last_time
from hub.storage.sqlite.check import check_store
from hub.storage.sqlite.connection import Connection, configure_writer, connect
from hub.storage.sqlite.data_directory import DATABASE, LOCK, SECRET, as_start_error, kept_secrets
from hub.storage.sqlite.opening import require_sqlite
from hub.storage.sqlite.schema import database_as_start_error, format_of, pragma, read_meta, refuse_foreign

COMMITS = 20
"""How many commits are timed."""

SLOW_COMMIT = 0.05
"""Seconds: a disk that needs longer to make a commit durable makes the bot wait."""

AHEAD = 60.0
"""Seconds by which a store may be ahead of the clock."""

Level = Literal["ok", "warning", "problem"]


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        check: the name of the check, such as "disk".
        level: "problem": the hub would not start, or not serve.
        text: the finding; for a problem, after a colon, what to do about it.
    """

    check: str
    level: Level
    text: str


def checked(check: str, run: Callable[[], str]) -> Finding:
    """The finding of a check that raises StartError if something is wrong."""
    try:
        return Finding(check, "ok", run())
    except StartError as error:
        return Finding(check, "problem", str(error))


def store_findings(settings: Settings) -> Iterator[Finding]:
    """The findings about the embedded store that the settings name."""
    database = settings.data_dir.absolute() / DATABASE
    yield checked("sqlite", _sqlite)
    if database.parent.is_dir():
        yield _commits(database.parent)
    if not database.exists() or not database.stat().st_size:
        text = f"there is none in {database.parent}: set data_dir to the hub's directory, or make one with 'hub init'"
        yield Finding("store", "warning", text)
        return
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, isolation_level=None)) as connection:
            yield from _of_database(connection, database, settings)
    except sqlite3.Error as error:
        yield Finding("store", "problem", f"database {database}: {error}: run this as the user of the hub")


def _of_database(connection: sqlite3.Connection, database: Path, settings: Settings) -> Iterator[Finding]:
    """The findings about a database; if it is not a hub's, or a newer hub's, that is the only one."""
    own = checked("store", lambda: _own(connection, database))
    yield own
    if own.level == "problem":
        return
    yield _format(connection)
    yield checked("secret", lambda: _secret(connection, settings))
    yield checked("integrity", lambda: _integrity(connection, database))
    yield _newest(connection)


def _sqlite() -> str:
    require_sqlite(sqlite3.sqlite_version_info)
    return f"version {sqlite3.sqlite_version}"


def _commits(directory: Path) -> Finding:
    """Whether SQLite makes commits durable here, and how long that takes; tried on a temporary database."""
    if not os.access(directory, os.W_OK):
        return Finding(
            "pragmas", "warning", f"not tried: {directory} cannot be written: run this as the user of the hub"
        )
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix="doctor-") as scratch:
            seconds = asyncio.run(_commit_seconds(Path(scratch) / "trial.db"))
    except (StartError, sqlite3.Error, OSError) as error:
        return Finding("pragmas", "problem", str(error))
    text = f"journal_mode = WAL, synchronous = FULL; a commit takes {seconds * 1_000:.1f} ms here"
    if seconds > SLOW_COMMIT:
        return Finding("pragmas", "warning", f"{text}: put the data directory on a faster disk")
    return Finding("pragmas", "ok", text)


async def _commit_seconds(database: Path) -> float:
    """The median time of a commit, over a connection as the hub's own."""
    connection = await connect(database)
    try:
        await configure_writer(connection)
        await connection.execute("CREATE TABLE trial (number INTEGER)")
        return median([await _commit(connection, number) for number in range(COMMITS)])
    finally:
        await connection.close()


async def _commit(connection: Connection, number: int) -> float:
    began = perf_counter()
    await connection.execute("INSERT INTO trial VALUES (?)", (number,))
    await connection.commit()
    return perf_counter() - began


def _own(connection: sqlite3.Connection, database: Path) -> str:
    with database_as_start_error(f"database {database}"):
        refuse_foreign(connection, database)
        read_meta(connection)
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    return f"{database}, page size {pragma(connection, 'page_size')}, journal mode {mode}"


def _format(connection: sqlite3.Connection) -> Finding:
    found = format_of(connection).format
    if found < FORMAT:
        text = f"{found}: the next start upgrades it to {FORMAT}, after a backup beside it: see that there is room"
        return Finding("format", "warning", text)
    return Finding("format", "ok", f"{found}; this hub knows {FORMAT}")


def _secret(connection: sqlite3.Connection, settings: Settings) -> str:
    """Where the secret comes from, and whether it matches the store."""
    check = read_meta(connection).secret_check
    if settings.secret is not None:
        where, candidates = "that of the settings", derived_secrets(settings.secret.get_secret_value())
    else:
        file = settings.data_dir.absolute() / SECRET
        where, candidates = str(file), kept_secrets(file)
    if not any(secret_check(secret) == check for secret in candidates):
        raise StartError(
            f"{where} does not match the store: set HUB_SECRET to its former value, or restore the secret file"
        )
    return f"{where} matches the store"


def _integrity(connection: sqlite3.Connection, database: Path) -> str:
    with database_as_start_error(f"database {database}"):
        check_store(connection, database)
    return "the structure and all state are sound; 'hub doctor --verify' reads every event as well"


def _newest(connection: sqlite3.Connection) -> Finding:
    """Whether the newest entry's time is in the past."""
    ahead = last_time(connection) / 1e6 - Clock().now() / 1e6
    if ahead > AHEAD:
        text = (
            f"{timedelta(seconds=round(ahead))} ahead of this machine's clock: set the clock; accept times stand still "
            "until it has caught up"
        )
        return Finding("newest entry", "warning", text)
    return Finding("newest entry", "ok", f"{timedelta(seconds=max(0, round(-ahead)))} old")


def running_hub(directory: Path) -> str:
    """The hub that uses a data directory at the moment, such as "pid 12 on hub-1"; "" = none on this machine.

    Read from the lock's content: taking the lock itself could keep a hub from starting.
    """
    try:
        with as_start_error("lock"):
            text = (directory / LOCK).read_text(encoding="utf-8", errors="replace").strip()
        _, pid, _, host = text.split()
        os.kill(int(pid), 0)
    except PermissionError:
        return text  # another user's process
    except (StartError, ValueError, OSError):
        return ""
    return text if host == socket.gethostname() else ""
