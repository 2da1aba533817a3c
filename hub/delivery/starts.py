"""Where a stream starts: resolves the start of a request to a cursor, and claims the subscription."""

from hub.clock import Clock
from hub.control.registry import Registry
from hub.delivery.bounds import ClusterBounds, expired
from hub.delivery.cursor import CursorSeal
from hub.delivery.feed import Feed
from hub.delivery.options import LOST_EPOCH, Start, SubscribeOptions
from hub.errors import SubscriptionNotFound
from hub.model import ClaimRecord, Cursor
from hub.state import CLAIM
from hub.storage import Log


class Starts:
    """Resolves starts."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self, log: Log, registry: Registry, feed: Feed, bounds: ClusterBounds, seal: CursorSeal, clock: Clock
    ) -> None:
        self._log = log
        self._registry = registry
        self._feed = feed
        self._bounds = bounds
        self._seal = seal
        self._clock = clock

    async def claimed(self, options: SubscribeOptions, name: str, stream_id: str) -> Cursor:
        """Claim a subscription for a stream; returns the cursor after which the stream starts.

        The start is resolved twice: before the claim, so that a refused caller takes over nothing; after it, because
        only then is every earlier commit known here, whichever replica accepted it.
        """
        cursor = await self.cursor_for(options, name)
        claimed = await self.claim(name, stream_id, cursor)
        if options.start.kind != "cursor":
            cursor = await self._resolve(options.start, name)
        return cursor or self.at(claimed)

    async def cursor_for(self, options: SubscribeOptions, name: str) -> Cursor | None:
        """The cursor that a request starts after; None: it starts with the next event that is accepted.

        Raises:
            CursorInvalid, SubscriptionNotFound: there is no such cursor.
            CursorExpired: some of what follows is gone, and the request accepts no Gap.
        """
        cursor = await self._resolve(options.start, name)
        if cursor is not None and not options.gaps:
            await self._require_kept(cursor)
        return cursor

    def at(self, position: int) -> Cursor:
        """The cursor from which a stream resumes right after an entry that was just appended."""
        return Cursor(self._feed.earliest.epoch, position, self._clock.now())

    async def claim(self, name: str, stream_id: str, cursor: Cursor | None) -> int:
        """Claim the subscription in the log: every replica ends an earlier stream of it. Returns the position."""
        epoch, position, time = cursor or (0, 0, 0)
        record = ClaimRecord(stream_id, epoch=epoch, position=position, time=time)
        [appended] = await self._log.append([CLAIM.entry(CLAIM.key(name), self._clock.now(), record)])
        await self._registry.wait_applied(appended.position)
        return appended.position

    async def _resolve(self, start: Start, name: str) -> Cursor | None:
        """The cursor of a start; None = "now", which is right after the claim that is appended next."""
        epoch = self._feed.earliest.epoch
        if start.kind == "earliest":
            first = await self._bounds.first()
            return Cursor(epoch, first - 1, self._feed.earliest.time)
        if start.kind == "since":
            reached = min(start.since, self._clock.now())  # events until then are delivered, too
            return Cursor(epoch, await self._log.position_at(start.since), reached)
        if start.kind == "cursor":
            cursor = self._seal.open(start.cursor)
            beyond = cursor.epoch == epoch and await self._bounds.is_beyond(cursor.position)
            return cursor._replace(epoch=LOST_EPOCH) if beyond else cursor
        return await self._committed(start, name) if start.kind != "latest" else None

    async def _committed(self, start: Start, name: str) -> Cursor | None:
        cursors = self._registry.readers.cursors
        if start.kind == "committed" and name not in cursors:
            await self._bounds.catch_up()  # another replica may have accepted a commit a moment ago
            if name not in cursors:
                raise SubscriptionNotFound("this subscription has no committed cursor: start from latest or earliest")
        stored = cursors.get(name)
        return stored.record.cursor if stored is not None else None

    async def _require_kept(self, cursor: Cursor) -> None:
        restored = cursor.epoch != self._feed.earliest.epoch
        if restored or cursor.position + 1 < await self._bounds.first():
            raise expired("RESTORE" if restored else "RETENTION")
