"""Taking entries away: trims by age, erasures by position.

A trim is announced as a mark and counts at once; the messages go some time later, when every replica has heard of the
mark or has stopped sending. So no replica takes the hole for all there was.
"""

import asyncio
from collections.abc import Sequence

import structlog

from hub.model import Entry, Kind
from hub.storage._group import digest
from hub.storage._jetstream_api import ApiError, Stream
from hub.storage._jetstream_entries import Subjects, is_forgotten
from hub.storage._jetstream_marks import Extent, Gone, Marks
from hub.storage._jetstream_reads import Reads
from hub.storage._jetstream_view import View, hash_of
from hub.storage._jetstream_wire import NoAnswer

REMOVE_AFTER = 10.0
"""Seconds from the announcement of a trim to the removal: more than a replica may go without hearing."""
ERASED_AT_ONCE = 50

log = structlog.get_logger(__name__)


class Removal:
    """Takes entries out of a log."""

    def __init__(self, stream: Stream, subjects: Subjects, view: View, marks: Marks, reads: Reads) -> None:
        self._stream = stream
        self._subjects = subjects
        self._view = view
        self._marks = marks
        self._reads = reads
        self._forgotten: set[int] = set()

    async def trim(self, before: int, limit: int) -> int:
        """See `Log.trim`."""
        extent = self._marks.extent
        before = min(before, self._view.last + 1)
        if before <= extent.first or limit <= 0:
            return extent.first
        doomed = await self._doomed(extent.first, before, limit)
        if doomed:
            await self._keep_ids(doomed)
            await self._marks.advance(self._without(doomed))
            self._view.forget(self._marks.extent.forgotten)
            self._forgotten.update(entry.position for entry in doomed if entry.kind is Kind.STATE)
        return self._marks.extent.first

    async def _doomed(self, first: int, before: int, limit: int) -> list[Entry]:
        """The oldest entries that a trim may remove."""
        doomed: list[Entry] = []
        at = first - 1
        while at < before - 1 and len(doomed) < limit:
            page = await self._reads.read(at, limit, None)
            old = (entry for entry in page.entries if entry.position < before)
            doomed += [entry for entry in old if entry.kind is not Kind.STATE or is_forgotten(entry)]
            at = page.through
        return doomed[:limit]

    async def _keep_ids(self, doomed: list[Entry]) -> None:
        """What is trimmed while its id still counts; seldom, as retention is longer than the dedupe window."""
        over = self._view.last_time - self._view.window
        if gone := [_gone(entry) for entry in doomed if entry.id and entry.time >= over]:
            await self._marks.keep_trimmed(gone)

    def _without(self, doomed: list[Entry]) -> Extent:
        """The extent once these entries are gone."""
        extent = self._marks.extent
        events = [entry for entry in doomed if entry.kind is not Kind.STATE]
        return Extent(
            first=events[-1].position + 1 if events else extent.first,
            forgotten=doomed[-1].position + 1,
            trimmed_time=events[-1].time if events else extent.trimmed_time,
            last_time=self._view.last_time,
        )

    async def run(self) -> None:
        """Remove what was announced, by whichever replica, once everybody must have heard of it."""
        self._marks.moved.set()
        while True:
            await self._marks.moved.wait()
            self._marks.moved.clear()
            extent = self._marks.extent
            await asyncio.sleep(REMOVE_AFTER)
            try:
                await self._remove(extent)
            except (NoAnswer, ApiError) as error:
                log.debug("removing is put off", error=str(error))
                self._marks.moved.set()

    async def _remove(self, extent: Extent) -> None:
        if extent.first > 1:
            await self._stream.purge(self._subjects.events, before=extent.first)
        for position in [position for position in self._forgotten if position < extent.forgotten]:
            await self._stream.overwrite(position)
            self._forgotten.discard(position)
        await self._marks.drop(self._view.last_time - self._view.window)

    async def erase(self, positions: Sequence[int]) -> None:
        """See `Log.erase`, of a few at once."""
        await asyncio.gather(*(self._erase(position) for position in positions))

    async def _erase(self, position: int) -> None:
        if not self._marks.extent.first <= position <= self._view.last:
            return
        stored = await self._stream.get(seq=position)
        if stored is None or not self._subjects.is_event(stored.subject):
            return
        await self._marks.keep_erased(_gone(self._subjects.entry(stored)))
        await self._stream.overwrite(position)


def _gone(entry: Entry) -> Gone:
    if not entry.id:
        return Gone(entry.position, entry.time)
    return Gone(entry.position, entry.time, hash_of(entry.id), digest(entry.body))
