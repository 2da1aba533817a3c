"""The embedded log: one SQLite file in the data directory, one writer, one reader. The only file that knows aiosqlite.

Durability: WAL with ``synchronous=FULL``, both read back at start. One task owns every transaction from its first
statement to COMMIT and takes all that waits as one group, so that a cancelled caller can leave nothing half done and
an fsync is shared. After an I/O error nothing is written any more until a restart: what an fsync that failed left
behind is known only then.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import aiosqlite
import structlog

from hub.config import Settings
from hub.errors import StartError, StorageFull, StorageUnavailable
from hub.model import Appended, Entry, Expect
from hub.storage import _transactions
from hub.storage._files import DataDirectory
from hub.storage._reads import Reads
from hub.storage._schema import Meta, prepare, secret_check
from hub.storage._tails import Tails
from hub.storage._writer import Outcome, Request, Writer

ERASED_AT_ONCE = 500
"""Entries erased in one transaction, so that no append waits long."""
_WAL_PAGES = 16_000
"""About how many pages the WAL takes before it is brought into the main file. Random ids dirty a page each: the longer
it waits, the more of them are written there once instead of many times."""
_WAL_BYTES_KEPT = 128 * 1024 * 1024
_BUSY_MILLISECONDS = 5_000

_log = structlog.get_logger(__name__)

T = TypeVar("T")


class _Connection(aiosqlite.Connection):
    """The library's, which also takes a function of ours to the thread that owns the connection: one trip."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Have a function of the connection run there; returns what it returns."""
        return cast("T", await self._execute(work, self._conn))  # type: ignore[no-untyped-call]  # the library


class SqliteLog(Reads):
    """The `Log` in a SQLite file."""

    def __init__(
        self, directory: DataDirectory, secret: bytes, meta: Meta, window: int, connections: tuple[Any, Any]
    ) -> None:
        """Use `open`. `window`: the dedupe window in microseconds; `connections`: the writer's, the reader's."""
        self._directory = directory
        self._secret = secret
        self._meta = meta
        self._window = window
        self._writer, self._reader = cast("tuple[_Connection, _Connection]", connections)
        self._tails = Tails(meta.last, self.read)
        self._wal_pages = 0
        self._work = Writer(self)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Open the store in ``settings.data_dir``; an empty one is made.

        Raises:
            StartError: it cannot be opened, written, or trusted; or another hub holds it.
        """
        # The first steps block: a thread that goes on after a cancellation could not be told to let go of the lock.
        directory = DataDirectory.open(settings.data_dir)
        opened: list[_Connection] = []
        try:
            secret, meta = _prepare(directory, settings)
            for configure in (configure_writer, configure_reader):
                connection = await _connect(directory.database)
                opened.append(connection)
                await configure(connection)
        except BaseException:
            for connection in reversed(opened):
                await connection.close()
            directory.close()
            raise
        writer, reader = opened
        return cls(directory, secret, meta, round(settings.dedupe_window * 1e6), (writer, reader))

    @property
    def failed(self) -> bool:
        """Whether a write met an I/O error: nothing is written any more until a restart, reads go on if they can."""
        return self._work.failed

    def is_current(self) -> bool:
        """See `Log.is_current`. Nobody else writes."""
        return True

    async def append(self, entries: Sequence[Entry], expect: Expect | None = None) -> list[Appended]:
        """See `Log.append`."""
        if not entries and not expect:
            return []
        return await self._work.append(entries, expect)

    async def trim(self, before: int, limit: int) -> int:
        """See `Log.trim`."""
        return await self._work.run(partial(self._trim, before, limit))

    async def erase(self, positions: Sequence[int]) -> None:
        """See `Log.erase`. A cancelled call may have erased some of them."""
        for start in range(0, len(positions), ERASED_AT_ONCE):
            await self._work.run(partial(self._erase, positions[start : start + ERASED_AT_ONCE]))
        await self._work.run(self._empty_wal)

    # What follows is called by `Writer` alone: it owns the writing connection.

    async def write(self, requests: list[Request]) -> list[Outcome]:
        """See `Store.write`. Hands the group to the tails as soon as it is committed."""
        meta, window = self._meta, self._window
        written = await self._writer.run(lambda connection: _transactions.append(connection, requests, meta, window))
        if written.entries:
            self._meta = written.meta
            self._wal_pages += written.pages
            self._tails.publish(written.entries, written.meta.last)
        return written.outcomes

    async def _trim(self, before: int, limit: int) -> int:
        meta = self._meta
        before = min(before, meta.last + 1)
        if before > meta.first and limit > 0:
            meta = self._meta = await self._writer.run(lambda writer: _transactions.trim(writer, meta, before, limit))
        return meta.first

    async def _erase(self, positions: Sequence[int]) -> None:
        await self._writer.run(lambda connection: _transactions.erase(connection, positions))

    async def settle(self) -> None:
        """See `Store.settle`. Brings the WAL into the main file; left to itself SQLite would hide an error of that."""
        if self._wal_pages <= _WAL_PAGES:
            return
        self._wal_pages = 0
        try:
            await self._all(self._writer, "PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            await self.undo(error)  # a full disk: what is committed stays in the WAL, and the next round tries again

    async def _empty_wal(self) -> None:
        """Bring everything into the main file and cut the WAL, which holds older images of pages, to nothing."""
        ((busy, _, _),) = await self._all(self._writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:  # a reader outside of the hub holds on; repeating the call tries again
            raise StorageUnavailable

    async def undo(self, error: Exception) -> Exception:
        """See `Store.undo`."""
        try:
            await self._writer.rollback()
        except sqlite3.Error as second:
            error = second
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            return error
        if code & 0xFF == sqlite3.SQLITE_FULL:
            return StorageFull()
        if code & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            self._work.failed = True
            _log.error("the store failed; restart the hub", error=getattr(error, "sqlite_errorname", str(error)))
        return StorageUnavailable()

    # Reading: see `Reads`.

    def tail(self, after: int) -> AsyncIterator[Sequence[Entry]]:
        """See `Log.tail`."""
        return self._tails.follow(after)

    async def secret(self) -> bytes:
        """See `Log.secret`."""
        return self._secret

    async def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        try:
            return await self._all(self._reader, sql, parameters)
        except (sqlite3.Error, ValueError) as error:  # ValueError: aiosqlite's word for a closed connection
            raise StorageUnavailable from error

    @staticmethod
    async def _all(connection: aiosqlite.Connection, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
        return cast("list[Any]", await connection.execute_fetchall(sql, parameters))

    # The end.

    async def close(self) -> None:
        """See `Log.close`. The last to wait for it may be cancelled: it goes on."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="sqlite log close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self._work.close()
        finally:
            self._tails.close()
            try:
                await self._reader.close()  # first, so that the writer is the one to checkpoint
            finally:
                with suppress(sqlite3.Error):  # a failed store stays as it is until it is opened anew
                    await self._writer.close()
                self._directory.close()


async def _connect(database: Path) -> _Connection:
    connection = _Connection(partial(sqlite3.connect, database, isolation_level="IMMEDIATE"), iter_chunk_size=64)
    await connection
    return connection


def _prepare(directory: DataDirectory, settings: Settings) -> tuple[bytes, Meta]:
    """The secret and the database, made where there is neither. Blocks."""
    text = settings.secret.get_secret_value() if settings.secret is not None else None
    secret = directory.secret(text, may_make=not directory.has_store())
    return secret, prepare(directory.database, secret_check(secret))


async def configure_writer(connection: aiosqlite.Connection) -> None:
    """Make COMMIT mean "survives power loss".

    Raises:
        StartError: SQLite does not do so here.
    """
    await _all_pragmas(
        connection,
        f"busy_timeout = {_BUSY_MILLISECONDS}",
        "secure_delete = ON",
        "wal_autocheckpoint = 0",
        f"journal_size_limit = {_WAL_BYTES_KEPT}",
        "cache_size = -65536",
    )
    await _read_back(connection, "journal_mode", "WAL", "wal")
    await _read_back(connection, "synchronous", "FULL", 2)


async def configure_reader(connection: aiosqlite.Connection) -> None:
    """See that this connection neither writes nor checkpoints."""
    await _all_pragmas(connection, f"busy_timeout = {_BUSY_MILLISECONDS}", "query_only = ON", "wal_autocheckpoint = 0")


async def _all_pragmas(connection: aiosqlite.Connection, *settings: str) -> None:
    for setting in settings:
        await _pragma(connection, setting)


async def _read_back(connection: aiosqlite.Connection, name: str, value: str, wanted_value: object) -> None:
    await _pragma(connection, f"{name} = {value}")
    got = await _pragma(connection, name)
    if got != wanted_value:
        raise StartError(
            f"SQLite refuses {name}={value} here (it is {got}): put the data directory on a local file system"
        )


async def _pragma(connection: aiosqlite.Connection, text: str) -> object:
    try:
        rows = list(await connection.execute_fetchall(f"PRAGMA {text}"))
    except sqlite3.Error as error:
        raise StartError(f"the database cannot be opened: {error}") from None
    return rows[0][0] if rows else None
