"""Fan-out: the streams of one projection form a group, and an index finds the groups that want an event.

The cost of an event grows with the number of streams that get it, not with the number that are connected.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator

from hub.delivery.chunks import Batch, CachedEvent, Matches
from hub.delivery.linger import Lingerers, Pending
from hub.delivery.view import Projection

_SHARED_BATCHES = 8
"""How many of a group's newest batches are kept for streams at the same position."""


class FanoutGroup:
    """The live streams of one projection, and the events that they share.

    Attributes:
        since: `buffer` holds every event that the projection lets through after this position.
        buffer: in order; events that leave the window are dropped.
        batches: the newest ones that streams took, by position, limit, and end of the log; see `keep`.
        waiters: the callbacks of the streams that wait for the next event.
        lingerers: the streams that wait for a full frame.
        streams: the number of streams.
    """

    __slots__ = ("batches", "buffer", "lingerers", "projection", "since", "streams", "waiters")

    def __init__(self, projection: Projection, since: int) -> None:
        self.projection = projection
        self.since = since
        self.buffer = Matches(projection)
        self.batches: dict[tuple[int, int, int], Batch] = {}
        self.waiters: set[Callable[[], None]] = set()
        self.lingerers = Lingerers()
        self.streams = 0

    def wake(self) -> None:
        """Wake the waiting streams."""
        waiters, self.waiters = self.waiters, set()
        for wake in waiters:
            wake()

    def forget(self, through: int) -> None:
        """Drop the events up to a position: they have left the window, or some may be hidden from now on."""
        self.batches.clear()
        if self.buffer.events and self.buffer.events[0].position <= through:
            self.buffer.forget(through)
            self.since = max(self.since, through)

    def pending(self, after: int, limit: int, max_bytes: int) -> Pending | None:
        """The events after a position, unless there are none or they fill a frame."""
        start = self.buffer.index_after(after)
        events_left = limit - (len(self.buffer) - start)
        bytes_left = max_bytes - self.buffer.size_from(start)
        if events_left == limit or events_left <= 0 or bytes_left <= 0:
            return None
        return Pending(self.buffer.events[start].entry, events_left, bytes_left)

    def publish(self, event: CachedEvent) -> bool:
        """Append an event to the buffer, if the projection lets it through; returns whether it does."""
        mask = self.projection.mask(event.entry)
        if mask is None:
            return False
        self.buffer.add(event, mask)
        if self.lingerers.waiting:
            self.lingerers.grow(len(event.encoded(mask)))
        return True

    def keep(self, key: tuple[int, int, int], batch: Batch) -> None:
        """Keep a batch for the group's other streams at this position."""
        if len(self.batches) >= _SHARED_BATCHES:
            self.batches.clear()
        self.batches[key] = batch


class FanoutIndex:
    """Finds the fan-out groups that may deliver an event, by its type and guild.

    Args:
        installed_in: the ids of the integrations that a guild has installed.
    """

    def __init__(self, installed_in: Callable[[int], Iterable[str]]) -> None:
        self._installed_in = installed_in
        self._groups: dict[Projection, FanoutGroup] = {}
        self._by_key: defaultdict[tuple[object, ...], set[FanoutGroup]] = defaultdict(set)
        self._shard_counts: Counter[int] = Counter()

    def join(self, projection: Projection, since: int) -> FanoutGroup:
        """Add a stream to the group of a projection; `since`: the newest position that was published."""
        group = self._groups.get(projection)
        if group is None:
            group = self._groups[projection] = FanoutGroup(projection, since)
            for key in self._keys(projection):
                self._by_key[key].add(group)
            if projection.shard:
                self._shard_counts[projection.shard[1]] += 1
        group.streams += 1
        return group

    def leave(self, group: FanoutGroup) -> None:
        """Remove a stream from its group; a group without streams is dropped."""
        group.streams -= 1
        if group.streams:
            return
        projection = group.projection
        del self._groups[projection]
        for key in self._keys(projection):
            self._by_key[key].discard(group)
            if not self._by_key[key]:
                del self._by_key[key]
        if projection.shard:
            self._shard_counts[projection.shard[1]] -= 1
            self._shard_counts += Counter()  # drops zeros

    def forget(self, through: int) -> None:
        """Drop the events up to a position from every group."""
        for group in self._groups.values():
            group.forget(through)

    def publish(self, events: Iterable[CachedEvent]) -> set[FanoutGroup]:
        """Append events to the buffers of the groups that let them through; returns those groups."""
        woken: set[FanoutGroup] = set()
        found: dict[tuple[int, int], list[FanoutGroup]] = {}  # many events of a batch have the same candidates
        for event in events:
            where = event.entry.event_type, event.entry.guild_id
            candidates = found.get(where)
            if candidates is None:
                candidates = found[where] = self._candidates(*where)
            for group in candidates:
                if group.publish(event):
                    woken.add(group)
        return woken

    def _candidates(self, kind: int, guild: int) -> list[FanoutGroup]:
        """The groups that may want an event of a type and a guild."""
        return [group for key in self._keys_of(kind, guild) for group in self._by_key.get(key, ())]

    def _keys_of(self, kind: int, guild: int) -> Iterator[tuple[object, ...]]:
        yield (kind,)
        yield (kind, guild)
        for count in self._shard_counts:
            yield (kind, count, (guild >> 22) % count)
        for integration_id in self._installed_in(guild):
            yield (kind, integration_id)

    def _keys(self, projection: Projection) -> Iterator[tuple[object, ...]]:
        """The keys of a group: by the narrowest of its limits, so that an event finds it once."""
        for kind in projection.masks:
            if projection.guilds:
                yield from ((kind, guild) for guild in projection.guilds)
            elif projection.shard:
                yield (kind, projection.shard[1], projection.shard[0])
            elif projection.integration_id:
                yield (kind, projection.integration_id)
            else:
                yield (kind,)
