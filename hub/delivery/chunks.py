"""Events in memory, the matches of a projection among them, and the chunks that streams share."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from hub.delivery.encoding import encode
from hub.delivery.view import FieldMask, Projection
from hub.model import Entry


class CachedEvent(msgspec.Struct, eq=False, gc=False):
    """An event of the log with its encodings, one for each field mask that was used.

    The garbage collector does not track it: it refers to bytes alone, and there are tens of thousands.
    """

    entry: Entry
    _encoded: dict[FieldMask, bytes] | None = None

    @property
    def position(self) -> int:
        """Its position in the log."""
        return self.entry.position

    def encoded(self, mask: FieldMask) -> bytes:
        """The event as a field of a frame; made once for each mask, and kept here."""
        if self._encoded is None:
            self._encoded = {}
        encoded = self._encoded.get(mask)
        if encoded is None:
            encoded = self._encoded[mask] = encode(self.entry, mask)
        return encoded

    def encoded_for_page(self, mask: FieldMask) -> bytes:
        """The same for a page, which keeps encodings in columns: a dictionary for each of its events costs more."""
        found = self._encoded.get(mask) if self._encoded is not None else None
        return encode(self.entry, mask) if found is None else found

    @property
    def size(self) -> int:
        """The estimated bytes in memory: the body, one encoding of the same size, and their objects."""
        return 2 * len(self.entry.body) + 600


class Batch(NamedTuple):
    """The next events of a stream, encoded, and the position after them; without events all up to there are withheld.

    Attributes:
        time: when its last entry was accepted, in microseconds; 0 = unknown.
        scopes: those under which its events are delivered.
    """

    data: bytes
    events: int
    through: int
    time: int
    scopes: frozenset[int] = frozenset()


class Chunk(NamedTuple):
    """Encoded events of a frame: how many there are, the last of them, and the scopes that deliver them."""

    data: bytes
    events: int
    last: CachedEvent
    scopes: frozenset[int]

    def batch(self, through: int) -> Batch:
        """The chunk as a stream's next events, with the position after them."""
        return Batch(self.data, self.events, through, self.last.entry.time, self.scopes)


class Matches:
    """The events of a run that a projection lets through, in order, with their encodings and the chunks made so far.

    Attributes:
        events: the events.
        chunks: by start index and stop index; the owner bounds their number.
    """

    __slots__ = ("_encoded", "_masks", "_positions", "_projection", "chunks", "events")

    def __init__(
        self,
        projection: Projection,
        events: Iterable[CachedEvent] = (),
        masks: Iterable[FieldMask] = (),
        encoded: Iterable[bytes] = (),
    ) -> None:
        """Begin with some events, and the mask and the encoding of each."""
        self._projection = projection
        self.events = list(events)
        self._masks = list(masks)
        self._encoded = list(encoded)
        self._positions = [event.entry.position for event in self.events]
        self.chunks: dict[tuple[int, int], Chunk] = {}

    def __len__(self) -> int:
        return len(self.events)

    def add(self, event: CachedEvent, mask: FieldMask) -> None:
        """Append one event."""
        self.events.append(event)
        self._masks.append(mask)
        self._encoded.append(event.encoded(mask))
        self._positions.append(event.entry.position)

    def index_after(self, position: int) -> int:
        """The index of the first event after a position."""
        return bisect_right(self._positions, position)

    def size_from(self, start: int) -> int:
        """The bytes of the events from an index on."""
        return sum(map(len, self._encoded[start:]))

    def forget(self, through: int) -> None:
        """Drop the events up to a position, and all chunks."""
        count = self.index_after(through)
        for column in (self.events, self._masks, self._encoded, self._positions):
            del column[:count]
        self.chunks.clear()

    def chunk(self, start: int, stop: int, max_bytes: int) -> Chunk:
        """The events of a slice, joined, and kept for other streams that want the same slice."""
        chunk = self.chunks.get((start, stop))
        if chunk is None:
            chunk = self.chunks[start, stop] = self.join(start, stop, max_bytes)
        return chunk

    def join(self, start: int, stop: int, max_bytes: int) -> Chunk:
        """The events of a slice, joined: as many as fit into `max_bytes`, and at least one."""
        encoded = self._encoded[start:stop]
        if sum(map(len, encoded)) > max_bytes:
            fit = bisect_right(list(accumulate(map(len, encoded))), max_bytes) or 1
            encoded, stop = encoded[:fit], start + fit
        entries = (event.entry for event in self.events[start:stop])
        scopes = self._projection.used(entries, self._masks[start:stop])
        return Chunk(b"".join(encoded), len(encoded), self.events[stop - 1], scopes)


def first_matches(projection: Projection, events: Sequence[CachedEvent], limit: int) -> Matches:
    """The first events that a projection lets through, `limit` at most; the rest is not examined."""
    matches = Matches(projection)
    for event in events:
        mask = projection.mask(event.entry)
        if mask is not None:
            matches.add(event, mask)
            if len(matches) == limit:
                break
    return matches


def position_of(event: CachedEvent) -> int:
    """The key by which events are ordered."""
    return event.entry.position


def index_after(events: Sequence[CachedEvent], position: int) -> int:
    """The index of the first event after a position."""
    return bisect_right(events, position, key=position_of)
