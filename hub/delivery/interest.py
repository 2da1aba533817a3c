"""Interest: who is to be woken for an event.

Lives here: what the live streams of a lens share, and the index from an event's type and guild to the lenses that may
show it. Must not know the log, frames' size limits, or streams.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

from hub.delivery.frames import Body, Excerpt, Item
from hub.delivery.views import Lens
from hub.model import Entry

_SHARED_BODIES = 8
"""How many of the newest bodies of a lens are kept for streams that stand at the same place."""


class Interest:
    """What the live streams of one lens share: the events since it went live that it shows, and who sleeps.

    Attributes:
        since: `matches` holds all that the lens shows after this position.
        matches: in order; those that left the window are dropped at the next look.
        sleepers: what wakes each stream that waits for the next match.
    """

    __slots__ = ("followers", "lens", "matches", "since", "sleepers")

    def __init__(self, lens: Lens, since: int) -> None:
        self.lens = lens
        self.since = since
        self.matches = Excerpt(lens)
        self.sleepers: set[Callable[[], None]] = set()
        self.followers = 0

    def wake(self) -> None:
        """Wake whoever sleeps."""
        sleepers, self.sleepers = self.sleepers, set()
        for wake in sleepers:
            wake()

    def forget(self, through: int) -> None:
        """Drop matches up to a position: they are in the log, not in the window any more."""
        if self.matches.items and self.matches.items[0].position <= through:
            self.matches.forget(through)
            self.since = max(self.since, through)

    def body(self, start: int, stop: int, max_bytes: int) -> Body:
        """The matches of a slice, joined; the newest few are kept for the other streams of the lens."""
        if len(self.matches.bodies) >= _SHARED_BODIES and (start, stop) not in self.matches.bodies:
            self.matches.bodies.clear()
        return self.matches.body(start, stop, max_bytes)


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
                shape = interest.lens.shape(item.entry)
                if shape is not None:
                    interest.matches.add(item, shape)
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
