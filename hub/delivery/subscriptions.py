"""Subscriptions: the committed place of each named reader, and how it is kept.

Lives here: committing (many commits at once cost one write, never backwards unless forced), forgetting, and how many
there may be. Must not know streams.
"""

import asyncio
from typing import NamedTuple

import msgspec

from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.delivery.cursor import CursorSeal
from hub.delivery.ends import Ends
from hub.delivery.feed import EVENTS_ONLY, Feed
from hub.errors import Conflict, CursorExpired, StorageUnavailable, SubscriptionNotFound, TooManySubscriptions
from hub.model import CursorRecord, Entry, Kind
from hub.storage import Log


class Commit(NamedTuple):
    """A place that somebody wants to be kept."""

    record: CursorRecord
    force: bool


class _Desk:
    """The commits of one subscription: one is being written, the newest of those that came meanwhile waits."""

    def __init__(self) -> None:
        self.next: Commit | None = None
        self.written: asyncio.Future[None] | None = None
        self.writer: asyncio.Task[None] | None = None


def require_room(names: set[str], subscription_id: str, limit: int) -> None:
    """Check that an integration with these subscriptions may have this one.

    Raises:
        TooManySubscriptions: it has as many others as it may.
    """
    if subscription_id not in names and len(names) >= limit:
        raise TooManySubscriptions(
            f"the integration has {len(names)} subscriptions already: use one of them, or DeleteSubscription",
            metadata={"limit": str(limit), "subscriptions": ",".join(sorted(names))},
        )


class Subscriptions:
    """The committed places of all subscriptions."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self, log: Log, registry: Registry, feed: Feed, seal: CursorSeal, settings: Settings, clock: Clock
    ) -> None:
        self._log = log
        self._registry = registry
        self._feed = feed
        self._ends = Ends(log, registry, feed)
        self._seal = seal
        self._settings = settings
        self._clock = clock
        self._desks: dict[str, _Desk] = {}

    async def commit(self, integration_id: str, subscription_id: str, text: str, *, force: bool) -> tuple[str, bool]:
        """Keep the place of a cursor; returns a cursor for what is kept now, and whether that is this place.

        Raises:
            CursorInvalid: it cannot be opened.
            CursorExpired: it is of the log before a restore, or of an end that the log has lost.
            TooManySubscriptions: there is no room for one more.
            SubscriptionNotFound: it was deleted meanwhile.
        """
        cursor = self._seal.open(text)
        if cursor.epoch != self._feed.epoch or await self._ends.is_beyond(cursor.position):
            raise CursorExpired(
                "this cursor is of before the hub's log was restored, or lost its end", metadata={"cause": "RESTORE"}
            )
        name = f"{integration_id}/{subscription_id}"
        being_made = {key.partition("/")[2] for key in self._desks if key.startswith(f"{integration_id}/")}
        names = being_made | set(self._registry.subscriptions(integration_id))
        require_room(names, subscription_id, self._settings.max_subscriptions)
        record = CursorRecord(cursor.epoch, cursor.position, cursor.time, self._clock.now())
        if force or self._is_ahead(name, record):
            await self._write(name, Commit(record, force))
        held = self._registry.cursors.get(name)
        if held is None:
            raise SubscriptionNotFound("the subscription was deleted meanwhile")
        return self.cursor(held.record), held.record.position == cursor.position

    def cursor(self, record: CursorRecord) -> str:
        """A fresh cursor for a committed place."""
        return self._seal.seal(record.epoch, record.position, record.time).decode()

    async def lag(self, record: CursorRecord) -> float:
        """Seconds: at most this old is the oldest event after a committed place; 0 = there is none.

        Raises:
            StorageUnavailable: the store does not tell.
        """
        if record.epoch == self._feed.epoch and not await self._is_followed(record.position):
            return 0.0
        return max(0, self._clock.now() - record.time) / 1_000_000

    async def _is_followed(self, position: int) -> bool:
        """Whether an event lies after a position: changes of state, as the commit itself, are nothing to be read."""
        while position < self._feed.through:
            page = await self._log.read(position, 1, EVENTS_ONLY)
            if page.entries or page.through <= position:
                return bool(page.entries)
            position = page.through
        return False

    async def forget(self, integration_id: str, subscription_id: str) -> None:
        """Forget a subscription; its stream ends.

        Raises:
            SubscriptionNotFound: there is none of this name.
        """
        if subscription_id not in self._registry.subscriptions(integration_id):
            raise SubscriptionNotFound(
                f"there is no subscription '{subscription_id}': ListOwnSubscriptions shows which there are",
                metadata={"subscription_id": subscription_id},
            )
        name = f"{integration_id}/{subscription_id}"
        entries = [
            Entry(Kind.STATE, self._clock.now(), b"", key=f"{kind}/{name}")
            for kind, known in (("cursor", self._registry.cursors), ("claim", self._registry.claims))
            if name in known
        ]
        appended = await self._log.append(entries)
        await self._registry.applied(appended[-1].position)

    def _is_ahead(self, name: str, record: CursorRecord) -> bool:
        """Whether a place is later than the kept one; any place of this log is later than one of before a restore."""
        kept = self._registry.cursors.get(name)
        return kept is None or kept.record.epoch != record.epoch or kept.record.position < record.position

    async def _write(self, name: str, commit: Commit) -> None:
        desk = self._desks.setdefault(name, _Desk())
        if desk.next is None or commit.force or commit.record.position > desk.next.record.position:
            desk.next = commit
        if desk.written is None:
            desk.written = asyncio.get_running_loop().create_future()
        written = desk.written
        if desk.writer is None:
            desk.writer = asyncio.create_task(self._write_all(name, desk))
        await asyncio.shield(written)

    async def _write_all(self, name: str, desk: _Desk) -> None:
        """Write the newest commit, again and again until none has come meanwhile."""
        try:
            while desk.next is not None and desk.written is not None:
                commit, written = desk.next, desk.written
                desk.next = desk.written = None
                try:
                    await self._append(name, commit)
                except Exception as error:  # noqa: BLE001  it is told to those who wait for it
                    written.set_exception(error)
                    written.exception()  # those who wait may all have gone
                else:
                    written.set_result(None)
        finally:
            desk.writer = None
            if desk.next is None:
                self._desks.pop(name, None)

    async def _append(self, name: str, commit: Commit) -> None:
        """Append a commit on condition that no other replica was faster; else look again.

        Where nobody was, what is known here is gone from the log, or what is there was forgotten too long ago: a
        condition less each time, so that it comes to an end.
        """
        body = msgspec.json.encode(commit.record)
        known, vain = self._registry.cursor_position(name), 0
        while commit.force or self._is_ahead(name, commit.record):
            entry = Entry(Kind.STATE, self._clock.now(), body, key=f"cursor/{name}")
            try:
                [appended] = await self._log.append([entry], ({entry.key: known}, {entry.key: 0}, None)[vain])
            except Conflict:
                if not await self._ends.catch_up():
                    raise StorageUnavailable from None
                before, known = known, self._registry.cursor_position(name)
                vain = vain + 1 if known == before else 0
            else:
                await self._registry.applied(appended.position)
                return
