"""Retention: events older than the hub keeps go by themselves, in small steps, without stopping anybody."""

import asyncio

import structlog

from hub.clock import Clock
from hub.config import Settings
from hub.delivery.feed import Feed
from hub.storage import Log

PERIOD = 10.0
"""Seconds between two looks."""

STEP = 1_000
"""Events removed in one transaction."""

JUMP = 3_600.0
"""Seconds: a wall clock that moves this much more, or less, than time has passed is not believed for a while."""

log = structlog.get_logger()


class Retention:
    """Removes what is too old, unless the clock by which it is too old has just jumped.

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

    async def look(self) -> None:
        """Remove what is too old now, a step at a time."""
        if self._clock_jumped():
            return
        cutoff = self._clock.now() - self._keep
        before = await self._store.position_at(cutoff) + 1
        first = self._feed.first
        while first < before:
            reached = await self._store.trim(before, STEP)
            self._feed.trimmed(reached, cutoff)
            if reached <= first:
                return
            first = reached
            await asyncio.sleep(0)

    def _clock_jumped(self) -> bool:
        """Whether the wall clock is not to be believed: for an hour after it jumped by more than one."""
        wall, steady = self._clock.now(), self._clock.monotonic()
        jump = (wall - self._wall) / 1_000_000 - (steady - self._steady)
        self._wall, self._steady = wall, steady
        if abs(jump) > JUMP:
            self._paused_until = steady + JUMP
            log.error("the clock has jumped: nothing is removed for an hour", seconds=round(jump))
        return steady < self._paused_until
