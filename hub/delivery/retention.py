"""Retention: events older than the hub keeps go by themselves, in small steps, without stopping anybody."""

import asyncio

import structlog

from hub.clock import Clock
from hub.config import Settings
from hub.delivery.feed import Feed
from hub.model import Kind
from hub.storage import Log

PERIOD = 10.0
"""Seconds between two looks."""

STEP = 1_000
"""Events removed in one transaction."""

REMOVED = frozenset({Kind.EVENT, Kind.ERASED})

JUMP = 3_600.0
"""Seconds: a wall clock that moves this much more, or less, than time has passed is not believed for a while."""

log = structlog.get_logger()


class Retention:
    """Removes what is too old, unless the clock by which it is too old has just jumped, here or while the hub was off.

    Attributes:
        period: seconds until the next look.
    """

    def __init__(self, store: Log, feed: Feed, settings: Settings, clock: Clock) -> None:
        self._store = store
        self._feed = feed
        self._keep = round(settings.retention * 1_000_000)
        self.period = min(PERIOD, settings.retention / 10)
        self._clock = clock
        self._wall, self._steady = clock.now(), clock.monotonic()
        self._paused_until = 0.0
        self._looked = 0

    async def begin(self) -> None:
        """Doubt a clock that is far ahead of the log's newest entry: the machine may have come back with a wrong date.

        If the hub was just off for long, the pause costs nothing but room.
        """
        last = (await self._store.bounds()).last
        for newest in (await self._store.read(last - 1, 1)).entries if last else ():
            ahead = (self._wall - newest.time) / 1_000_000
            if ahead > JUMP:
                self._paused_until = self._steady + JUMP
                log.warning("the newest entry is old: nothing is removed for an hour", seconds=round(ahead))

    async def look(self) -> None:
        """Remove what is too old now, a step at a time."""
        if self._clock_jumped():
            return
        cutoff = self._clock.now() - self._keep
        end = await self._store.position_at(cutoff)
        while last := await self._next_step(end):
            self._feed.trimmed(last + 1, cutoff)  # said first, then done: nobody takes the hole for all there was
            await self._store.trim(last + 1, STEP)
            await asyncio.sleep(0)

    async def _next_step(self, end: int) -> int:
        """The last of the next events up to a position, STEP at most; 0 = there are none.

        Only what is really removed moves the log's beginning: a log without events expires nobody's cursor.
        """
        self._looked = max(self._looked, self._feed.first - 1)
        while self._looked < end:
            page = await self._store.read(self._looked, STEP, REMOVED)
            old = [entry.position for entry in page.entries if entry.position <= end]
            if old:
                return old[-1]
            self._looked = min(end, page.through)
        return 0

    def _clock_jumped(self) -> bool:
        """Whether the wall clock is not to be believed: for an hour after it jumped by more than one."""
        wall, steady = self._clock.now(), self._clock.monotonic()
        jump = (wall - self._wall) / 1_000_000 - (steady - self._steady)
        self._wall, self._steady = wall, steady
        if abs(jump) > JUMP:
            self._paused_until = steady + JUMP
            log.error("the clock has jumped: nothing is removed for an hour", seconds=round(jump))
        return steady < self._paused_until
