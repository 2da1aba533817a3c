"""Frames: what is written to a stream, as ready bytes.

Lives here: events with their ready-made pieces, what a lens shows of a run of them, and the joining of pieces into
bodies that streams share. Must not know where events come from, who follows, or any limit of a stream.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, compress
from typing import NamedTuple

import msgspec
from tickets.hub.v1 import event_service_pb2

from hub.delivery.views import Lens, Shape, piece
from hub.model import Entry

_CURSOR_TAG = event_service_pb2.SubscribeResponse.DESCRIPTOR.fields_by_name["cursor"].number << 3 | 2


class Item(msgspec.Struct, eq=False, gc=False):
    """An event of the log and the pieces of frames made of it, one for each shape asked for so far.

    Out of the garbage collector's sight: it leads nowhere but to bytes, and there are tens of thousands.
    """

    entry: Entry
    _pieces: dict[Shape, bytes] = msgspec.field(default_factory=dict)

    @property
    def position(self) -> int:
        """Its place in the log."""
        return self.entry.position

    def piece(self, shape: Shape) -> bytes:
        """The event as a field of a frame; made once."""
        made = self._pieces.get(shape)
        if made is None:
            made = self._pieces[shape] = piece(self.entry, shape)
        return made

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, about: the body, a piece of the same size, and the objects around them."""
        return 2 * len(self.entry.body) + 600


class Body(NamedTuple):
    """Some events of a frame, ready-made: how many there are, the last of them, and the scopes that deliver them."""

    data: bytes
    events: int
    last: Item
    scopes: frozenset[int]


class Excerpt:
    """What a lens shows of a part of the log: events in order, each with its piece, and what was made of them so far.

    Attributes:
        items: the events.
        bodies: by the first index and the one after the last; whoever holds the excerpt bounds their number.
    """

    __slots__ = ("_lens", "_pieces", "_positions", "_shapes", "bodies", "items")

    def __init__(
        self, lens: Lens, items: Iterable[Item] = (), shapes: Iterable[Shape] = (), pieces: Iterable[bytes] = ()
    ) -> None:
        """Take events in, with the shape and the piece of each."""
        self._lens = lens
        self.items = list(items)
        self._shapes = list(shapes)
        self._pieces = list(pieces)
        self._positions = [item.entry.position for item in self.items]
        self.bodies: dict[tuple[int, int], Body] = {}

    def __len__(self) -> int:
        return len(self.items)

    def add(self, item: Item, shape: Shape) -> None:
        """Take one more event in, in this shape."""
        self.items.append(item)
        self._shapes.append(shape)
        self._pieces.append(item.piece(shape))
        self._positions.append(item.entry.position)

    def index_after(self, position: int) -> int:
        """The index of the first event after a position."""
        return bisect_right(self._positions, position)

    def forget(self, through: int) -> None:
        """Drop the events up to a position, and all that was made."""
        count = self.index_after(through)
        for column in (self.items, self._shapes, self._pieces, self._positions):
            del column[:count]
        self.bodies.clear()

    def body(self, start: int, stop: int, max_bytes: int) -> Body:
        """The events of a slice, joined, and kept for others who want the same."""
        made = self.bodies.get((start, stop))
        if made is None:
            made = self.bodies[start, stop] = self.join(start, stop, max_bytes)
        return made

    def join(self, start: int, stop: int, max_bytes: int) -> Body:
        """The events of a slice, joined: as many as fit into `max_bytes`, and at least one."""
        pieces = self._pieces[start:stop]
        if sum(map(len, pieces)) > max_bytes:
            fit = bisect_right(list(accumulate(map(len, pieces))), max_bytes) or 1
            pieces, stop = pieces[:fit], start + fit
        entries = (item.entry for item in self.items[start:stop])
        scopes = self._lens.used(entries, self._shapes[start:stop])
        return Body(b"".join(pieces), len(pieces), self.items[stop - 1], scopes)


def position_of(item: Item) -> int:
    """The key by which items are ordered."""
    return item.entry.position


def index_after(items: Sequence[Item], position: int) -> int:
    """The index of the first item after a position."""
    return bisect_right(items, position, key=position_of)


class Page:
    """A page in memory, with what each lens shows of it, and what was made of that so far."""

    __slots__ = ("_columns", "_examples", "_groups", "excerpts", "items", "size", "through")

    def __init__(self, items: list[Item], through: int) -> None:
        self.items = items
        self.through = through
        self.size = sum(item.size for item in items)
        self.excerpts: dict[Lens, Excerpt] = {}
        self._columns: dict[Shape, list[bytes | None]] = {}
        numbers: dict[tuple[int, int], int] = {}
        self._groups: list[int] = []
        self._examples: list[Entry] = []
        for item in items:
            entry = item.entry
            number = numbers.setdefault((entry.event_type, entry.guild_id), len(numbers))
            self._groups.append(number)
            if number == len(self._examples):
                self._examples.append(entry)

    def show(self, lens: Lens) -> Excerpt:
        """What a lens shows of it; not kept."""
        shapes = self._shapes(lens)
        columns = {shape: self._columns.setdefault(shape, [None] * len(self.items)) for shape in set(shapes) if shape}
        pieces = [
            columns[shape][index] or self._fill(columns[shape], index, shape)
            for index, shape in enumerate(shapes)
            if shape is not None
        ]
        return Excerpt(lens, compress(self.items, shapes), filter(None, shapes), pieces)

    def _shapes(self, lens: Lens) -> list[Shape | None]:
        """How a lens shows each event. Where consent does not matter it is asked once for each type and guild."""
        if lens.installed is not None:
            return [lens.shape(item.entry) for item in self.items]
        shapes = [lens.shape(entry) for entry in self._examples]
        return [shapes[group] for group in self._groups]

    def _fill(self, column: list[bytes | None], index: int, shape: Shape) -> bytes:
        """The piece of an event, which is then found beside its neighbours: looking it up in each event costs more."""
        piece = column[index] = self.items[index].piece(shape)
        return piece

    def forget(self) -> int:
        """Drop what was made of its events; returns the bytes that this gives back."""
        before, self.size = self.size, sum(item.size for item in self.items)
        self.excerpts.clear()
        return before - self.size


def frame(cursor: bytes, body: bytes) -> bytes:
    """A `SubscribeResponse` on the wire: the cursor (under 128 bytes), then fields that are serialised already."""
    return bytes((_CURSOR_TAG, len(cursor))) + cursor + body
