"""An overview of a running hub: readers and how far they are behind, streams, integrations, keys, limits.

It reads live structures in slices, so that no other task waits. Must not know who reads the overview.
"""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from hub.clock import Clock
from hub.config import Settings
from hub.control.endpoint_changes import DELIVERING
from hub.control.registry import Registry
from hub.delivery.bounds import has_events
from hub.delivery.feed import Feed
from hub.delivery.options import OF_ENDPOINT, TAILS
from hub.delivery.stream import Stream
from hub.delivery.streams import Streams
from hub.delivery.writes import SLOW_WRITE
from hub.endpoint_model import EndpointRecord, EndpointState
from hub.errors import HubError
from hub.model import Cursor, IntegrationRecord, KeyRecord, State
from hub.slices import one_by_one
from hub.storage import Log

SLICE = 200
"""Records that are read before other tasks run."""

BEHIND = 1.0
"""Seconds of lag from which a stream counts as catching up."""

EXPIRES_SOON = 7 * 24 * 3600.0
"""Seconds."""

DISK_TIMEOUT = 0.5
"""Seconds to wait for the disk's size; without an answer the overview has none."""

BACKUP_STAMP = "last-backup"
"""The file in the data directory whose modification time is that of the last backup."""

STREAM_STATES = ("live", "catching_up", "blocked", "waiting_for_store", "ending")
"""The states of a stream. Blocked: its reader has not taken a frame for a while."""


class Reader(msgspec.Struct, frozen=True, gc=False):
    """A subscription, or an endpoint in delivery, and how far it is behind.

    The garbage collector does not track it: there may be ten thousand, and they refer to nothing.

    Attributes:
        subscription_id: "" for an endpoint.
        lag: seconds; an upper bound of the age of its oldest unseen event.
        is_connected: it has a stream on this replica.
        is_committed: it has a committed position, so it loses events that retention removes after that position.
        endpoint_id: "" for a subscription.
        failing_since: of an endpoint that is FAILING; microseconds, 0 = it is not.
    """

    integration_id: str
    subscription_id: str
    lag: float
    is_connected: bool
    is_committed: bool
    endpoint_id: str = ""
    failing_since: int = 0


class ExpiringKey(NamedTuple):
    """A live key that ends soon and whose holder has no other that lasts longer; "" = a service key."""

    integration_id: str
    key: KeyRecord
    seconds_left: float


class Files(NamedTuple):
    """The files of the embedded store and their disk, in bytes; `backup_time`: seconds since 1970, 0 = none made."""

    store: int
    disk_free: int
    disk_size: int
    backup_time: float


class Overview(NamedTuple):
    """The status of a hub at one moment.

    Attributes:
        time: of the moment, in microseconds.
        readers: all of them, the furthest behind first.
        streams: how many, by state.
        integrations: how many, by the names of their states.
        endpoints: the same.
        used: of what a setting limits, by the setting's name.
        files: None where the store has none here, or the disk does not answer.
    """

    time: int
    readers: list[Reader]
    streams: Counter[str]
    integrations: Counter[str]
    endpoints: Counter[str]
    keys: list[ExpiringKey]
    used: dict[str, int]
    files: Files | None


class Observer:
    """Makes overviews of a hub.

    Attributes:
        watching: how many admins watch it now; they have a limit of their own, as large as that of the tails.
    """

    def __init__(  # noqa: PLR0913  the parts that it reads
        self, log: Log, registry: Registry, feed: Feed, streams: Streams, settings: Settings, clock: Clock
    ) -> None:
        self._log = log
        self._registry = registry
        self._feed = feed
        self._streams = streams
        self._settings = settings
        self._clock = clock
        self.watching = 0
        self._newest_event: int | None = None
        self._disk: asyncio.Future[Files | None] | None = None

    async def begin(self) -> None:
        """Find the newest event from before the start. Until it is found, readers without a stream count as caught up.

        If the store does not answer there is no second attempt: the next event is the newest.
        """
        with suppress(HubError):
            self._newest_event = await newest_event(self._log, self._feed.earliest.position, self._feed.through)

    async def overview(self) -> Overview:
        """The current overview; does not wait for the store."""
        every = [stored.record for stored in self._registry.integrations.values()]
        # Without those that were deleted: nobody can help their readers, endpoints and keys.
        records = {record.integration_id: record for record in every if record.state is not State.DELETED}
        names = one_by_one(self._names(), SLICE)
        subscriptions = [self._reader(name) async for name in names if name.partition("/")[0] in records]
        every_endpoint = one_by_one(list(self._registry.endpoints.all()), SLICE)
        endpoints = [record async for record in every_endpoint if record.integration_id in records]
        delivering = [record for record in endpoints if record.state in DELIVERING]
        receivers = [self._receiver(record) async for record in one_by_one(delivering, SLICE)]
        streams = self._streams.all()
        holders = ((name, record.keys) for name, record in records.items())
        return Overview(
            self._clock.now(),
            sorted([*subscriptions, *receivers], key=lambda reader: -reader.lag),
            Counter([self._doing(stream) async for stream in one_by_one(streams, SLICE)]),
            Counter([record.state.name async for record in one_by_one(every, SLICE)]),
            Counter([record.state.name async for record in one_by_one(endpoints, SLICE)]),
            [
                *self._expiring("", self._registry.keys_of("")),
                *[key async for holder in one_by_one(holders, SLICE) for key in self._expiring(*holder)],
            ],
            self._used(streams, Counter(reader.integration_id for reader in subscriptions)) | await self._most(records),
            await self._files(),
        )

    def _names(self) -> list[str]:
        readers = self._registry.readers
        return [*{*readers.claims, *readers.cursors}]

    def _reader(self, name: str) -> Reader:
        integration_id, _, subscription_id = name.partition("/")
        stream = self._streams.live(integration_id, subscription_id)
        lag = stream.lag if stream is not None else self._lag_without_stream(name)
        is_committed = name in self._registry.readers.cursors
        return Reader(integration_id, subscription_id, lag, stream is not None, is_committed)

    def _lag_without_stream(self, name: str) -> float:
        """As ``Subscriptions.lag``, from what is in memory."""
        stored = self._registry.readers.cursors.get(name)
        epoch = self._feed.earliest.epoch
        cursor = stored.record.cursor if stored is not None else self._streams.last_seen.cursor(name, epoch)
        return self._lag_at(cursor) if cursor is not None else 0.0

    def _receiver(self, record: EndpointRecord) -> Reader:
        """An endpoint; as long as its receiver fails, what its stream has made for it does not count."""
        integration_id, endpoint_id = record.integration_id, record.endpoint_id
        place = self._registry.endpoints.place(record)
        stream = self._streams.live(integration_id, f"{OF_ENDPOINT}{endpoint_id}")
        lag = self._lag_at(place.cursor) if stream is None or place.attempts.failures else stream.lag
        since = place.attempts.failing_since if record.state is EndpointState.FAILING else 0
        return Reader(integration_id, "", lag, stream is not None, True, endpoint_id, since)  # noqa: FBT003  its place is

    def _lag_at(self, cursor: Cursor) -> float:
        event = self._feed.window.newest
        newest = event.position if event is not None else self._newest_event
        is_current = cursor.epoch == self._feed.earliest.epoch
        if newest is None or (is_current and cursor.position >= newest):
            return 0.0
        return max(0, self._clock.now() - cursor.time) / 1_000_000

    def _doing(self, stream: Stream) -> str:
        if stream.ending is not None:
            return "ending"
        if stream.writes.began and self._clock.monotonic() - stream.writes.began > SLOW_WRITE:
            return "blocked"
        if not self._streams.freshness.is_fresh():
            return "waiting_for_store"
        return "catching_up" if stream.lag > BEHIND else "live"

    def _expiring(self, integration_id: str, keys: Iterable[KeyRecord]) -> Iterable[ExpiringKey]:
        """The keys of a holder that end soon, if it has no other that lasts longer."""
        keyring = self._registry.keyring
        live = [(keyring.seconds_left(key), key) for key in keys if keyring.is_live(key)]
        for left, key in live:
            if left < EXPIRES_SOON and not any(other.role == key.role and more > left for more, other in live):
                yield ExpiringKey(integration_id, key, left)

    def _used(self, streams: list[Stream], names: Counter[str]) -> dict[str, int]:
        """How much of each limit is used; of a limit for each integration, by the one that uses most."""
        registry = self._registry
        open_streams = Counter(stream.subscriber.holder for stream in streams)
        tails = open_streams.pop(TAILS, 0)
        service = sum(registry.keyring.is_live(key) for key in registry.keys_of(""))
        window, pages = self._feed.memory
        return {
            "max_streams": self._streams.slots.count + self._streams.slots.dropping,
            "max_streams_per_integration": max(open_streams.values(), default=0),
            "max_tails": max(tails, self.watching),
            "max_subscriptions": max(names.values(), default=0),
            "max_service_keys": service,
            "max_emit_backlog": self._feed.admission.waiting,
            "max_erasures": registry.hidden.erasures.count_unfinished(),
            "window_bytes": window,
            "page_cache_bytes": pages,
        }

    async def _most(self, records: Mapping[str, IntegrationRecord]) -> dict[str, int]:
        """Of the limits for each integration that need a walk through all: how much the one that has most has."""
        registry, keyring = self._registry, self._registry.keyring
        installations = endpoints = keys = 0
        async for name, record in one_by_one(records.items(), SLICE):
            installations = max(installations, registry.installations.count(name))
            endpoints = max(endpoints, len(registry.endpoints.of(name)))
            keys = max(keys, sum(map(keyring.is_live, record.keys)))
        return {"max_installations": installations, "max_endpoints": endpoints, "max_live_keys": keys}

    async def _files(self) -> Files | None:
        """The files and their disk, unless the disk takes too long; one thread at most waits for it."""
        if self._settings.storage != "sqlite":
            return None
        if self._disk is None or self._disk.done():
            self._disk = asyncio.ensure_future(asyncio.to_thread(files_of, self._settings.data_dir))
        with suppress(TimeoutError):
            async with asyncio.timeout(DISK_TIMEOUT):
                return await asyncio.shield(self._disk)
        return None


def files_of(directory: Path) -> Files | None:
    """The sizes of the store in a data directory; None if they cannot be read. Blocks."""
    try:
        disk = os.statvfs(directory)
        store = sum(file.stat().st_size for file in directory.glob("hub.db*"))
    except OSError:
        return None
    stamp = directory / BACKUP_STAMP
    backup_time = stamp.stat().st_mtime if stamp.exists() else 0.0
    return Files(store, disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize, backup_time)


async def newest_event(log: Log, before: int, through: int) -> int:
    """The position of the newest event up to a position; `before` where there is none after that. By bisection.

    Raises:
        StorageUnavailable: the store does not answer.
    """
    if not await has_events(log, before, through):
        return before
    while through - before > 1:
        middle = (before + through) // 2
        if await has_events(log, middle, through):
            before = middle
        else:
            through = middle
    return through
