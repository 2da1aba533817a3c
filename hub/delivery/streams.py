"""All live streams of this replica: opening within the limits, the claim on a subscription, changes, and the drain.

Must not know gRPC, nor what a stream does between two frames (``stream.py``).
"""

import asyncio
import random
import secrets
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import msgspec

from hub import scopes as table
from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.delivery.asked import LOST, Place, Start, Subscription
from hub.delivery.cursor import CursorSeal
from hub.delivery.ends import Ends, expired
from hub.delivery.feed import Feed
from hub.delivery.stream import Notices, Stream, Surroundings
from hub.delivery.subscriptions import require_room
from hub.errors import Draining, ScopeNotGranted, SlowConsumer, StorageUnavailable, SubscriptionNotFound, TooManyStreams
from hub.model import Caller, ClaimRecord, Entry, Kind
from hub.storage import Log

ENDING_PATIENCE = 1.0
"""Seconds that a stream which has ended may stand in a write: its reader takes nothing, and its place is needed."""


class Streams:
    """All open streams of this replica."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        log: Log,
        registry: Registry,
        feed: Feed,
        seal: CursorSeal,
        notices: Notices,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self.around = Surroundings(registry, feed, seal, notices, clock, log.is_current)
        self._log = log
        self._ends = Ends(log, registry, feed)
        self._settings = settings
        self._slots: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._open: defaultdict[str, set[Stream]] = defaultdict(set)
        self._dropping: Counter[str] = Counter()
        self._count = 0
        self._draining = False
        self._all_closed = asyncio.Event()
        feed.on_change = self.refresh

    @asynccontextmanager
    async def open(self, caller: Caller, asked: Subscription) -> AsyncIterator[Stream]:
        """Open a stream; leaving the context closes it.

        Raises:
            Draining, TooManyStreams, TooManySubscriptions, ScopeNotGranted, SubscriptionNotFound, CursorInvalid,
                CursorExpired: it cannot be opened.
            IntegrationPending, IntegrationSuspended, IntegrationRejected, IntegrationDeleted: nor for this holder.
        """
        self._require_permission(caller, asked)
        self._require_room(caller.integration_id, asked.subscription_id)
        with self._slot(caller.integration_id, asked.subscription_id):
            name = f"{caller.integration_id}/{asked.subscription_id}"
            stream_id = secrets.token_hex(8)
            place = await self._claimed_place(asked, name, stream_id)
            stream = Stream(self.around, caller, asked, stream_id, place)
            self._open[caller.integration_id].add(stream)
            try:
                self._require_service()
                stream.require()
                stream.begin()
                yield stream
            finally:
                self.around.registry.usage.note_stream(caller.integration_id, stream.take_used())
                stream.close()
                self._open[caller.integration_id].discard(stream)

    def live(self, integration_id: str, subscription_id: str) -> Stream | None:
        """The open stream of a subscription on this replica."""
        streams = self._open.get(integration_id, ())
        return next((stream for stream in streams if stream.asked.subscription_id == subscription_id), None)

    def refresh(self, integration_ids: Iterable[str]) -> None:
        """Let every stream of these integrations take in what has changed."""
        for integration_id in integration_ids:
            for stream in list(self._open.get(integration_id, ())):
                stream.refresh()

    def send_test(self, integration_id: str, entry: Entry) -> int:
        """Show a sample on the open streams of an integration that may see it; returns how many show it."""
        return sum(stream.send_test(entry) for stream in list(self._open.get(integration_id, ())))

    def note_usage(self) -> None:
        """Note which integrations have a stream, and by which scopes something was delivered to it."""
        for integration_id, streams in self._open.items():
            if streams:
                used = frozenset[int]().union(*(stream.take_used() for stream in streams))
                self.around.registry.usage.note_stream(integration_id, used)

    async def watch(self) -> None:
        """Drop streams whose reader takes nothing, and all where the store is silent, for as long as the hub runs."""
        while True:
            await asyncio.sleep(min(1.0, self._settings.write_deadline / 4))
            if not self._log.is_current():
                for stream in [stream for streams in self._open.values() for stream in streams]:
                    stream.end(StorageUnavailable())
            now = self.around.clock.monotonic()
            for stream in [s for streams in self._open.values() for s in streams if s.write_began]:
                patience = self._settings.write_deadline if stream.ending is None else ENDING_PATIENCE
                if stream.write_began < now - patience:
                    self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        """Drop a stream whose reader takes nothing; what is left of it counts until it is gone."""
        dropping = stream.on_stall(stream.ending or SlowConsumer())
        if dropping is not None:
            self._dropping[stream.caller.integration_id] += 1
            dropping.add_done_callback(lambda _: self._dropped(stream.caller.integration_id))

    def _dropped(self, integration_id: str) -> None:
        self._dropping[integration_id] -= 1
        if not self._dropping[integration_id]:
            del self._dropping[integration_id]

    async def drain(self, patience: float) -> None:
        """End all streams with a Goodbye, and wait up to `patience` seconds until their handlers are through."""
        self._draining = True
        for stream in [stream for streams in self._open.values() for stream in streams]:
            delay = random.uniform(0.1, 2.0)  # noqa: S311  spreads reconnecting clients, hides nothing
            stream.end(Draining(delay), self.around.notices.goodbye("the hub is shutting down", delay))
        if self._count:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_closed.wait(), patience)

    def _require_service(self) -> None:
        if self._draining:
            raise Draining
        if not self._log.is_current():
            raise StorageUnavailable

    def _require_permission(self, caller: Caller, asked: Subscription) -> None:
        self._require_service()
        record = self.around.registry.require_open(caller.integration_id)
        missing = asked.narrowing.scopes - {grant.scope for grant in record.grants}
        if missing:
            names = table.names_of(missing)
            raise ScopeNotGranted(
                f"not granted: {names}; ask an admin for it, or leave it out of `scopes`",
                metadata={"scopes": names.replace(" ", "")},
            )

    def _require_room(self, integration_id: str, subscription_id: str) -> None:
        names = set(self.around.registry.subscriptions(integration_id)) | set(self._slots[integration_id])
        require_room(names, subscription_id, self._settings.max_subscriptions)

    def _stuck(self, integration_id: str) -> int:
        """How many streams have ended without a reader that takes their end: in a write still, or dropped from one."""
        open_still = (s for s in self._open.get(integration_id, ()) if s.ending is not None and s.write_began)
        return sum(1 for _ in open_still) + self._dropping.get(integration_id, 0)

    @contextmanager
    def _slot(self, integration_id: str, subscription_id: str) -> Iterator[None]:
        """Hold one of the streams that may be open; a stream that takes over another needs none of its own."""
        slots = self._slots[integration_id]
        limit = self._settings.max_streams_per_integration
        if subscription_id not in slots and len(slots) >= limit:
            raise TooManyStreams(
                f"{limit} streams of this integration are open already: close one first",
                metadata={"limit": str(limit), "subscriptions": ",".join(sorted(slots))},
            )
        if self._stuck(integration_id) >= limit:
            raise TooManyStreams(
                "earlier streams of this integration are still being ended: read them to their end, or close their "
                "connection",
                retry_after=2,
            )
        if self._count + self._dropping.total() >= self._settings.max_streams:
            raise TooManyStreams("the hub has as many streams open as it may: try again later", retry_after=10)
        slots[subscription_id] += 1
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            slots[subscription_id] -= 1
            if not slots[subscription_id]:
                del slots[subscription_id]
            if not self._count and self._draining:
                self._all_closed.set()

    async def _claimed_place(self, asked: Subscription, name: str, stream_id: str) -> Place:
        """Claim the subscription for a stream; returns the place where it is to start.

        It is looked up before, so that who cannot be served takes nothing over; and after, for only then all that was
        committed before the claim is known here, whichever replica it was committed at.
        """
        place = await self._place(asked.start, name)
        if place is not None and not asked.gaps:
            await self._require_kept(place)
        claimed = await self._claim(name, stream_id)
        if asked.start.kind != "cursor":
            place = await self._place(asked.start, name)
        return place or Place(claimed, self.around.clock.now(), self.around.feed.epoch)

    async def _place(self, start: Start, name: str) -> Place | None:
        """The place that a start names; None = where the claim will stand, which is what "now" means in the log."""
        feed = self.around.feed
        if start.kind == "earliest":
            return Place(await self._ends.first() - 1, feed.first_time, feed.epoch)
        if start.kind == "since":
            reached = min(start.since, self.around.clock.now())  # what comes until then is delivered, too
            return Place(await self._log.position_at(start.since), reached, feed.epoch)
        if start.kind == "cursor":
            cursor = self.around.seal.open(start.cursor)
            beyond = cursor.epoch == feed.epoch and await self._ends.is_beyond(cursor.position)
            return Place(cursor.position, cursor.time, LOST if beyond else cursor.epoch)
        return await self._committed(start, name) if start.kind != "latest" else None

    async def _committed(self, start: Start, name: str) -> Place | None:
        cursors = self.around.registry.cursors
        if start.kind == "committed" and name not in cursors:
            await self._ends.catch_up()  # it may have been committed at another replica, a moment ago
            if name not in cursors:
                raise SubscriptionNotFound(
                    "nothing was committed for this subscription yet: start from latest or earliest"
                )
        held = cursors.get(name)
        return Place(held.record.position, held.record.time, held.record.epoch) if held is not None else None

    async def _require_kept(self, place: Place) -> None:
        restored = place.epoch != self.around.feed.epoch
        if restored or place.position + 1 < await self._ends.first():
            raise expired(restored=restored)

    async def _claim(self, name: str, stream_id: str) -> int:
        """Take the subscription, in the log: every replica ends the stream that had it. Returns the position."""
        body = msgspec.json.encode(ClaimRecord(stream_id))
        [appended] = await self._log.append([Entry(Kind.STATE, self.around.clock.now(), body, key=f"claim/{name}")])
        await self.around.registry.applied(appended.position)
        return appended.position
