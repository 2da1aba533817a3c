"""The metadata of a log: how far it was trimmed, what was erased, its format, its secret.

It has a small stream of its own, so that every position of the log is an entry. Only the newest message of each subject
counts. Every replica follows this stream.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

import msgspec
from pydantic import SecretStr

from hub.crypto import derived_secrets
from hub.storage.jetstream.consumer import StreamFollower
from hub.storage.jetstream.stream import ApiError, NatsStream, OutgoingMessage, StoredMessage, WrongLast
from hub.storage.levels import Levels

HEARTBEAT_SLOTS = 64
"""Each replica picks a random slot for its heartbeats; a collision is harmless."""
_KEPT_HEARTBEATS = 4
"""Heartbeats kept per slot, a second apart, so that a lagging replica still sees the last ones."""


class Extent(msgspec.Struct, frozen=True):
    """How far the log was trimmed.

    Attributes:
        first: the oldest position whose event was not trimmed away.
        forgotten: tombstones below this position were removed.
        trimmed_time: when the newest event that was trimmed away was accepted; -1: none was.
        last_time: when the log's newest entry was accepted, as of the trim.
    """

    first: int = 1
    forgotten: int = 1
    trimmed_time: int = -1
    last_time: int = 0


class StoreFormat(Levels, frozen=True):
    """The format of a log, and the position from which on every entry has a checksum (0: there is none yet)."""

    checked_from: int = 0


class RemovedEvent(msgspec.Struct, frozen=True):
    """What remains of a trimmed or erased event. `id_hash`, `digest`: empty for an event without an id."""

    position: int
    time: int
    id_hash: bytes = b""
    digest: bytes = b""


class MetadataStream:
    """The metadata of one log, up to the newest message that was applied.

    Attributes:
        extent: how far the log was trimmed.
        erased: by position, what was erased and not trimmed since.
        trimmed: what was trimmed while its id still counted, by the position of the newest of each trim.
        last: the newest position of the metadata stream that was applied.
        announced_position: the newest position of the log up to which any replica has announced to be complete.
        format: the format of the log; None: not read yet.
        moved: set when the extent has changed; the task that waits for it clears it.
    """

    def __init__(self, stream: NatsStream) -> None:
        self.extent = Extent()
        self.erased: dict[int, RemovedEvent] = {}
        self.trimmed: dict[int, list[RemovedEvent]] = {}
        self.format: StoreFormat | None = None
        self.last = 0
        self.announced_position = 0
        self.moved = asyncio.Event()
        self._stream = stream
        self._slot = secrets.randbelow(HEARTBEAT_SLOTS)
        self._heartbeats = 0
        self._follower = StreamFollower(stream, 0, self._take, newest_first=True)
        self._arrived = asyncio.Event()

    async def run(self) -> None:
        """Follow the stream until cancelled."""
        await self._follower.run()

    async def publish_heartbeat(self, known: int = 0) -> int:
        """Publish a heartbeat and return its position; the acknowledgement proves a quorum.

        It announces the position up to which this replica has the log, so that the others notice a server that answers
        but no longer leads. If the store is full, a purge of nothing proves the quorum instead.
        """
        self._heartbeats += 1
        subject = f"{self._stream.name}.beat.{self._slot}.{self._heartbeats % _KEPT_HEARTBEATS}"
        try:
            return await self._stream.publish(OutgoingMessage(subject, {}, str(known).encode()))
        except ApiError as error:
            if not error.is_full:
                raise
        await self._stream.purge(subject, keep=1)
        return self.last

    async def wait_applied(self, position: int) -> None:
        """Wait until everything up to a position is applied."""
        while self.last < position:
            self._arrived.clear()
            await self._arrived.wait()

    async def advance(self, extent: Extent) -> None:
        """Advance the extent, unless another replica has advanced it farther."""
        subject = f"{self._stream.name}.extent"
        while extent.first > self.extent.first or extent.forgotten > self.extent.forgotten:
            stored = await self._stream.get(last_by_subj=subject)
            now = msgspec.json.decode(stored.data, type=Extent) if stored is not None else Extent()
            wanted = merged(now, extent)
            if await self._publish_after(stored, subject, msgspec.json.encode(wanted)):
                self._widen(wanted)

    async def stamp(self, wanted: StoreFormat) -> StoreFormat:
        """Store the format of the log, unless it has a newer one; returns the format that holds then."""
        subject = f"{self._stream.name}.format"
        while True:
            stored = await self._stream.get(last_by_subj=subject)
            found = msgspec.json.decode(stored.data, type=StoreFormat) if stored is not None else StoreFormat()
            if stored is not None and (found.format > wanted.format or found.min_writer >= wanted.min_writer):
                self.format = found
                return found
            if await self._publish_after(stored, subject, msgspec.json.encode(wanted)):
                self.format = wanted
                return wanted

    async def _publish_after(self, newest: StoredMessage | None, subject: str, data: bytes) -> bool:
        """Publish unless the subject has a newer message than `newest` (None: any message); returns whether it did."""
        expected = str(newest.position if newest is not None else 0)
        try:
            await self._stream.publish(
                OutgoingMessage(subject, {"Nats-Expected-Last-Subject-Sequence": expected}, data)
            )
        except WrongLast:
            return False
        return True

    async def keep_erased(self, gone: RemovedEvent) -> None:
        """Store what remains of an event that is about to be erased."""
        await self._stream.publish(
            OutgoingMessage(f"{self._stream.name}.erased.{gone.position}", {}, msgspec.json.encode(gone))
        )
        self.erased[gone.position] = gone

    async def keep_trimmed(self, gone: list[RemovedEvent]) -> None:
        """Store what remains of events that are about to be trimmed."""
        newest = gone[-1].position
        await self._stream.publish(
            OutgoingMessage(f"{self._stream.name}.trimmed.{newest}", {}, msgspec.json.encode(gone))
        )
        self.trimmed[newest] = gone

    async def drop(self, over: int) -> None:
        """Drop trimmed events that were accepted before a time."""
        first = self.extent.first
        for position in [p for p, gone in self.erased.items() if p < first and gone.time < over]:
            await self._stream.purge(f"{self._stream.name}.erased.{position}")
            del self.erased[position]
        for position in [p for p, gone in self.trimmed.items() if gone[-1].time < over]:
            await self._stream.purge(f"{self._stream.name}.trimmed.{position}")
            del self.trimmed[position]

    def removed_events(self) -> list[RemovedEvent]:
        """The events that were removed and whose ids may still be known, in order."""
        found = [*self.erased.values(), *(one for several in self.trimmed.values() for one in several)]
        return sorted(found, key=lambda one: one.position)

    async def secrets(self, given: SecretStr | None = None, wanted: bytes = b"") -> list[bytes]:
        """See `Log.secrets`. The first replica that asks makes the secret.

        `wanted`: the secret to store if there is none yet; by default a random one.
        """
        if given is not None:
            return derived_secrets(given.get_secret_value())
        subject = f"{self._stream.name}.secret"
        while (stored := await self._stream.get(last_by_subj=subject)) is None:
            await self._publish_after(None, subject, wanted or secrets.token_bytes(32))
        return _split(stored.data)

    async def rotate_secret(self, secret: bytes, tell: Callable[[], Awaitable[object]], *, keep: bool) -> None:
        """Put another secret in force by calling `tell`; the stream keeps both secrets until then."""
        subject = f"{self._stream.name}.secret"
        stored = await self._stream.get(last_by_subj=subject)
        if keep:
            await self._stream.publish(
                OutgoingMessage(subject, {}, (stored.data if stored is not None else b"") + secret)
            )
        await tell()
        if keep:
            await self._stream.publish(OutgoingMessage(subject, {}, secret))
        else:
            await self._stream.purge(subject)

    def erased_between(self, after: int, through: int) -> dict[int, int]:
        """Positions and times of the events after a position and through another that were erased and not trimmed."""
        first = max(after + 1, self.extent.first)
        return {position: gone.time for position, gone in self.erased.items() if first <= position <= through}

    def _take(self, batch: list[StoredMessage]) -> None:
        for stored in batch:
            kind, _, name = stored.subject.removeprefix(f"{self._stream.name}.").partition(".")
            if kind == "extent":
                self._widen(msgspec.json.decode(stored.data, type=Extent))
            elif kind == "format":
                self.format = msgspec.json.decode(stored.data, type=StoreFormat)
            elif kind == "beat":
                self.announced_position = max(self.announced_position, int(stored.data or 0))
            elif kind == "erased":
                self.erased[int(name)] = msgspec.json.decode(stored.data, type=RemovedEvent)
            elif kind == "trimmed":
                self.trimmed[int(name)] = msgspec.json.decode(stored.data, type=list[RemovedEvent])
        self.last = batch[-1].position
        self._arrived.set()

    def _widen(self, extent: Extent) -> None:
        self.extent = merged(self.extent, extent)
        self.moved.set()


def merged(one: Extent, other: Extent) -> Extent:
    """The farther of two extents in each field: none ever goes back."""
    return Extent(*(max(pair) for pair in zip(_values(one), _values(other), strict=True)))


def _values(extent: Extent) -> tuple[int, ...]:
    return msgspec.structs.astuple(extent)


def _split(secrets_of_32: bytes) -> list[bytes]:
    return [secrets_of_32[start : start + 32] for start in range(0, len(secrets_of_32), 32)]
