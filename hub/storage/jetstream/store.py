"""The writing part of the log on JetStream: groups as atomic batches, trims and erasures.

Each batch expects the stream to end exactly where this replica's state ends. So what the state decided (times, ids,
expectations, positions) still holds when the batch is stored. If another replica was faster, nothing is stored: this
replica catches up and decides again.
"""

import asyncio

from hub.errors import StorageFull, StorageUnavailable
from hub.storage.group import lookups
from hub.storage.group_commit import Outcome, Request
from hub.storage.jetstream.background import BackgroundTasks
from hub.storage.jetstream.commit import BatchPublisher
from hub.storage.jetstream.connection import NoReply
from hub.storage.jetstream.replica import Replica
from hub.storage.jetstream.stream import ApiError

APPEND_TIME = 9.0
"""Seconds that a group may take to be acknowledged, with all retries: as long as an election takes."""
FEW = 8
"""Up to this many appends of one entry are published one by one, not as a batch."""


class JetStreamStore:
    """The `Store` in a stream."""

    def __init__(self, replica: Replica, tasks: BackgroundTasks) -> None:
        """Write where `replica` ends; `tasks` run what no caller waits for."""
        self._replica = replica
        self._publisher = BatchPublisher(replica.stream, replica.subjects, replica.catch_up)
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()

    @property
    def failed(self) -> bool:
        """See `Store.failed`."""
        return self._replica.failed

    async def commit(self, requests: list[Request]) -> list[Outcome]:
        """See `Store.commit`.

        The server stages a batch in files, which takes longer than to store a few events one by one.
        """
        if len(requests) <= FEW and all(len(request.entries) == 1 for request in requests):
            return await self._one_by_one(requests)
        return await self._commit(requests)

    async def _one_by_one(self, requests: list[Request]) -> list[Outcome]:
        """Store requests until one fails: those before it are stored, and their callers learn that."""
        outcomes: list[Outcome] = []
        for request in requests:
            try:
                outcomes += await self._commit([request])
            except Exception as error:
                failure = await self.as_hub_error(error)
                if not outcomes or not isinstance(failure, StorageUnavailable | StorageFull):
                    raise
                return outcomes + [type(failure)() for _ in requests[len(outcomes) :]]
        return outcomes

    async def _commit(self, requests: list[Request]) -> list[Outcome]:
        """Store requests where the state ends. The server checks that condition, so a replica that is behind fails."""
        deadline = self._loop.time() + APPEND_TIME
        while self._replica.silence() < APPEND_TIME and not self._replica.quorum.is_behind:
            group = self._replica.state.group(*lookups(requests))
            outcomes = group.add_each(requests)
            if not group.entries or await self._publisher.store(group, deadline):
                self._replica.publish(group.entries)
                if group.superseded():
                    self._tasks.start(self._publisher.tidy(group))
                return outcomes
        raise StorageUnavailable

    async def rollback(self) -> None:
        """See `Store.rollback`. Nothing is half done: a batch is stored whole or not at all."""

    async def as_hub_error(self, error: Exception) -> Exception:
        """See `Store.as_hub_error`."""
        if isinstance(error, NoReply | ApiError | TimeoutError):
            return StorageFull() if isinstance(error, ApiError) and error.is_full else StorageUnavailable()
        return type(error)() if isinstance(error, StorageUnavailable | StorageFull) else error

    async def after_commit(self) -> None:
        """See `Store.after_commit`. There is nothing to do: the servers sync each message."""
