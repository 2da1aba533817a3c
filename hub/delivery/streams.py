"""All live streams of this replica: opening within the limits, the claim on a subscription, changes, and the drain.

It knows neither gRPC nor what a stream does between two frames (``stream.py``).
"""

import asyncio
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog

from hub import metrics
from hub import permissions as table
from hub.clock import Clock
from hub.config import Settings
from hub.delivery.deps import StreamDeps, Views
from hub.delivery.freshness import Freshness
from hub.delivery.last_seen import LastSeen, end_reason
from hub.delivery.options import OF_ENDPOINT, TAILS, SubscribeOptions, Subscriber
from hub.delivery.sent_log import SentLog, view_of
from hub.delivery.slots import StreamSlots
from hub.delivery.starts import Starts
from hub.delivery.stream import Stream
from hub.delivery.subscriptions import require_room
from hub.delivery.writes import OnStall
from hub.errors import Draining, ScopeNotGranted, SlowConsumer, StorageUnavailable
from hub.model import Caller, Cursor, Entry, Role
from hub.slices import one_by_one

AT_ONCE = 20
"""Integrations whose streams' usage is noted in one go."""

ENDING_WRITE_TIMEOUT = 1.0
"""Seconds that an ended stream may stay in a write: its reader does not read, and others need its slot."""

_DROPPED = {SlowConsumer.reason(), StorageUnavailable.reason()}
"""Endings that are logged as warnings: an operator may want to act."""

log = structlog.get_logger()


class Streams:
    """All open streams of this replica.

    Attributes:
        slots: how many are open, against the limits.
        starts: where they start.
        sent_log: what they were sent.
        last_seen: what is known of them after their end.
    """

    def __init__(
        self, deps: StreamDeps, starts: Starts, last_seen: LastSeen, sent_log: SentLog, settings: Settings
    ) -> None:
        self.slots = StreamSlots(settings)
        self._deps = deps
        self.starts = starts
        self.last_seen = last_seen
        self.sent_log = sent_log
        self._settings = settings
        self._open: defaultdict[str, set[Stream]] = defaultdict(set)
        self._draining = False

    @property
    def views(self) -> Views:
        """The current views of integrations."""
        return self._deps.views

    @property
    def freshness(self) -> Freshness:
        """Whether events may be sent."""
        return self._deps.freshness

    @asynccontextmanager
    async def open(self, caller: Caller, options: SubscribeOptions, on_stall: OnStall) -> AsyncIterator[Stream]:
        """Open a stream; leaving the context closes it.

        Raises:
            Draining, TooManyStreams, TooManySubscriptions, ScopeNotGranted, SubscriptionNotFound, CursorInvalid,
                CursorExpired: it cannot be opened.
            IntegrationPending, IntegrationSuspended, IntegrationRejected, IntegrationDeleted: the integration may have
                no stream.
        """
        self.require_permission(caller, options)
        integration_id, subscription_id = caller.integration_id, options.subscription_id
        self._require_room(integration_id, subscription_id)
        with self.slots.of_stream(integration_id, subscription_id, self._stuck(integration_id)):
            subscriber = Subscriber(caller, options, secrets.token_hex(8))
            start = await self.starts.claimed(options, subscriber.name, subscriber.stream_id)
            await self._begin_sent(subscriber, start)
            with self.running(subscriber, start, on_stall) as stream:
                yield stream

    @contextmanager
    def running(self, subscriber: Subscriber, start: Cursor, on_stall: OnStall) -> Iterator[Stream]:
        """A stream that starts after a cursor, without a claim and outside the limits; its end is noted.

        Raises:
            HubError: it may not be open any more, or some of what follows the cursor is gone.
        """
        stream = Stream(self._deps, subscriber, start, on_stall)
        self._open[subscriber.holder].add(stream)
        reason, has_begun = "", False
        try:
            self._require_service()
            stream.require()
            stream.begin()
            has_begun = True
            yield stream
            reason = end_reason(stream, None)
        except BaseException as error:
            reason = end_reason(stream, error)
            raise
        finally:
            if not subscriber.is_tail and not subscriber.is_endpoint:
                usage = self._deps.registry.usage
                usage.note_stream(subscriber.integration_id, stream.statistics.take_used())
                self.last_seen.note_end(stream, reason)
            if not subscriber.is_tail:
                spans, position, _ = stream.take_sent()
                others = (one for one in self._open[subscriber.holder] if one is not stream and one.ending is None)
                is_last = all(one.subscriber.name != subscriber.name for one in others)
                self.sent_log.note(subscriber.name, spans, position, None, is_last=is_last)
            if not subscriber.is_endpoint:
                metrics.STREAMS_ENDED.add(1, reason)
            if has_begun and not subscriber.is_endpoint:
                _log_end(stream, reason, self._deps.clock)
            stream.close()
            self._open[subscriber.holder].discard(stream)

    @asynccontextmanager
    async def of_endpoint(
        self, integration_id: str, endpoint_id: str, options: SubscribeOptions, start: Cursor, guard: Callable[[], None]
    ) -> AsyncIterator[Stream]:
        """A stream of the hub itself, which delivers to an endpoint: without a key or a claim, and outside the limits.

        `guard` raises where it may not go on. No call leads here: streams of calls need a key.

        Raises:
            HubError: it may not be open any more, or some of what follows the cursor is gone.
        """
        by = Caller(Role.SYSTEM, "", integration_id, "Webhooks/Deliver", "")
        named = options._replace(subscription_id=f"{OF_ENDPOINT}{endpoint_id}")
        subscriber = Subscriber(by, named, "", guard)
        await self._begin_sent(subscriber, start)
        with self.running(subscriber, start, lambda _: None) as stream:
            yield stream

    async def _begin_sent(self, subscriber: Subscriber, start: Cursor) -> None:
        """Store that a stream is open and by which view, before it is sent anything."""
        integration_id = subscriber.integration_id
        projection = self.views.of(integration_id).at(start.position, subscriber.options.narrowing).final
        view = view_of(projection, self._deps.registry.consent_position(integration_id))
        try:
            await self.sent_log.begin(subscriber.name, start.position, view)
        except BaseException:  # cancelled: it may be stored all the same, and nothing else would end it
            if self.live(integration_id, subscriber.options.subscription_id) is None:
                self.sent_log.note(subscriber.name, [], start.position, None)
            raise

    def all(self) -> list[Stream]:
        """Every open stream of a client."""
        return [stream for stream in self._all() if not stream.subscriber.is_endpoint]

    def _all(self) -> list[Stream]:
        return [stream for streams in self._open.values() for stream in streams]

    def live(self, integration_id: str, subscription_id: str) -> Stream | None:
        """The open stream of a subscription on this replica."""
        streams = self._open.get(integration_id, ())
        return next((one for one in streams if one.subscriber.options.subscription_id == subscription_id), None)

    def refresh(self, integration_ids: Iterable[str]) -> None:
        """Let every stream and tail of these integrations take in what has changed; `TAILS`: every tail."""
        changed = set(integration_ids)
        streams = [stream for holder in changed for stream in self._open.get(holder, ())]
        if TAILS not in changed:
            streams += [tail for tail in self._open.get(TAILS, ()) if tail.subscriber.integration_id in changed]
        for stream in streams:
            stream.refresh()

    def send_test(self, integration_id: str, entry: Entry) -> int:
        """Send a test event on the open streams of an integration; returns how many deliver it."""
        return sum(stream.send_test(entry) for stream in list(self._open.get(integration_id, ())))

    def note_usage(self) -> None:
        """Note which integrations have a stream, its position, and the scopes that have delivered something to it."""
        for integration_id in self._open:
            self._note_usage_of(integration_id)

    async def note_usage_in_turns(self) -> None:
        """As `note_usage`, some integrations at a time: with a thousand streams it would hold up the others."""
        async for integration_id in one_by_one(list(self._open), AT_ONCE):
            self._note_usage_of(integration_id)

    def _note_usage_of(self, integration_id: str) -> None:
        streams = self._open.get(integration_id, ())
        if not streams or integration_id == TAILS:
            return
        self._note_sent_of(integration_id)
        clients = [stream for stream in streams if not stream.subscriber.is_endpoint]
        for stream in clients:
            self.last_seen.note_open(stream)
        if clients:
            used = frozenset[int]().union(*(stream.statistics.take_used() for stream in clients))
            self._deps.registry.usage.note_stream(integration_id, used)

    def _note_sent_of(self, integration_id: str) -> None:
        for stream in self._open.get(integration_id, ()):
            spans, position, view = stream.take_sent()
            is_last = stream.ending is None  # one that was taken over may be in its write for a while
            self.sent_log.note(stream.subscriber.name, spans, position, view, is_last=is_last)

    async def save_sent(self, first: int) -> None:
        """Store what readers were sent; `first`: the log's oldest position.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; the next call tries again.
        """
        await self.sent_log.save(first, self._note_sent_of)

    async def watch(self) -> None:
        """Drop streams whose reader does not read, for as long as the hub runs."""
        while True:
            await asyncio.sleep(min(1.0, self._settings.write_deadline / 4))
            now = self._deps.clock.monotonic()
            for stream in [stream for stream in self.all() if stream.writes.began]:
                timeout = self._settings.write_deadline if stream.ending is None else ENDING_WRITE_TIMEOUT
                if stream.writes.began < now - timeout:
                    self._drop(stream)

    async def watch_store(self) -> None:
        """Let streams report that the store is silent, and that it answers again; end them if it stays silent."""
        await self.freshness.watch(self._wake_all, self._end_all)

    def _wake_all(self) -> None:
        for stream in self._all():
            stream.wake()

    def _end_all(self) -> None:
        for stream in self.all():
            stream.end(StorageUnavailable())

    def _drop(self, stream: Stream) -> None:
        """Drop a stream whose reader does not read; it holds its slot until its call has ended."""
        gone = stream.writes.drop(stream.ending or SlowConsumer())
        if gone is not None:
            self.slots.note_drop(stream.subscriber.holder, gone)

    async def drain(self, seconds: float) -> None:
        """End all streams with a Goodbye, and wait up to `seconds` until their handlers are done."""
        self._draining = True
        for stream in self.all():
            delay = random.uniform(0.1, 2.0)  # noqa: S311  spreads reconnecting clients, hides nothing
            stream.end(Draining(delay), self._deps.notices.goodbye("the hub is shutting down", delay))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.slots.wait_until_empty()

    def _require_service(self) -> None:
        if self._draining:
            raise Draining
        if self.freshness.is_lost:
            raise StorageUnavailable

    def require_permission(self, caller: Caller, options: SubscribeOptions) -> None:
        """Check that an integration may have a stream with these options.

        Raises:
            Draining, StorageUnavailable: not now.
            ScopeNotGranted: not with these scopes.
            IntegrationNotFound, IntegrationPending, IntegrationSuspended, IntegrationRejected, IntegrationDeleted,
                DeveloperBlocked: the integration may have no stream.
        """
        self._require_service()
        record = self._deps.registry.require_open(caller.integration_id)
        missing = options.narrowing.scopes - {grant.scope for grant in record.grants}
        if missing:
            names = table.names_of(missing)
            raise ScopeNotGranted(
                f"not granted: {names}; ask an admin for it, or leave it out of `scopes`",
                metadata={"scopes": names.replace(" ", "")},
            )

    def _require_room(self, integration_id: str, subscription_id: str) -> None:
        names = set(self._deps.registry.readers.names(integration_id)) | self.slots.names(integration_id)
        require_room(names, subscription_id, self._settings.max_subscriptions)

    def _stuck(self, integration_id: str) -> int:
        """How many ended streams of an integration are still in a write."""
        streams = self._open.get(integration_id, ())
        return sum(1 for stream in streams if stream.ending is not None and stream.writes.began)


def _log_end(stream: Stream, reason: str, clock: Clock) -> None:
    """Log the end of a stream; as a warning if its reader was dropped."""
    level = logging.WARNING if reason in _DROPPED else logging.INFO
    log.log(
        level,
        "stream ended",
        reason=reason,
        seconds=round((clock.now() - stream.statistics.open_time) / 1_000_000, 1),
        events=stream.statistics.events,
        lag=round(stream.lag, 1),
        integration_id=stream.subscriber.integration_id,
        subscription_id=stream.subscriber.options.subscription_id,
    )
