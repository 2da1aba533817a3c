"""Frames: what is written to a stream, as ready bytes, and who is to be woken for an event.

Lives here: events with their ready-made pieces, the interest index, and the joining of pieces into shared bodies. Must
not know the log or any stream's limits.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from tickets.hub.v1 import event_service_pb2

from hub.delivery.views import Lens, Shape, piece, varint
from hub.model import Entry

_CURSOR_TAG = event_service_pb2.SubscribeResponse.DESCRIPTOR.fields_by_name["cursor"].number << 3 | 2
_SHARED_BODIES = 8
"""How many of the newest bodies of a lens are kept for streams that stand at the same place."""


class Item:
    """An event of the log and the pieces of frames made of it, one for each shape asked for so far."""

    __slots__ = ("_pieces", "entry", "position")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.position = entry.position
        self._pieces: dict[Shape, bytes] = {}

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


def position_of(item: Item) -> int:
    """The key by which items are ordered."""
    return item.position


def index_after(items: Sequence[Item], position: int) -> int:
    """The index of the first item after a position."""
    return bisect_right(items, position, key=position_of)


def join(lens: Lens, items: Sequence[Item], max_bytes: int) -> Body:
    """Join the pieces of items that the lens shows, as many as fit into `max_bytes`, and at least one."""
    pieces: list[bytes] = []
    uses: set[tuple[Shape, frozenset[int]]] = set()
    size = 0
    last = items[0]
    for item in items:
        shape = lens.shape(item.entry)
        if shape is None:
            continue
        made = item.piece(shape)
        size += len(made)
        if pieces and size > max_bytes:
            break
        pieces.append(made)
        uses.add((shape, lens.counting(item.entry)))
        last = item
    scopes = frozenset(scope for shape, counting in uses for scope in shape.used_of(counting))
    return Body(b"".join(pieces), len(pieces), last, scopes)


def frame(cursor: bytes, body: bytes) -> bytes:
    """A `SubscribeResponse` on the wire: the cursor, then fields that are serialised already."""
    return bytes((_CURSOR_TAG,)) + varint(len(cursor)) + cursor + body


class Interest:
    """What the live streams of one lens share: the events since it went live that it shows, and who sleeps.

    Attributes:
        since: `matches` holds all that the lens shows after this position.
        matches: in order; those that left the window are dropped at the next look.
        sleepers: what wakes each stream that waits for the next match.
    """

    __slots__ = ("_bodies", "followers", "lens", "matches", "since", "sleepers")

    def __init__(self, lens: Lens, since: int) -> None:
        self.lens = lens
        self.since = since
        self.matches: list[Item] = []
        self.sleepers: set[Callable[[], None]] = set()
        self.followers = 0
        self._bodies: dict[tuple[int, int], Body] = {}

    def wake(self) -> None:
        """Wake whoever sleeps."""
        sleepers, self.sleepers = self.sleepers, set()
        for wake in sleepers:
            wake()

    def forget(self, through: int) -> None:
        """Drop matches up to a position: they are in the log, not in the window any more."""
        if self.matches and self.matches[0].position <= through:
            del self.matches[: index_after(self.matches, through)]
            self.since = max(self.since, through)

    def body(self, start: int, stop: int, max_bytes: int) -> Body:
        """The matches of a slice, joined; the newest few are kept for the other streams of the lens."""
        key = (self.matches[start].position, self.matches[stop - 1].position)
        made = self._bodies.get(key)
        if made is None:
            if len(self._bodies) >= _SHARED_BODIES:
                self._bodies.clear()
            made = self._bodies[key] = join(self.lens, self.matches[start:stop], max_bytes)
        return made


class InterestIndex:
    """Which lenses may want an event, by its type and guild.

    The work for an event grows with who gets it, not with who is connected.

    Args:
        installed_in: the ids of the integrations that a guild has installed.
    """

    def __init__(self, installed_in: Callable[[int], Iterable[str]]) -> None:
        self._installed_in = installed_in
        self._interests: dict[Lens, Interest] = {}
        self._by: defaultdict[tuple[object, ...], set[Interest]] = defaultdict(set)
        self._shard_counts: Counter[int] = Counter()

    def join(self, lens: Lens, since: int) -> Interest:
        """Count one more stream to a lens; `since` is the position through which events were published."""
        interest = self._interests.get(lens)
        if interest is None:
            interest = self._interests[lens] = Interest(lens, since)
            for key in self._keys(lens):
                self._by[key].add(interest)
            if lens.shard:
                self._shard_counts[lens.shard[1]] += 1
        interest.followers += 1
        return interest

    def leave(self, interest: Interest) -> None:
        """Count one stream less; with the last one the lens costs nothing any more."""
        interest.followers -= 1
        if interest.followers:
            return
        lens = interest.lens
        del self._interests[lens]
        for key in self._keys(lens):
            self._by[key].discard(interest)
            if not self._by[key]:
                del self._by[key]
        if lens.shard:
            self._shard_counts[lens.shard[1]] -= 1
            self._shard_counts += Counter()  # drops zeros

    def forget(self, through: int) -> None:
        """Let every lens drop its matches up to a position."""
        for interest in self._interests.values():
            interest.forget(through)

    def publish(self, item: Item) -> Iterator[Interest]:
        """Give an event to every lens that shows it, and tell which those are."""
        for key in self._candidates(item.entry):
            for interest in self._by.get(key, ()):
                if interest.lens.shape(item.entry) is not None:
                    interest.matches.append(item)
                    yield interest

    def _candidates(self, entry: Entry) -> Iterator[tuple[object, ...]]:
        kind, guild = entry.event_type, entry.guild_id
        yield (kind,)
        yield (kind, guild)
        for count in self._shard_counts:
            yield (kind, count, (guild >> 22) % count)
        for holder in self._installed_in(guild):
            yield (kind, holder)

    def _keys(self, lens: Lens) -> Iterator[tuple[object, ...]]:
        """Where a lens is found: by the narrowest of what limits it, so that it is found once."""
        for kind in lens.shapes:
            if lens.guilds:
                yield from ((kind, guild) for guild in lens.guilds)
            elif lens.shard:
                yield (kind, lens.shard[1], lens.shard[0])
            elif lens.holder:
                yield (kind, lens.holder)
            else:
                yield (kind,)
