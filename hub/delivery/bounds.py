"""First and last position of the log across all replicas. The feed of one replica may lag behind them."""

import asyncio
from contextlib import suppress

from hub.control.registry import Registry
from hub.delivery.feed import Feed
from hub.delivery.page_cache import EVENTS_ONLY
from hub.errors import CursorExpired
from hub.storage import Log

CATCH_UP_TIMEOUT = 2.0
"""Seconds to wait for the appends of other replicas. They arrive at once unless messages were lost on the way."""


def expired(cause: str) -> CursorExpired:
    """The error for a cursor after which history is gone; `cause`: "RETENTION", "RESTORE" or "DAMAGE"."""
    return CursorExpired(
        "some events after this cursor are gone: start from earliest or from another cursor, "
        "or set on_expired_cursor to EARLIEST",
        metadata={"cause": cause},
    )


async def has_events(log: Log, after: int, through: int) -> bool:
    """Whether an event lies after a position and up to another; changes of state, such as a commit, do not count.

    Raises:
        StorageUnavailable: the store does not answer.
    """
    while after < through:
        page = await log.read(after, 1, EVENTS_ONLY)
        if page.entries or page.through <= after:
            return bool(page.entries) and page.entries[0].position <= through
        after = page.through
    return False


class ClusterBounds:
    """Where the log of all replicas begins and ends."""

    def __init__(self, log: Log, registry: Registry, feed: Feed) -> None:
        self._log = log
        self._registry = registry
        self._feed = feed

    @property
    def epoch(self) -> int:
        """The epoch of the log."""
        return self._feed.earliest.epoch

    async def first(self) -> int:
        """The oldest position that is kept, whichever replica removed what was before it."""
        return max(self._feed.earliest.position + 1, (await self._log.bounds()).first)

    async def is_beyond(self, position: int) -> bool:
        """Whether a position lies after the newest entry: the log had it once, and has lost its tail.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        return position > self._feed.through and position > await self._log.newest()

    async def catch_up(self) -> bool:
        """Wait until this replica has applied all appends; False: after `CATCH_UP_TIMEOUT` some may be missing.

        Raises:
            StorageUnavailable: the store does not answer.
        """
        newest = await self._log.newest()
        with suppress(TimeoutError):  # the newest entry may have been removed before it arrived here
            async with asyncio.timeout(CATCH_UP_TIMEOUT):
                await self._registry.wait_applied(newest)
        return self._registry.through >= newest
