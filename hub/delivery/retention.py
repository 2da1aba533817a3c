"""Retention: removes what is older than the settings, in small steps between which other tasks run."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from hub.clock import Clock
from hub.config import Settings
from hub.delivery.feed import Feed
from hub.model import Kind
from hub.storage import Log

PERIOD = 10.0
"""Seconds between two runs."""

STEP = 250
"""Events removed in one transaction; an append waits for one transaction at most."""

REMOVED = frozenset({Kind.EVENT, Kind.ERASED, Kind.DAMAGED})

JUMP = 3_600.0
"""Seconds: if the wall clock gains or loses this much against the monotonic clock, removal pauses for as long."""

ExpireNames = Callable[[int], Awaitable[None]]
"""Deletes the subscriptions that were not used since a time, in microseconds."""
ExpireAudit = Callable[[], Awaitable[None]]
"""Removes what is too old of the audit trail; events of that age are gone already."""

log = structlog.get_logger()


class Retention:
    """Removes events that are too old, unless the wall clock has just jumped, or did while the hub was off.

    Attributes:
        period: seconds between two calls of `remove_old`.
    """

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        store: Log,
        feed: Feed,
        expire_names: ExpireNames,
        expire_audit: ExpireAudit,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._store = store
        self._expire_names = expire_names
        self._expire_audit = expire_audit
        self._feed = feed
        self._keep = round(settings.retention * 1_000_000)
        self.period = min(PERIOD, settings.retention / 10)
        self._clock = clock
        self._wall, self._steady = clock.now(), clock.monotonic()
        self._paused_until = 0.0
        self._searched = 0

    async def begin(self) -> None:
        """Pause if the clock is far ahead of the newest entry: the machine may have started with a wrong date.

        If the hub was off for long, the pause costs nothing but disk space.
        """
        last = (await self._store.bounds()).last
        for newest in (await self._store.read(last - 1, 1)).entries if last else ():
            ahead = (self._wall - newest.time) / 1_000_000
            if ahead > JUMP and newest.kind is not Kind.DAMAGED:
                self._paused_until = self._steady + JUMP
                log.warning("the newest entry is old: nothing is removed for an hour", seconds=round(ahead))

    async def remove_old(self) -> None:
        """Remove what is too old by now, one step at a time."""
        if self._clock_jumped():
            return
        cutoff = self._clock.now() - self._keep
        end = await self._store.position_at(cutoff)
        while last := await self._next_step(end):
            self._feed.trimmed(
                last + 1, cutoff
            )  # before the removal, so that no stream mistakes the hole for the beginning
            await self._remove(last)
        await self._expire_names(cutoff)
        await self._expire_audit()

    async def _remove(self, last: int) -> None:
        """Remove the events up to a position; a trim that meets tombstones removes fewer of them."""
        for _ in range((await self._store.bounds()).first, last + 1, STEP):
            first = await self._store.trim(last + 1, STEP)
            await asyncio.sleep(0)
            if first > last:
                return

    async def _next_step(self, end: int) -> int:
        """The position of the last event of the next step, up to `end`; 0 = there is none.

        Only events that are removed move the beginning of the log: a log without events expires no cursor.
        """
        self._searched = max(self._searched, self._feed.earliest.position)
        while self._searched < end:
            page = await self._store.read(self._searched, STEP, REMOVED)
            old = [entry.position for entry in page.entries if entry.position <= end]
            if old:
                return old[-1]
            self._searched = min(end, page.through)
        return 0

    def _clock_jumped(self) -> bool:
        """Whether the wall clock has jumped within the last hour."""
        wall, steady = self._clock.now(), self._clock.monotonic()
        jump = (wall - self._wall) / 1_000_000 - (steady - self._steady)
        self._wall, self._steady = wall, steady
        if abs(jump) > JUMP:
            self._paused_until = steady + JUMP
            log.error("the clock has jumped: nothing is removed for an hour", seconds=round(jump))
        return steady < self._paused_until
