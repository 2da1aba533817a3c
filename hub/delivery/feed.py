"""The feed: events into the log, and the log, live or from before, to whoever follows it.

Lives here: bounded admission, the one pump that applies the log's tail, the window of newest events in memory, and the
pages of older ones. Must not know gRPC, keys or any stream's limits.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.delivery.frames import Body, Excerpt, Item, Page, index_after
from hub.delivery.interest import Interest, InterestIndex
from hub.delivery.views import Lens
from hub.errors import EmitBacklogFull
from hub.model import Appended, Entry, Kind
from hub.storage import Log

PAGE = 2048
"""Positions in a page of older events. Pages are cut at multiples of it, so that different cursors meet in one page."""

_SHOWN_BYTES = 32
"""What a lens keeps for each event that it shows of a page, beside what is joined."""

EVENTS_ONLY = frozenset({Kind.EVENT})


class Batch(NamedTuple):
    """What follows a place: events as ready bytes (none: they are withheld), and the place after them.

    Attributes:
        time: when the last entry of it was accepted, in microseconds; 0 = not known.
        scopes: those that deliver something of it.
    """

    data: bytes
    events: int
    through: int
    time: int
    scopes: frozenset[int] = frozenset()


class Missing(NamedTuple):
    """What follows lies in this page of the log, which is not in memory: ``await feed.load(page)``, then take again."""

    page: int


class Feed:
    """Appends events and hands out what follows a position, through a lens.

    Attributes:
        through: the newest position that was published here.
        first: the oldest position whose event was not trimmed away; older ones are gone.
        first_time: events accepted from then on are all there (microseconds).
        epoch: which log this is.
        on_change: called with the ids of integrations whose record has just changed, before anything else goes on.
    """

    def __init__(self, log: Log, registry: Registry, settings: Settings, clock: Clock) -> None:
        self.through = registry.through
        self.first = 1
        self.first_time = 0
        self.epoch = 0
        self.on_change: Callable[[set[str]], None] = lambda _: None
        self._log = log
        self._registry = registry
        self._settings = settings
        self._clock = clock
        self._admitted = 0
        self._index = InterestIndex(registry.installations.in_guild)
        self._window: list[Item] = []
        self._window_after = registry.through
        self._window_size = 0
        self._pages: OrderedDict[int, Page] = OrderedDict()
        self._pages_size = 0
        self._loading: dict[int, asyncio.Task[None]] = {}

    async def append(self, entries: Sequence[Entry]) -> list[Appended]:
        """Store events; when it returns they are durable. All or none.

        Raises:
            EmitBacklogFull: more events wait to be stored than may.
            What ``Log.append`` raises.
        """
        if self._admitted + len(entries) > self._settings.max_emit_backlog:
            raise EmitBacklogFull(
                "more events wait to be stored than the hub takes: try again in a moment, with fewer in flight",
                metadata={"limit": str(self._settings.max_emit_backlog)},
                retry_after=0.5,
            )
        self._admitted += len(entries)
        try:
            return await self._log.append(entries)
        finally:
            self._admitted -= len(entries)

    async def open(self) -> None:
        """Learn the log's extent; call it before anything else."""
        self.epoch, first, _ = msgspec.structs.astuple(await self._log.bounds())
        await self._learn_first(first)

    async def _learn_first(self, first: int) -> None:
        page = await self._log.read(first - 1, 1)
        self.trimmed(first, page.entries[0].time if page.entries else self._clock.now())

    def trimmed(self, first: int, time: int) -> None:
        """Note that events before a position, accepted before a time, are gone."""
        self.first, self.first_time = max(self.first, first), max(self.first_time, time)

    async def pump(self) -> None:
        """Apply the log's tail for as long as the hub runs. Nothing else publishes."""
        async for entries in self._log.tail(self.through):
            self._take_in(entries)

    def _take_in(self, entries: Sequence[Entry]) -> None:
        """Let a batch of the log take effect, with no await in between: state, lenses, then events."""
        concerned = self._registry.apply(entries)
        if concerned:
            self.on_change(concerned)
        woken: set[Interest] = set()
        for entry in entries:
            if entry.kind is Kind.EVENT:
                item = Item(entry)
                self._window.append(item)
                self._window_size += item.size
                woken.update(self._index.publish(item))
        self.through = entries[-1].position
        self._shrink_window()
        self._registry.advance(self.through)
        for interest in woken:
            interest.wake()

    def _shrink_window(self) -> None:
        """Keep the window's size; entries go in bulk, so that the list is not shifted for each."""
        if self._window_size <= self._settings.window_bytes:
            return
        cut = 0
        while self._window_size > self._settings.window_bytes * 3 // 4:
            self._window_size -= self._window[cut].size
            cut += 1
        self._window_after = self._window[cut - 1].position
        del self._window[:cut]
        self._index.forget(self._window_after)  # a stream whose reader stands still does not do it itself

    def join(self, lens: Lens) -> Interest:
        """Follow a lens live; `leave` ends it."""
        return self._index.join(lens, self.through)

    def leave(self, interest: Interest) -> None:
        """End what `join` began."""
        self._index.leave(interest)

    def take(self, interest: Interest, lens: Lens, after: int, until: float, limit: int) -> Batch | Missing | None:
        """What follows a position, as one frame's worth; None at the end of the log. Does not wait.

        Args:
            interest: what the stream joined; serves the newest events.
            lens: by which to look; another than the interest's where older grants count.
            after: the position to go on from.
            until: the lens holds through this position, no batch goes beyond.
            limit: events at most.
        """
        if after >= self.through:
            return None
        interest.forget(self._window_after)
        if lens is interest.lens and after >= interest.since:
            return self._from_interest(interest, after, limit)
        if after >= self._window_after and (after // PAGE + 1) * PAGE > self.through:
            return self._from_window(lens, after, until, limit)
        is_shared = lens is not interest.lens or interest.followers > 1
        return self._from_page(lens, after, until, limit, is_shared=is_shared)

    def oldest(self, interest: Interest, lens: Lens, after: int) -> int | None:
        """When the oldest event after a position that a lens shows was accepted; None: there is none, 0: not known."""
        if after >= self.through:
            return None
        if lens is not interest.lens or after < interest.since:
            return 0
        start = interest.matches.index_after(after)
        return interest.matches.items[start].entry.time if start < len(interest.matches) else None

    def _from_interest(self, interest: Interest, after: int, limit: int) -> Batch:
        start = interest.matches.index_after(after)
        stop = min(start + limit, len(interest.matches))
        if start == stop:
            return Batch(b"", 0, self.through, 0)
        body = interest.body(start, stop, self._settings.max_frame_bytes)
        complete = start + body.events == len(interest.matches)
        return _batch(body, self.through if complete else body.last.position)

    def _from_window(self, lens: Lens, after: int, until: float, limit: int) -> Batch:
        """What follows in the page that is not full yet; nobody can share what is still growing."""
        end = int(min(until, self.through))
        items = self._window[index_after(self._window, after) : index_after(self._window, end)]
        return self._unshared(_shown(lens, items, limit), 0, end, limit)

    def _from_page(self, lens: Lens, after: int, until: float, limit: int, *, is_shared: bool) -> Batch | Missing:
        number = after // PAGE
        page = self._pages.get(number)
        if page is None or page.through <= after:
            page = self._page_of_window(number)
            if page is None:
                return Missing(number)
        self._pages.move_to_end(number)
        if until < page.through:  # a grant begins inside the page: seldom, so nothing of it is kept
            shown = page.show(lens)
            return self._unshared(shown, shown.index_after(after), int(until), limit)
        return self._chunk(lens, page, after, limit, is_shared=is_shared)

    def _page_of_window(self, number: int) -> Page | None:
        """A page that needs no reading; None where the window does not hold all of it."""
        start, end = number * PAGE, (number + 1) * PAGE
        if start < self._window_after:
            return None
        items = self._window[index_after(self._window, start) : index_after(self._window, end)]
        page = Page(items, end)
        self._keep(number, page)
        return page

    def _unshared(self, shown: Excerpt, start: int, end: int, limit: int) -> Batch:
        """A batch of nobody else's, none of it after `end`; the place after it is `end` if nothing was left out."""
        last = shown.index_after(end)
        stop = min(start + limit, last)
        if start == stop:
            return Batch(b"", 0, end, 0)
        body = shown.join(start, stop, self._settings.max_frame_bytes)
        complete = start + body.events == last and body.events < limit
        return _batch(body, end if complete else body.last.position)

    def _chunk(self, lens: Lens, page: Page, after: int, limit: int, *, is_shared: bool) -> Batch:
        """The rest of the chunk of a page that a position lies in: those who started apart go on together."""
        shown = page.excerpts.get(lens)
        if shown is None:
            shown = page.excerpts[lens] = page.show(lens)
            self._grow(page, len(shown) * _SHOWN_BYTES)
        start = shown.index_after(after)
        stop = min((start // limit + 1) * limit, len(shown))
        if start == stop:
            return Batch(b"", 0, page.through, page.items[-1].entry.time if page.items else 0)
        if is_shared:
            body = self._kept_body(page, shown, start, stop)
        else:  # kept for nobody, it would only push out the pages of others
            body = shown.join(start, stop, self._settings.max_frame_bytes)
        return _batch(body, page.through if start + body.events == len(shown) else body.last.position)

    def _kept_body(self, page: Page, shown: Excerpt, start: int, stop: int) -> Body:
        count = len(shown.bodies)
        body = shown.body(start, stop, self._settings.max_frame_bytes)
        if len(shown.bodies) > count:
            self._grow(page, len(body.data))
        return body

    async def load(self, number: int) -> None:
        """Bring a page of the log into memory; those who want the same one wait for one read.

        Raises:
            What ``Log.read`` raises.
        """
        task = self._loading.get(number)
        if task is None:
            task = self._loading[number] = asyncio.create_task(self._load(number))
            task.add_done_callback(lambda _: self._loading.pop(number, None))
        await asyncio.shield(task)

    async def _load(self, number: int) -> None:
        start, end = number * PAGE, (number + 1) * PAGE
        read = await self._log.read(start, PAGE, EVENTS_ONLY)
        await asyncio.sleep(0)  # what was read was just decoded, and more work follows: others go between
        items = [Item(entry) for entry in read.entries if entry.position <= end]
        first = (await self._log.bounds()).first
        if first > self.first:  # another replica removed what this page should hold
            await self._learn_first(first)
        self._keep(number, Page(items, min(read.through, end)))

    def _keep(self, number: int, page: Page) -> None:
        replaced = self._pages.pop(number, None)
        self._pages_size -= replaced.size if replaced else 0
        self._pages[number] = page
        self._pages_size += page.size
        self._shrink_pages()

    def _grow(self, page: Page, size: int) -> None:
        """Count what was made of a page: many lenses make much of it."""
        page.size += size
        self._pages_size += size
        self._shrink_pages()

    def _shrink_pages(self) -> None:
        """Keep the pages' size; of the one in use nothing but its events is kept where it alone is too large."""
        while self._pages_size > self._settings.page_cache_bytes and len(self._pages) > 1:
            self._pages_size -= self._pages.popitem(last=False)[1].size
        if self._pages_size > self._settings.page_cache_bytes:
            for page in self._pages.values():
                self._pages_size -= page.forget()


def _shown(lens: Lens, items: Sequence[Item], limit: int) -> Excerpt:
    """The first items that a lens shows; it looks no further than it must."""
    excerpt = Excerpt(lens)
    for item in items:
        shape = lens.shape(item.entry)
        if shape is not None:
            excerpt.add(item, shape)
            if len(excerpt) == limit:
                break
    return excerpt


def _batch(body: Body, through: int) -> Batch:
    return Batch(body.data, body.events, through, body.last.entry.time, body.scopes)
