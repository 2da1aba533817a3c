"""Removal of entries: trims by age, erasures by position.

A trim is announced in the metadata and holds at once. The messages are removed later, when every replica has applied
the announcement or has stopped delivering, so that no replica mistakes the hole for the end of history.
"""

import asyncio
from collections.abc import Sequence

import structlog

from hub.model import Entry, Kind
from hub.storage.group import digest
from hub.storage.jetstream.codec import is_tombstone
from hub.storage.jetstream.connection import NoReply
from hub.storage.jetstream.metadata import Extent, RemovedEvent
from hub.storage.jetstream.replica import Replica
from hub.storage.jetstream.state import hash_of
from hub.storage.jetstream.stream import ApiError

REMOVE_AFTER = 10.0
"""Seconds from the announcement of a trim to the removal: a stale replica stops delivering before that."""
ERASED_AT_ONCE = 50

log = structlog.get_logger(__name__)


class Removal:
    """Removes entries of a log."""

    def __init__(self, replica: Replica) -> None:
        """Remove entries that `replica` knows."""
        self._stream = replica.stream
        self._subjects = replica.subjects
        self._state = replica.state
        self._metadata = replica.metadata
        self._reads = replica.reads
        self._forgotten: set[int] = set()

    async def trim(self, before: int, limit: int) -> int:
        """See `Log.trim`."""
        extent = self._metadata.extent
        before = min(before, self._state.last + 1)
        if before <= extent.first or limit <= 0:
            return extent.first
        removable = await self._removable(extent.first, before, limit)
        if removable:
            await self._keep_ids(removable)
            await self._metadata.advance(self._without(removable))
            self._state.forget(self._metadata.extent.forgotten)
            self._forgotten.update(entry.position for entry in removable if entry.kind is Kind.STATE)
        return self._metadata.extent.first

    async def _removable(self, first: int, before: int, limit: int) -> list[Entry]:
        """The oldest entries that a trim may remove."""
        removable: list[Entry] = []
        at = first - 1
        while at < before - 1 and len(removable) < limit:
            page = await self._reads.read(at, limit, None)
            old = (entry for entry in page.entries if entry.position < before)
            removable += [entry for entry in old if entry.kind is not Kind.STATE or is_tombstone(entry)]
            at = page.through
        return removable[:limit]

    async def _keep_ids(self, removable: list[Entry]) -> None:
        """Store the ids that are still known; rare, as retention is longer than the dedupe window."""
        over = self._state.last_time - self._state.window
        if gone := [_removed(entry) for entry in removable if entry.id and entry.time >= over]:
            await self._metadata.keep_trimmed(gone)

    def _without(self, removable: list[Entry]) -> Extent:
        """The extent once these entries are gone."""
        extent = self._metadata.extent
        events = [entry for entry in removable if entry.kind is not Kind.STATE]
        return Extent(
            first=events[-1].position + 1 if events else extent.first,
            forgotten=removable[-1].position + 1,
            trimmed_time=events[-1].time if events else extent.trimmed_time,
            last_time=self._state.last_time,
        )

    async def run(self) -> None:
        """Remove the messages of announced trims after `REMOVE_AFTER`. Runs until it is cancelled."""
        self._metadata.moved.set()
        while True:
            await self._metadata.moved.wait()
            self._metadata.moved.clear()
            extent = self._metadata.extent
            await asyncio.sleep(REMOVE_AFTER)
            try:
                await self._remove(extent)
            except (NoReply, ApiError) as error:
                log.debug("removing entries is postponed", error=str(error))
                self._metadata.moved.set()

    async def _remove(self, extent: Extent) -> None:
        if extent.first > 1:
            await self._stream.purge(self._subjects.events, before=extent.first)
        for position in [position for position in self._forgotten if position < extent.forgotten]:
            await self._stream.overwrite(position)
            self._forgotten.discard(position)
        await self._metadata.drop(self._state.last_time - self._state.window)

    async def erase(self, positions: Sequence[int]) -> None:
        """See `Log.erase`, of a few at once."""
        await asyncio.gather(*(self._erase(position) for position in positions))

    async def _erase(self, position: int) -> None:
        if not self._metadata.extent.first <= position <= self._state.last:
            return
        stored = await self._stream.get(seq=position)
        if stored is None or not self._subjects.is_event(stored.subject):
            return
        await self._metadata.keep_erased(_removed(self._subjects.entry(stored)))
        await self._stream.overwrite(position)

    async def remove_superseded(self, positions: Sequence[int]) -> None:
        """See `Log.remove_superseded`, of a few at once."""
        await asyncio.gather(*(self._remove_superseded(position) for position in positions))
        self._reads.forget_history()

    async def _remove_superseded(self, position: int) -> None:
        stored = await self._stream.get(seq=position)
        if stored is not None and self._state.head(self._subjects.key(stored.subject)) > position:
            await self._stream.overwrite(position)


def _removed(entry: Entry) -> RemovedEvent:
    if not entry.id:
        return RemovedEvent(entry.position, entry.time)
    return RemovedEvent(entry.position, entry.time, hash_of(entry.id), digest(entry.body))
