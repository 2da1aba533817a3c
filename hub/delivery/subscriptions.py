"""Subscriptions: the named readers of integrations, their committed cursors, their limit, and their deletion."""

from collections.abc import Sequence

from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.delivery.bounds import has_events
from hub.delivery.confirmations import Confirmations
from hub.delivery.cursor import CursorSeal
from hub.delivery.cursor_commits import Commits
from hub.delivery.feed import Feed
from hub.delivery.last_seen import LastSeen
from hub.errors import Conflict, SubscriptionNotFound, TooManySubscriptions
from hub.model import Cursor, Entry, State
from hub.slices import one_by_one
from hub.state import CLAIM, CURSOR
from hub.storage import Log

AT_ONCE = 200
"""Subscriptions that are looked at before other tasks run."""


def require_room(names: set[str], subscription_id: str, limit: int) -> None:
    """Check that an integration with the subscriptions `names` may use this one.

    Raises:
        TooManySubscriptions: it is a new one, and there are `limit` already.
    """
    if subscription_id not in names and len(names) >= limit:
        raise TooManySubscriptions(
            f"the integration has {len(names)} subscriptions already: use one of them, or DeleteSubscription",
            metadata={"limit": str(limit), "subscriptions": ",".join(sorted(names))},
        )


class Subscriptions:
    """The subscriptions of all integrations."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        log: Log,
        registry: Registry,
        feed: Feed,
        commits: Commits,
        confirmations: Confirmations,
        seal: CursorSeal,
        last_seen: LastSeen,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._log = log
        self._last_seen = last_seen
        self._registry = registry
        self._feed = feed
        self._commits = commits
        self._confirmations = confirmations
        self._seal = seal
        self._settings = settings
        self._clock = clock

    async def commit(
        self, integration_id: str, subscription_id: str, text: str, *, force: bool, confirms: bool = True
    ) -> tuple[str, bool]:
        """Commit a cursor unless a newer one is committed; `force` commits it in any case.

        With `confirms` it also confirms the erasures that were announced to the integration earlier.

        Returns the committed cursor, sealed, and whether it is at the position of the one in `text`.

        Raises:
            CursorInvalid: this hub did not seal it, or it was altered.
            CursorExpired: it predates a restore, or the log has since lost the newest entries, which it points to.
            TooManySubscriptions: the subscription is a new one, and the integration has as many as it may.
            SubscriptionNotFound: it was deleted meanwhile.
        """
        cursor = self._seal.open(text)
        await self._commits.require_current(cursor)
        name = f"{integration_id}/{subscription_id}"
        names = self._commits.pending_names(integration_id) | set(self._registry.readers.names(integration_id))
        require_room(names, subscription_id, self._settings.max_subscriptions)
        await self._commits.write(name, cursor, force=force)
        if confirms:
            await self._confirmations.committed(name, cursor, text)
        stored = self._registry.readers.cursors.get(name)
        if stored is None:
            raise SubscriptionNotFound("the subscription was deleted meanwhile")
        return self.sealed(stored.record.cursor), stored.record.position == cursor.position

    def sealed(self, cursor: Cursor) -> str:
        """A cursor in its sealed form, for callers."""
        return self._seal.seal(cursor).decode()

    async def lag(self, name: str) -> float:
        """How far a subscription without a stream is behind, in seconds: an upper bound of the age of its next event.

        0 = no event follows its committed cursor; without one, the cursor of the last frame that was delivered.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        stored = self._registry.readers.cursors.get(name)
        epoch = self._feed.earliest.epoch
        cursor = stored.record.cursor if stored is not None else self._last_seen.cursor(name, epoch)
        return await self.lag_of(cursor) if cursor is not None else 0.0

    async def lag_of(self, cursor: Cursor) -> float:
        """How far a reader at a cursor is behind, like `lag`.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        is_current = cursor.epoch == self._feed.earliest.epoch
        if is_current and not await has_events(self._log, cursor.position, self._feed.through):
            return 0.0
        return max(0, self._clock.now() - cursor.time) / 1_000_000

    async def forget(self, integration_id: str, subscription_id: str, audit: Sequence[Entry] = ()) -> None:
        """Delete a subscription; its stream ends. The entries of `audit` are appended with it.

        Raises:
            SubscriptionNotFound: the integration has none of this name.
        """
        self._registry.readers.require(integration_id, subscription_id)
        appended = await self._log.append([*self._tombstones(f"{integration_id}/{subscription_id}"), *audit])
        await self._registry.wait_applied(appended[-1].position)

    async def expire(self, before: int) -> None:
        """Delete the subscriptions without a committed cursor that had no stream since a time, in microseconds.

        Also deletes all subscriptions of deleted integrations.
        """
        names = {*self._registry.readers.claims, *self._registry.readers.cursors}
        expired = [name async for name in one_by_one(names, AT_ONCE) if self._has_expired(name, before)]
        for name in sorted(expired):
            tombstones = self._tombstones(name)
            if not tombstones or not self._has_expired(name, before):  # it was deleted, or used, meanwhile
                continue
            claim = self._registry.readers.claims.get(name)
            expect = {CLAIM.key(name): claim.position if claim is not None else 0}
            try:
                appended = await self._log.append(tombstones, expect)
            except Conflict:  # another replica has opened a stream, or deleted it
                continue
            await self._registry.wait_applied(appended[-1].position)

    def _has_expired(self, name: str, before: int) -> bool:
        stored = self._registry.integrations.get(name.partition("/")[0])
        if stored is not None and stored.record.state is State.DELETED:
            return True
        seen = self._last_seen.record(name)
        return name not in self._registry.readers.cursors and seen is not None and seen.seen_time < before

    def _tombstones(self, name: str) -> list[Entry]:
        """The entries that delete a subscription."""
        now, entries = self._clock.now(), list[Entry]()
        if name in self._registry.readers.cursors:
            entries.append(CURSOR.entry(CURSOR.key(name), now, None))
        if name in self._registry.readers.claims:
            entries.append(CLAIM.entry(CLAIM.key(name), now, None))
        return entries
