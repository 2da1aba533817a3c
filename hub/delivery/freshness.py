"""Whether the state of this replica is recent enough to send events, and what streams do while it is not."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from hub.control.registry import Registry
from hub.storage import STALE_AFTER, Log

_PERIOD = 0.1
"""Seconds between two checks."""


class Freshness:
    """Knows whether this replica is fresh: the store answered within `STALE_AFTER`, and all it stored is applied."""

    def __init__(self, log: Log, registry: Registry, max_silence: float) -> None:
        """`max_silence`: seconds for which streams stay open while the store does not answer."""
        self._log = log
        self._registry = registry
        self._max_silence = max_silence
        self._is_applied = True

    def is_fresh(self) -> bool:
        """Whether events may be sent: no revocation was missed for longer than promised."""
        if self._log.silence() >= STALE_AFTER:
            self._is_applied = False
        return self._is_applied

    @property
    def silence(self) -> float:
        """Seconds since the store last answered."""
        return self._log.silence()

    @property
    def is_lost(self) -> bool:
        """Whether the store has not answered for too long: then streams end, and none is opened."""
        return self._log.silence() >= self._max_silence

    async def watch(self, on_change: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Call `on_change` whenever `is_fresh` has changed, and `on_lost` for as long as the store is lost."""
        was_fresh = True
        while True:
            await asyncio.sleep(_PERIOD)
            if self.is_lost:
                on_lost()
            if was_fresh != self.is_fresh():
                was_fresh = not was_fresh
                on_change()
            if not was_fresh and self._log.silence() < STALE_AFTER:
                await self._catch_up()
                was_fresh = self.is_fresh()
                on_change()

    async def _catch_up(self) -> None:
        """Apply what was stored during the silence before events are sent: it may include a revocation."""
        bounds = await self._log.bounds()
        with suppress(TimeoutError):  # the store may fall silent again
            async with asyncio.timeout(STALE_AFTER):
                await self._registry.wait_applied(bounds.last)
                self._is_applied = True
