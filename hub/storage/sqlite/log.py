"""The embedded log: one SQLite file in the data directory, with one connection that writes and one that reads.

Durability: WAL with ``synchronous=FULL``, both read back at start. One task runs every transaction from its first
statement to COMMIT and stores all waiting requests as one group: a cancelled caller leaves nothing half done, and many
callers share an fsync.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Self

from hub.config import Settings
from hub.model import Appended, Bounds, Entry, Expect, Kind, Page
from hub.slices import slices
from hub.storage.damage import DamageRecord
from hub.storage.followers import Followers
from hub.storage.group_commit import GroupCommitter
from hub.storage.sqlite.connection import Connection, configure_reader, configure_writer, connect
from hub.storage.sqlite.data_directory import DataDirectory
from hub.storage.sqlite.opening import prepare
from hub.storage.sqlite.queries import SqliteReads
from hub.storage.sqlite.schema import Meta
from hub.storage.sqlite.store import SqliteStore
from hub.subjects import Subject

ERASED_AT_ONCE = 500
"""Entries erased in one transaction, so that no append waits long."""


class SqliteLog:
    """The `Log` in a SQLite file."""

    def __init__(
        self,
        directory: DataDirectory,
        secret: bytes,
        meta: Meta,
        window: int,
        connections: tuple[Connection, Connection],
    ) -> None:
        """Use `open`. `window`: the dedupe window in microseconds; `connections`: one to write, one to read."""
        to_write, to_read = connections
        self._directory = directory
        self._secret = secret
        self._damage = DamageRecord()
        self._store = SqliteStore(to_write, directory.database, meta, window, self._damage, self._publish)
        self._reads = SqliteReads(to_read, lambda: self._store.meta, self._damage)
        self._followers = Followers(meta.last, self.read)
        self._committer = GroupCommitter(self._store)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Open the store in ``settings.data_dir``; an empty directory gets a new one.

        Raises:
            StartError: it cannot be opened, written, or trusted; or another hub holds it.
        """
        # The first steps block: a thread that outlives a cancellation could not be made to release the lock.
        directory = DataDirectory.open(settings.data_dir)
        opened: list[Connection] = []
        try:
            secret, meta = _prepare(directory, settings)
            for configure in (configure_writer, configure_reader):
                connection = await connect(directory.database)
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
        """See `Log.failed`."""
        return self._store.failed

    @property
    def damaged(self) -> int:
        """See `Log.damaged`."""
        return self._damage.count

    def silence(self) -> float:
        """See `Log.silence`. There is no other writer; damaged state may be a revocation."""
        return math.inf if self._damage.is_unsafe else 0.0

    # Writing: see `SqliteStore`.

    async def append(
        self, entries: Sequence[Entry], expect: Expect | None = None, *, independent: bool = False
    ) -> list[Appended]:
        """See `Log.append`."""
        if not entries and not expect:
            return []
        return await self._committer.append(entries, expect, independent=independent)

    async def trim(self, before: int, limit: int) -> int:
        """See `Log.trim`."""
        return await self._committer.run(partial(self._store.trim, before, limit))

    async def erase(self, positions: Sequence[int], *, flush: bool = True) -> None:
        """See `Log.erase`. A cancelled call may have erased some of them."""
        for some in slices(positions, ERASED_AT_ONCE):
            await self._committer.run(partial(self._store.erase, some))
        if flush:
            await self._committer.run(self._store.empty_wal)

    async def remove_superseded(self, positions: Sequence[int], *, flush: bool = True) -> None:
        """See `Log.remove_superseded`. A cancelled call may have removed some of them."""
        for some in slices(positions, ERASED_AT_ONCE):
            await self._committer.run(partial(self._store.remove_superseded, some))
        if flush:
            await self._committer.run(self._store.empty_wal)

    async def secrets(self) -> list[bytes]:
        """See `Log.secrets`. The database says which of several is in force."""
        return [self._secret]

    async def rotate_secret(self, secret: bytes, entry: Entry, expect: Expect, *, keep: bool) -> None:
        """See `Log.rotate_secret`. Blocks while it writes the secret file: no hub serves meanwhile."""
        if keep:
            self._directory.keep_secrets([self._secret, secret])
        await self._committer.run(partial(self._store.rotate_secret, secret, entry, expect))
        self._secret = secret
        if keep:
            self._directory.keep_secrets([secret])
        else:
            self._directory.forget_secret()

    async def refuse_older_hubs(self) -> None:
        """See `Log.refuse_older_hubs`. The start did: a store that this hub has opened is of its own format."""

    # Reading: see `SqliteReads`.

    async def snapshot(self) -> tuple[list[Entry], int]:
        """See `Log.snapshot`."""
        return await self._reads.snapshot()

    async def read(self, after: int, limit: int, kinds: frozenset[Kind] | None = None) -> Page:
        """See `Log.read`."""
        return await self._reads.read(after, limit, kinds)

    async def find(self, after: int, limit: int, subject: Subject) -> Page:
        """See `Log.find`."""
        return await self._reads.find(after, limit, subject)

    async def history(self, before: int, limit: int, key_prefix: str = "") -> Page:
        """See `Log.history`."""
        return await self._reads.history(before, limit, key_prefix)

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`."""
        return await self._reads.position_at(time)

    async def bounds(self) -> Bounds:
        """See `Log.bounds`. From memory."""
        meta = self._store.meta
        return Bounds(meta.epoch, meta.first, meta.last)

    async def newest(self) -> int:
        """See `Log.newest`. There is no other writer."""
        return self._store.meta.last

    def tail(self, after: int) -> AsyncIterator[Sequence[Entry]]:
        """See `Log.tail`."""
        return self._followers.follow(after)

    def _publish(self, entries: Sequence[Entry], last: int) -> None:
        self._followers.publish(entries, last)

    # The end.

    async def close(self) -> None:
        """See `Log.close`. A caller that is cancelled does not stop it."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="sqlite log close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self._committer.close()
        finally:
            self._followers.close()
            try:
                await self._reads.close()  # first: the last connection to close checkpoints
            finally:
                await self._store.close()
                self._directory.close()


def _prepare(directory: DataDirectory, settings: Settings) -> tuple[bytes, Meta]:
    """The secret and the content of `meta`; makes the database where there is none. Blocks."""
    text = settings.secret.get_secret_value() if settings.secret is not None else None
    secrets = directory.secrets(text, may_make=not directory.has_store())
    secret, meta = prepare(directory.database, secrets, carry_secret=text is None)
    if text is None and len(secrets) > 1:
        directory.keep_secrets([secret])  # a rotation was interrupted
    return secret, meta
