"""The log as a stream of NATS JetStream, for any number of replicas of the hub."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from typing import Any, Self, cast

from hub.config import Settings
from hub.errors import StartError, StorageUnavailable
from hub.model import Appended, Bounds, Entry, Expect, Kind, Page
from hub.slices import slices
from hub.storage.followers import Followers
from hub.storage.group_commit import GroupCommitter
from hub.storage.jetstream.background import BackgroundTasks
from hub.storage.jetstream.connection import NatsConnection, NoReply, cluster_name
from hub.storage.jetstream.replica import Replica
from hub.storage.jetstream.setup import prepare
from hub.storage.jetstream.store import JetStreamStore
from hub.storage.jetstream.stream import MAX_BATCH, ApiError, NatsStream
from hub.storage.jetstream.trim import ERASED_AT_ONCE, Removal
from hub.subjects import Subject

_READ_AGAIN = 0.2


class JetStreamLog:
    """The `Log` in a stream."""

    def __init__(self, streams: tuple[NatsStream, NatsStream], epoch: int, settings: Settings) -> None:
        """Use `open`."""
        self._epoch = epoch
        self._secret = settings.secret
        self._tasks = BackgroundTasks()
        self._replica = Replica(streams, round(settings.dedupe_window * 1e6), self._publish)
        self._removal = Removal(self._replica)
        self._followers = Followers(0, self._read_for_tails)
        self._committer = GroupCommitter(JetStreamStore(self._replica, self._tasks), MAX_BATCH)
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Open the log in the cluster that the settings name; makes an empty one where there is none.

        Raises:
            StartError: it cannot be reached, has other settings than the hub needs, or does not answer in time.
        """
        connection = await NatsConnection.connect(settings)
        try:
            stream, metadata, epoch = await prepare(connection, settings)
        except BaseException:
            await connection.close()
            raise
        opened = cls((stream, metadata), epoch, settings)
        try:
            async with asyncio.timeout(None) as limit:
                await opened._start(limit)
        except (TimeoutError, NoReply, ApiError, StorageUnavailable) as error:
            await opened.close()
            raise StartError(f"NATS at {cluster_name(settings)} does not answer: {error}") from None
        except BaseException:
            await opened.close()
            raise
        return opened

    async def _start(self, limit: asyncio.Timeout) -> None:
        await self._replica.start(self._tasks, limit)
        self._followers.publish((), self._replica.state.last)
        self._tasks.start(self._removal.run())

    def _publish(self, entries: Sequence[Entry], last: int) -> None:
        self._followers.publish(entries, last)

    def silence(self) -> float:
        """See `Log.silence`."""
        return self._replica.silence()

    @property
    def failed(self) -> bool:
        """See `Log.failed`."""
        return self._replica.failed

    @property
    def damaged(self) -> int:
        """See `Log.damaged`."""
        return self._replica.damage.count

    # Writing: see `JetStreamStore`.

    async def append(
        self, entries: Sequence[Entry], expect: Expect | None = None, *, independent: bool = False
    ) -> list[Appended]:
        """See `Log.append`."""
        if not entries and not expect:
            return []
        return await self._committer.append(entries, expect, independent=independent)

    async def trim(self, before: int, limit: int) -> int:
        """See `Log.trim`."""
        return await self._committer.run(partial(self._removal.trim, before, limit))

    async def erase(self, positions: Sequence[int], *, flush: bool = True) -> None:  # noqa: ARG002  each is overwritten
        """See `Log.erase`. A cancelled call may have erased some of them."""
        for some in slices(positions, ERASED_AT_ONCE):
            await self._committer.run(partial(self._removal.erase, some))

    async def remove_superseded(self, positions: Sequence[int], *, flush: bool = True) -> None:  # noqa: ARG002  the same
        """See `Log.remove_superseded`. A cancelled call may have removed some of them."""
        for some in slices(positions, ERASED_AT_ONCE):
            await self._committer.run(partial(self._removal.remove_superseded, some))

    # Reading: see `StreamReads`.

    async def read(self, after: int, limit: int, kinds: frozenset[Kind] | None = None) -> Page:
        """See `Log.read`."""
        with self._answers():
            return await self._replica.reads.read(after, limit, kinds)

    async def find(self, after: int, limit: int, subject: Subject) -> Page:
        """See `Log.find`."""
        with self._answers():
            return await self._replica.reads.find(after, limit, subject)

    async def history(self, before: int, limit: int, key_prefix: str = "") -> Page:
        """See `Log.history`."""
        with self._answers():
            return await self._replica.reads.history(before, limit, key_prefix)

    async def position_at(self, time: int) -> int:
        """See `Log.position_at`."""
        with self._answers():
            return await self._replica.reads.position_at(time)

    async def snapshot(self) -> tuple[list[Entry], int]:
        """See `Log.snapshot`. From memory."""
        with self._answers():
            await asyncio.sleep(0)  # a caller that repeats this lets other tasks run
            entries = sorted(self._replica.state.heads.values(), key=lambda entry: entry.position)
            return entries, self._replica.state.last

    async def bounds(self) -> Bounds:
        """See `Log.bounds`. As this replica knows it: entries that others have just appended may lie beyond `last`."""
        return Bounds(self._epoch, self._replica.metadata.extent.first, self._replica.state.last)

    async def newest(self) -> int:
        """See `Log.newest`. As the leader has it."""
        with self._answers():
            return await self._replica.stream.last()

    async def tail(self, after: int) -> AsyncIterator[Sequence[Entry]]:
        """See `Log.tail`."""
        async with aclosing(cast("Any", self._followers.follow(after))) as batches:
            async for batch in batches:
                yield batch

    async def _read_for_tails(self, after: int, limit: int) -> Page:
        """A page; waits for as long as the cluster does not answer."""
        while True:
            try:
                return await self.read(after, limit)
            except StorageUnavailable:
                if self._closed:
                    raise
                await asyncio.sleep(_READ_AGAIN)

    @contextmanager
    def _answers(self) -> Iterator[None]:
        if self._closed or self._replica.damage.is_unsafe:
            raise StorageUnavailable
        try:
            yield
        except (NoReply, ApiError) as error:
            raise StorageUnavailable from error

    async def secrets(self) -> list[bytes]:
        """See `Log.secrets`. Kept in the cluster, so that every replica has the same."""
        with self._answers():
            return await self._replica.metadata.secrets(self._secret)

    async def rotate_secret(self, secret: bytes, entry: Entry, expect: Expect, *, keep: bool) -> None:
        """See `Log.rotate_secret`."""
        with self._answers():
            await self._replica.metadata.rotate_secret(secret, partial(self.append, [entry], expect), keep=keep)

    async def refuse_older_hubs(self) -> None:
        """See `Log.refuse_older_hubs`."""
        with self._answers():
            await self._replica.refuse_older_hubs()

    # The end.

    async def close(self) -> None:
        """See `Log.close`. A caller that is cancelled does not stop it."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="jetstream log close")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self._committer.close()
        finally:
            self._closed = True
            self._followers.close()
            await self._tasks.cancel()
            await self._replica.stream.connection.close()
