"""Writes committed cursors: many commits of a subscription cost one append, and none goes backwards unless forced."""

import asyncio
from typing import NamedTuple

from hub.clock import Clock
from hub.control.registry import Registry
from hub.delivery.bounds import ClusterBounds
from hub.errors import Conflict, CursorExpired, StorageUnavailable
from hub.model import Cursor, CursorRecord
from hub.state import CURSOR
from hub.storage import Log


class Commit(NamedTuple):
    """A cursor to commit; `force`: even if the committed one is newer."""

    record: CursorRecord
    force: bool


class _PendingCommit:
    """The commits of one subscription.

    Attributes:
        next: the newest commit that waits for an earlier one to be written.
        written: done when `next` is written.
        writer: the task that writes.
    """

    def __init__(self) -> None:
        self.next: Commit | None = None
        self.written: asyncio.Future[None] | None = None
        self.writer: asyncio.Task[None] | None = None


class Commits:
    """Writes the committed cursors of all subscriptions."""

    def __init__(self, log: Log, registry: Registry, bounds: ClusterBounds, clock: Clock) -> None:
        self._log = log
        self._registry = registry
        self._bounds = bounds
        self._clock = clock
        self._pending: dict[str, _PendingCommit] = {}

    def pending_names(self, integration_id: str) -> set[str]:
        """The subscriptions of an integration for which a commit is being written."""
        return {key.partition("/")[2] for key in self._pending if key.startswith(f"{integration_id}/")}

    async def require_current(self, cursor: Cursor) -> None:
        """Check that a cursor belongs to this log.

        Raises:
            CursorExpired: it predates a restore of the log, or the log has lost its tail since.
            StorageUnavailable: the store does not answer.
        """
        if cursor.epoch != self._bounds.epoch or await self._bounds.is_beyond(cursor.position):
            raise CursorExpired(
                "this cursor predates a restore of the log: subscribe again, and commit a newer one",
                metadata={"cause": "RESTORE"},
            )

    async def write(self, name: str, cursor: Cursor, *, force: bool) -> None:
        """Commit a cursor, unless a newer one is committed; returns when it, or a newer one, is durable.

        Args:
            name: "<integration>/<subscription>".
            cursor: of this log.
            force: commit it in any case.

        Raises:
            StorageUnavailable: the commits of other replicas do not arrive here.
            What ``Log.append`` raises.
        """
        record = CursorRecord(*cursor, self._clock.now())
        if not force and not self._is_ahead(name, record):
            return
        pending = self._pending.setdefault(name, _PendingCommit())
        waiting = pending.next
        if waiting is None or force or record.position > waiting.record.position:
            # It takes the place of a forced one, after which it would be newer than the committed cursor.
            pending.next = Commit(record, force or (waiting is not None and waiting.force))
        if pending.written is None:
            pending.written = asyncio.get_running_loop().create_future()
        written = pending.written
        if pending.writer is None:
            pending.writer = asyncio.create_task(self._write_all(name, pending))
        await asyncio.shield(written)

    def _is_ahead(self, name: str, record: CursorRecord) -> bool:
        """Whether a cursor is newer than the committed one; a committed one of another epoch counts as older."""
        stored = self._registry.readers.cursors.get(name)
        return stored is None or stored.record.epoch != record.epoch or stored.record.position < record.position

    async def _write_all(self, name: str, pending: _PendingCommit) -> None:
        """Write the newest commit, and repeat until no other is waiting."""
        try:
            while pending.next is not None and pending.written is not None:
                commit, written = pending.next, pending.written
                pending.next = pending.written = None
                try:
                    await self._append(name, commit)
                except Exception as error:  # noqa: BLE001  the callers that wait for it get it
                    written.set_exception(error)
                    written.exception()  # these callers may all be gone
                else:
                    written.set_result(None)
        finally:
            pending.writer = None
            if pending.next is None:
                self._pending.pop(name, None)

    async def _append(self, name: str, commit: Commit) -> None:
        """Append a commit by optimistic concurrency: if another replica committed meanwhile, decide again.

        If no other replica committed, our expected position is stale (trimmed, or its tombstone is forgotten). Relax
        the condition at each such retry so that the loop ends.
        """
        expected, stale = self._registry.readers.cursor_position(name), 0
        while commit.force or self._is_ahead(name, commit.record):
            entry = CURSOR.entry(CURSOR.key(name), self._clock.now(), commit.record)
            try:
                [appended] = await self._log.append([entry], ({entry.key: expected}, {entry.key: 0}, None)[stale])
            except Conflict:
                if not await self._bounds.catch_up():
                    raise StorageUnavailable from None
                before, expected = expected, self._registry.readers.cursor_position(name)
                stale = stale + 1 if expected == before else 0
            else:
                await self._registry.wait_applied(appended.position)
                return
