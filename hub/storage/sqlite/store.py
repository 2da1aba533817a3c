"""The writing part of the embedded log: transactions, checkpoints and failures.

After an I/O error nothing is written until a restart: only a restart shows what a failed fsync left behind.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from hub.crypto import secret_check
from hub.errors import StorageFull, StorageUnavailable
from hub.model import Entry, Expect
from hub.storage.damage import DamageRecord
from hub.storage.group_commit import Outcome, Request, new_request
from hub.storage.sqlite import transactions
from hub.storage.sqlite.connection import Connection
from hub.storage.sqlite.faults import Meaning, meaning_of
from hub.storage.sqlite.schema import Meta

WAL_PAGES = 16_000
"""About how many pages the WAL may hold before a checkpoint. Random ids dirty a page each: the longer the WAL, the more
of their writes to one page become a single write to the main file."""

log = structlog.get_logger(__name__)

OnCommit = Callable[[Sequence[Entry], int], None]


class SqliteStore:
    """The `Store` in a SQLite file.

    Attributes:
        meta: the metadata of the database as of the newest commit.
        write_connection: the only connection that writes and checkpoints.
    """

    def __init__(  # noqa: PLR0913  its parts; called once
        self, connection: Connection, database: Path, meta: Meta, window: int, damage: DamageRecord, on_commit: OnCommit
    ) -> None:
        """Write to an open database.

        Args:
            connection: to write with.
            database: the path of the file.
            meta: the metadata of the database.
            window: the dedupe window in microseconds.
            damage: damaged state ends all writing.
            on_commit: called with each committed group and the newest position.
        """
        self.meta = meta
        self.write_connection = connection
        self._database = database
        self._window = window
        self._damage = damage
        self._on_commit = on_commit
        self._wal_pages = 0
        self._has_failed = False

    @property
    def failed(self) -> bool:
        """See `Store.failed`: a write met an I/O error, or an entry of state is damaged."""
        return self._has_failed or self._damage.is_unsafe

    async def commit(self, requests: list[Request]) -> list[Outcome]:
        """See `Store.commit`."""
        meta, window = self.meta, self._window
        written = await self.write_connection.run(lambda writer: transactions.append(writer, requests, meta, window))
        if written.entries:
            self.meta = written.meta
            self._wal_pages += written.pages
            self._on_commit(written.entries, written.meta.last)
        return written.outcomes

    async def rollback(self) -> None:
        """See `Store.rollback`."""
        await self.write_connection.rollback()

    async def as_hub_error(self, error: Exception) -> Exception:
        """See `Store.as_hub_error`. On a full disk the WAL is checkpointed: its own room can then be used again."""
        meaning = await self._meaning(error)
        if meaning is None:
            return error
        if meaning is not Meaning.FULL:
            return StorageUnavailable()
        if self._wal_pages:
            await self._checkpoint()
        return StorageFull()

    async def _meaning(self, error: Exception) -> Meaning | None:
        """What an error means for the store; None: it is not one of the store."""
        if not isinstance(error, sqlite3.Error) or getattr(error, "sqlite_errorcode", None) is None:
            return None
        meaning, text = await asyncio.to_thread(meaning_of, error, self._database)
        if meaning is Meaning.FAILED:
            self._has_failed = True
            log.error("the store failed; restart the hub", error=text)
        return meaning

    async def after_commit(self) -> None:
        """See `Store.after_commit`. Checkpoints: an automatic checkpoint of SQLite would hide its errors."""
        if self._wal_pages > WAL_PAGES:
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        self._wal_pages = 0
        try:
            ((_, pages, moved),) = await self.write_connection.rows("PRAGMA wal_checkpoint(PASSIVE)")
            self._wal_pages = pages - moved  # those that a reader still needs
        except sqlite3.Error as error:  # on a full disk the WAL keeps what is committed, a later checkpoint succeeds
            await self._meaning(error)

    async def trim(self, before: int, limit: int) -> int:
        """See `Log.trim`."""
        meta = self.meta
        before = min(before, meta.last + 1)
        if before > meta.first and limit > 0:
            self.meta, pages = await self.write_connection.run(
                lambda writer: transactions.trim(writer, meta, before, limit)
            )
            self._wal_pages += pages
        return self.meta.first

    async def erase(self, positions: Sequence[int]) -> None:
        """Erase events in one transaction. The WAL holds their bytes until `empty_wal`."""
        self._wal_pages += await self.write_connection.run(
            lambda writer: transactions.erase(writer, positions, self.meta)
        )

    async def remove_superseded(self, positions: Sequence[int]) -> None:
        """Remove superseded entries of state in one transaction. The WAL holds their bytes until `empty_wal`."""
        self._wal_pages += await self.write_connection.run(
            lambda writer: transactions.remove_superseded(writer, positions)
        )

    async def empty_wal(self) -> None:
        """Checkpoint, and truncate the WAL, which holds older images of pages.

        Raises:
            StorageUnavailable: another process reads the database; a later call may succeed.
        """
        ((busy, _, _),) = await self.write_connection.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise StorageUnavailable
        self._wal_pages = 0

    async def rotate_secret(self, secret: bytes, entry: Entry, expect: Expect) -> None:
        """Append the entry that names another secret, and store the check of that secret, in one transaction."""
        meta, window, request, check = self.meta, self._window, new_request([entry], expect), secret_check(secret)
        written = await self.write_connection.run(
            lambda writer: transactions.rotate_secret(writer, request, meta, window, check)
        )
        [outcome] = written.outcomes
        if isinstance(outcome, Exception):
            raise outcome
        self.meta = written.meta

    async def close(self) -> None:
        """Close the connection, which checkpoints."""
        with suppress(sqlite3.Error):  # a failed store stays as it is until it is opened again
            await self.write_connection.close()
