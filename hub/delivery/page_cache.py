"""Pages of older events in memory: loaded once, shared by the streams that catch up, evicted by size.

Pages are cut at fixed multiples of positions, so that streams from different cursors meet in the same page.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import compress

from hub.delivery.chunks import CachedEvent, Chunk, Matches
from hub.delivery.view import FieldMask, Projection
from hub.model import Entry, Kind
from hub.storage import Log

PAGE = 500
"""Positions in a page: enough for full frames, and short work for the event loop."""


def page_number(position: int) -> int:
    """The page that holds the events right after a position."""
    return position // PAGE


def page_span(number: int) -> tuple[int, int]:
    """The positions of a page: after the first, up to the second."""
    return number * PAGE, (number + 1) * PAGE


EVENTS_ONLY = frozenset({Kind.EVENT})

_MATCH_BYTES = 32
"""Estimate of what `Matches` keeps for each event of a page, beside chunks."""


class CachedPage:
    """The events of a page, what each projection lets through, and the encodings made so far.

    Attributes:
        through: the page holds every event up to this position.
        size: estimate of the bytes in memory.
        matches: by projection; filled by `PageCache`.
    """

    __slots__ = ("_encodings", "_examples", "_kinds", "events", "matches", "size", "through")

    def __init__(self, events: list[CachedEvent], through: int) -> None:
        self.events = events
        self.through = through
        self.size = sum(event.size for event in events)
        self.matches: dict[Projection, Matches] = {}
        self._encodings: dict[FieldMask, list[bytes | None]] = {}
        numbers: dict[tuple[int, int], int] = {}
        self._kinds: list[int] = []
        self._examples: list[Entry] = []
        for event in events:
            entry = event.entry
            number = numbers.setdefault((entry.event_type, entry.guild_id), len(numbers))
            self._kinds.append(number)
            if number == len(self._examples):
                self._examples.append(entry)

    def project(self, projection: Projection) -> Matches:
        """The events that a projection lets through; the result is not kept."""
        masks = self._masks(projection)
        columns = {mask: self._encodings.setdefault(mask, [None] * len(self.events)) for mask in set(masks) if mask}
        encoded = [
            columns[mask][index] or self._encode(columns[mask], index, mask)
            for index, mask in enumerate(masks)
            if mask is not None
        ]
        return Matches(projection, compress(self.events, masks), filter(None, masks), encoded)

    def _masks(self, projection: Projection) -> list[FieldMask | None]:
        """The mask of each event; without consent to look up, it is the same for all events of a type and guild."""
        if projection.depends_on_position:
            return [projection.mask(event.entry) for event in self.events]
        masks = [projection.mask(entry) for entry in self._examples]
        return [masks[kind] for kind in self._kinds]

    def _encode(self, column: list[bytes | None], index: int, mask: FieldMask) -> bytes:
        """The encodings of one mask are in a list: a look-up in each event costs more."""
        encoded = column[index] = self.events[index].encoded_for_page(mask)
        return encoded

    def forget(self) -> int:
        """Drop matches and encodings; returns the bytes that this frees."""
        before, self.size = self.size, sum(event.size for event in self.events)
        self.matches.clear()
        self._encodings.clear()
        return before - self.size


class PageCache:
    """The pages in memory, up to `max_bytes`; the one in use is never evicted.

    Args:
        max_chunk_bytes: the most that a chunk made of a page may have.
        visible: the events among some entries that are not hidden from everybody.
        through: the position up to which state is applied; no page goes beyond.
        on_read: awaited after each read with its entries, of which some may be DAMAGED, and with the log's first
            position: another replica may have trimmed meanwhile.
    """

    def __init__(  # noqa: PLR0913  the parts that it reads
        self,
        log: Log,
        max_bytes: int,
        max_chunk_bytes: int,
        visible: Callable[[Sequence[Entry]], list[Entry]],
        through: Callable[[], int],
        on_read: Callable[[Sequence[Entry], int], Awaitable[None]],
    ) -> None:
        self._log = log
        self._max_bytes = max_bytes
        self._max_chunk_bytes = max_chunk_bytes
        self._visible = visible
        self._through = through
        self._on_read = on_read
        self._pages: OrderedDict[int, CachedPage] = OrderedDict()
        self._size = 0
        self._loading: dict[int, asyncio.Task[None]] = {}
        self._one_read = asyncio.Lock()

    @property
    def size(self) -> int:
        """Bytes in memory, by estimate."""
        return self._size

    def get(self, number: int, after: int) -> CachedPage | None:
        """The page with a number, if it is in memory and reaches beyond a position."""
        page = self._pages.get(number)
        if page is None or page.through <= after:
            return None
        self._pages.move_to_end(number)
        return page

    def put(self, number: int, page: CachedPage) -> CachedPage:
        """Store a page, replacing an older one with its number; returns it."""
        replaced = self._pages.pop(number, None)
        self._size -= replaced.size if replaced else 0
        self._pages[number] = page
        self._size += page.size
        self._evict()
        return page

    def clear(self) -> None:
        """Drop all pages. One that is being read is checked when it is stored."""
        self._pages.clear()
        self._size = 0

    def matches(self, page: CachedPage, projection: Projection) -> Matches:
        """The events of a page that a projection lets through; kept with the page."""
        matches = page.matches.get(projection)
        if matches is None:
            matches = page.matches[projection] = page.project(projection)
            self._grow(page, len(matches) * _MATCH_BYTES)
        return matches

    def chunk(self, page: CachedPage, matches: Matches, start: int, stop: int) -> Chunk:
        """The matches of a slice, joined; kept with the page for other streams."""
        count = len(matches.chunks)
        chunk = matches.chunk(start, stop, self._max_chunk_bytes)
        if len(matches.chunks) > count:
            self._grow(page, len(chunk.data))
        return chunk

    def load(self, number: int) -> asyncio.Future[None]:
        """Read a page from the log. Callers that want the same page get the same future, and must not cancel it.

        The future raises what ``Log.read`` raises.
        """
        task = self._loading.get(number)
        if task is None:
            task = self._loading[number] = asyncio.create_task(self._load(number))
            task.add_done_callback(lambda _: self._loading.pop(number, None))
        return task

    async def _load(self, number: int) -> None:
        """Read and decode one page at a time, however many streams want one."""
        start, end = page_span(number)
        async with self._one_read:
            read = await self._log.read(start, PAGE, EVENTS_ONLY)
            await asyncio.sleep(0)  # decoding took a while and more work follows: other tasks run in between
        await self._on_read(read.entries, (await self._log.bounds()).first)
        # No await until the page is stored: what is hidden meanwhile must not enter the cache. The log may be ahead of
        # the pump: state that is not applied yet decides who gets what follows it.
        through = min(read.through, end, self._through())
        applied = [entry for entry in read.entries if entry.position <= through]
        events = [CachedEvent(entry) for entry in self._visible(applied)]
        self.put(number, CachedPage(events, through))

    def _grow(self, page: CachedPage, size: int) -> None:
        page.size += size
        self._size += size
        self._evict()

    def _evict(self) -> None:
        """Keep within `max_bytes`; of a page that alone is larger, keep only the events."""
        while self._size > self._max_bytes and len(self._pages) > 1:
            self._size -= self._pages.popitem(last=False)[1].size
        if self._size > self._max_bytes:
            for page in self._pages.values():
                self._size -= page.forget()
