"""The log's two ends as all replicas together have them: what is still kept, and what was ever appended.

Lives here: the questions that the feed of one replica, which may be a moment behind, cannot answer. Must not know
streams or subscriptions.
"""

import asyncio
from contextlib import suppress

from hub.control.registry import Registry
from hub.delivery.feed import Feed
from hub.errors import CursorExpired
from hub.storage import Log

PATIENCE = 2.0
"""Seconds to wait for what others have appended; it comes at once but where messages were lost on the way."""


def expired(*, restored: bool) -> CursorExpired:
    """Why nothing can be read on from a place: the log has lost what follows, or the place itself."""
    return CursorExpired(
        "what follows this cursor is not all there any more: start from earliest or from another place, "
        "or set on_expired_cursor to EARLIEST",
        metadata={"cause": "RESTORE" if restored else "RETENTION"},
    )


class Ends:
    """Where the log begins and ends."""

    def __init__(self, log: Log, registry: Registry, feed: Feed) -> None:
        self._log = log
        self._registry = registry
        self._feed = feed

    async def first(self) -> int:
        """The oldest position that is kept: of what is being removed here, and of what others have removed."""
        return max(self._feed.first, (await self._log.bounds()).first)

    async def is_beyond(self, position: int) -> bool:
        """Whether a position lies after all that anyone has appended: what was there once is lost.

        Raises:
            StorageUnavailable: the store does not tell.
        """
        return position > self._feed.through and position > await self._log.newest()

    async def catch_up(self) -> bool:
        """Have everything applied here that anyone has appended; False: after `PATIENCE` it may not be all.

        Raises:
            StorageUnavailable: the store does not tell how much it is.
        """
        newest = await self._log.newest()
        with suppress(TimeoutError):  # the newest entry of all may have been removed before it came here
            async with asyncio.timeout(PATIENCE):
                await self._registry.applied(newest)
        return self._registry.through >= newest
