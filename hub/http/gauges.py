"""Sets the gauges from an overview of the hub, right before they are read."""

import socket
from bisect import bisect_left
from typing import NamedTuple

from hub import logs, metrics
from hub.api.guards import Guards
from hub.api.tls import Certificates
from hub.config import Settings, version
from hub.control.registry import Registry
from hub.delivery.feed import Feed
from hub.delivery.overview import STREAM_STATES, Files, Overview
from hub.endpoint_model import EndpointState
from hub.model import State
from hub.storage import STALE_AFTER, Log

NEAR = 0.8
"""The share of the retention beyond which a reader soon loses events."""

MICROS = 1_000_000

COUNTED = ("max_open_calls", "webhook_requests")
"""Limits of which each use is counted where it begins and ends."""


class Parts(NamedTuple):
    """The live structures of a hub that the gauges describe."""

    log: Log
    registry: Registry
    feed: Feed
    certificates: Certificates
    guards: Guards
    settings: Settings
    start_time: int


def set_own(parts: Parts, silence: float, *, serving: bool) -> None:
    """Set the gauges that need no overview: version, store, certificate; and count dropped log lines.

    Args:
        parts: the live structures that they describe.
        silence: seconds since the store last answered.
        serving: the answer of /readyz.
    """
    logs.count_dropped()
    settings = parts.settings
    storage = "sqlite" if settings.storage == "sqlite" else "jetstream"
    metrics.INFO.set(1, version(), storage, socket.gethostname())
    metrics.START_TIME.set(parts.start_time / MICROS)
    metrics.SERVING.set(serving)
    metrics.RETENTION.set(settings.retention)
    _set_limit(settings, "max_concurrent_calls", parts.guards.calls.used)
    _set_limit(settings, "max_half_open_calls", parts.guards.half_open.fullest * settings.max_half_open_calls)
    _set_limit(settings, "max_store_silence", silence)
    for name in COUNTED:
        metrics.LIMIT_USED.add(0, name)
        metrics.LIMIT.set(getattr(settings, name), name)
    if parts.certificates.ends is not None:
        metrics.CERTIFICATE_END.set(parts.certificates.ends)
    _set_store(parts, silence)


def set_seen(settings: Settings, overview: Overview) -> None:
    """Set the gauges of an overview."""
    for state in STREAM_STATES:
        metrics.STREAMS.set(overview.streams[state], state)
    for one in State:
        metrics.INTEGRATIONS.set(overview.integrations[one.name], one.name)
    for endpoint_state in EndpointState:
        metrics.ENDPOINTS.set(overview.endpoints[endpoint_state.name], endpoint_state.name)
    metrics.KEYS_EXPIRING.set(len(overview.keys))
    _set_files(overview.files)
    _set_readers(overview, settings.retention)
    for name, used in overview.used.items():
        _set_limit(settings, name, used)


def _set_store(parts: Parts, silence: float) -> None:
    log = parts.log
    metrics.STORE_SILENCE.set(silence)
    metrics.STORE_CURRENT.set(silence < STALE_AFTER and not log.failed)
    metrics.STORE_FAILED.set(log.failed)
    metrics.STORE_DAMAGED.set(log.damaged)
    metrics.POSITION.set(parts.feed.through)
    metrics.FIRST_TIME.set(parts.feed.earliest.time / MICROS)


def _set_files(files: Files | None) -> None:
    for gauge, value in (
        (metrics.STORE_BYTES, files and files.store),
        (metrics.DISK_FREE, files and files.disk_free),
        (metrics.DISK_SIZE, files and files.disk_size),
        (metrics.BACKUP_TIME, files and files.backup_time),
    ):
        gauge.clear()
        if value is not None:
            gauge.set(value)


def _set_readers(overview: Overview, retention: float) -> None:
    leads = [-reader.lag for reader in overview.readers]  # the readers are in this order already
    metrics.READERS.set(len(leads))
    metrics.READER_LAG_MAX.set(-leads[0] if leads else 0)
    for bound in metrics.READER_SECONDS:
        metrics.READERS_BEHIND.set(bisect_left(leads, -bound), str(bound))
    since = [reader.failing_since for reader in overview.readers if reader.failing_since]
    metrics.ENDPOINT_FAILING_MAX.set(max(0, overview.time - min(since, default=overview.time)) / MICROS)
    committed = [-reader.lag for reader in overview.readers if reader.is_committed]
    metrics.READERS_LOSING.set(bisect_left(committed, -NEAR * retention))
    metrics.READER_LOSES_IN.set(max(0, retention + (committed[0] if committed else 0)))


def _set_limit(settings: Settings, name: str, used: float) -> None:
    metrics.LIMIT.set(getattr(settings, name), name)
    metrics.LIMIT_USED.set(used, name)
