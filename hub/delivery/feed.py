"""The feed: appends events to the log, with bounded admission, and serves the log to streams.

One pump applies the log's tail. Streams are served from their fan-out group (live), from the window (newest events) or
from the page cache (older ones).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

from hub import metrics
from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.delivery.chunks import Batch, CachedEvent, Matches, first_matches
from hub.delivery.damaged_positions import DamagedPositions
from hub.delivery.fanout import FanoutGroup, FanoutIndex
from hub.delivery.linger import Pending
from hub.delivery.page_cache import CachedPage, PageCache, page_number, page_span
from hub.delivery.turns import Turn, Turns
from hub.delivery.view import Projection
from hub.delivery.window import Window
from hub.errors import EmitBacklogFull
from hub.model import Appended, Cursor, Entry, Expect, Kind
from hub.permissions import PAYLOADS
from hub.storage import Log

APPLIED_AT_ONCE = 250
"""Entries that are applied in one step of the event loop; a group that is committed may have thousands."""

OnChange = Callable[[set[str]], None]
"""A function that gets the ids of the integrations whose state has changed."""


def between_events(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    """Entries, about `size` at a time. The cuts follow events: the state of one append is applied in one step."""
    start, stop = 0, size
    while start < len(entries):
        while stop < len(entries) and entries[stop - 1].kind is Kind.STATE:
            stop += 1
        yield entries[start:stop]
        start, stop = stop, stop + size


class Missing(NamedTuple):
    """The events after a position are in a page that is not in memory: wait for ``feed.load(page)``, take again."""

    page: int


class Admission:
    """Appends events to the log; bounds how many may wait to be stored."""

    def __init__(self, log: Log, limit: int) -> None:
        self.waiting = 0
        self._log = log
        self._limit = limit

    async def append(
        self, entries: Sequence[Entry], expect: Expect | None = None, *, independent: bool = False
    ) -> list[Appended]:
        """See `Feed.append`."""
        if self.waiting and self.waiting + len(entries) > self._limit:  # a call that is alone may have any size
            raise EmitBacklogFull(
                "too many events wait to be stored: try again in a moment, with fewer in flight",
                metadata={"limit": str(self._limit)},
                retry_after=0.5,
            )
        self.waiting += len(entries)
        began = metrics.now()
        try:
            appended = await self._log.append(entries, expect, independent=independent)
        finally:
            self.waiting -= len(entries)
        metrics.APPENDS.add(metrics.now() - began)
        _count(entries, appended)
        return appended


def _count(entries: Sequence[Entry], appended: Sequence[Appended]) -> None:
    """Count duplicates, and the stored events of each type."""
    stored: dict[int, int] = {}
    duplicates = 0
    for entry, one in zip(entries, appended, strict=True):
        if one.duplicate:
            duplicates += 1
        elif entry.kind is Kind.EVENT and not one.conflict:
            stored[entry.event_type] = stored.get(entry.event_type, 0) + 1
    if duplicates:
        metrics.DUPLICATES.add(duplicates)
    for event_type, count in stored.items():
        metrics.ACCEPTED.add(count, PAYLOADS[event_type].name)


class Feed:
    """Appends events, and returns the events after a position through a projection.

    Attributes:
        through: the newest position that was published here.
        earliest: the cursor before the oldest event: later positions are kept, and every event accepted from its time
            on (microseconds); its epoch is the log's.
        damage: the positions at which the log is damaged.
        admission, window: its parts.
        turns: of the streams that catch up.
    """

    def __init__(self, log: Log, registry: Registry, settings: Settings, clock: Clock) -> None:
        self.through = registry.through
        self.earliest = Cursor(0, 0, 0)
        self.damage = DamagedPositions()
        self.admission = Admission(log, settings.max_emit_backlog)
        self.window = Window(registry.through, settings.window_bytes)
        self.turns = Turns()
        self._log = log
        self._registry = registry
        self._clock = clock
        self._max_bytes = settings.max_frame_bytes
        self._index = FanoutIndex(registry.installations.in_guild)
        self._pages = PageCache(
            log,
            settings.page_cache_bytes,
            settings.max_frame_bytes,
            registry.hidden.visible,
            lambda: self.through,
            self._note_read,
        )

    async def append(
        self, entries: Sequence[Entry], expect: Expect | None = None, *, independent: bool = False
    ) -> list[Appended]:
        """Store events; when it returns they are durable. All or none, unless `independent`: see `Log.append`.

        Raises:
            EmitBacklogFull: too many events wait to be stored.
            What ``Log.append`` raises.
        """
        return await self.admission.append(entries, expect, independent=independent)

    @property
    def memory(self) -> tuple[int, int]:
        """The estimated bytes of the window and the pages."""
        return self.window.size, self._pages.size

    async def open(self) -> None:
        """Read the log's bounds; call it before anything else."""
        bounds = await self._log.bounds()
        self.earliest = Cursor(bounds.epoch, 0, 0)
        await self._learn_first(bounds.first)

    async def _note_read(self, entries: Sequence[Entry], first: int) -> None:
        self.damage.note(entries, self._clock.now())
        if first - 1 > self.earliest.position:
            await self._learn_first(first)

    async def _learn_first(self, first: int) -> None:
        page = await self._log.read(first - 1, 1)
        self.trimmed(first, page.entries[0].time if page.entries else self._clock.now())

    def trimmed(self, first: int, time: int) -> None:
        """Note that the events before a position and a time are gone."""
        epoch, position, kept_from = self.earliest
        self.earliest = Cursor(epoch, max(position, first - 1), max(kept_from, time))

    async def pump(self, *listeners: OnChange) -> None:
        """Apply the log's tail for as long as the hub runs. Nothing else publishes.

        Args:
            listeners: called in this order for each batch that changed an integration, or withholds events that were
                there, before its events go out.
        """
        async for entries in self._log.tail(self.through):
            for some in between_events(entries, APPLIED_AT_ONCE):
                self._take_in(some, *listeners)
                await asyncio.sleep(0)

    def _take_in(self, entries: Sequence[Entry], *listeners: OnChange) -> None:
        """Apply a batch of the log with no await in between: state, projections, then events."""
        hidden = self._registry.hidden
        known = hidden.version
        changed = self._registry.apply(entries)
        is_less = hidden.version != known
        if is_less:
            self._forget_cached()
        if changed or is_less:
            for listener in listeners:
                listener(changed)
        events = [CachedEvent(entry) for entry in hidden.visible(entries)]
        metrics.APPLIED.add(len(events))
        self.window.extend(events)
        woken = self._index.publish(events)
        self.damage.note(entries, entries[-1].time)
        self.through = entries[-1].position
        if self.window.shrink():
            self._index.forget(self.window.after)  # a stream in the middle of a write does not do it itself
        self._registry.advance(self.through)
        for group in woken:
            group.wake()

    def _forget_cached(self) -> None:
        """Drop cached events, because some may be hidden from now on; those still needed are read again."""
        self.window.clear(self.through)
        self._index.forget(self.through)
        self._pages.clear()

    def join(self, projection: Projection) -> FanoutGroup:
        """Follow a projection live; `leave` ends it."""
        return self._index.join(projection, self.through)

    def leave(self, group: FanoutGroup) -> None:
        """Leave the group that `join` returned."""
        self._index.leave(group)

    def take(  # noqa: PLR0913  the position and view of a stream
        self, group: FanoutGroup, projection: Projection, after: int, until: float, limit: int, turn: Turn
    ) -> Batch | Missing | Turn | None:
        """The events after a position, at most one frame; None at the end of the log. Does not wait.

        Returns `turn` if the stream is behind and it is not its turn; it is woken when it is.

        Args:
            group: the fan-out group that the stream joined; it serves the newest events.
            projection: the one to apply; not the group's while older grants count.
            after: the position to go on from.
            until: the projection holds through this position, no batch goes beyond.
            limit: events at most.
            turn: of the stream, among those that catch up.
        """
        if after >= self.through:
            return None
        if projection is group.projection and after >= group.since and until >= self.through:
            return self._from_group(group, after, limit)
        if not turn.is_mine():
            return turn
        if after >= self.window.after and page_span(page_number(after))[1] > self.through:
            return self._from_window(projection, after, until, limit)
        is_shared = projection is not group.projection or group.streams > 1
        return self._from_page(projection, after, until, limit, is_shared=is_shared)

    def pending(
        self, group: FanoutGroup, projection: Projection, after: int, until: float, limit: int
    ) -> Pending | None:
        """The events that a lingering stream may let wait; None: there are none, they fill a frame, or it is behind.

        Args:
            group: as in `take`.
            projection: as in `take`.
            after: as in `take`.
            until: as in `take`.
            limit: events in a full frame.
        """
        if projection is not group.projection or after < group.since or until < self.through:
            return None
        return group.pending(after, limit, self._max_bytes)

    def oldest(self, group: FanoutGroup, projection: Projection, after: int) -> int | None:
        """Accept time of the oldest visible event after `after`; None if there is none, 0 if unknown."""
        if after >= self.through:
            return None
        if projection is not group.projection or after < group.since:
            return 0
        start = group.buffer.index_after(after)
        return group.buffer.events[start].entry.time if start < len(group.buffer) else None

    def load(self, number: int) -> Awaitable[None]:
        """Bring a page of the log into memory; see `PageCache.load`."""
        return self._pages.load(number)

    def _from_group(self, group: FanoutGroup, after: int, limit: int) -> Batch:
        """A batch of the newest events; the streams at one position share it."""
        key = (after, limit, self.through)
        batch = group.batches.get(key)
        if batch is None:
            batch = self._newest(group.buffer, after, limit)
            group.keep(key, batch)
        return batch

    def _newest(self, buffer: Matches, after: int, limit: int) -> Batch:
        start = buffer.index_after(after)
        stop = min(start + limit, len(buffer))
        if start == stop:
            return Batch(b"", 0, self.through, 0)
        chunk = buffer.join(start, stop, self._max_bytes)
        complete = start + chunk.events == len(buffer)
        return chunk.batch(self.through if complete else chunk.last.position)

    def _from_window(self, projection: Projection, after: int, until: float, limit: int) -> Batch:
        """A batch from the page that is not full yet. It still grows, so its chunks cannot be shared."""
        end = int(min(until, self.through))
        return self._unshared(first_matches(projection, self.window.between(after, end), limit), 0, end, limit)

    def _from_page(
        self, projection: Projection, after: int, until: float, limit: int, *, is_shared: bool
    ) -> Batch | Missing:
        number = page_number(after)
        page = self._pages.get(number, after) or self._page_of_window(number)
        if page is None:
            return Missing(number)
        if until < page.through:  # a projection ends inside the page: rare, so the result is not cached
            matches = page.project(projection)
            return self._unshared(matches, matches.index_after(after), int(until), limit)
        return self._chunk(projection, page, after, limit, is_shared=is_shared)

    def _page_of_window(self, number: int) -> CachedPage | None:
        """A page built from the window, without a read; None if the window does not hold all of it."""
        start, end = page_span(number)
        if start < self.window.after:
            return None
        return self._pages.put(number, CachedPage(self.window.between(start, end), end))

    def _unshared(self, matches: Matches, start: int, end: int, limit: int) -> Batch:
        """A batch for one stream, none of it after `end`; the position after it is `end` if it holds everything."""
        last = matches.index_after(end)
        stop = min(start + limit, last)
        if start == stop:
            return Batch(b"", 0, end, 0)
        chunk = matches.join(start, stop, self._max_bytes)
        complete = start + chunk.events == last and chunk.events < limit
        return chunk.batch(end if complete else chunk.last.position)

    def _chunk(self, projection: Projection, page: CachedPage, after: int, limit: int, *, is_shared: bool) -> Batch:
        """A batch from a full page, up to the next multiple of `limit` matches, so that streams share chunks."""
        matches = self._pages.matches(page, projection)
        start = matches.index_after(after)
        stop = min((start // limit + 1) * limit, len(matches))
        if start == stop:
            return Batch(b"", 0, page.through, page.events[-1].entry.time if page.events else 0)
        if is_shared:
            chunk = self._pages.chunk(page, matches, start, stop)
        else:  # no other stream uses it; caching it would only evict other pages
            chunk = matches.join(start, stop, self._max_bytes)
        return chunk.batch(page.through if start + chunk.events == len(matches) else chunk.last.position)
