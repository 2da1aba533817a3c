"""WatchHub: the current status of one replica, for operators."""

import asyncio
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tickets.hub.v1.hub_status_pb2 import (
    CallCount,
    ExpiringKey,
    HubStatus,
    Latency,
    Memory,
    ReaderStatus,
    StoreStatus,
    WatchHubRequest,
)

from hub import metrics
from hub.api import convert
from hub.api.access import caller
from hub.api.status import Context
from hub.clock import Clock
from hub.config import Settings, version
from hub.control.registry import Registry
from hub.delivery.feed import Feed
from hub.delivery.overview import Observer, Overview
from hub.errors import AuthThrottled, Draining, KeyMissing, KeyUnknown, SlowConsumer, TooManyStreams
from hub.storage import STALE_AFTER, Log

SHOWN = 20
"""The most readers and keys in one message."""

DEFAULT_INTERVAL = 2.0
SAMPLE_PERIOD = 1.0
SAMPLES = 11
"""Seconds between two samples of the counters, and how many are kept: rates are over about 10 s."""

EMITS = tuple(f"tickets.hub.v1.EventService/{name}" for name in ("EmitEvent", "BatchEmitEvents"))

STRANGERS = frozenset(failure.reason() for failure in (AuthThrottled, KeyMissing, KeyUnknown))
"""Reasons of refusals without a valid key: anybody can cause them, so they say nothing about the bot."""


class Sample(NamedTuple):
    """The counters at one moment."""

    time: float
    applied: float
    accepted: float
    delivered: float
    groups: int
    entries: float
    appends: list[int]
    commits: list[int]
    loop_lag: list[int]
    emits: dict[tuple[str, str], int]


def sample() -> Sample:
    """The counters now."""
    groups = metrics.GROUPS.values[()]
    emits: dict[tuple[str, str], int] = {}
    for (method, status, reason), calls in metrics.CALLS.values.items():
        if method in EMITS and reason not in STRANGERS:
            emits[status, reason] = emits.get((status, reason), 0) + sum(calls.counts)
    return Sample(
        metrics.now(),
        metrics.APPLIED.values[()],
        sum(metrics.ACCEPTED.values.values()),
        metrics.DELIVERED.values[()],
        sum(groups.counts),
        groups.sum,
        metrics.APPENDS.counts(),
        metrics.COMMITS.counts(),
        metrics.LOOP_LAG.counts(),
        emits,
    )


class HubWatch:
    """Streams the status of the hub to admins."""

    def __init__(  # noqa: PLR0913  the parts of which it tells
        self, log: Log, registry: Registry, feed: Feed, observer: Observer, settings: Settings, clock: Clock
    ) -> None:
        self._log = log
        self._registry = registry
        self._feed = feed
        self._observer = observer
        self._settings = settings
        self._clock = clock
        self._began = clock.monotonic()
        self._samples = deque([sample()], SAMPLES)
        self._ended = asyncio.Event()

    async def keep_samples(self) -> None:
        """Sample the counters, for as long as the hub runs."""
        while True:
            await asyncio.sleep(SAMPLE_PERIOD)
            self._samples.append(sample())

    @property
    def has_ended(self) -> bool:
        """Whether the hub is stopping."""
        return self._ended.is_set()

    def end(self) -> None:
        """End all watches: the hub is stopping."""
        self._ended.set()

    async def write(self, request: WatchHubRequest, context: Context) -> None:
        """Stream the status to one admin until the client disconnects.

        Raises:
            KeyRevoked, KeyExpired: their key is not live any more.
            TooManyStreams: the limit of watching admins is reached.
            SlowConsumer: the client does not read.
            Draining: the hub stops.
        """
        interval = convert.span(request.interval) / convert.MICROS if request.HasField("interval") else DEFAULT_INTERVAL
        with self._place():
            while not self._ended.is_set():
                status = await self.current()
                self._registry.keyring.require_live(caller().key_id)
                try:
                    async with asyncio.timeout(self._settings.write_deadline):
                        await context.write(status)
                except TimeoutError:
                    raise SlowConsumer from None
                try:
                    async with asyncio.timeout(interval):
                        await self._ended.wait()
                except TimeoutError:
                    continue
            raise Draining

    async def current(self) -> HubStatus:
        """The current message, for callers that poll."""
        return self.status(await self._observer.overview())

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._observer.watching >= self._settings.max_tails:
            raise TooManyStreams(
                "too many admins watch the hub already: try again later",
                metadata={"limit": str(self._settings.max_tails)},
                retry_after=10,
            )
        self._observer.watching += 1
        try:
            yield
        finally:
            self._observer.watching -= 1

    def status(self, overview: Overview) -> HubStatus:
        """The current message."""
        first, last = self._samples[0], sample()
        seconds = max(last.time - first.time, 0.001)
        groups = last.groups - first.groups
        window, pages = self._feed.memory
        return HubStatus(
            time=convert.timestamp(self._clock.now()),
            version=version(),
            replica=socket.gethostname(),
            uptime=convert.duration(self._clock.monotonic() - self._began),
            store=self._store(overview),
            events_per_second=(last.applied - first.applied) / seconds,
            accepted_per_second=(last.accepted - first.accepted) / seconds,
            delivered_per_second=(last.delivered - first.delivered) / seconds,
            group_entries=(last.entries - first.entries) / groups if groups else 0,
            append=latency(metrics.APPENDS, first.appends, last.appends),
            commit=latency(metrics.COMMITS, first.commits, last.commits),
            emits=call_counts(first.emits, last.emits),
            streams=dict(overview.streams),
            endpoints=dict(overview.endpoints),
            loop_lag_p99=latency(metrics.LOOP_LAG, first.loop_lag, last.loop_lag).p99,
            window=Memory(bytes=window, max_bytes=self._settings.window_bytes),
            pages=Memory(bytes=pages, max_bytes=self._settings.page_cache_bytes),
            reader_count=len(overview.readers),
            readers=self._readers(overview),
            expiring_keys=self._keys(overview),
        )

    def _store(self, overview: Overview) -> StoreStatus:
        log, feed, files, newest = self._log, self._feed, overview.files, self._feed.window.newest
        silence = log.silence()
        status = StoreStatus(
            kind="sqlite" if self._settings.storage == "sqlite" else "jetstream",
            current=silence < STALE_AFTER and not log.failed,
            failed=log.failed,
            silence=convert.duration(min(silence, 1e9)),
            damaged_entries=log.damaged,
            position=feed.through,
            first_time=convert.timestamp(feed.earliest.time),
            last_time=convert.timestamp(newest.time) if newest is not None else None,
        )
        if files is not None:
            status.bytes = files.store
            status.disk_free_bytes, status.disk_size_bytes = files.disk_free, files.disk_size
            if files.backup_time:
                status.backup_time.FromMicroseconds(round(files.backup_time * convert.MICROS))
        return status

    def _readers(self, overview: Overview) -> list[ReaderStatus]:
        return [
            ReaderStatus(
                integration_id=reader.integration_id,
                integration_name=self._name(reader.integration_id),
                subscription_id=reader.subscription_id,
                lag=convert.duration(reader.lag),
                connected=reader.is_connected,
                committed=reader.is_committed,
                endpoint_id=reader.endpoint_id,
                failing_since=convert.timestamp(reader.failing_since),
            )
            for reader in overview.readers[:SHOWN]
        ]

    def _keys(self, overview: Overview) -> list[ExpiringKey]:
        soonest = sorted(overview.keys, key=lambda found: found.seconds_left)[:SHOWN]
        return [
            ExpiringKey(
                key_id=found.key.key_id,
                holder=self._registry.key_name(found.key.key_id),
                integration_id=found.integration_id,
                expire_time=convert.timestamp(found.key.expire_time),
            )
            for found in soonest
        ]

    def _name(self, integration_id: str) -> str:
        stored = self._registry.integrations.get(integration_id)
        return stored.record.display_name if stored is not None else ""


def latency(histogram: metrics.Histogram, first: list[int], last: list[int]) -> Latency:
    """The latencies that were counted between two samples."""
    counts = [after - before for before, after in zip(first, last, strict=True)]
    p50, p99 = (convert.duration(metrics.quantile(histogram, part, counts)) for part in (0.5, 0.99))
    return Latency(p50=p50, p99=p99)


def call_counts(first: dict[tuple[str, str], int], last: dict[tuple[str, str], int]) -> list[CallCount]:
    """The calls that ended between two samples, the most frequent ends first."""
    grown = {end: count - first.get(end, 0) for end, count in last.items()}
    found = sorted(((count, end) for end, count in grown.items() if count), reverse=True)
    return [CallCount(status=status, reason=reason, count=count) for count, (status, reason) in found]
