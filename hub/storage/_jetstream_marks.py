"""What the log keeps about itself, in a small stream of its own: how far it was trimmed, what was erased, its secret.

It stands beside the log so that positions are those of the hub's entries alone. Of each subject the newest message
counts. Every replica follows it.
"""

import asyncio
import secrets

import msgspec

from hub.storage._jetstream_api import ApiError, Draft, Stored, Stream, WrongLast
from hub.storage._jetstream_follow import Follower

_TELLERS = 64
"""Replicas that tell where they are, each on subjects of its own; that two have the same does little harm."""
_KEPT = 4
"""What each told last, a second apart: the next does not take it from who is a moment behind."""


class Extent(msgspec.Struct, frozen=True):
    """How far the log was trimmed.

    Attributes:
        first: the oldest position whose event was not trimmed away.
        forgotten: state without a body below this position was removed.
        trimmed_time: when the newest event that was trimmed away was accepted; -1: none was.
        last_time: when the log's newest entry was accepted, as of the trim.
    """

    first: int = 1
    forgotten: int = 1
    trimmed_time: int = -1
    last_time: int = 0


class Gone(msgspec.Struct, frozen=True):
    """An event whose content is gone: its time and id still count. `id_hash`, `digest`: empty without an id."""

    position: int
    time: int
    id_hash: bytes = b""
    digest: bytes = b""


class Marks:
    """The marks of one log, as of the newest that came in.

    Attributes:
        extent: how far the log was trimmed.
        erased: by position, what was erased and not trimmed since.
        trimmed: what was trimmed while its id still counted, by the position of the newest of each trim.
        last: the newest position of the marks' own stream that was taken in.
        announced: the newest position of the log of which a replica has said that it has all up to it.
        moved: set when the extent has moved; whoever waits for it clears it.
    """

    def __init__(self, stream: Stream) -> None:
        self.extent = Extent()
        self.erased: dict[int, Gone] = {}
        self.trimmed: dict[int, list[Gone]] = {}
        self.last = 0
        self.announced = 0
        self.moved = asyncio.Event()
        self._stream = stream
        self._teller = secrets.randbelow(_TELLERS)
        self._beats = 0
        self._follower = Follower(stream, 0, self._take, newest_first=True)
        self._arrived = asyncio.Event()

    async def run(self) -> None:
        """Follow the marks. Ends by cancellation."""
        await self._follower.run()

    async def beat(self, known: int = 0) -> int:
        """Write a mark: that it is acknowledged shows that the cluster is one. Its position.

        It tells the others up to where this replica has the log, so that they notice who answers but no longer leads.
        Where there is no room left a removal of nothing shows that it is one, too.
        """
        self._beats += 1
        subject = f"{self._stream.name}.beat.{self._teller}.{self._beats % _KEPT}"
        try:
            return await self._stream.publish(Draft(subject, {}, str(known).encode()))
        except ApiError as error:
            if not error.is_full:
                raise
        await self._stream.purge(subject, keep=1)
        return self.last

    async def reached(self, position: int) -> None:
        """Wait until everything up to a position was taken in."""
        while self.last < position:
            self._arrived.clear()
            await self._arrived.wait()

    async def advance(self, extent: Extent) -> None:
        """Move the extent on; where another replica has moved it farther, that stands."""
        subject = f"{self._stream.name}.extent"
        while extent.first > self.extent.first or extent.forgotten > self.extent.forgotten:
            stored = await self._stream.get(last_by_subj=subject)
            now = msgspec.json.decode(stored.data, type=Extent) if stored is not None else Extent()
            wanted = merged(now, extent)
            expected = str(stored.position if stored is not None else 0)
            draft = Draft(subject, {"Nats-Expected-Last-Subject-Sequence": expected}, msgspec.json.encode(wanted))
            try:
                await self._stream.publish(draft)
            except WrongLast:
                continue
            self._widen(wanted)

    async def keep_erased(self, gone: Gone) -> None:
        """Keep what still counts of an event that is about to be erased."""
        await self._stream.publish(Draft(f"{self._stream.name}.erased.{gone.position}", {}, msgspec.json.encode(gone)))
        self.erased[gone.position] = gone

    async def keep_trimmed(self, gone: list[Gone]) -> None:
        """Keep what still counts of events that are about to be trimmed."""
        newest = gone[-1].position
        await self._stream.publish(Draft(f"{self._stream.name}.trimmed.{newest}", {}, msgspec.json.encode(gone)))
        self.trimmed[newest] = gone

    async def drop(self, over: int) -> None:
        """Keep no more of what was trimmed than still counts: what was accepted after a time."""
        first = self.extent.first
        for position in [p for p, gone in self.erased.items() if p < first and gone.time < over]:
            await self._stream.purge(f"{self._stream.name}.erased.{position}")
            del self.erased[position]
        for position in [p for p, gone in self.trimmed.items() if gone[-1].time < over]:
            await self._stream.purge(f"{self._stream.name}.trimmed.{position}")
            del self.trimmed[position]

    def gone(self) -> list[Gone]:
        """All whose ids may still count, in order."""
        found = [*self.erased.values(), *(one for several in self.trimmed.values() for one in several)]
        return sorted(found, key=lambda one: one.position)

    async def secret(self, wanted: bytes = b"") -> bytes:
        """The secret of the store: made once, whoever asks first; `wanted`: what it is to be if it is made now."""
        subject = f"{self._stream.name}.secret"
        while (stored := await self._stream.get(last_by_subj=subject)) is None:
            draft = Draft(subject, {"Nats-Expected-Last-Subject-Sequence": "0"}, wanted or secrets.token_bytes(32))
            try:
                await self._stream.publish(draft)
            except WrongLast:
                continue
        return stored.data

    def erased_between(self, after: int, through: int) -> dict[int, int]:
        """Positions and times of the events after a position and through another that were erased and not trimmed."""
        first = max(after + 1, self.extent.first)
        return {position: gone.time for position, gone in self.erased.items() if first <= position <= through}

    def _take(self, batch: list[Stored]) -> None:
        for stored in batch:
            kind, _, name = stored.subject.removeprefix(f"{self._stream.name}.").partition(".")
            if kind == "extent":
                self._widen(msgspec.json.decode(stored.data, type=Extent))
            elif kind == "beat":
                self.announced = max(self.announced, int(stored.data or 0))
            elif kind == "erased":
                self.erased[int(name)] = msgspec.json.decode(stored.data, type=Gone)
            elif kind == "trimmed":
                self.trimmed[int(name)] = msgspec.json.decode(stored.data, type=list[Gone])
        self.last = batch[-1].position
        self._arrived.set()

    def _widen(self, extent: Extent) -> None:
        self.extent = merged(self.extent, extent)
        self.moved.set()


def merged(one: Extent, other: Extent) -> Extent:
    """The farther of two extents in everything: none of it ever goes back."""
    return Extent(*(max(pair) for pair in zip(_values(one), _values(other), strict=True)))


def _values(extent: Extent) -> tuple[int, ...]:
    return msgspec.structs.astuple(extent)
