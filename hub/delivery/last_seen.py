"""When each subscription last had a stream, how far that was, and why it ended: stored in the claim.

An end is stored within about a second. While a stream is open, the stored time is at most a minute old.
"""

import asyncio

from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.control.versioned import Versioned
from hub.delivery.stream import Stream
from hub.errors import Conflict, HubError
from hub.model import ClaimRecord, Cursor, Entry
from hub.slices import STORED_AT_ONCE, slices
from hub.state import CLAIM
from hub.storage import Log

PRECISION = 60.0
"""Seconds after which the claim of an open stream is written again; less where retention is short."""

DISCONNECTED = "DISCONNECTED"
"""The end of a stream whose client closed it, or whose connection broke."""


class LastSeen:
    """The last stream of each subscription, open or ended."""

    def __init__(self, log: Log, registry: Registry, settings: Settings, clock: Clock) -> None:
        self._log = log
        self._registry = registry
        self._clock = clock
        self._precision = round(min(PRECISION, settings.retention / 4) * 1_000_000)
        self._unsaved: dict[str, ClaimRecord] = {}
        self._saving = asyncio.Lock()

    def note_open(self, stream: Stream) -> None:
        """Note that a stream is open."""
        stored = self._own_claim(stream)
        if stored is not None and self._clock.now() - stored.record.seen_time >= self._precision:
            self._note(stream, "")

    def note_end(self, stream: Stream, reason: str) -> None:
        """Note that a stream has ended. After a takeover only the newer stream counts."""
        if self._own_claim(stream) is not None:
            self._note(stream, reason)

    def record(self, name: str) -> ClaimRecord | None:
        """The newest stream of a subscription; None: none was ever opened."""
        stored = self._registry.readers.claims.get(name)
        if stored is None:
            return None
        unsaved = self._unsaved.get(name)
        return unsaved if unsaved is not None and unsaved.stream_id == stored.record.stream_id else stored.record

    def cursor(self, name: str, epoch: int) -> Cursor | None:
        """The cursor of the last frame that was delivered to a subscription; None: no stream was ever opened.

        Args:
            name: "<integration>/<subscription>".
            epoch: of this log.
        """
        record, stored = self.record(name), self._registry.readers.claims.get(name)
        if record is None or stored is None:
            return None
        if not record.epoch:
            return Cursor(epoch, stored.position, stored.record.seen_time)
        return Cursor(record.epoch, record.position, record.time)

    async def save(self) -> None:
        """Store what was noted since the last call.

        Raises:
            StorageFull, StorageUnavailable: it is not stored; the next call tries again.
        """
        async with self._saving:  # two concurrent saves would take each other's claims for newer ones
            for names in slices(sorted(self._unsaved), STORED_AT_ONCE):
                await self._save({name: self._unsaved[name] for name in names})

    async def _save(self, records: dict[str, ClaimRecord]) -> None:
        claims = self._registry.readers.claims
        writing = {name: record for name, record in records.items() if _is_of(claims.get(name), record.stream_id)}
        positions = {name: claims[name].position for name in writing}
        while writing:
            entries = [self._entry(name, record) for name, record in writing.items()]
            try:
                appended = await self._log.append(entries, {CLAIM.key(name): positions[name] for name in writing})
            except Conflict as conflict:  # taken over or deleted meanwhile: the newer claim counts
                del writing[CLAIM.rest(conflict.key)]
            else:
                await self._registry.wait_applied(appended[-1].position)
                break
        for name, record in records.items():
            if self._unsaved.get(name) is record:
                del self._unsaved[name]

    def _note(self, stream: Stream, reason: str) -> None:
        subscriber, now = stream.subscriber, self._clock.now()
        self._unsaved[subscriber.name] = ClaimRecord(subscriber.stream_id, now, reason, *stream.writes.delivered)

    def _own_claim(self, stream: Stream) -> Versioned[ClaimRecord] | None:
        stored = self._registry.readers.claims.get(stream.subscriber.name)
        return stored if _is_of(stored, stream.subscriber.stream_id) else None

    def _entry(self, name: str, record: ClaimRecord) -> Entry:
        return CLAIM.entry(CLAIM.key(name), self._clock.now(), record)


def _is_of(stored: Versioned[ClaimRecord] | None, stream_id: str) -> bool:
    return stored is not None and stored.record.stream_id == stream_id


def end_reason(stream: Stream, error: BaseException | None) -> str:
    """Why a stream has ended: a reason of the contract, or DISCONNECTED; `error`: its handler's exception."""
    if stream.writes.dropped_for:
        return stream.writes.dropped_for
    cause = stream.ending or error
    if isinstance(cause, HubError):
        return cause.reason()
    return "INTERNAL" if isinstance(cause, Exception) else DISCONNECTED
